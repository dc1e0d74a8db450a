from dataclasses import replace
from datetime import date, timedelta
from itertools import count

import pytest

from fiblake.errors import ConfigurationError, ContractError, NotFoundError, UpstreamError
from fiblake.lake import INTERVALS
from services.resampler.handler import interval_of
from services.resampler.resample import Resampler, resample_batch
from shared.events import SCHEMA_VERSION, ConsolidationComplete
from shared.queues import ReceivedMessage
from tests.fakes import LAKE, FakeTopic, MemoryObjectStore
from tests.unit.conftest import Metrics
from tests.unit.resampler.daily import NOW, ORDINAL, SESSIONS, numbered
from tests.unit.resampler.silver_lake import lay, resampler, silver, whole_silver

START = ORDINAL[date(2025, 10, 1)]
DAYS = SESSIONS[START : START + 30]
HISTORY = numbered(DAYS)
IDS = count(1)


def complete(symbol: str, since: date, correlation_id: str = "") -> ConsolidationComplete:
    return ConsolidationComplete(
        symbol=symbol, changed_from=since, last_session=DAYS[-1], correlation_id=correlation_id
    )


def received(body: str) -> ReceivedMessage:
    name = f"m{next(IDS)}"
    return ReceivedMessage(name, f"receipt-{name}", body, 1)


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("prefix", ["", "dev-", "my-own-env-", "resample-3d-"])
def test_the_interval_is_the_queues(prefix: str, interval: int) -> None:
    assert interval_of(f"{prefix}resample-{interval}d") == interval


@pytest.mark.parametrize(
    "queue", ["", "dev-consolidation", "dev-resample-4d", "dev-resample-3d-dlq", "dev-resample-d", "dev-resample-3"]
)
def test_a_queue_that_is_for_no_interval_is_an_error_that_names_it(queue: str) -> None:
    with pytest.raises(ConfigurationError, match=f"queue '{queue}' is not named like"):
        interval_of(queue)


def test_an_unknown_schema_version_fails_its_message_only(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY)
    good = received(complete("AAPL", DAYS[0]).model_dump_json())
    newer = received(complete("AAPL", DAYS[0]).model_dump_json().replace(f'"{SCHEMA_VERSION}"', '"2.0"'))
    errors = resample_batch(three, [newer, good], NOW)
    assert list(errors) == [newer.id]
    assert isinstance(errors[newer.id], ContractError)
    assert "schema version 2.0" in str(errors[newer.id])
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY}, 3)


def test_a_newer_minor_version_and_unknown_fields_are_understood(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY)
    body = complete("AAPL", DAYS[0]).model_dump_json().replace('"1.1"', '"1.9","colour":"blue"')
    assert resample_batch(three, [received(body)], NOW) == {}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "not json",
        "[]",
        "{}",
        '{"symbol": "AAPL"}',
        '{"symbol":"../x","changed_from":"2025-10-01","last_session":1}',
    ],
)
def test_a_body_that_is_no_completion_event_fails_its_message_only(
    store: MemoryObjectStore, three: Resampler, body: str
) -> None:
    lay(store, "AAPL", HISTORY)
    bad, good = received(body), received(complete("AAPL", DAYS[0]).model_dump_json())
    errors = resample_batch(three, [bad, good], NOW)
    assert {name: type(error) for name, error in errors.items()} == {bad.id: ContractError}


def test_every_message_of_a_symbol_that_failed_fails(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY)
    lost = [received(complete("NONE", day).model_dump_json()) for day in DAYS[:3]]
    good = received(complete("AAPL", DAYS[0]).model_dump_json())
    errors = resample_batch(three, [*lost, good], NOW)
    assert {name: type(error) for name, error in errors.items()} == {m.id: NotFoundError for m in lost}


def test_a_fault_of_the_bucket_fails_all_messages_that_could_be_read(
    store: MemoryObjectStore, three: Resampler
) -> None:
    lay(store, "AAPL", HISTORY)
    store.fail("list")
    bad, good = received("x"), received(complete("AAPL", DAYS[0]).model_dump_json())
    errors = resample_batch(three, [bad, good], NOW)
    assert {name: type(error) for name, error in errors.items()} == {bad.id: ContractError, good.id: UpstreamError}


def test_a_batch_of_many_events_reads_each_symbols_bars_once(
    store: MemoryObjectStore, three: Resampler, topic: FakeTopic
) -> None:
    for symbol in ("AAPL", "MSFT"):
        lay(store, symbol, HISTORY)
    messages = [received(complete(symbol, day).model_dump_json()) for symbol in ("AAPL", "MSFT") for day in DAYS]
    assert resample_batch(three, messages, NOW) == {}
    assert sorted(key for key in store.done("get") if key.startswith("bronze/")) == [
        LAKE.data_key("AAPL"), LAKE.data_key("MSFT"),
    ]  # fmt: skip
    assert [event.symbols for event in topic.published] == [("AAPL", "MSFT")]


def test_what_was_resampled_and_how_long_after_the_put_are_metrics_of_the_interval(metrics: Metrics) -> None:
    store, put_at = MemoryObjectStore(), NOW - timedelta(minutes=10)
    lay(store, "AAPL", HISTORY)
    lay(store, "MSFT", HISTORY)
    events = [
        complete("AAPL", DAYS[-1]).model_copy(update={"put_at": put_at}),
        complete("MSFT", DAYS[-1]).model_copy(update={"put_at": put_at + timedelta(minutes=9)}),
        complete("NONE", DAYS[-1]).model_copy(update={"put_at": put_at - timedelta(days=1)}),
    ]
    own = replace(resampler(store, 5), clock=lambda: NOW + timedelta(seconds=3))
    errors = resample_batch(own, [received(event.model_dump_json()) for event in events], NOW)
    assert len(errors) == 1
    counts, latency = metrics()
    buckets = len({row["ts"] for row in silver(store, 5) if row["last_date"] >= DAYS[-1]})
    assert counts["SymbolsResampled"] == 2
    assert counts["RowsComputed"] >= 2 * buckets
    assert (counts["MonthsWritten"] >= 1, counts["interval"]) == (True, "5d")
    assert latency == {"PutToSilverSeconds": 603, "interval": "5d"}


def test_a_put_of_an_unknown_instant_has_no_latency(metrics: Metrics) -> None:
    store = MemoryObjectStore()
    lay(store, "AAPL", HISTORY)
    assert resample_batch(resampler(store, 5), [received(complete("AAPL", DAYS[-1]).model_dump_json())], NOW) == {}
    assert [names for line in metrics() for names in line if "Seconds" in names] == []


def test_of_several_events_of_a_symbol_the_oldest_put_counts_and_the_first_id_names_it(
    store: MemoryObjectStore, topic: FakeTopic, metrics: Metrics
) -> None:
    lay(store, "AAPL", HISTORY)
    late = complete("AAPL", DAYS[2], "a").model_copy(update={"put_at": NOW})
    early = complete("AAPL", DAYS[9], "b").model_copy(update={"put_at": NOW - timedelta(hours=1)})
    own = replace(resampler(store, 5, topic), clock=lambda: NOW)
    assert resample_batch(own, [received(event.model_dump_json()) for event in (late, early)], NOW) == {}
    assert {"PutToSilverSeconds": 3600, "interval": "5d"} in metrics()
    [event] = topic.published
    assert (event.correlation_id, event.changed_from <= DAYS[2]) == ("a", True)

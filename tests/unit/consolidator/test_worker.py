from collections.abc import Callable
from datetime import date, datetime

import pytest

from services.consolidator.consolidate import Consolidator
from services.consolidator.worker import Worker
from shared.bars import MANIFEST, Consolidated, decode
from shared.calendar import nyse
from shared.errors import ContractError, UpstreamError
from shared.events import ConsolidationComplete, ConsolidationRequest
from shared.lake import CLEANUP_RECORD_KEY, MANIFEST_KEY
from shared.outcomes import ExhaustedError
from tests.fakes import LAKE, NOON, FakeQueue, FakeTopic, Journal, MemoryObjectStore, bar, parquet, sample

ROUND, MOST_RECEIVES = 100, 6
OLD = "2025-06-02"


class Lake:
    """A bucket, a queue and a topic with one journal, and workers over them."""

    def __init__(self) -> None:
        self.journal: Journal = []
        self.store = MemoryObjectStore(self.journal)
        self.queue = FakeQueue(journal=self.journal)
        self.complete = FakeTopic(self.journal)

    def worker(
        self, max_workers: int = 4, retention_days: int | None = 30, clock: Callable[[], datetime] = lambda: NOON
    ) -> Worker:
        consolidator = Consolidator(self.store, LAKE, nyse())
        return Worker(consolidator, self.complete, "run-1", clock, max_workers, retention_days)

    def drained(self, worker: Worker | None = None) -> Worker:
        worker = worker or self.worker()
        worker.drain(self.queue, ROUND, MOST_RECEIVES)
        return worker

    def put(self, symbol: str, session: str, close: float = 10) -> str:
        key = LAKE.date_key(symbol, date.fromisoformat(session))
        self.store.lay(key, parquet(bar(session, close, symbol=symbol)))
        return key

    def request(self, symbol: str, session: str | None = None, correlation_id: str = "c") -> str:
        day = date.fromisoformat(session) if session else None
        body = ConsolidationRequest(symbol=symbol, changed_from=day, correlation_id=correlation_id).model_dump_json()
        return self.queue.put(body)

    def arrive(self, symbol: str, session: str, close: float = 10) -> str:
        self.put(symbol, session, close)
        return self.request(symbol, session)

    def sessions(self, symbol: str) -> list[str]:
        data = self.store.peek(LAKE.data_key(symbol))
        bars = Consolidated.decode(data, symbol, NOON).bars if data else None
        return [str(day) for day in bars["timestamp"].to_pylist()] if bars else []

    @property
    def told(self) -> dict[str, ConsolidationComplete]:
        return {event.symbol: event for event in self.complete.published}

    @property
    def manifest(self) -> list[str]:
        data = self.store.peek(MANIFEST_KEY)
        return decode(data, MANIFEST, MANIFEST_KEY)["symbol"].to_pylist() if data else []


@pytest.fixture
def lake() -> Lake:
    return Lake()


def test_the_queue_is_drained_and_everything_stands_where_it_belongs(lake: Lake) -> None:
    for n in range(25):
        lake.arrive(f"S{n:02}", "2025-11-19")
    worker = lake.drained()
    symbols = [f"S{n:02}" for n in range(25)]
    assert all(lake.sessions(symbol) == ["2025-11-19"] for symbol in symbols)
    assert sorted(lake.told) == lake.manifest == symbols
    assert lake.queue.bodies() == []
    assert (worker.summary.symbols, worker.summary.files, worker.summary.failed) == (25, 25, [])


def test_rounds_are_taken_until_nothing_is_left(lake: Lake) -> None:
    for n in range(7):
        lake.arrive(f"S{n}", "2025-11-19")
    lake.worker().drain(lake.queue, 2, MOST_RECEIVES)
    assert len(lake.told) == 7
    assert lake.queue.bodies() == []


def test_an_empty_queue_ends_the_run_at_once(lake: Lake) -> None:
    assert lake.drained().summary.symbols == 0
    assert lake.journal == []


def test_delayed_messages_and_those_in_other_hands_are_waited_for(lake: Lake) -> None:
    """The other worker may die; if this one had gone, nobody would take its message."""
    lake.put("AAPL", "2025-11-19")
    lake.queue.put(ConsolidationRequest(symbol="AAPL").model_dump_json(), delay=30)
    lake.arrive("MSFT", "2025-11-19")
    lake.queue.receive(1)
    lake.drained()
    assert sorted(lake.told) == ["AAPL", "MSFT"]


def test_two_messages_of_one_symbol_are_one_consolidation_from_the_earlier_session(lake: Lake) -> None:
    lake.arrive("AAPL", "2025-11-19")
    lake.arrive("AAPL", "2025-11-18")
    lake.drained()
    assert lake.store.done("write").count(LAKE.data_key("AAPL")) == 1
    (event,) = lake.complete.published
    assert (event.changed_from, event.last_session) == (date(2025, 11, 18), date(2025, 11, 19))
    assert lake.queue.bodies() == []


def test_a_request_without_a_session_outweighs_one_that_names_some(lake: Lake) -> None:
    lake.arrive("AAPL", "2001-01-02")
    lake.drained()
    lake.arrive("AAPL", "2025-11-19")
    lake.request("AAPL")
    lake.arrive("AAPL", "2025-11-18")
    lake.drained()
    assert lake.told["AAPL"].changed_from == date(2001, 1, 2)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("no JSON", "not a ConsolidationRequest"),
        ('{"symbol": "../x"}', "is not a symbol"),
        (
            str(sample("consolidation-request-unknown-version")).replace("'", '"'),
            "schema version 2.0 is not understood",
        ),
        ('{"symbol": "GHOST"}', "GHOST has no bars"),
    ],
    ids=["not JSON", "bad symbol", "unknown version", "unknown symbol"],
)
def test_a_poison_message_becomes_a_dead_letter_with_its_reason_while_its_mates_are_done(
    lake: Lake, body: str, reason: str
) -> None:
    lake.arrive("AAPL", "2025-11-19")
    lake.queue.put(body)
    lake.arrive("MSFT", "2025-11-19")
    worker = lake.drained()
    assert sorted(lake.told) == ["AAPL", "MSFT"]
    (letter,) = lake.queue.dead
    assert letter.body == body
    assert reason in letter.reason
    assert lake.queue.bodies() == []
    assert worker.summary.dead_lettered == 1


def test_an_unmergeable_file_is_a_dead_letter_although_its_symbol_was_consolidated(lake: Lake) -> None:
    lake.arrive("AAPL", "2025-11-18")
    bad = LAKE.date_key("AAPL", date(2025, 11, 19))
    lake.store.lay(bad, b"no Parquet")
    worker = lake.drained()
    assert lake.sessions("AAPL") == ["2025-11-18"]
    assert "AAPL" in lake.told
    assert isinstance(lake.queue.dead[0].error, ContractError)
    assert lake.queue.dead[0].reason.startswith(bad)
    assert worker.summary.symbols == 1


def test_data_then_event_then_manifest_then_deletion_then_the_messages_end(lake: Lake) -> None:
    source = lake.put("AAPL", OLD)
    lake.request("AAPL", OLD)
    lake.drained()
    steps = [step for step in lake.journal if step[0] not in {"list", "get"}]
    assert [(verb, key) for verb, key in steps if verb != "delete message"] == [
        ("write", LAKE.data_key("AAPL")),
        ("publish", "AAPL"),
        ("write", MANIFEST_KEY),
        ("delete", source),
        ("write", CLEANUP_RECORD_KEY),
    ]
    assert steps[-1][0] == "delete message"


def test_an_event_that_sns_does_not_take_keeps_message_and_files(lake: Lake) -> None:
    source = lake.put("AAPL", OLD)
    message = lake.request("AAPL", OLD)
    lake.arrive("MSFT", OLD)
    outage = iter([True, False])
    lake.complete.refuse = lambda event: event.symbol == "AAPL" and next(outage)
    worker = lake.worker()
    lake.drained(worker)
    assert (worker.summary.retried, worker.summary.symbols) == (1, 2)
    assert (message, 10) in lake.queue.hidden
    published, deleted = lake.journal.index(("publish", "AAPL")), lake.journal.index(("delete", source))
    assert published < deleted
    assert lake.told["AAPL"].changed_from == date.fromisoformat(OLD)


def test_a_manifest_that_cannot_be_written_is_retried_and_nothing_is_deleted_meanwhile(lake: Lake) -> None:
    source = lake.put("AAPL", OLD)
    lake.request("AAPL", OLD)
    lake.store.fail("write", times=1, of=lambda key: key == MANIFEST_KEY)
    lake.drained()
    assert lake.manifest == ["AAPL"]
    assert lake.journal.index(("write", MANIFEST_KEY)) < lake.journal.index(("delete", source))
    assert len(lake.complete.published) == 2


def test_what_fails_for_a_while_is_retried_and_succeeds(lake: Lake) -> None:
    lake.arrive("AAPL", "2025-11-19")
    lake.store.fail("list", times=2)
    worker = lake.drained()
    assert [seconds for _, seconds in lake.queue.hidden] == [10, 20]
    assert (worker.summary.retried, worker.summary.symbols) == (2, 1)


def test_what_never_succeeds_is_given_up_with_its_last_reason(lake: Lake) -> None:
    lake.arrive("AAPL", "2025-11-19")
    lake.store.fail("list", UpstreamError("S3 is away"), times=99)
    worker = lake.drained()
    (letter,) = lake.queue.dead
    assert isinstance(letter.error, ExhaustedError)
    assert letter.reason == "gave up after 6 receives: S3 is away"
    assert (worker.summary.retried, worker.summary.dead_lettered) == (MOST_RECEIVES - 1, 1)


def test_a_clean_up_that_fails_is_no_ones_fault_and_done_next_time(lake: Lake) -> None:
    source = lake.put("AAPL", OLD)
    lake.request("AAPL", OLD)
    lake.store.fail("delete")
    assert lake.drained().summary.deleted == 0
    assert lake.queue.bodies() == []
    lake.request("AAPL", OLD)
    assert lake.drained().summary.deleted == 1
    assert lake.store.peek(source) is None


def test_without_a_retention_nothing_is_deleted(lake: Lake) -> None:
    source = lake.put("AAPL", OLD)
    lake.request("AAPL", OLD)
    lake.drained(lake.worker(retention_days=None))
    assert lake.store.peek(source)


def test_a_stopped_worker_finishes_what_it_began_and_gives_the_rest_back_at_once(lake: Lake) -> None:
    begun = lake.arrive("AAPL", "2025-11-19")
    waiting = [lake.arrive(symbol, "2025-11-19") for symbol in ("MSFT", "GOOG")]

    def stop_comes_while_aapl_is_in_work() -> datetime:
        worker.stop.set()
        return NOON

    worker = lake.worker(max_workers=1, clock=stop_comes_while_aapl_is_in_work)
    lake.drained(worker)
    assert list(lake.told) == ["AAPL"]
    assert lake.queue.hidden == [(message, 0) for message in waiting]
    assert (worker.summary.symbols, worker.summary.released, worker.summary.retried) == (1, 2, 0)
    assert {message.id for message in lake.queue.receive()} == set(waiting)
    assert begun not in waiting


def test_a_worker_stopped_before_it_began_takes_nothing(lake: Lake) -> None:
    lake.arrive("AAPL", "2025-11-19")
    worker = lake.worker()
    worker.stop.set()
    lake.drained(worker)
    assert lake.queue.depth().visible == 1


@pytest.mark.parametrize("hint", ["2025-11-19", None])
def test_a_worker_that_died_between_data_and_event_is_made_good_by_the_redelivery(lake: Lake, hint: str | None) -> None:
    lake.put("AAPL", "2025-11-18")
    lake.put("AAPL", "2025-11-19")
    lake.request("AAPL", hint)

    def killed(_event: object) -> bool:
        raise KeyboardInterrupt

    lake.complete.refuse = killed
    with pytest.raises(KeyboardInterrupt):
        lake.drained()
    assert lake.sessions("AAPL") == ["2025-11-18", "2025-11-19"]
    assert lake.complete.published == []
    lake.complete.refuse = lambda _event: False
    lake.drained()
    assert lake.told["AAPL"].changed_from == date(2025, 11, 18)
    assert lake.store.done("write").count(LAKE.data_key("AAPL")) == 1
    assert lake.queue.bodies() == []


def test_the_correlation_id_travels_from_request_to_event(lake: Lake) -> None:
    lake.put("AAPL", "2025-11-19")
    lake.request("AAPL", "2025-11-19", correlation_id="from the put")
    lake.drained()
    assert lake.told["AAPL"].correlation_id == "from the put"


def test_named_symbols_are_consolidated_without_the_queue(lake: Lake) -> None:
    for symbol in ("AAPL", "MSFT", "GOOG"):
        lake.put(symbol, "2025-11-19")
    worker = lake.worker()
    worker.consolidate(["AAPL", "GHOST", "MSFT"], 2, full=False)
    assert sorted(lake.told) == lake.manifest == ["AAPL", "MSFT"]
    assert (worker.summary.failed, worker.summary.symbols) == (["GHOST"], 2)
    assert lake.told["AAPL"].correlation_id == "run-1"


def test_a_full_run_merges_logged_files_again(lake: Lake) -> None:
    lake.put("AAPL", "2025-11-19")
    lake.worker().consolidate(["AAPL"], ROUND, full=False)
    again = lake.worker()
    again.consolidate(["AAPL"], ROUND, full=True)
    assert again.summary.files == 1
    assert lake.sessions("AAPL") == ["2025-11-19"]

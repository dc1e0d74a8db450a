"""Why silver needs no order (docs/architecture.md): for each part of the rule, a schedule that is wrong without it."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from fiblake.aggregate import SILVER, decode_silver
from fiblake.bars import OLDEST_VERSION, encode
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS, Month, silver_key
from services.resampler.full import FullResampler
from services.resampler.resample import Change, resample_batch
from shared.events import ConsolidationComplete, Tail
from shared.queues import ReceivedMessage
from tests.fakes import LAKE, FakeTopic, MemoryObjectStore
from tests.unit.resampler.daily import NO_FACTS, NOW, ORDINAL, SESSIONS, Daily, Facts, data_parquet, flat, numbered
from tests.unit.resampler.silver_lake import changed, lay, resampler, silver, version_of, versioned_silver, whole_silver
from tests.unit.resampler.test_any_order import tail_of

START = ORDINAL[date(2025, 10, 1)]
DAYS = SESSIONS[START : START + 45]
HISTORY = numbered(DAYS[:30])
NEW = DAYS[30]
TWO_ROWS = next((day, n) for day, before in zip(DAYS[1:], DAYS, strict=False) if day.month != before.month
                for n in INTERVALS if ORDINAL[day] % n)  # fmt: skip
"""The first session of a month with which a company took the symbol over, inside a bucket of this interval."""


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore()


def consolidate(
    store: MemoryObjectStore, days: Mapping[date, Daily], since: date, facts: Facts = NO_FACTS, *, tail: bool = True
) -> ConsolidationComplete:  # fmt: skip
    """A worker writes data.parquet and sends the event of it."""
    lay(store, "AAPL", days, facts)
    return ConsolidationComplete(
        symbol="AAPL", changed_from=since, last_session=max(days), version=version_of(store, "AAPL"),
        tail=tail_of(dict(days), facts, since) if tail else None,
    )  # fmt: skip


def work(store: MemoryObjectStore, interval: int, *events: ConsolidationComplete) -> None:
    messages = [ReceivedMessage(str(n), str(n), event.model_dump_json(), 1) for n, event in enumerate(events)]
    assert resample_batch(resampler(store, interval), messages, NOW) == {}


def bronze_reads(store: MemoryObjectStore) -> int:
    return store.done("get").count(LAKE.data_key("AAPL"))


def full(store: MemoryObjectStore, *, rebuild: bool = False) -> None:
    FullResampler(store, LAKE, nyse(), FakeTopic(), 0, adjusted=True, most_bytes=1 << 30, rebuild=rebuild).run(NOW)


# ------------------------------------------------------------------------------------------------------------- the join


def test_each_row_carries_the_version_of_the_bars_it_was_computed_from(store: MemoryObjectStore) -> None:
    work(store, 3, consolidate(store, HISTORY, DAYS[0]))
    first = version_of(store, "AAPL")
    work(store, 3, consolidate(store, HISTORY | numbered([NEW]), NEW))
    assert {row["version"] for row in versioned_silver(store, 3)} == {first, version_of(store, "AAPL")}


def test_an_event_that_comes_late_changes_nothing_that_is_newer(store: MemoryObjectStore) -> None:
    events = [consolidate(store, HISTORY | {DAYS[29]: flat(price)}, DAYS[29]) for price in (1, 2, 3)]
    work(store, 3, consolidate(store, HISTORY | {DAYS[29]: flat(4)}, DAYS[0]))
    before = {key: store.peek(key) for key in store.keys("silver/")}
    for event in reversed(events):
        work(store, 3, event)
    assert {key: store.peek(key) for key in store.keys("silver/")} == before


def test_both_rows_of_a_handover_stand_in_the_month_of_the_buckets_first_session(
    store: MemoryObjectStore,
) -> None:
    day, n = TWO_ROWS
    with_handover, without_handover = Facts(handovers=(day,)), Facts()
    older = consolidate(store, HISTORY, DAYS[0], with_handover, tail=False)
    lay(store, "AAPL", HISTORY, without_handover)
    newer = ConsolidationComplete(symbol="AAPL", changed_from=DAYS[0], last_session=max(HISTORY))
    work(store, n, newer)
    # The older event is processed with its own bars: its second row belongs to the bucket that has won.
    bars = store.peek(LAKE.data_key("AAPL")) or b""
    lay_version(store, HISTORY, with_handover, older.version)
    work(store, n, older)
    store.lay(LAKE.data_key("AAPL"), bars)
    assert silver(store, n) == whole_silver({"AAPL": HISTORY}, n)
    work(store, n, consolidate(store, HISTORY, DAYS[0], with_handover, tail=False))
    bucket = SESSIONS[ORDINAL[day] // n * n]
    inside = decode_silver(store.peek(silver_key(n, Month.of(bucket))) or b"", "it").to_pylist()
    assert day in {row["ts"] for row in inside}


def lay_version(store: MemoryObjectStore, days: Mapping[date, Daily], facts: Facts, version: datetime | None) -> None:
    assert version
    store.lay(LAKE.data_key("AAPL"), data_parquet("AAPL", days, facts.reference(), version))


def of_before(store: MemoryObjectStore, interval: int) -> None:
    """Let the month files be as an older resampler wrote them: no versions, and each row in the month of its `ts`."""
    rows = [dict(row) for row in versioned_silver(store, interval)]
    by_month: dict[Month, list[dict[str, Any]]] = {}
    for row in rows:
        by_month.setdefault(Month.of(row["ts"]), []).append(row)
    for month, inside in by_month.items():
        table = pa.Table.from_pylist(inside, schema=SILVER).drop_columns(["version"])
        store.lay(silver_key(interval, month), encode(table))


def test_a_row_in_the_wrong_month_moves_the_right_file_first(store: MemoryObjectStore) -> None:
    day, n = TWO_ROWS
    facts = Facts(handovers=(day,))
    work(store, n, consolidate(store, HISTORY, DAYS[0], facts, tail=False))
    of_before(store, n)
    right, wrong = silver_key(n, Month.of(SESSIONS[ORDINAL[day] // n * n])), silver_key(n, Month.of(day))
    event = consolidate(store, HISTORY, DAYS[0], facts, tail=False)
    store.journal.clear()
    work(store, n, event)
    written = [key for key in store.done("write") if key.startswith("silver/")]
    assert written.index(right) < written.index(wrong)
    assert silver(store, n) == whole_silver({"AAPL": HISTORY}, n, {"AAPL": facts})


def test_a_writer_that_dies_at_the_right_file_has_not_removed_the_row_from_the_wrong_one(
    store: MemoryObjectStore,
) -> None:
    day, n = TWO_ROWS
    facts = Facts(handovers=(day,))
    work(store, n, consolidate(store, HISTORY, DAYS[0], facts, tail=False))
    of_before(store, n)
    right = silver_key(n, Month.of(SESSIONS[ORDINAL[day] // n * n]))
    event = consolidate(store, HISTORY, DAYS[0], facts, tail=False)
    store.interfere(die, of=lambda key: key == right)
    with pytest.raises(DeadError):
        work(store, n, event)
    files = [decode_silver(store.peek(key) or b"", key) for key in store.keys("silver/")]
    assert day in {ts for rows in files for ts in rows["ts"].to_pylist()}


class DeadError(BaseException):
    """The process ends here."""


def die() -> None:
    raise DeadError


# ----------------------------------------------------------------------------------------- conflicts, versions, batches


def test_a_conflict_reads_the_month_file_again_and_not_bronze(store: MemoryObjectStore) -> None:
    event = consolidate(store, HISTORY, DAYS[0], tail=False)
    lay(store, "MSFT", begun := {DAYS[0]: HISTORY[DAYS[0]]})  # so that the other resampler writes this month only
    other = resampler(store, 3)
    key = silver_key(3, Month(2025, 10))
    store.interfere(lambda: other.resample(changed("MSFT", since=DAYS[0]), NOW), of=lambda name: name == key)
    work(store, 3, event)
    assert (store.done("conflict"), bronze_reads(store)) == ([key], 1)
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY, "MSFT": begun}, 3)


@pytest.mark.parametrize("tail", [True, False])
def test_a_version_is_stamped_although_the_values_are_what_they_were(
    store: MemoryObjectStore,
    tail: bool,  # noqa: FBT001 (a case)
) -> None:
    day = DAYS[29]
    first, second, third = (consolidate(store, HISTORY | {day: flat(price)}, day, tail=tail) for price in (1, 2, 1))
    for event in (first, third, second):
        work(store, 3, event)
    assert silver(store, 3)[-1]["close"] == flat(1).close


def test_events_of_one_batch_are_joined_one_by_one(store: MemoryObjectStore) -> None:
    """The earlier beginning with the later version would remove rows of a version in between."""
    work(store, 3, consolidate(store, HISTORY, DAYS[0]))
    early = consolidate(store, HISTORY | {DAYS[20]: flat(5)}, DAYS[20])
    between = consolidate(store, HISTORY | {DAYS[20]: flat(6)}, DAYS[20])
    late = consolidate(store, HISTORY | {DAYS[20]: flat(6), NEW: flat(7)}, NEW)
    work(store, 3, between)
    work(store, 3, early, late)
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY | {DAYS[20]: flat(6), NEW: flat(7)}}, 3)


def test_of_two_events_of_one_batch_the_earlier_beginning_is_not_lost(store: MemoryObjectStore) -> None:
    work(store, 3, consolidate(store, HISTORY, DAYS[0]))
    early = consolidate(store, HISTORY | {DAYS[20]: flat(5)}, DAYS[20])
    late = consolidate(store, HISTORY | {DAYS[20]: flat(5), NEW: flat(7)}, NEW)
    work(store, 3, early, late)
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY | {DAYS[20]: flat(5), NEW: flat(7)}}, 3)


# ------------------------------------------------------------------------------------------------------------- the tail


@pytest.mark.parametrize("interval", INTERVALS)
def test_a_days_new_bar_needs_no_data_parquet(store: MemoryObjectStore, interval: int) -> None:
    days = HISTORY | numbered([NEW])
    work(store, interval, consolidate(store, HISTORY, DAYS[0], tail=False))
    event = consolidate(store, days, NEW)
    store.take_away(LAKE.data_key("AAPL"))
    work(store, interval, event)
    assert silver(store, interval) == whole_silver({"AAPL": days}, interval)


def short(tail: Tail, first: int) -> Tail:
    columns = {name: getattr(tail, name)[first:] for name in ("timestamp", "open", "high", "low", "close", "volume")}
    return Tail(tail_from=columns["timestamp"][0], **columns)


def other_day(tail: Tail) -> Tail:
    return tail.model_copy(update={"timestamp": (date(2025, 10, 4), *tail.timestamp[1:])})  # a Saturday


@pytest.mark.parametrize(
    "spoil",
    [
        lambda event: {"tail": short(event.tail, -1)},  # the bar before the change is missing
        lambda event: {"tail": short(event.tail, -2)},  # the first bucket is not whole
        lambda event: {"tail": other_day(short(event.tail, -2))},  # a day that is no session
        lambda _: {"version": None},
        lambda _: {"last_session": DAYS[40]},
        lambda event: {"tail": event.tail.model_copy(update={"timestamp": ()})},
    ],
    ids=["no bar before", "bucket cut", "no session", "no version", "other end", "empty"],
)
def test_a_tail_that_says_too_little_is_not_used(store: MemoryObjectStore, spoil: Any) -> None:  # noqa: ANN401
    work(store, 34, consolidate(store, HISTORY, DAYS[0], tail=False))
    days = HISTORY | {DAYS[28]: flat(77), NEW: flat(8)}
    event = consolidate(store, days, NEW)
    before = bronze_reads(store)
    spoiled = event.model_copy(update=spoil(event))
    change = Change.of(spoiled)
    assert resampler(store, 34).resample([change], NOW) == {}
    assert bronze_reads(store) == before + 1
    assert silver(store, 34) == whole_silver({"AAPL": days}, 34)


def test_a_tail_without_the_bar_before_does_not_leave_its_bucket_incomplete(store: MemoryObjectStore) -> None:
    first = next(day for day in DAYS[20:] if ORDINAL[day] % 3 == 0)
    history = {day: bar for day, bar in HISTORY.items() if ORDINAL[day] < ORDINAL[first] - 1}  # a slot is empty
    work(store, 3, consolidate(store, history, DAYS[0], tail=False))
    days = history | {first: flat(7)}
    event = consolidate(store, days, first)
    assert event.tail
    alone = short(event.tail, -1)
    assert alone.tail_from == first
    work(store, 3, event.model_copy(update={"tail": alone}))
    assert silver(store, 3) == whole_silver({"AAPL": days}, 3)


def test_rows_from_data_parquet_carry_the_version_in_its_footer_not_the_events(store: MemoryObjectStore) -> None:
    event = consolidate(store, HISTORY, DAYS[0], tail=False)
    lay(store, "AAPL", HISTORY | numbered([NEW]))
    work(store, 3, event)
    assert {row["version"] for row in versioned_silver(store, 3)} == {version_of(store, "AAPL")}


# ------------------------------------------------------------------------------------------------ restores and upgrades


def test_a_rebuild_wins_ties_only(store: MemoryObjectStore) -> None:
    work(store, 3, consolidate(store, HISTORY, DAYS[0]))
    before = store.peek(LAKE.data_key("AAPL")) or b""
    work(store, 3, consolidate(store, HISTORY | {DAYS[5]: flat(9)}, DAYS[5], tail=False))
    newer = versioned_silver(store, 3)
    store.lay(LAKE.data_key("AAPL"), before)
    full(store, rebuild=True)
    assert [row for row in versioned_silver(store, 3) if row["ts"] >= SESSIONS[ORDINAL[DAYS[5]] // 3 * 3 - 3]] == [
        row for row in newer if row["ts"] >= SESSIONS[ORDINAL[DAYS[5]] // 3 * 3 - 3]
    ]


def test_silver_without_versions_and_events_of_schema_1_0_go_on(store: MemoryObjectStore) -> None:
    for symbol in ("AAPL", "MSFT"):
        lay(store, symbol, HISTORY)
    for n in INTERVALS:
        resampler(store, n).resample(changed("AAPL", "MSFT", since=DAYS[0]), NOW)
        of_before(store, n)
    before = {key: store.peek(key) for key in store.keys("silver/")}
    days = HISTORY | numbered([NEW])
    lay(store, "AAPL", days)
    body = ConsolidationComplete(symbol="AAPL", changed_from=NEW, last_session=NEW).model_dump(mode="json")
    old = {name: body[name] for name in ("symbol", "changed_from", "last_session", "correlation_id", "intervals")}
    message = ReceivedMessage("m", "r", ConsolidationComplete(**old, schema_version="1.0").model_dump_json(), 1)
    for n in INTERVALS:
        assert resample_batch(resampler(store, n), [message], NOW) == {}
        assert silver(store, n) == whole_silver({"AAPL": days, "MSFT": HISTORY}, n)
        assert OLDEST_VERSION in {row["version"] for row in versioned_silver(store, n)}
    same = [key for key, data in before.items() if store.peek(key) == data]
    assert silver_key(3, Month(2025, 10)) in same, "what the event does not concern is not written again"


def test_a_full_resample_after_the_upgrade_writes_nothing_that_is_right(store: MemoryObjectStore) -> None:
    lay(store, "AAPL", HISTORY)
    full(store)
    for n in INTERVALS:
        of_before(store, n)
    before = {key: store.peek(key) for key in store.keys("silver/")}
    full(store)
    assert {key: store.peek(key) for key in store.keys("silver/")} == before


def test_rows_of_equal_values_may_keep_their_version_in_a_full_resample_and_a_later_event_still_wins(
    store: MemoryObjectStore,
) -> None:
    work(store, 3, consolidate(store, HISTORY, DAYS[0]))
    event = consolidate(store, HISTORY | {DAYS[29]: flat(5)}, DAYS[29], tail=False)
    lay(store, "AAPL", HISTORY)
    full(store)
    assert event.version
    assert {row["version"] for row in versioned_silver(store, 3)} == {event.version - timedelta(microseconds=1)}
    work(store, 3, ConsolidationComplete(symbol="AAPL", changed_from=DAYS[29], last_session=DAYS[29]))
    assert versioned_silver(store, 3)[-1]["version"] == version_of(store, "AAPL")

import json
import threading
import weakref
from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiblake.calendar import TradingCalendar, nyse
from fiblake.decoding import DEFAULT_LIMIT_MB, MEGABYTE
from fiblake.errors import ConflictError, UpstreamError
from fiblake.lake import INTERVALS, Month, checkpoint_key, silver_key, silver_prefix
from services.resampler import full as full_job
from services.resampler.full import FullResampler
from services.resampler.months import Recomputed
from shared.objects import ATTEMPTS_AT_UPDATE
from tests.fakes import LAKE, FakeTopic, MemoryObjectStore
from tests.unit.resampler.daily import NOW, ORDINAL, SESSIONS, Daily, Facts, flat, numbered
from tests.unit.resampler.silver_lake import changed, lay, resampler, silver, whole_silver

PLENTY = 1 << 30
EXAMPLES = settings().max_examples // 4
"""Fewer examples than elsewhere, because each has six tables, computed twice."""
START = ORDINAL[date(2025, 10, 1)]
DAYS = SESSIONS[START : START + 60]
BRONZE = {"AAPL": numbered(DAYS), "BRK.B": numbered(DAYS[7:50]), "A": numbered(DAYS[::2]), "A-B": numbered(DAYS[3:4])}


def full(
    store: MemoryObjectStore, topic: FakeTopic | None = None, most_bytes: int = PLENTY, retention_years: int = 0,
    **more: Any,  # noqa: ANN401 (more of FullResampler's own arguments)
) -> FullResampler:  # fmt: skip
    return FullResampler(
        store, LAKE, nyse(), topic or FakeTopic(), retention_years, more.pop("adjusted", True), most_bytes, **more
    )


def lake(bronze: Mapping[str, Mapping[date, Daily]], facts: Mapping[str, Facts] | None = None) -> MemoryObjectStore:
    store = MemoryObjectStore()
    for symbol, days in bronze.items():
        lay(store, symbol, days, (facts or {}).get(symbol, Facts()))
    return store


def tables(store: MemoryObjectStore) -> dict[int, list[dict[str, Any]]]:
    return {n: silver(store, n) for n in INTERVALS}


def expected(
    bronze: Mapping[str, Mapping[date, Daily]], facts: Mapping[str, Facts] | None = None
) -> dict[int, list[dict[str, Any]]]:
    return {n: whole_silver(bronze, n, facts) for n in INTERVALS}


def month_files(store: MemoryObjectStore) -> dict[str, bytes | None]:
    return {key: store.peek(key) for key in store.keys("silver/")}


@st.composite
def histories(draw: st.DrawFn) -> dict[date, Daily]:
    begin = draw(st.sampled_from([0, 490, START]))
    ordinals = draw(st.sets(st.integers(begin, begin + 90), min_size=1, max_size=30))
    return {SESSIONS[ordinal]: flat(draw(st.integers(1, 50))) for ordinal in ordinals}


FACTS = st.builds(
    Facts,
    splits=st.dictionaries(st.sampled_from(DAYS), st.sampled_from([2, 4]), max_size=2).map(
        lambda splits: tuple((day, 1, after) for day, after in splits.items())
    ),
    handovers=st.lists(st.sampled_from(DAYS), max_size=2, unique=True).map(lambda days: tuple(sorted(days))),
)
LAKES = st.dictionaries(st.sampled_from(["AAPL", "BRK.B", "BRK", "a", "Z-1"]), histories(), min_size=1)


@settings(max_examples=EXAMPLES)
@given(bronze=LAKES, data=st.data(), most_bytes=st.sampled_from([500, 5_000, PLENTY]), machines=st.integers(1, 3))
def test_it_gives_what_the_resamplers_of_the_queues_give_with_any_memory_on_any_number_of_machines(
    bronze: dict[str, dict[date, Daily]], data: st.DataObject, most_bytes: int, machines: int
) -> None:
    facts = {symbol: data.draw(FACTS) for symbol in bronze}
    first, second = lake(bronze, facts), lake(bronze, facts)
    for index in range(machines):
        full(first, most_bytes=most_bytes).run(NOW, index, machines)
    for n in INTERVALS:
        assert resampler(second, n).resample(changed(*bronze, since=SESSIONS[0]), NOW) == {}
    assert month_files(first) == month_files(second)


def test_all_tables_come_from_one_reading_of_bronze() -> None:
    store = lake(BRONZE)
    summary = full(store).run(NOW)
    assert tables(store) == expected(BRONZE)
    assert summary.rows == {n: len(rows) for n, rows in expected(BRONZE).items()}
    assert (summary.symbols, summary.last_session, summary.readings) == (set(BRONZE), DAYS[-1], 1)
    gets = [key for key in store.done("get") if key.startswith("bronze/")]
    assert sorted(gets) == sorted(LAKE.data_key(symbol) for symbol in BRONZE)


def test_less_memory_means_more_readings_and_no_file_written_twice() -> None:
    store = lake(BRONZE)
    summary = full(store, most_bytes=3_000).run(NOW)
    assert summary.readings > 2
    assert tables(store) == expected(BRONZE)
    assert summary.rows == {n: len(rows) for n, rows in expected(BRONZE).items()}
    written = [key for key in store.done("write") if key.startswith("silver/")]
    assert len(written) == len(set(written)) == summary.written


def test_of_the_memory_a_part_for_each_symbol_is_kept_free_for_month_files(monkeypatch: pytest.MonkeyPatch) -> None:
    store = lake(BRONZE)
    buckets = 60 * sum(full(lake(BRONZE)).run(NOW).rows.values())
    monkeypatch.setattr(full_job, "BYTES_OF_SYMBOL", 0)
    assert full(store, most_bytes=buckets).run(NOW).readings == 1
    monkeypatch.setattr(full_job, "BYTES_OF_SYMBOL", buckets // (2 * len(BRONZE)))
    assert full(lake(BRONZE), most_bytes=buckets).run(NOW).readings > 1


def test_machines_share_the_month_files_and_none_is_written_by_two() -> None:
    store = lake(BRONZE)
    for index in range(3):
        full(store).run(NOW, index, 3)
    written = [key for key in store.done("write") if key.startswith("silver/")]
    assert len(written) == len(set(written))
    assert tables(store) == expected(BRONZE)


def test_a_second_run_writes_no_month_file_and_publishes_again() -> None:
    store, topic = lake(BRONZE), FakeTopic()
    full(store).run(NOW)
    before = month_files(store)
    store.journal.clear()
    summary = full(store, topic).run(NOW)
    assert (summary.written, month_files(store)) == (0, before)
    assert [event.interval for event in topic.published] == list(INTERVALS)


def test_files_with_the_same_values_are_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    store = lake(BRONZE)
    full(store).run(NOW)
    lay(store, "AAPL", BRONZE["AAPL"])  # a new version of the same bars
    monkeypatch.setattr("services.resampler.month_files.join", None)
    assert full(store).run(NOW).written == 0


def test_the_buckets_of_a_reading_are_freed_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, counts = list[weakref.ref[Recomputed]](), list[int]()

    class Watched(Recomputed):
        def __init__(self, calendar: TradingCalendar, adjusted: bool) -> None:  # noqa: FBT001 (as the class has it)
            super().__init__(calendar, adjusted)
            tables.append(weakref.ref(self))
            counts.append(sum(table() is not None for table in tables))

    monkeypatch.setattr("services.resampler.full.Recomputed", Watched)
    assert full(lake(BRONZE), most_bytes=3_000).run(NOW).readings > 2
    assert max(counts) == len(INTERVALS)


class Killed(BaseException):
    """The process ends here."""


def kill() -> None:
    raise Killed


@pytest.mark.parametrize("nth", [1, 2, 7, 20])
def test_a_run_after_one_that_was_killed_at_a_write_ends_as_if_nothing_had_happened(nth: int) -> None:
    store = lake(BRONZE)
    store.interfere(kill, before_write=nth)
    with pytest.raises(Killed):
        full(store).run(NOW)
    full(store).run(NOW)
    assert tables(store) == expected(BRONZE)


def live(
    store: MemoryObjectStore, bronze: dict[str, dict[date, Daily]], symbol: str, session: date, price: int
) -> None:
    """A bar arrives, is consolidated, and the resamplers of all queues run."""
    bronze.setdefault(symbol, {})[session] = flat(price)
    lay(store, symbol, bronze[symbol])
    for n in INTERVALS:
        assert resampler(store, n).resample(changed(symbol, since=session), NOW) == {}


@settings(max_examples=EXAMPLES)
@given(
    arrivals=st.lists(st.tuples(st.sampled_from(["AAPL", "NEW"]), st.sampled_from(DAYS)), min_size=1, max_size=3),
    nth=st.integers(1, 12), most_bytes=st.sampled_from([3_000, PLENTY]), there=st.booleans(),
)  # fmt: skip
def test_silver_follows_bronze_when_live_resamplers_write_in_between(
    arrivals: list[tuple[str, date]],
    nth: int,
    most_bytes: int,
    there: bool,  # noqa: FBT001 (drawn)
) -> None:
    bronze = {symbol: dict(days) for symbol, days in BRONZE.items()}
    store = lake(bronze)
    if there:
        full(store).run(NOW)
        lay(store, "AAPL", bronze["AAPL"] | {DAYS[9]: flat(777)})  # consolidated, its event still to come
        bronze["AAPL"][DAYS[9]] = flat(777)
    one_at_a_time = threading.Lock()

    def overtake() -> None:
        with one_at_a_time:
            for price, (symbol, session) in enumerate(arrivals, 500):
                live(store, bronze, symbol, session, price)

    store.interfere(overtake, before_write=nth, of=lambda key: key.startswith("silver/"))
    full(store, most_bytes=most_bytes).run(NOW)
    assert tables(store) == expected(bronze)


def test_a_newer_reading_that_found_its_rows_in_place_is_not_undone() -> None:
    bronze = {"AAPL": {DAYS[0]: flat(1)}}
    store = lake(bronze)
    full(store).run(NOW)
    lay(store, "AAPL", {DAYS[0]: flat(2)})
    # The bar is restored, and its resamplers find the month files already right: these keep their versions.
    store.interfere(lambda: live(store, bronze, "AAPL", DAYS[0], 1), of=lambda key: key.startswith("silver/"))
    full(store).run(NOW)
    assert tables(store) == expected(bronze)


def learned(store: MemoryObjectStore, days: Mapping[date, Daily], facts: Facts) -> None:
    """AAPL's splits and handovers are consolidated, and the resamplers of all queues run."""
    lay(store, "AAPL", days, facts)
    for n in INTERVALS:
        assert resampler(store, n).resample(changed("AAPL", since=min(days)), NOW) == {}


def test_a_handover_that_becomes_known_while_month_files_are_first_written_is_followed() -> None:
    november = date(2025, 11, 5)  # in a bucket of 34 that begins in October
    bronze, facts = {"AAPL": {november: flat(1)}}, Facts(handovers=(november,))
    store = lake(bronze)
    first = silver_key(34, Month(2025, 10))
    store.interfere(lambda: learned(store, bronze["AAPL"], facts), of=lambda key: key == first)
    full(store).run(NOW)
    assert tables(store) == expected(bronze, {"AAPL": facts})


def test_a_handover_that_is_withdrawn_while_month_files_are_written_is_followed() -> None:
    # November's bar is late, so it completes no bucket; its own begins in October. IBM has a row in each November.
    october, november, december = date(2025, 10, 24), date(2025, 11, 3), date(2025, 12, 30)
    bronze = {"AAPL": {october: flat(1), december: flat(1)}, "IBM": {date(2025, 11, 10): flat(1)}}
    handed_over = {"AAPL": Facts(handovers=(november,)), "IBM": Facts(handovers=(date(2025, 11, 10),))}
    store = lake(bronze, handed_over)
    full(store).run(NOW)
    bronze["AAPL"][november] = flat(1)
    lay(store, "AAPL", bronze["AAPL"], handed_over["AAPL"])
    first = silver_key(3, Month(2025, 10))
    store.interfere(lambda: learned(store, bronze["AAPL"], Facts()), of=lambda key: key == first)
    full(store).run(NOW)
    assert tables(store) == expected(bronze, {"IBM": handed_over["IBM"]})


def test_files_that_others_rewrite_all_the_time_are_given_up_with_an_error() -> None:
    store = lake({"AAPL": BRONZE["AAPL"]})
    store.fail("write", ConflictError("somebody else"), times=1_000_000, of=lambda key: key.startswith("silver/"))
    with pytest.raises(ConflictError, match=f"{ATTEMPTS_AT_UPDATE} times"):
        full(store).run(NOW)


def test_a_failing_write_ends_the_run_without_an_event() -> None:
    store, topic = lake(BRONZE), FakeTopic()
    store.fail("write", of=lambda key: key.endswith("data_3d_202510.parquet"))
    with pytest.raises(UpstreamError):
        full(store, topic).run(NOW)
    assert topic.published == []
    assert store.peek(checkpoint_key(3)) is None


@pytest.mark.parametrize(
    "content", [b"no Parquet", bytes(DEFAULT_LIMIT_MB * MEGABYTE + 1)], ids=["no Parquet", "too large"]
)
def test_a_symbol_that_cannot_be_read_fails_alone_and_keeps_its_rows(content: bytes) -> None:
    store = lake(BRONZE)
    full(store).run(NOW)
    before = tables(store)
    store.lay(LAKE.data_key("AAPL"), content)
    summary = full(store).run(NOW)
    assert list(summary.failed) == ["AAPL"]
    assert "AAPL" in summary.failed["AAPL"]
    assert summary.symbols == set(BRONZE) - {"AAPL"}
    assert tables(store) == before


def test_a_symbol_that_is_yet_to_be_consolidated_is_no_failure() -> None:
    store = lake({"AAPL": BRONZE["AAPL"]})
    store.lay(LAKE.date_key("NEW", DAYS[0]), b"waits for the worker")
    summary = full(store).run(NOW)
    assert (summary.symbols, summary.failed) == ({"AAPL"}, {})


def test_rows_of_symbols_that_are_no_longer_in_bronze_stay() -> None:
    store = lake(BRONZE)
    full(store).run(NOW)
    store.take_away(LAKE.data_key("BRK.B"))
    full(store).run(NOW)
    assert tables(store) == expected(BRONZE)


def test_rows_that_bronze_no_longer_gives_go() -> None:
    store = lake({"AAPL": BRONZE["AAPL"], "A": BRONZE["A"]})
    full(store).run(NOW)
    lay(store, "AAPL", numbered(DAYS[-5:]))
    full(store).run(NOW)
    assert tables(store) == expected({"AAPL": numbered(DAYS[-5:]), "A": BRONZE["A"]})


def test_a_history_window_deletes_no_older_silver() -> None:
    old = numbered(SESSIONS[ORDINAL[date(2010, 1, 4)] :][:40])
    store = lake({"AAPL": old})
    full(store).run(NOW)
    lay(store, "AAPL", BRONZE["AAPL"])
    full(store, retention_years=5).run(NOW)
    assert tables(store) == {
        n: whole_silver({"AAPL": old}, n) + whole_silver({"AAPL": BRONZE["AAPL"]}, n) for n in INTERVALS
    }


def test_as_traded_silver_is_distinguished_from_adjusted() -> None:
    facts = {"AAPL": Facts(splits=((DAYS[30], 1, 4),))}
    store = lake({"AAPL": BRONZE["AAPL"]}, facts)
    full(store, adjusted=False).run(NOW)
    assert {row["adjusted"] for row in silver(store, 3)} == {False}
    full(store).run(NOW)
    assert {row["adjusted"] for row in silver(store, 3)} == {False}, "the version is the same"
    full(store, rebuild=True).run(NOW)
    assert tables(store) == expected({"AAPL": BRONZE["AAPL"]}, facts)


def test_an_empty_lake_is_done_at_once() -> None:
    store, topic = MemoryObjectStore(), FakeTopic()
    assert full(store, topic).run(NOW).symbols == set()
    assert (store.keys(), topic.published) == ([], [])


def test_checkpoints_add_up_what_machines_computed_and_events_name_all_symbols() -> None:
    store, topic = lake(BRONZE), FakeTopic()
    summaries = [full(store, topic).run(NOW, index, 2) for index in range(2)]
    for n in INTERVALS:
        checkpoint = json.loads(store.peek(checkpoint_key(n)) or b"{}")
        assert checkpoint["total_records_processed"] == sum(s.rows[n] for s in summaries) == len(silver(store, n))
        assert checkpoint["last_processed_date"] == DAYS[-1].isoformat()
    assert all(event.symbols == tuple(sorted(BRONZE)) for event in topic.published)


def test_progress_is_reported_up_to_the_end() -> None:
    seen: dict[str, tuple[int, int]] = {}

    def watch(what: str, count: int, of: int) -> None:
        seen[what] = (count, of)

    summary = full(lake(BRONZE), watch=watch).run(NOW)
    assert seen == {
        "reading symbols": (len(BRONZE), len(BRONZE)),
        "writing month files": (summary.written, summary.written),
    }


def test_month_files_outside_the_calendar_are_left_alone() -> None:
    store = lake(BRONZE)
    key = f"{silver_prefix(3)}year=1950/month=01/data_3d_195001.parquet"
    store.lay(key, b"somebody's")
    full(store).run(NOW)
    assert store.peek(key) == b"somebody's"

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta

import pyarrow as pa
import pytest

from fiblake.aggregate import SILVER
from fiblake.bars import BRONZE, Consolidated, decode, encode
from fiblake.errors import ConfigurationError, ConflictError, ContractError, NotFoundError, UpstreamError
from fiblake.lake import INTERVALS, Month, checkpoint_key, silver_key, silver_prefix
from services.resampler.resample import Change, Resampler
from tests.fakes import LAKE, FakeTopic, MemoryObjectStore, bar
from tests.unit.resampler.daily import (
    NOW,
    ORDINAL,
    SESSIONS,
    Facts,
    data_parquet,
    flat,
    numbered,
    slow_silver,
)
from tests.unit.resampler.silver_lake import changed, lay, resampler, silver, whole_silver

START = ORDINAL[date(2025, 10, 1)]
DAYS = SESSIONS[START : START + 60]
FIRST = DAYS[0]
HISTORY = numbered(DAYS)


def months(store: MemoryObjectStore, interval: int = 3) -> list[str]:
    return [key.removeprefix(silver_prefix(interval)) for key in store.keys(silver_prefix(interval))]


def checkpoint(store: MemoryObjectStore, interval: int = 3) -> dict[str, object]:
    content: dict[str, object] = json.loads(store.peek(checkpoint_key(interval)) or b"{}")
    return content


def written(store: MemoryObjectStore) -> list[str]:
    """Month files written since the journal began."""
    return [key for key in store.done("write") if key.startswith("silver/")]


def in_silver(key: str) -> bool:
    return key.startswith("silver/")


@pytest.mark.parametrize("interval", INTERVALS)
def test_month_files_appear_under_the_agreed_keys_with_every_symbols_buckets(
    store: MemoryObjectStore, interval: int
) -> None:
    bronze = {"AAPL": HISTORY, "BRK.B": numbered(DAYS[7:50]), "KIMpL": numbered(DAYS[::2])}
    for symbol, days in bronze.items():
        lay(store, symbol, days)
    assert resampler(store, interval).resample(changed(*bronze, since=FIRST), NOW) == {}
    assert silver(store, interval) == whole_silver(bronze, interval)
    starts = {row["ts"] for row in silver(store, interval)}
    assert months(store, interval) == sorted(
        {f"year={ts:%Y}/month={ts:%m}/data_{interval}d_{ts:%Y%m}.parquet" for ts in starts}
    )


def test_a_second_run_writes_no_month_file(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY)
    three.resample(changed("AAPL", since=FIRST), NOW)
    store.journal.clear()
    assert three.resample(changed("AAPL", since=FIRST), NOW) == {}
    assert written(store) == []


def test_a_new_bar_rewrites_only_the_month_it_falls_in(store: MemoryObjectStore, three: Resampler) -> None:
    new = next(day for day in DAYS if day >= date(2025, 12, 10))
    lay(store, "AAPL", {day: bar for day, bar in HISTORY.items() if day < new})
    three.resample(changed("AAPL", since=FIRST), NOW)
    lay(store, "AAPL", {day: bar for day, bar in HISTORY.items() if day <= new})
    store.journal.clear()
    three.resample(changed("AAPL", since=new), NOW)
    assert [key[-14:-8] for key in written(store)] == ["202512"]
    assert silver(store, 3) == whole_silver({"AAPL": {d: b for d, b in HISTORY.items() if d <= new}}, 3)


def evening(session: date) -> datetime:
    return datetime.combine(session, time(22), UTC)


def test_the_change_of_a_day_lists_no_folder(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", numbered(DAYS[:-1]))
    three.resample(changed("AAPL", since=FIRST), evening(DAYS[-2]))
    lay(store, "AAPL", HISTORY)
    store.journal.clear()
    assert three.resample(changed("AAPL", since=DAYS[-1]), evening(DAYS[-1])) == {}
    assert store.done("list") == []
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY}, 3)


def test_bars_that_are_withdrawn_at_the_end_leave_no_row_in_a_later_months_file(
    store: MemoryObjectStore, three: Resampler
) -> None:
    lay(store, "AAPL", HISTORY)
    three.resample(changed("AAPL", since=FIRST), evening(DAYS[-1]))
    shorter = numbered(day for day in DAYS if day < date(2025, 11, 20))
    lay(store, "AAPL", shorter)
    store.journal.clear()
    assert three.resample(changed("AAPL", since=date(2025, 11, 20)), evening(DAYS[-1])) == {}
    assert store.done("list") == []
    assert silver(store, 3) == whole_silver({"AAPL": shorter}, 3)


def test_a_late_bar_older_than_everything_makes_its_own_month_and_moves_no_bucket(
    store: MemoryObjectStore, three: Resampler
) -> None:
    lay(store, "AAPL", HISTORY)
    three.resample(changed("AAPL", since=FIRST), NOW)
    late = HISTORY | numbered([date(1962, 1, 3)])
    lay(store, "AAPL", late)
    three.resample(changed("AAPL", since=date(1962, 1, 3)), NOW)
    assert silver(store, 3) == whole_silver({"AAPL": late}, 3)
    assert months(store)[0] == "year=1962/month=01/data_3d_196201.parquet"


def test_a_restated_bar_changes_its_bucket_only(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY)
    three.resample(changed("AAPL", since=FIRST), NOW)
    before = silver(store, 3)
    restated = HISTORY | {DAYS[30]: flat(9_999)}
    lay(store, "AAPL", restated)
    three.resample(changed("AAPL", since=DAYS[30]), NOW)
    after = silver(store, 3)
    assert after == whole_silver({"AAPL": restated}, 3)
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


def test_symbols_not_in_the_batch_keep_their_rows(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY)
    lay(store, "MSFT", HISTORY)
    three.resample(changed("AAPL", "MSFT", since=FIRST), NOW)
    store.take_away(LAKE.data_key("MSFT"))
    lay(store, "AAPL", restated := HISTORY | {DAYS[1]: flat(7)})
    three.resample(changed("AAPL", since=DAYS[1]), NOW)
    assert silver(store, 3) == whole_silver({"AAPL": restated, "MSFT": HISTORY}, 3)


def test_a_symbol_without_consolidated_bars_fails_alone(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY)
    errors = three.resample(changed("AAPL", "NONE", since=FIRST), NOW)
    assert list(errors) == ["NONE"]
    assert isinstance(errors["NONE"], NotFoundError)
    assert "consolidate it first" in str(errors["NONE"])
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY}, 3)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"not parquet", ContractError),
        (data_parquet("MSFT", HISTORY), ContractError),  # another symbol's bars
        (data_parquet("BAD", {date(2025, 12, 25): flat(1)}), ContractError),  # a holiday
        (data_parquet("BAD", {date(2031, 1, 2): flat(1)}), ConfigurationError),  # beyond the calendar
    ],
)
def test_a_symbol_whose_bars_cannot_be_used_fails_alone_and_keeps_its_rows(
    store: MemoryObjectStore, three: Resampler, topic: FakeTopic, data: bytes, kind: type[Exception]
) -> None:
    lay(store, "BAD", HISTORY)
    three.resample(changed("BAD", since=FIRST), NOW)
    store.lay(LAKE.data_key("BAD"), data)
    lay(store, "AAPL", HISTORY)
    errors = three.resample(changed("AAPL", "BAD", since=FIRST), NOW)
    assert {symbol: type(error) for symbol, error in errors.items()}.keys() == {"BAD"}
    assert isinstance(errors["BAD"], kind)
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY, "BAD": HISTORY}, 3)
    assert topic.published[-1].symbols == ("AAPL",)


def test_consolidated_bars_without_any_bar_are_an_error_and_erase_nothing(
    store: MemoryObjectStore, three: Resampler, topic: FakeTopic
) -> None:
    lay(store, "AAPL", HISTORY)
    three.resample(changed("AAPL", since=FIRST), NOW)
    store.lay(LAKE.data_key("AAPL"), Consolidated(BRONZE.empty_table(), {}, NOW).encode())
    errors = three.resample(changed("AAPL", since=FIRST), NOW)
    assert {symbol: str(error) for symbol, error in errors.items()} == {"AAPL": "data.parquet of AAPL holds no bars"}
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY}, 3)
    assert len(topic.published) == 1


def test_a_batch_of_failures_only_leaves_no_checkpoint_and_no_event(
    store: MemoryObjectStore, three: Resampler, topic: FakeTopic
) -> None:
    assert list(three.resample(changed("NONE", since=FIRST), NOW)) == ["NONE"]
    assert (store.done("write"), topic.published) == ([], [])


def test_no_changes_do_nothing(store: MemoryObjectStore, three: Resampler, topic: FakeTopic) -> None:
    assert three.resample([], NOW) == {}
    assert (store.done("write"), topic.published) == ([], [])


def test_bronze_is_read_from_the_prefix_that_was_set(store: MemoryObjectStore, topic: FakeTopic) -> None:
    lay(store, "AAPL", HISTORY)
    elsewhere = Resampler(store, type(LAKE)("elsewhere"), resampler(store, 3).calendar, topic, 3, 0)
    assert list(elsewhere.resample(changed("AAPL", since=FIRST), NOW)) == ["AAPL"]


# ----------------------------------------------------------------------------------------------- splits and handovers

SPLIT = Facts(splits=((DAYS[20], 1, 2),))


def test_a_split_that_is_recorded_afterwards_changes_its_symbols_silver_and_no_others(
    store: MemoryObjectStore, three: Resampler
) -> None:
    for symbol in ("AAPL", "MSFT"):
        lay(store, symbol, HISTORY)
    three.resample(changed("AAPL", "MSFT", since=FIRST), NOW)
    before = silver(store, 3)
    lay(store, "AAPL", HISTORY, SPLIT)
    assert three.resample(changed("AAPL", since=FIRST), NOW) == {}
    after = silver(store, 3)
    assert after == whole_silver({"AAPL": HISTORY, "MSFT": HISTORY}, 3, {"AAPL": SPLIT})
    old, new = ({row["ts"]: row for row in rows if row["symbol"] == "AAPL"} for rows in (before, after))
    assert [row for row in before if row["symbol"] == "MSFT"] == [row for row in after if row["symbol"] == "MSFT"]
    assert {ts for ts in old if old[ts] != new[ts]} == {ts for ts in old if ts < DAYS[20]}
    first = min(old)
    assert (new[first]["open"], new[first]["volume"]) == (old[first]["open"] / 2, old[first]["volume"] * 2)


def test_a_handover_that_is_recorded_afterwards_and_withdrawn_cuts_the_bucket_and_mends_it(
    store: MemoryObjectStore, three: Resampler
) -> None:
    lay(store, "AAPL", HISTORY)
    three.resample(changed("AAPL", since=FIRST), NOW)
    inside = next(day for day in DAYS[20:] if ORDINAL[day] % 3 == 1)
    two = Facts(handovers=(inside,))
    lay(store, "AAPL", HISTORY, two)
    three.resample(changed("AAPL", since=FIRST), NOW)
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY}, 3, {"AAPL": two})
    assert inside in {row["ts"] for row in silver(store, 3)}
    lay(store, "AAPL", HISTORY)
    three.resample(changed("AAPL", since=FIRST), NOW)
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY}, 3)


def test_the_two_rows_of_a_bucket_across_a_months_end_lie_in_the_buckets_month(store: MemoryObjectStore) -> None:
    """If the new company's first session is in the next month, its row stays in the other row's file."""
    new = next(day for day, before in zip(DAYS[1:], DAYS, strict=False) if before.month != day.month)
    interval = next(n for n in INTERVALS if ORDINAL[new] % n)
    two = Facts(handovers=(new,))
    lay(store, "AAPL", HISTORY, two)
    resampler(store, interval).resample(changed("AAPL", since=FIRST), NOW)
    assert silver(store, interval) == whole_silver({"AAPL": HISTORY}, interval, {"AAPL": two})


def test_silver_is_as_traded_if_that_is_how_it_is_set(store: MemoryObjectStore) -> None:
    lay(store, "AAPL", HISTORY, SPLIT)
    resampler(store, 3, adjusted=False).resample(changed("AAPL", since=FIRST), NOW)
    assert silver(store, 3) == slow_silver("AAPL", HISTORY, 3, SPLIT, adjusted=False)


def test_month_files_from_before_silver_was_adjusted_are_read_as_traded_and_written_again_where_rows_change(
    store: MemoryObjectStore, three: Resampler
) -> None:
    for symbol in ("AAPL", "MSFT"):
        lay(store, symbol, HISTORY)
    resampler(store, 3, adjusted=False).resample(changed("AAPL", "MSFT", since=FIRST), NOW)
    for key in store.keys("silver/"):
        store.lay(key, encode(decode(store.peek(key) or b"", SILVER, key).drop_columns(["adjusted", "version"])))
    assert three.resample(changed("AAPL", since=FIRST), NOW) == {}
    rows = silver(store, 3)
    assert {(row["symbol"], row["adjusted"]) for row in rows} == {("AAPL", True), ("MSFT", False)}
    without = [{name: value for name, value in row.items() if name != "adjusted"} for row in rows]
    whole = whole_silver({"AAPL": HISTORY, "MSFT": HISTORY}, 3)
    assert without == [{name: value for name, value in row.items() if name != "adjusted"} for row in whole]


def test_splits_cost_no_further_request(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY, SPLIT)
    three.resample(changed("AAPL", since=FIRST), NOW)
    assert [key for key in store.done("get") if key.startswith("bronze/")] == [LAKE.data_key("AAPL")]


# ------------------------------------------------------------------------------------------------------ history window


@pytest.mark.parametrize("interval", INTERVALS)
def test_a_history_window_is_cut_at_a_bucket_and_its_first_bucket_is_whole(
    store: MemoryObjectStore, interval: int
) -> None:
    days = numbered(SESSIONS[ORDINAL[date(2023, 1, 3)] : ORDINAL[date(2026, 3, 2)] + 1])
    lay(store, "AAPL", days)
    resampler(store, interval, retention_years=2).resample(changed("AAPL", since=date(2023, 1, 3)), NOW)
    rows = silver(store, interval)
    start = ORDINAL[rows[0]["ts"]]
    assert rows == [row for row in whole_silver({"AAPL": days}, interval) if ORDINAL[row["ts"]] >= start]
    assert start <= ORDINAL[date(2024, 3, 4)] < start + interval
    assert rows[0]["bars"] == interval


def test_a_history_window_never_deletes_older_silver(store: MemoryObjectStore) -> None:
    days = numbered(SESSIONS[ORDINAL[date(2023, 1, 3)] : ORDINAL[date(2026, 3, 2)] + 1])
    lay(store, "AAPL", days)
    resampler(store, 5).resample(changed("AAPL", since=date(2023, 1, 3)), NOW)
    restated = days | {date(2023, 6, 1): flat(1), date(2025, 6, 2): flat(2)}
    lay(store, "AAPL", restated)
    resampler(store, 5, retention_years=1).resample(changed("AAPL", since=date(2023, 6, 1)), NOW)
    inside_window = days | {date(2025, 6, 2): flat(2)}
    assert silver(store, 5) == whole_silver({"AAPL": inside_window}, 5)


def test_a_change_inside_the_window_does_not_reach_back_to_its_beginning(store: MemoryObjectStore) -> None:
    lay(store, "AAPL", HISTORY)
    resampler(store, 3, topic := FakeTopic(), retention_years=10).resample(changed("AAPL", since=DAYS[-1]), NOW)
    assert topic.published[0].changed_from >= DAYS[-6]


@pytest.mark.parametrize("order", [[1, 0], [0, 0, 1]], ids=["unsorted", "a session twice"])
def test_a_data_parquet_of_another_program_in_another_order_is_refused(
    store: MemoryObjectStore, three: Resampler, order: list[int]
) -> None:
    rows = [bar(DAYS[place], 10) for place in order]
    store.lay(LAKE.data_key("AAPL"), encode(pa.Table.from_pylist(rows, schema=BRONZE)))
    [error] = three.resample(changed("AAPL", since=FIRST), NOW).values()
    assert isinstance(error, ContractError)
    assert "not sorted by session, or holds one twice: consolidate it" in str(error)


# ------------------------------------------------------------------------------------------------ several at one table


def test_many_resamplers_at_one_month_file_lose_nothing(store: MemoryObjectStore) -> None:
    symbols = [f"S{i}" for i in range(6)]
    for symbol in symbols:
        lay(store, symbol, HISTORY)
    together = threading.Barrier(len(symbols))

    def work(place: int) -> object:
        together.wait()
        # Each at its own instant: a checkpoint with equal bytes would count as the resampler's own write with a lost
        # answer.
        at = NOW + timedelta(microseconds=place)
        return resampler(store, 34).resample(changed(symbols[place], since=FIRST), at)

    with ThreadPoolExecutor(len(symbols)) as pool:
        assert list(pool.map(work, range(len(symbols)))) == [{}] * len(symbols)
    assert silver(store, 34) == whole_silver(dict.fromkeys(symbols, HISTORY), 34)
    assert checkpoint(store, 34)["total_records_processed"] == len(silver(store, 34))


def test_a_conflict_is_resolved_by_reading_the_month_file_again_and_bronze_is_read_once(
    store: MemoryObjectStore, three: Resampler
) -> None:
    lay(store, "AAPL", HISTORY)
    lay(store, "MSFT", HISTORY)
    store.interfere(lambda: resampler(store, 3).resample(changed("MSFT", since=FIRST), NOW), of=in_silver)
    assert three.resample(changed("AAPL", since=FIRST), NOW) == {}
    # The threads determine how many months were read before the other one wrote them.
    assert store.done("conflict")
    assert store.done("get").count(LAKE.data_key("AAPL")) == 1
    assert store.done("head") == []
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY, "MSFT": HISTORY}, 3)


def test_only_the_months_in_conflict_are_written_again(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY)
    lay(store, "MSFT", {DAYS[0]: HISTORY[DAYS[0]]})
    october = silver_key(3, Month(2025, 10))
    other = resampler(store, 3)
    store.interfere(lambda: other.resample(changed("MSFT", since=FIRST), NOW), of=lambda key: key == october)
    three.resample(changed("AAPL", since=FIRST), NOW)
    assert store.done("conflict") == [october]
    assert len(written(store)) == len(months(store)) + 1


def test_a_month_file_that_vanishes_meanwhile_is_a_conflict_and_is_made_again(
    store: MemoryObjectStore, three: Resampler
) -> None:
    lay(store, "AAPL", HISTORY)
    three.resample(changed("AAPL", since=FIRST), NOW)
    lay(store, "AAPL", restated := HISTORY | {DAYS[30]: flat(5)})
    gone = next(key for key in store.keys("silver/") if "202511" in key)
    store.interfere(lambda: store.take_away(gone), of=lambda key: key == gone)
    assert three.resample(changed("AAPL", since=FIRST), NOW) == {}
    assert silver(store, 3) == whole_silver({"AAPL": restated}, 3)


def test_conflicts_without_end_are_a_conflict_for_every_symbol_and_nothing_is_told(
    store: MemoryObjectStore, three: Resampler, topic: FakeTopic
) -> None:
    lay(store, "AAPL", HISTORY)
    lay(store, "MSFT", HISTORY)
    store.fail("write", ConflictError("somebody else, always"), times=10_000, of=in_silver)
    errors = three.resample(changed("AAPL", "MSFT", since=FIRST), NOW)
    assert {symbol: type(error) for symbol, error in errors.items()} == {"AAPL": ConflictError, "MSFT": ConflictError}
    assert (topic.published, checkpoint(store)) == ([], {})


@pytest.mark.parametrize("verb", ["list", "get", "write"])
def test_a_bucket_that_fails_fails_every_symbol_and_the_next_run_repairs_all(
    store: MemoryObjectStore, three: Resampler, verb: str
) -> None:
    lay(store, "AAPL", HISTORY)
    lay(store, "MSFT", HISTORY)
    store.fail(verb)
    errors = three.resample(changed("AAPL", "MSFT", since=FIRST), NOW)
    assert {symbol: type(error) for symbol, error in errors.items()} == {"AAPL": UpstreamError, "MSFT": UpstreamError}
    assert three.resample(changed("AAPL", "MSFT", since=FIRST), NOW) == {}
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY, "MSFT": HISTORY}, 3)


def test_a_month_file_that_cannot_be_read_is_an_error_that_names_it_and_is_not_overwritten(
    store: MemoryObjectStore, three: Resampler
) -> None:
    key = "silver/silver_3d/year=2025/month=11/data_3d_202511.parquet"
    store.lay(key, b"somebody's notes")
    lay(store, "AAPL", HISTORY)
    errors = three.resample(changed("AAPL", since=FIRST), NOW)
    assert isinstance(errors["AAPL"], ContractError)
    assert key in str(errors["AAPL"])
    assert "move it away" in str(errors["AAPL"])
    assert store.peek(key) == b"somebody's notes"


def test_files_of_others_among_the_month_files_are_left_alone(store: MemoryObjectStore, three: Resampler) -> None:
    strange = "silver/silver_3d/year=2025/month=11/data_5d_202511.parquet"
    store.lay(strange, b"x")
    lay(store, "AAPL", HISTORY)
    assert three.resample(changed("AAPL", since=FIRST), NOW) == {}
    assert store.peek(strange) == b"x"


def test_month_files_are_read_leniently(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY)
    three.resample(changed("AAPL", since=FIRST), NOW)
    for key in store.keys("silver/"):
        assert decode(store.peek(key) or b"", SILVER, key).schema == SILVER


def test_an_error_that_is_not_ours_is_every_symbols_and_is_retried(
    store: MemoryObjectStore, three: Resampler, topic: FakeTopic
) -> None:
    lay(store, "AAPL", HISTORY)
    lay(store, "MSFT", HISTORY)
    store.fail("list", ZeroDivisionError("a fault of our own"))
    errors = three.resample(changed("AAPL", "MSFT", since=FIRST), NOW)
    assert {symbol: f"{type(error).__name__}: {error}" for symbol, error in errors.items()} == dict.fromkeys(
        ("AAPL", "MSFT"), "UnexpectedError: ZeroDivisionError: a fault of our own"
    )
    assert topic.published == []


# ------------------------------------------------------------------------------------------- checkpoint, then the event


def test_the_checkpoint_says_how_far_the_table_is(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY)
    lay(store, "MSFT", numbered(DAYS[:6]))
    three.resample(changed("AAPL", "MSFT", since=FIRST), NOW)
    assert checkpoint(store) == {
        "interval": "3d",
        "status": "success",
        "last_processed_date": DAYS[-1].isoformat(),
        "last_run_timestamp": NOW.isoformat(),
        "total_records_processed": len(silver(store, 3)),
    }


def test_the_checkpoint_never_goes_back_and_adds_up(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY)
    lay(store, "MSFT", numbered(DAYS[:6]))
    three.resample(changed("AAPL", since=FIRST), NOW)
    first = checkpoint(store)
    three.resample(changed("MSFT", since=FIRST), NOW + timedelta(hours=1))
    second = checkpoint(store)
    assert second["last_processed_date"] == first["last_processed_date"] == DAYS[-1].isoformat()
    assert second["last_run_timestamp"] == (NOW + timedelta(hours=1)).isoformat()
    assert second["total_records_processed"] == len(silver(store, 3))


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"total_records_processed": "many"}', b'{"last_processed_date": 7}'])
def test_a_checkpoint_that_cannot_be_read_is_an_error_that_says_what_to_do(
    store: MemoryObjectStore, three: Resampler, data: bytes
) -> None:
    store.lay(checkpoint_key(3), data)
    lay(store, "AAPL", HISTORY)
    errors = three.resample(changed("AAPL", since=FIRST), NOW)
    assert isinstance(errors["AAPL"], ContractError)
    assert "move it away: `fiblake adopt`" in str(errors["AAPL"])
    assert store.peek(checkpoint_key(3)) == data


def test_the_event_comes_after_the_month_files_and_the_checkpoint(store: MemoryObjectStore, three: Resampler) -> None:
    lay(store, "AAPL", HISTORY)
    three.resample([Change("AAPL", FIRST, "an-id")], NOW)
    assert [verb for verb, _ in store.journal if verb in {"write", "publish"}][-1] == "publish"
    assert store.done("write")[-1] == checkpoint_key(3)


def test_the_event_names_interval_symbols_earliest_bucket_and_correlation(
    store: MemoryObjectStore, three: Resampler, topic: FakeTopic
) -> None:
    lay(store, "MSFT", HISTORY)
    lay(store, "AAPL", HISTORY)
    three.resample([Change("AAPL", DAYS[30], "id-of-aapl"), Change("MSFT", DAYS[20], "id-of-msft")], NOW)
    [event] = topic.published
    assert (event.interval, event.symbols, event.correlation_id) == (3, ("AAPL", "MSFT"), "id-of-aapl")
    assert event.changed_from == SESSIONS[(ORDINAL[DAYS[19]]) - ORDINAL[DAYS[19]] % 3]


def test_the_event_is_published_again_when_nothing_changed(
    store: MemoryObjectStore, three: Resampler, topic: FakeTopic
) -> None:
    lay(store, "AAPL", HISTORY)
    three.resample(changed("AAPL", since=FIRST), NOW)
    three.resample(changed("AAPL", since=FIRST), NOW)
    assert [event.symbols for event in topic.published] == [("AAPL",), ("AAPL",)]


def test_many_symbols_are_reported_in_several_events(
    store: MemoryObjectStore, three: Resampler, topic: FakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.resampler.resample.SYMBOLS_PER_EVENT", 2)
    monkeypatch.setattr("services.resampler.resample.SYMBOLS_AT_ONCE", 2)
    for symbol in "ABCDE":
        lay(store, symbol, HISTORY)
    assert three.resample(changed(*"ABCDE", since=FIRST), NOW) == {}
    assert [event.symbols for event in topic.published] == [("A", "B"), ("C", "D"), ("E",)]
    assert silver(store, 3) == whole_silver(dict.fromkeys("ABCDE", HISTORY), 3)


def test_a_topic_that_refuses_the_event_fails_every_symbol_and_the_next_run_publishes_it(
    store: MemoryObjectStore, three: Resampler, topic: FakeTopic
) -> None:
    lay(store, "AAPL", HISTORY)
    lay(store, "MSFT", HISTORY)
    topic.refuse = lambda _event: True
    errors = three.resample(changed("AAPL", "MSFT", since=FIRST), NOW)
    assert {symbol: type(error) for symbol, error in errors.items()} == {"AAPL": UpstreamError, "MSFT": UpstreamError}
    topic.refuse = lambda _event: False
    assert three.resample(changed("AAPL", "MSFT", since=FIRST), NOW) == {}
    assert [event.symbols for event in topic.published] == [("AAPL", "MSFT")]


def test_a_change_after_the_calendars_end_changes_no_bucket_and_is_no_error(
    store: MemoryObjectStore, three: Resampler
) -> None:
    """A file in bronze may have any day in its name; its bars are in quarantine."""
    lay(store, "AAPL", HISTORY)
    three.resample(changed("AAPL", since=FIRST), NOW)
    lay(store, "AAPL", HISTORY)
    assert three.resample(changed("AAPL", since=date(2999, 1, 4)), NOW) == {}
    assert silver(store, 3) == whole_silver({"AAPL": HISTORY}, 3)

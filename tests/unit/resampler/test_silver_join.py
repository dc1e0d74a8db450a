from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from fiblake.aggregate import SILVER
from fiblake.bars import OLDEST_VERSION
from fiblake.buckets import MonthGrid, is_cut_by
from fiblake.calendar import TradingCalendar, nyse
from fiblake.lake import Month
from services.resampler.silver_join import Update, join, without_symbols

SESSIONS: list[date] = nyse().sessions.tolist()
OCTOBER = MonthGrid(nyse(), 5, Month(2025, 10))
STARTS = [k for k, day in enumerate(SESSIONS) if k % 5 == 0 and (day.year, day.month) == (2025, 10)]
NAMES = ["A", "AAPL", "BRK.B", "a"]
V = [datetime(2026, 3, 2, tzinfo=UTC) + timedelta(microseconds=k) for k in range(6)]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def row(symbol: str, start: int, version: datetime, price: float = 1.0, offset: int = 0) -> dict[str, Any]:
    """A row of the bucket that begins at ordinal `start`; `offset` sessions later, if its company came then."""
    ts = SESSIONS[start + offset]
    prices = dict.fromkeys(("open", "high", "low", "close"), price)
    rest = {"bars": 3, "last_date": ts, "is_complete": True, "adjusted": True, "version": version}
    return dict.fromkeys(SILVER.names) | {"symbol": symbol, "ts": ts, **prices, "volume": 5.0, **rest}


def silver(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SILVER)


def update(version: datetime, cuts: dict[str, int], *rows: dict[str, Any]) -> Update:
    numbers = [(version - EPOCH) // timedelta(microseconds=1)] * len(cuts)
    return Update(
        pa.array(list(cuts), pa.string()), np.array(numbers, np.int64), np.array(list(cuts.values()), np.int64),
        silver(*rows),
    )  # fmt: skip


def joined(old: pa.Table, new: Update, *, wins_ties: bool = False) -> list[dict[str, Any]]:
    result = join(old, new, OCTOBER, wins_ties=wins_ties)
    assert result.changed == (result.rows is not old)
    rows: list[dict[str, Any]] = result.rows.to_pylist()
    assert rows == sorted(rows, key=lambda r: (r["symbol"], r["ts"]))
    return rows


def test_the_greater_version_of_a_bucket_wins() -> None:
    first, second = STARTS[:2]
    old = silver(row("AAPL", first, V[1]), row("AAPL", second, V[3]))
    new = update(V[2], {"AAPL": first}, row("AAPL", first, V[2], 2.0), row("AAPL", second, V[2], 2.0))
    assert joined(old, new) == [row("AAPL", first, V[2], 2.0), row("AAPL", second, V[3])]


def test_a_newer_version_is_written_though_its_values_are_the_same() -> None:
    old = silver(row("AAPL", STARTS[0], V[1]))
    assert joined(old, update(V[2], {"AAPL": STARTS[0]}, row("AAPL", STARTS[0], V[2]))) == [
        row("AAPL", STARTS[0], V[2])
    ]


def test_of_the_same_version_nothing_is_written_unless_it_is_to_win_ties() -> None:
    old = silver(row("AAPL", STARTS[0], V[1]))
    new = update(V[1], {"AAPL": STARTS[0]}, row("AAPL", STARTS[0], V[1], 2.0))
    assert join(old, new, OCTOBER).rows is old
    assert joined(old, new, wins_ties=True) == [row("AAPL", STARTS[0], V[1], 2.0)]
    newer = silver(row("AAPL", STARTS[0], V[2]))
    assert join(newer, new, OCTOBER, wins_ties=True).rows is newer


def test_an_older_row_from_the_cut_on_that_the_update_lacks_goes_and_a_newer_one_stays() -> None:
    old = silver(*(row("AAPL", start, V[2 if start == STARTS[2] else 0]) for start in STARTS[:4]))
    remaining = [row("AAPL", STARTS[0], V[0]), row("AAPL", STARTS[2], V[2])]
    assert joined(old, update(V[1], {"AAPL": STARTS[1]})) == remaining


def test_a_buckets_two_rows_win_and_lose_together() -> None:
    start = STARTS[1]
    two = [row("AAPL", start, V[1]), row("AAPL", start, V[1], 3.0, offset=2)]
    newer = row("AAPL", start, V[2], 9.0)
    assert joined(silver(*two), update(V[2], {"AAPL": start}, newer)) == [newer]
    late = update(V[1], {"AAPL": start}, *two)
    assert join(silver(newer), late, OCTOBER).rows.to_pylist() == [newer]
    assert joined(silver(row("AAPL", start, V[0])), late) == two


def test_other_symbols_and_rows_before_the_cut_stay() -> None:
    old = silver(row("AAPL", STARTS[0], V[0]), row("IBM", STARTS[1], V[0], 7.0))
    got = joined(old, update(V[3], {"AAPL": STARTS[1]}, row("AAPL", STARTS[1], V[3])))
    assert got == [row("AAPL", STARTS[0], V[0]), row("AAPL", STARTS[1], V[3]), row("IBM", STARTS[1], V[0], 7.0)]


def test_rows_without_a_version_give_way_to_any() -> None:
    old = silver(row("AAPL", STARTS[0], OLDEST_VERSION))
    assert joined(old, update(V[0], {"AAPL": STARTS[0]}, row("AAPL", STARTS[0], V[0]))) == [
        row("AAPL", STARTS[0], V[0])
    ]


def test_an_update_of_no_symbol_changes_nothing() -> None:
    old = silver(row("AAPL", STARTS[0], V[0]))
    assert join(old, update(V[0], {}), OCTOBER).rows is old


def test_a_row_of_a_bucket_that_begins_in_an_earlier_month_is_seen_to_be_misplaced() -> None:
    across = next(k for k in range(STARTS[-1], STARTS[-1] + 5) if SESSIONS[k].month == 11)
    november = MonthGrid(nyse(), 5, Month(2025, 11))
    old = silver(row("AAPL", across, OLDEST_VERSION))
    assert join(old, update(V[0], {"AAPL": STARTS[0]}), november).misplaced
    assert not join(old, update(V[0], {"AAPL": STARTS[0]}), OCTOBER).misplaced


def test_a_row_that_begins_on_a_day_that_is_no_session_any_more_is_of_the_next_sessions_bucket() -> None:
    """The calendar has changed, and the row stands for a bucket that now begins one day later."""
    start = STARTS[1]
    mended = closed_on(SESSIONS[start].isoformat())
    old, grid = silver(row("AAPL", start, OLDEST_VERSION)), MonthGrid(mended, 5, Month(2025, 10))
    assert mended.session(start) == SESSIONS[start + 1]
    assert join(old, update(V[1], {"AAPL": start}), grid).rows.num_rows == 0


Told = tuple[int, dict[str, int], dict[tuple[str, int, int], float]]
TOLD: st.SearchStrategy[Told] = st.tuples(
    st.integers(0, 5),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(STARTS), min_size=1),
    st.dictionaries(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(STARTS), st.sampled_from([0, 2])), st.floats(1, 3)
    ),
)


@given(tables=st.lists(TOLD, min_size=1, max_size=4), wins_ties=st.booleans())
def test_a_join_is_what_doing_it_bucket_by_bucket_gives(tables: list[Told], wins_ties: bool) -> None:  # noqa: FBT001 (drawn)
    month: dict[tuple[str, int], tuple[int, dict[int, float]]] = {}
    old = SILVER.empty_table()
    for version, cuts, prices in tables:
        buckets: dict[tuple[str, int], dict[int, float]] = {}
        for (symbol, start, offset), price in prices.items():
            if start >= cuts.get(symbol, 1 << 40):
                buckets.setdefault((symbol, start), {})[offset] = price
        rows = [row(s, start, V[version], p, o) for (s, start), own in buckets.items() for o, p in own.items()]
        old = join(old, update(V[version], cuts, *rows), OCTOBER, wins_ties=wins_ties).rows
        for symbol, cut in cuts.items():
            for start in STARTS:
                stands = month.get((symbol, start))
                if start < cut or (stands and (stands[0] > version or (stands[0] == version and not wins_ties))):
                    continue
                month.pop((symbol, start), None)
                if (symbol, start) in buckets:
                    month[symbol, start] = (version, buckets[symbol, start])
    expected = [row(s, start, V[v], p, o) for (s, start), (v, own) in month.items() for o, p in own.items()]
    assert old.to_pylist() == sorted(expected, key=lambda r: (r["symbol"], r["ts"]))


def test_what_another_calendar_cut_gives_way_and_what_is_not_computed_again_is_as_of_the_oldest_version() -> None:
    old = silver(row("AAPL", STARTS[0], V[1]), row("IBM", STARTS[0], V[2]))
    rows, is_newer = without_symbols(old, update(V[1], {"AAPL": STARTS[3]}))
    assert (rows.to_pylist(), is_newer) == ([row("IBM", STARTS[0], OLDEST_VERSION)], False)
    assert without_symbols(old, update(V[0], {"AAPL": STARTS[3]}))[1], "a resampler of the other calendar was later"


def closed_on(day: str) -> TradingCalendar:
    return TradingCalendar(nyse().sessions[nyse().sessions != np.datetime64(day)])


def test_a_file_says_by_which_calendar_it_was_cut_as_far_as_its_buckets_reach() -> None:
    stamp = OCTOBER.calendar_stamp
    assert stamp.startswith(SESSIONS[STARTS[-1] + 4].isoformat())
    for day, alike in (("2025-11-20", True), (SESSIONS[STARTS[-1] + 4].isoformat(), False), ("1999-11-17", False)):
        assert is_cut_by(stamp, closed_on(day)) == alike


def test_a_calendar_that_was_only_made_longer_cuts_alike() -> None:
    shorter = TradingCalendar(nyse().sessions[: STARTS[-1] + 2])
    assert is_cut_by(MonthGrid(shorter, 5, Month(2025, 10)).calendar_stamp, nyse())
    assert not is_cut_by(OCTOBER.calendar_stamp, shorter)


def test_a_stamp_that_says_nothing_is_of_another_calendar() -> None:
    assert not is_cut_by("yesterday ab", nyse())

from collections.abc import Iterable
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.adjustment import NO_REFERENCE, Reference
from fiblake.aggregate import SILVER, Bars, Prices, aggregate
from fiblake.bars import PRICES as STORED
from fiblake.bars import Consolidated
from fiblake.buckets import first_to_recompute
from fiblake.calendar import CalendarRangeError, NotASessionError, nyse
from fiblake.errors import ContractError
from fiblake.lake import INTERVALS
from services.reconcile.silver import Grid, first_difference
from tests.unit.resampler.daily import (
    NO_FACTS,
    NOW,
    ORDINAL,
    SESSIONS,
    SLOW_COLUMNS,
    Daily,
    Facts,
    bars,
    flat,
    numbered,
    slow_silver,
    table,
)

PRICES = st.floats(min_value=1e-4, max_value=1e6, allow_subnormal=False)
DAILY = st.builds(Daily, PRICES, PRICES, PRICES, PRICES, st.integers(0, 10**12).map(float))


def silver(
    days: dict[date, Daily],
    interval: int,
    first: int = 0,
    reference: Reference = NO_REFERENCE,
    *,
    adjusted: bool = True,
) -> list[dict[str, Any]]:
    series = bars("AAPL", days, reference, adjusted=adjusted)
    rows = aggregate([series.since(first)], interval, nyse(), adjusted=adjusted)
    values: list[dict[str, Any]] = rows.select(SLOW_COLUMNS).to_pylist()
    return values


def starts(days: Iterable[date], interval: int) -> list[str]:
    return [row["ts"].isoformat() for row in silver(numbered(days), interval)]


def test_a_session_without_a_bar_keeps_its_slot() -> None:
    # The first week of 1962; the symbol did not trade on the 3rd. If bars were counted instead of sessions, the bar of
    # the 5th would be in the first bucket.
    days = {
        date(1962, 1, 2): Daily(10, 12, 9, 11, 100),
        date(1962, 1, 4): Daily(11, 15, 10, 14, 200),
        date(1962, 1, 5): Daily(14, 16, 13, 15, 400),
        date(1962, 1, 8): Daily(15, 15, 8, 9, 800),
    }
    first, second = silver(days, 3)
    assert first == {
        "symbol": "AAPL", "ts": date(1962, 1, 2), "open": 10, "high": 15, "low": 9, "close": 14, "volume": 300,
        "bars": 2, "last_date": date(1962, 1, 4), "is_complete": True, "adjusted": True,
    }  # fmt: skip
    assert second == {
        "symbol": "AAPL", "ts": date(1962, 1, 5), "open": 14, "high": 16, "low": 8, "close": 9, "volume": 1200,
        "bars": 2, "last_date": date(1962, 1, 8), "is_complete": False, "adjusted": True,
    }  # fmt: skip


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_bucket_starts_with_its_first_session_whichever_bar_is_missing(missing: int) -> None:
    days = numbered(session for ordinal, session in enumerate(SESSIONS[:6]) if ordinal != missing)
    first, second = silver(days, 3)
    have = [SESSIONS[ordinal] for ordinal in range(3) if ordinal != missing]
    assert (first["ts"], first["bars"], first["last_date"]) == (SESSIONS[0], 2, have[-1])
    assert (first["open"], first["close"]) == (days[have[0]].open, days[have[-1]].close)
    assert (second["ts"], second["bars"]) == (SESSIONS[3], 3)


def test_a_bucket_without_any_bar_is_no_row_and_shifts_nothing() -> None:
    days = numbered([*SESSIONS[:3], *SESSIONS[6:9]])
    assert [row["ts"] for row in silver(days, 3)] == [SESSIONS[0], SESSIONS[6]]


@pytest.mark.parametrize("interval", INTERVALS)
def test_buckets_of_every_interval_hold_n_sessions(interval: int) -> None:
    rows = silver(numbered(SESSIONS[: 2 * interval + 1]), interval)
    assert [row["bars"] for row in rows] == [interval, interval, 1]
    assert [row["is_complete"] for row in rows] == [True, True, False]
    assert [row["ts"] for row in rows] == [SESSIONS[0], SESSIONS[interval], SESSIONS[2 * interval]]
    assert [row["last_date"] for row in rows] == [
        SESSIONS[interval - 1], SESSIONS[2 * interval - 1], SESSIONS[2 * interval],
    ]  # fmt: skip


def test_a_bucket_across_christmas_1963_holds_three_sessions_and_no_holiday() -> None:
    start = ORDINAL[date(1963, 12, 24)] - ORDINAL[date(1963, 12, 24)] % 3
    [row] = [row for row in silver(numbered(SESSIONS[start : start + 9]), 3) if row["ts"] == SESSIONS[start]]
    assert date(1963, 12, 25) not in SESSIONS[start : start + 3]
    assert row["bars"] == 3
    assert starts([date(1963, 12, 24), date(1963, 12, 26)], 1) == ["1963-12-24", "1963-12-26"]


@pytest.mark.parametrize("interval", INTERVALS)
def test_a_bucket_across_the_four_days_of_september_2001_counts_sessions_not_days(interval: int) -> None:
    before, after = date(2001, 9, 10), date(2001, 9, 17)
    assert ORDINAL[after] == ORDINAL[before] + 1
    rows = silver(numbered([before, after]), interval)
    same = ORDINAL[before] // interval == ORDINAL[after] // interval
    assert [row["bars"] for row in rows] == ([2] if same else [1, 1])


def test_a_bucket_is_incomplete_while_its_last_slot_may_still_be_filled() -> None:
    [row] = silver(numbered([SESSIONS[0], SESSIONS[1]]), 3)
    assert not row["is_complete"]


def test_a_bar_in_the_last_slot_completes_the_bucket() -> None:
    [row] = silver(numbered([SESSIONS[2]]), 3)
    assert row["is_complete"]


def test_a_later_bar_completes_a_bucket_whose_last_slot_stays_empty() -> None:
    first, second = silver(numbered([SESSIONS[0], SESSIONS[1], SESSIONS[4]]), 3)
    assert (first["is_complete"], first["bars"]) == (True, 2)
    assert not second["is_complete"]


def test_buckets_before_the_first_wanted_are_left_out() -> None:
    assert [row["ts"] for row in silver(numbered(SESSIONS[:9]), 3, first=3)] == [SESSIONS[3], SESSIONS[6]]


def test_a_first_bucket_after_the_last_bar_gives_no_rows_of_the_right_schema() -> None:
    table = aggregate([bars("AAPL", numbered(SESSIONS[:3])).since(3)], 3, nyse(), adjusted=True)
    assert (table.num_rows, table.schema) == (0, SILVER)


def test_no_bars_give_no_rows() -> None:
    assert silver({}, 3) == []


def test_silver_has_its_schema() -> None:
    assert aggregate([bars("AAPL", numbered(SESSIONS[:4]))], 3, nyse(), adjusted=True).schema == SILVER


def test_a_bar_on_a_day_that_was_no_session_is_an_error_that_names_it() -> None:
    with pytest.raises(NotASessionError, match="1963-12-25"):
        bars("AAPL", {date(1963, 12, 25): flat(1)})


def test_a_bar_before_the_calendar_is_an_error_that_names_it() -> None:
    with pytest.raises(CalendarRangeError, match="1961-12-29"):
        bars("AAPL", {date(1961, 12, 29): flat(1)})


# --------------------------------------------------------------------------------------------------------------- splits

WEEK = {
    date(2005, 2, 24): Daily(88, 90, 86, 89, 1_000),
    date(2005, 2, 25): Daily(89, 92, 88, 90, 2_000),
    date(2005, 2, 28): Daily(44, 46, 43, 45, 3_000),
}
"""AAPL, rounded: on Monday, the 28th, each share became two."""
TWO_FOR_ONE = Reference(((date(2005, 2, 28), 0.5),))


def test_a_bucket_across_a_split_is_of_todays_shares() -> None:
    assert {ORDINAL[day] // 13 for day in WEEK} == {ORDINAL[date(2005, 2, 28)] // 13}, "one bucket of 13"
    (row,) = silver(WEEK, 13, reference=TWO_FOR_ONE)
    assert (row["open"], row["high"], row["low"], row["close"]) == (44, 46, 43, 45)
    assert (row["volume"], row["bars"], row["adjusted"]) == (2_000 + 4_000 + 3_000, 3, True)


def test_silver_that_is_not_adjusted_is_as_traded_and_says_so() -> None:
    (row,) = silver(WEEK, 13, reference=TWO_FOR_ONE, adjusted=False)
    assert (row["open"], row["high"], row["low"], row["close"]) == (88, 92, 43, 45)
    assert (row["volume"], row["bars"], row["adjusted"]) == (6_000, 3, False)


def test_a_split_that_no_bar_shows_yet_leaves_the_prices_as_traded() -> None:
    before = {day: bar for day, bar in WEEK.items() if day < date(2005, 2, 28)}
    (row,) = silver(before, 13, reference=TWO_FOR_ONE)
    assert (row["high"], row["close"], row["volume"], row["adjusted"]) == (92, 90, 3_000, True)


def test_bars_without_a_split_are_not_copied() -> None:
    plain = bars("AAPL", WEEK)
    same = bars("AAPL", WEEK, Reference(handovers=(date(2005, 2, 28),)))
    assert plain.open.tolist() == same.open.tolist()
    assert not plain.open.flags.owndata
    assert not same.open.flags.owndata


# ------------------------------------------------------------------------------------------------------------ handovers


def handed_over(*days: date) -> Reference:
    return Reference(handovers=days)


def test_a_bucket_in_which_the_symbol_was_handed_over_is_one_row_a_company() -> None:
    first, second = silver(
        dict(zip(SESSIONS[:3], [flat(10), flat(20), flat(99)], strict=True)), 3, reference=handed_over(SESSIONS[2])
    )
    assert first == {
        "symbol": "AAPL", "ts": SESSIONS[0], "open": 10, "high": 21, "low": 9, "close": 20.5, "volume": 300,
        "bars": 2, "last_date": SESSIONS[1], "is_complete": True, "adjusted": True,
    }  # fmt: skip
    assert second == {
        "symbol": "AAPL", "ts": SESSIONS[2], "open": 99, "high": 100, "low": 98, "close": 99.5, "volume": 990,
        "bars": 1, "last_date": SESSIONS[2], "is_complete": True, "adjusted": True,
    }  # fmt: skip


def test_the_new_companys_first_row_begins_with_its_first_session_even_if_it_has_no_bar_there() -> None:
    rows = silver(numbered([SESSIONS[0], SESSIONS[4]]), 5, reference=handed_over(SESSIONS[2]))
    assert [(row["ts"], row["last_date"], row["bars"]) for row in rows] == [
        (SESSIONS[0], SESSIONS[0], 1), (SESSIONS[2], SESSIONS[4], 1),
    ]  # fmt: skip


def test_the_earlier_companys_last_row_is_complete_once_the_next_ones_first_bar_is_there_or_it_is_full() -> None:
    handover = handed_over(SESSIONS[2])
    assert [row["is_complete"] for row in silver(numbered(SESSIONS[:1]), 5, reference=handover)] == [False]
    assert [row["is_complete"] for row in silver(numbered(SESSIONS[:2]), 5, reference=handover)] == [True]
    rows = silver(numbered([SESSIONS[0], SESSIONS[2]]), 5, reference=handover)
    assert [row["is_complete"] for row in rows] == [True, False]


def test_a_handover_between_buckets_or_on_a_holiday_moves_no_bucket() -> None:
    days = numbered(SESSIONS[:9])
    assert silver(days, 3, reference=handed_over(SESSIONS[3])) == silver(days, 3)
    weekend = date(1962, 1, 6)
    assert weekend not in ORDINAL
    rows = silver(days, 3, reference=handed_over(weekend))
    monday = date(1962, 1, 8)
    assert [row["ts"] for row in rows] == [SESSIONS[0], SESSIONS[3], monday, SESSIONS[6]]


def test_handovers_beyond_the_calendar_touch_nothing() -> None:
    days = numbered(SESSIONS[:9])
    assert silver(days, 3, reference=handed_over(date(1900, 1, 1), date(2200, 1, 1))) == silver(days, 3)


def test_one_companys_split_does_not_touch_the_others_bars() -> None:
    days = dict(zip(SESSIONS[:4], [flat(10), flat(5), flat(100), flat(25)], strict=True))
    # The first company split 2-for-1 at its second session, the second 4-for-1 at the last; the vendor's factors are
    # cumulative over the symbol.
    reference = Reference(((SESSIONS[1], 0.125), (SESSIONS[3], 0.25)), (SESSIONS[2],))
    first, second = silver(days, 5, reference=reference)
    assert (first["open"], first["close"], first["volume"]) == (5, 5.5, 200 + 50)
    assert (second["open"], second["close"], second["volume"]) == (25, 25.5, 4_000 + 250)


@st.composite
def histories(draw: st.DrawFn) -> dict[date, Daily]:
    begin = draw(st.sampled_from([0, 490, 9_000, 16_000]))
    ordinals = draw(st.sets(st.integers(begin, begin + 150), min_size=1, max_size=60))
    return {SESSIONS[ordinal]: draw(DAILY) for ordinal in ordinals}


RATIOS = st.sampled_from([(1, 2), (1, 4), (2, 1), (8, 1)])
"""Ratios that floating-point numbers represent exactly, so that the order of multiplication has no effect."""


@st.composite
def facts(draw: st.DrawFn, days: dict[date, Daily]) -> Facts:
    """Splits and handovers on, between, before and after these days."""
    near = st.integers(max(0, ORDINAL[min(days)] - 5), ORDINAL[max(days)] + 5).map(lambda ordinal: SESSIONS[ordinal])
    splits = draw(st.dictionaries(near, RATIOS, max_size=4))
    handovers = draw(st.sets(near, max_size=3))
    return Facts(tuple((day, *ratio) for day, ratio in sorted(splits.items())), tuple(sorted(handovers)))


@given(days=histories(), interval=st.sampled_from(INTERVALS), adjusted=st.booleans(), data=st.data())
def test_silver_equals_a_slow_recomputation(
    days: dict[date, Daily], interval: int, adjusted: bool, data: st.DataObject,  # noqa: FBT001
) -> None:  # fmt: skip
    of_symbol = data.draw(st.just(NO_FACTS) | facts(days))
    rows = silver(days, interval, reference=of_symbol.reference(), adjusted=adjusted)
    assert rows == slow_silver("AAPL", days, interval, of_symbol, adjusted=adjusted)
    assert len({row["ts"] for row in rows}) == len(rows)


@given(days=histories(), interval=st.sampled_from(INTERVALS), adjusted=st.booleans(), data=st.data())
def test_every_column_is_what_the_audit_computes(
    days: dict[date, Daily], interval: int, adjusted: bool, data: st.DataObject,  # noqa: FBT001
) -> None:  # fmt: skip
    reference = data.draw(st.just(NO_FACTS) | facts(days)).reference()
    rows = aggregate([bars("AAPL", days, reference, adjusted=adjusted)], interval, nyse(), adjusted=adjusted)
    stored = Consolidated(table("AAPL", days), {}, NOW, reference)
    assert first_difference(stored, rows, interval, 0, Grid(nyse(), adjusted)) is None


@given(days=histories(), interval=st.sampled_from(INTERVALS), data=st.data())
def test_recomputing_from_the_earliest_change_equals_recomputing_everything(
    days: dict[date, Daily], interval: int, data: st.DataObject
) -> None:
    sessions = sorted(days)
    changes = data.draw(st.dictionaries(st.sampled_from([*sessions, *SESSIONS[9_000:9_160]]), DAILY, min_size=1))
    after = days | changes
    handovers = data.draw(facts(after)).handovers  # splits change all bars before them, so everything is recomputed
    reference = Reference(handovers=handovers)
    first = first_to_recompute(bars("AAPL", after).ordinals, ORDINAL[min(changes)], interval)
    earlier = [row for row in silver(days, interval, reference=reference) if row["ts"] < SESSIONS[first]]
    assert earlier + silver(after, interval, first, reference) == silver(after, interval, reference=reference)


def test_bars_that_cannot_be_used_cost_no_other_symbol_of_those_that_are_read_with_them() -> None:
    good = {date(1962, 1, 2): flat(10), date(1962, 1, 4): flat(11)}
    backwards = table("BACK", good).take([1, 0])
    many = {
        "NONE": table("NONE", {}),
        "AAPL": table("AAPL", good),
        "BACK": backwards,
        "TWICE": pa.concat_tables([table("TWICE", good).slice(1)] * 2),
        "SATURDAY": table("SATURDAY", {**good, date(1962, 1, 6): flat(1)}),
        "OLD": table("OLD", {date(1861, 7, 4): flat(1), **good}),
        "MSFT": table("MSFT", good),
    }
    prices = [Prices(symbol, rows.select(STORED.names), NO_REFERENCE, NOW) for symbol, rows in many.items()]
    outcomes = dict(zip(many, Bars.of_many(prices, nyse()), strict=True))
    for symbol in ("AAPL", "MSFT"):
        read, own = outcomes.pop(symbol), Bars.of(symbol, many[symbol], nyse())
        assert isinstance(read, Bars)
        assert [read.ordinals.tolist(), read.close.tolist()] == [own.ordinals.tolist(), own.close.tolist()]
    unsorted = (
        "data.parquet of {0} is not sorted by session, or holds one twice: consolidate it "
        "(`fiblake consolidate --symbols {0}`)"
    )
    assert [(symbol, type(error), str(error)) for symbol, error in outcomes.items()] == [
        ("NONE", ContractError, "data.parquet of NONE holds no bars"),
        ("BACK", ContractError, unsorted.format("BACK")),
        ("TWICE", ContractError, unsorted.format("TWICE")),
        ("SATURDAY", NotASessionError, "1962-01-06 is not a session of the NYSE"),
        ("OLD", CalendarRangeError, "1861-07-04 is outside the trading calendar (1962-01-02 to 2029-12-31)"),
    ]

import math
from dataclasses import replace
from datetime import UTC, date, datetime
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fiblake.calendar import nyse
from services.fetcher.sifting import ClassifiedBars, StoredState, classify_bars
from services.fetcher.validation import VendorBar

NOW = datetime(2025, 11, 21, 21, 5, tzinfo=UTC)
THURSDAY, FRIDAY = date(2025, 11, 20), date(2025, 11, 21)


def vendor_bar(symbol: str = "AAPL", session: date = FRIDAY, close: float = 10.0, **changes: Any) -> VendorBar:  # noqa: ANN401
    bar = VendorBar(symbol, session, close - 0.5, close + 1, close - 1, close, 1000.5, close, 7)
    return replace(bar, **changes)


def sifted(*bars: VendorBar, limit: float = 3.0, **past: Any) -> ClassifiedBars:  # noqa: ANN401
    return classify_bars(bars, nyse(), StoredState(**past), limit, NOW)


def stored_rows(*bars: VendorBar) -> dict[tuple[str, date], dict[str, Any]]:
    return {(row["symbol"], row["timestamp"]): row for row in sifted(*bars).rows}


def test_new_bars_become_rows_by_session_and_symbol() -> None:
    result = sifted(vendor_bar("MSFT"), vendor_bar("AAPL"), vendor_bar("ZZZ", THURSDAY))
    assert [(row["timestamp"], row["symbol"]) for row in result.rows] == [
        (THURSDAY, "ZZZ"), (FRIDAY, "AAPL"), (FRIDAY, "MSFT"),
    ]  # fmt: skip
    assert {row["ingested_at"] for row in result.rows} == {NOW}


def test_a_bar_that_is_stored_as_it_is_becomes_no_row() -> None:
    rows = stored_rows(vendor_bar("AAPL"), vendor_bar("MSFT", vwap=None, trades=None))
    result = sifted(vendor_bar("AAPL"), vendor_bar("MSFT", vwap=None, trades=None), rows=rows)
    assert (result.rows, result.unchanged) == ([], 2)


def test_a_bar_restated_in_any_field_becomes_a_row() -> None:
    rows = stored_rows(vendor_bar())
    restated = {"open": 9.6, "high": 11.5, "low": 8.5, "close": 10.1, "volume": 1001.0, "vwap": None, "trades": 8}
    for name, value in restated.items():
        [row] = sifted(vendor_bar(**{name: value}), rows=rows).rows
        assert row[name] == value


def test_a_bar_that_fails_the_rules_but_is_stored_as_it_is_stays_so() -> None:
    bad = vendor_bar(high=5.0)
    rows = {("AAPL", FRIDAY): {**stored_rows(vendor_bar())["AAPL", FRIDAY], "high": 5.0}}
    assert sifted(bad).refused
    result = sifted(bad, rows=rows)
    assert (result.rows, result.refused, result.unchanged) == ([], [], 1)


def test_a_second_bar_of_one_symbol_and_session_is_refused_also_if_the_first_is_stored_already() -> None:
    twice = (vendor_bar(), vendor_bar(close=11.0))
    for rows in ({}, stored_rows(vendor_bar())):
        [(bar, reason)] = sifted(*twice, rows=rows).refused
        assert (bar.close, reason) == (11.0, "the vendor reported this session twice")


def test_of_two_bars_of_one_session_the_one_that_is_stored_stays_in_whatever_order_they_come() -> None:
    result = sifted(vendor_bar(close=11.0), vendor_bar(), rows=stored_rows(vendor_bar()))
    assert (result.rows, result.unchanged, [bar.close for bar, _ in result.refused]) == ([], 1, [11.0])


# --------------------------------------------------------------------------------------------------------------- jumps


def test_a_price_that_jumps_beyond_the_limit_is_flagged_and_stored() -> None:
    for close in (30.1, 3.3):
        result = sifted(vendor_bar(close=close), closes={"AAPL": 10.0})
        assert (result.flagged, len(result.rows)) == (["AAPL"], 1)


def test_a_price_within_the_limit_is_not_flagged() -> None:
    for close in (30.0, 3.4, 10.0):
        assert sifted(vendor_bar(close=close), closes={"AAPL": 10.0}).flagged == []


def test_a_jump_that_a_split_explains_is_not_flagged() -> None:
    ratio = {("AAPL", FRIDAY): 0.1}
    assert sifted(vendor_bar(close=10.2), closes={"AAPL": 100.0}).flagged == ["AAPL"]
    assert sifted(vendor_bar(close=10.2), closes={"AAPL": 100.0}, split_ratios=ratio).flagged == []


def test_a_wrong_price_on_a_splits_day_is_flagged() -> None:
    ratio = {("AAPL", FRIDAY): 0.1}
    assert sifted(vendor_bar(close=1.0 * 2), closes={"AAPL": 100.0}, split_ratios=ratio).flagged == ["AAPL"]


def test_a_symbols_first_bar_and_one_after_an_impossible_price_are_not_flagged() -> None:
    assert sifted(vendor_bar(close=1e6)).flagged == []
    assert sifted(vendor_bar(), closes={"AAPL": -1.0}).flagged == []


def test_in_a_history_each_bar_is_held_against_the_one_before_it() -> None:
    days = nyse().between(date(2025, 11, 17), FRIDAY)
    closes = [10.0, 11.0, 44.0, 45.0, 9.0]
    result = sifted(*(vendor_bar(session=day, close=close) for day, close in zip(days, closes, strict=True)))
    assert (result.flagged, len(result.rows)) == (["AAPL", "AAPL"], 5)


PRICES = st.sampled_from([10.0, 20.0, 5.0, -1.0, math.nan])
BARS = st.lists(st.builds(vendor_bar, st.sampled_from(["A", "B", "~"]), st.sampled_from([THURSDAY, FRIDAY]), PRICES))


@given(bars=BARS, stored=BARS)
def test_every_bar_is_a_row_or_refused_or_unchanged_and_no_two_rows_share_a_place(
    bars: list[VendorBar], stored: list[VendorBar]
) -> None:
    result = sifted(*bars, rows=stored_rows(*stored))
    assert len(result.rows) + len(result.refused) + result.unchanged == len(bars)
    places = [(row["symbol"], row["timestamp"]) for row in result.rows]
    assert len(places) == len(set(places))


@given(bars=BARS, order=st.randoms())
def test_what_was_stored_once_is_not_stored_again_in_whatever_order(bars: list[VendorBar], order: Random) -> None:
    first = sifted(*bars)
    order.shuffle(bars)
    again = sifted(*bars, rows={(row["symbol"], row["timestamp"]): row for row in first.rows})
    assert (again.rows, again.unchanged) == ([], len(first.rows))

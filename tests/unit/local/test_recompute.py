from datetime import date
from typing import Any

import pandas as pd
import pytest

from fiblake.bars import ReportedBar
from local.recompute import SampleSplit, differences, expected_silver, reinvested

MONDAY, TUESDAY, WEDNESDAY = (date(2025, 11, day) for day in (17, 18, 19))
BARS = [
    ReportedBar("AAPL", MONDAY, 200, 204, 196, 202, 1_000),
    ReportedBar("AAPL", TUESDAY, 100, 103, 99, 102, 3_000),
    ReportedBar("MSFT", MONDAY, 50, 51, 49, 50, 7_000),
]
SPLIT = SampleSplit("AAPL", TUESDAY, 1, 2)


def rows(*splits: SampleSplit) -> list[dict[Any, Any]]:
    return expected_silver(BARS, 21, splits).to_dict("records")


def test_bars_before_a_split_are_made_comparable_with_those_after_it_and_other_symbols_are_left_alone() -> None:
    apple, microsoft = rows(SPLIT)
    assert (apple["open"], apple["high"], apple["low"], apple["close"]) == (100, 103, 98, 102)
    assert (apple["volume"], apple["bars"], apple["adjusted"]) == (2_000 + 3_000, 2, True)
    assert (microsoft["open"], microsoft["volume"], microsoft["adjusted"]) == (50, 7_000, True)


@pytest.mark.parametrize("day", [WEDNESDAY, MONDAY, date(1999, 1, 4)])
def test_a_split_that_no_bar_shows_or_that_is_before_all_of_them_changes_nothing(day: date) -> None:
    assert rows(SampleSplit("AAPL", day, 1, 2)) == rows()


def test_a_row_that_is_missing_or_differs_in_anything_is_counted() -> None:
    expected = expected_silver(BARS, 21, [SPLIT])
    assert differences(expected, expected) == 0
    assert differences(expected.iloc[:1], expected) == 1
    assert differences(expected, expected_silver(BARS, 21)) == 1
    assert differences(expected.assign(adjusted=False), expected) == 4, "two rows too many, two missing"
    assert differences(expected.assign(close=expected["close"] * (1 + 1e-9)), expected) == 2
    assert differences(expected.assign(close=expected["close"] * (1 + 1e-15)), expected) == 0


def test_a_table_without_rows_lacks_all_of_them() -> None:
    expected = expected_silver(BARS, 21)
    assert differences(pd.DataFrame(expected.iloc[:0]), expected) == 2


def test_reinvested_dividends_buy_shares_at_what_the_close_before_was_worth_without_them() -> None:
    bars = [ReportedBar("AAPL", day, close, close, close, close, 1) for day, close in
            ((MONDAY, 200.0), (TUESDAY, 110.0), (WEDNESDAY, 121.0))]  # fmt: skip
    # Two shares of 100 pay 20 each on Tuesday: 40 buy half a share at 80. On Wednesday a tenth of 110 is paid.
    assert reinvested(bars, [SPLIT], {TUESDAY: 20.0}) == [200.0, 2.5 * 110, 2.5 * 121]
    assert reinvested(bars, [SPLIT], {WEDNESDAY: 11.0}) == pytest.approx([200.0, 220.0, 2 / 0.9 * 121])
    assert reinvested(bars, [], {MONDAY: 50.0, date(2025, 11, 20): 1.0}) == [200.0, 110.0, 121.0]

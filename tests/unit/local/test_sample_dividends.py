"""The sample's dividends are real: they explain the adjusted prices of another source, day by day."""

import csv
import gzip
from datetime import date
from itertools import pairwise

import numpy as np
import pytest

from fiblake.adjustment import Payout, Reference
from local.market_data.replay import sample
from local.sample_bars import sample_file

SPLIT_RATIOS = {("AAPL", "2000-06-21"): 2, ("MSFT", "2003-02-18"): 2, ("AAPL", "2005-02-28"): 2}
Rows = dict[str, list[tuple[str, float, float]]]


@pytest.fixture(scope="module")
def published() -> Rows:
    """Return (day, close, adjusted close) by symbol, from the file of the sample's bars."""
    rows: Rows = {}
    with gzip.open(sample_file(), "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            rows.setdefault(row["Ticker"], []).append((row["Date"], float(row["Close"]), float(row["Adj Close"])))
    return {symbol: sorted(of_symbol) for symbol, of_symbol in rows.items()}


def cash_by_day(symbol: str) -> dict[str, float]:
    _, reference = sample()
    cash: dict[str, float] = {}
    for dividend in reference.dividends:
        if dividend.ticker == symbol:
            day = str(dividend.ex_dividend_date)
            cash[day] = cash.get(day, 0.0) + dividend.cash_amount
    return cash


@pytest.mark.parametrize("symbol", ["AAPL", "MSFT", "IBM", "GOOG", "FB"])
def test_cash_and_day_are_those_that_the_adjusted_closes_were_made_with(published: Rows, symbol: str) -> None:
    """Those closes reinvest at the close of the ex-date, and are rounded to cents."""
    cash = cash_by_day(symbol)
    rows = published[symbol]
    for (_, close_before, adjusted_before), (day, close, adjusted) in pairwise(rows):
        split = SPLIT_RATIOS.get((symbol, day), 1)
        step = (adjusted_before / close_before) / (adjusted / close) * split
        rounding = close * (0.005 / adjusted_before + 0.005 / adjusted) + 1e-9
        assert close / step - close == pytest.approx(cash.pop(day, 0.0), abs=rounding), day
    assert cash == {}


def test_total_return_across_microsofts_split_and_its_great_dividend_is_as_worked_by_hand(published: Rows) -> None:
    rows = [row for row in published["MSFT"] if row[0] <= "2004-12-31"]
    payouts = [Payout(date.fromisoformat(d), c) for d, c in sorted(cash_by_day("MSFT").items()) if d <= "2004-12-31"]
    reference = Reference(splits=((date(2003, 2, 18), 0.5),), dividends=tuple(payouts))
    days = np.array([day for day, _, _ in rows], dtype="datetime64[D]")
    factors = dict(
        zip(days.astype(str), reference.total_factors(days, np.array([row[1] for row in rows])), strict=True)
    )
    # 0.08 on 24.96, 0.16 on 28.68, 0.08 on 27.20, 3.08 on 29.97, and two shares for one on the first day of them.
    great = 1 - 3.08 / 29.97
    before = (1 - 0.08 / 24.96) * (1 - 0.16 / 28.68) * (1 - 0.08 / 27.20) * great
    by_hand = {
        "2003-02-14": before / 2, "2003-02-18": before, "2003-02-19": before / (1 - 0.08 / 24.96),
        "2004-08-20": (1 - 0.08 / 27.20) * great, "2004-11-12": great, "2004-11-15": 1.0, "2004-12-31": 1.0,
    }  # fmt: skip
    assert {day: factors[day] for day in by_hand} == pytest.approx(by_hand, rel=1e-12)

"""Compute all of silver again with pandas, from the bars' CSV.

No code of the services is used here, not even their calendar: sessions come from pandas_market_calendars itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
import pandas as pd
import pandas_market_calendars

from fiblake.bars import ReportedBar

PRICES: Final = ["open", "high", "low", "close"]
COLUMNS: Final = ["symbol", "ts", *PRICES, "volume", "bars", "last_date", "is_complete", "adjusted"]
ROUNDING: Final = 1e-12
"""The accepted relative difference of two computations of the same splits."""


@dataclass(frozen=True, slots=True)
class SampleSplit:
    """`split_from` shares of a symbol became `split_to` on the morning of `execution_date`."""

    symbol: str
    execution_date: date
    split_from: float
    split_to: float


def expected_silver(bars: Iterable[ReportedBar], interval: int, splits: Sequence[SampleSplit] = ()) -> pd.DataFrame:
    """Return the interval's whole table (COLUMNS, sorted by symbol and ts) for these daily bars and splits."""
    return expected_tables(bars, [interval], splits)[interval]


def expected_tables(
    bars: Iterable[ReportedBar], intervals: Iterable[int], splits: Sequence[SampleSplit] = ()
) -> dict[int, pd.DataFrame]:
    """Return the tables of several intervals; see `expected_silver`."""
    frame = pd.DataFrame([(b.symbol, b.session, b.open, b.high, b.low, b.close, b.volume) for b in bars])
    frame.columns = pd.Index(["symbol", "session", *PRICES, "volume"])
    frame["session"] = pd.to_datetime(frame["session"])
    grid = _sessions(frame["session"].max())
    frame["ordinal"] = grid.get_indexer(pd.DatetimeIndex(frame["session"]))
    frame = _adjusted(frame.sort_values(["symbol", "session"], ignore_index=True), splits)
    return {interval: _table(frame, interval, grid) for interval in intervals}


def _table(frame: pd.DataFrame, interval: int, grid: pd.DatetimeIndex) -> pd.DataFrame:
    buckets = frame.assign(bucket=frame["ordinal"] // interval).groupby(["symbol", "bucket"], as_index=False)
    rows = buckets.agg(
        open=("open", "first"), high=("high", "max"), low=("low", "min"), close=("close", "last"),
        volume=("volume", "sum"), bars=("session", "size"), last_date=("session", "max"),
    )  # fmt: skip
    rows["ts"] = grid[rows["bucket"] * interval]
    latest = rows["symbol"].map(frame.groupby("symbol")["ordinal"].max())
    rows["is_complete"] = latest >= rows["bucket"] * interval + interval - 1
    rows["adjusted"] = True
    return rows[COLUMNS].sort_values(["symbol", "ts"], ignore_index=True)


def reinvested(bars: Sequence[ReportedBar], splits: Sequence[SampleSplit], cash: Mapping[date, float]) -> list[float]:
    """Return the value of one share of the first bar at each bar's close, with all dividends reinvested.

    It is computed day by day: a split multiplies the shares, and a dividend (`cash` by ex-date) pays each of them. The
    money buys shares at the close before, minus the dividend.
    """
    ratios = {split.execution_date: split.split_to / split.split_from for split in splits}
    shares, worth = 1.0, [bars[0].close]
    for before, bar in pairwise(bars):
        paid = 0.0
        for day in sorted({*ratios, *cash}):
            if before.session < day <= bar.session:
                shares *= ratios.get(day, 1.0)
                paid += shares * cash.get(day, 0.0)
        shares *= worth[-1] / (worth[-1] - paid)
        worth.append(shares * bar.close)
    return worth


def differences(actual: pd.DataFrame, expected: pd.DataFrame) -> int:
    """Count the rows that are missing, too many, or differ in any column; numbers may differ by ROUNDING."""
    dates = {"ts": "datetime64[s]", "last_date": "datetime64[s]"}
    actual_rows = actual[COLUMNS].astype(dates).astype({"bars": "int64", "volume": "float64"})
    right = expected[COLUMNS].astype(dates).astype({"bars": "int64", "volume": "float64"})
    numbers = [*PRICES, "volume"]
    exact = [name for name in COLUMNS if name not in numbers]
    both = actual_rows.merge(right, on=exact, how="outer", indicator=True, suffixes=("", "_expected"))
    there = both["_merge"] == "both"
    actual_values, wanted = both[numbers].to_numpy(), both[[f"{name}_expected" for name in numbers]].to_numpy()
    close = np.isclose(actual_values, wanted, rtol=ROUNDING, atol=0).all(axis=1)
    return int((~(there & close)).sum())


@cache
def _sessions(last: pd.Timestamp) -> pd.DatetimeIndex:
    # Cached, because the calendar computes every holiday since 1962.
    days: pd.DatetimeIndex = pandas_market_calendars.get_calendar("NYSE").valid_days("1962-01-02", last)
    return days.tz_localize(None)


def _adjusted(frame: pd.DataFrame, splits: Sequence[SampleSplit]) -> pd.DataFrame:
    """Make bars before a split comparable with those after it.

    Each split of a symbol takes effect with its first bar on or after the execution date; the factor of a bar
    is the product of all steps after it. `frame` is sorted by symbol and session.
    """
    step = pd.Series(1.0, index=frame.index)
    for split in splits:
        day = pd.Timestamp(split.execution_date)
        after = frame.index[(frame["symbol"] == split.symbol) & (frame["session"] >= day)]
        if len(after):
            step[after[0]] *= split.split_from / split.split_to
    from_here_on = step[::-1].groupby(frame["symbol"][::-1]).cumprod()[::-1]
    factor = from_here_on / step
    return frame.assign(**{name: frame[name] * factor for name in PRICES}, volume=frame["volume"] / factor)

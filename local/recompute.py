"""What should stand in silver? All of it computed once more, by other means: pandas, straight from the bars' CSV.

Nothing of the services is used here, not even their calendar: sessions come from pandas_market_calendars itself.
"""

from collections.abc import Iterable

import pandas as pd
import pandas_market_calendars

from local.sample_bars import SampleBar

COLUMNS = ["symbol", "ts", "open", "high", "low", "close", "volume", "bars", "last_date", "is_complete"]


def expected_silver(bars: Iterable[SampleBar], interval: int) -> pd.DataFrame:
    """Give the interval's whole table (COLUMNS, sorted by symbol and ts) for these daily bars."""
    frame = pd.DataFrame([(b.symbol, b.session, b.open, b.high, b.low, b.close, b.volume) for b in bars])
    frame.columns = pd.Index(["symbol", "session", "open", "high", "low", "close", "volume"])
    frame["session"] = pd.to_datetime(frame["session"])
    grid = (
        pandas_market_calendars.get_calendar("NYSE").valid_days("1962-01-02", frame["session"].max()).tz_localize(None)
    )
    frame["ordinal"] = grid.get_indexer(pd.DatetimeIndex(frame["session"]))
    frame["bucket"] = frame["ordinal"] // interval
    frame = frame.sort_values(["symbol", "session"])
    rows = frame.groupby(["symbol", "bucket"], as_index=False).agg(
        open=("open", "first"), high=("high", "max"), low=("low", "min"), close=("close", "last"),
        volume=("volume", "sum"), bars=("session", "size"), last_date=("session", "max"),
    )  # fmt: skip
    rows["ts"] = grid[rows["bucket"] * interval]
    latest = rows["symbol"].map(frame.groupby("symbol")["ordinal"].max())
    rows["is_complete"] = latest >= rows["bucket"] * interval + interval - 1
    return rows[COLUMNS].sort_values(["symbol", "ts"], ignore_index=True)


def differences(actual: pd.DataFrame, expected: pd.DataFrame) -> int:
    """Count the rows that are missing, too many, or differ in any column; prices and volumes are compared exactly."""
    dates = {"ts": "datetime64[s]", "last_date": "datetime64[s]"}
    left = actual[COLUMNS].astype(dates).astype({"bars": "int64", "volume": "float64"})
    right = expected[COLUMNS].astype(dates).astype({"bars": "int64", "volume": "float64"})
    both = left.merge(right, on=COLUMNS, how="outer", indicator=True)
    return int((both["_merge"] != "both").sum())

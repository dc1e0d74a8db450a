"""The real bars that the embedded stack replays.

Five stocks (AAPL, FB, GOOG, IBM, MSFT), 2000-03-01 to 2013-03-01, from the package bokeh-sampledata, whose data
is in the public domain. Only its file is read: its loader needs bokeh and pandas.
"""

import csv
import gzip
from collections.abc import Mapping
from datetime import date
from importlib.util import find_spec
from pathlib import Path

from fiblake.bars import ReportedBar
from fiblake.errors import ConfigurationError


def read_sample_bars() -> dict[str, list[ReportedBar]]:
    """Return each symbol's bars, sorted by session; raise ConfigurationError if the package is not installed."""
    bars: dict[str, list[ReportedBar]] = {}
    with gzip.open(sample_file(), "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            bars.setdefault(row["Ticker"], []).append(_bar(row))
    return {symbol: sorted(series, key=lambda bar: bar.session) for symbol, series in sorted(bars.items())}


def sample_file() -> Path:
    """Return the package's file; raise ConfigurationError if the package is not installed."""
    spec = find_spec("bokeh_sampledata")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("the sample bars are missing: run `pip install --no-deps bokeh-sampledata`")
    return Path(spec.submodule_search_locations[0], "_data", "stocks.csv.gz")


def _bar(row: Mapping[str, str]) -> ReportedBar:
    return ReportedBar(
        symbol=row["Ticker"],
        session=date.fromisoformat(row["Date"]),
        open=float(row["Open"]),
        high=float(row["High"]),
        low=float(row["Low"]),
        close=float(row["Close"]),
        volume=float(row["Volume"]),
    )

"""Write flat files in the vendor's format: one gzipped CSV for each session, as traded, without a vwap.

`publish` puts them into a folder, or into a bucket of the emulator.
"""

import gzip
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime, time, timedelta
from typing import Final

from fiblake.bars import ReportedBar
from fiblake.calendar import NEW_YORK

HEADER: Final = "ticker,volume,open,close,high,low,window_start,transactions"
PREFIX: Final = "us_stocks_sip/day_aggs_v1"


def key_of(session: date) -> str:
    """Return the key of a session's file in the vendor's bucket."""
    return f"{PREFIX}/{session:%Y/%m}/{session}.csv.gz"


def day_file(session: date, bars: Iterable[ReportedBar], *, window_of: date | None = None) -> bytes:
    """Return a session's file; with `window_of` its rows have another day's start, as in the file of 2019-08-12."""
    midnight = datetime.combine(window_of or session, time(0), NEW_YORK)
    start = int(midnight.timestamp()) * 10**9
    rows = [
        f"{bar.symbol},{bar.volume!r},{bar.open!r},{bar.close!r},{bar.high!r},{bar.low!r},{start},"
        f"{'' if bar.trades is None else bar.trades}"
        for bar in bars
    ]
    return gzip.compress("\n".join([HEADER, *rows, ""]).encode(), mtime=0)


def publish(
    put: Callable[[str, bytes], object], bars_of: Callable[[date], Iterable[ReportedBar]], sessions: Iterable[date],
    *, missing: Collection[date] = (), next_days_window: Collection[date] = (),
) -> None:  # fmt: skip
    """Put the file of each session except the `missing` ones; those of `next_days_window` have the known fault."""
    for session in sessions:
        if session not in missing:
            window_of = session + timedelta(days=1) if session in next_days_window else None
            put(key_of(session), day_file(session, bars_of(session), window_of=window_of))

"""The grid of buckets over the exchange's sessions (pure).

Bucket k of interval n holds the sessions with ordinals k·n to k·n+n-1, counted from 1962-01-02. Buckets never move: a
session without a bar leaves its slot empty.
"""

from datetime import date

import numpy as np

from fiblake.calendar import Ordinals, TradingCalendar


def bucket_start(ordinal: int, interval: int) -> int:
    """Return the ordinal of the first session of the bucket that `ordinal` is in."""
    return ordinal - ordinal % interval


def first_to_recompute(ordinals: Ordinals, changed: int, interval: int) -> int:
    """Return the ordinal of the first session of the first bucket that a change of session `changed` may affect.

    `ordinals` are those of the symbol's bars, sorted. It is the bucket of the changed session, or that of the bar
    before it: if that bar was the symbol's last, its bucket may become complete now.
    """
    before = int(np.searchsorted(ordinals, changed))
    return bucket_start(int(ordinals[before - 1]) if before else changed, interval)


def window_start(calendar: TradingCalendar, today: date, years: int, interval: int) -> int:
    """Return the ordinal at which the history window begins: the bucket of the day `years` before `today`; 0: all."""
    if years == 0:
        return 0
    # 29 February does not exist in most years; the day before makes the window only one day longer.
    day = today.replace(year=today.year - years, day=min(today.day, 28))
    return bucket_start(calendar.ordinal_on_or_after(day), interval)

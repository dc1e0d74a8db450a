"""The grid of buckets over the exchange's sessions (pure).

Bucket k of interval n holds the sessions with ordinals k·n to k·n+n-1, counted from 1962-01-02. Buckets never move: a
session without a bar leaves its slot empty.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from fiblake.calendar import Ordinals, TradingCalendar
from fiblake.lake import Month

_EPOCH = date(1970, 1, 1)


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


@dataclass(frozen=True, slots=True)
class MonthGrid:
    """The grid of the buckets in one month file of an interval: those whose first session is in that month."""

    calendar: TradingCalendar
    interval: int
    month: Month

    @property
    def calendar_stamp(self) -> str:
        """The calendar of the buckets: the end of the last bucket, and a digest of all sessions up to it."""
        next_month = date(self.month.year + self.month.month // 12, self.month.month % 12 + 1, 1)
        last = int(self.calendar.days.searchsorted(np.int32((next_month - _EPOCH).days))) - 1
        end = bucket_start(last, self.interval) + self.interval - 1
        through = self.calendar.session(min(end, self.calendar.sessions.size - 1))
        return f"{through} {self.calendar.digest(through)}"

    def bucket_starts(self, days: npt.NDArray[Any]) -> Ordinals:
        """Return the ordinal of the first session of each row's bucket, given the rows' `ts`.

        A row is in the bucket of the first session on or after its `ts`.
        """
        ordinals = np.searchsorted(self.calendar.sessions, days)
        return np.asarray(np.minimum(ordinals, self.calendar.sessions.size - 1) // self.interval * self.interval)

    def are_misplaced(self, starts: Ordinals) -> bool:
        """Return whether one of these buckets belongs to another month's file."""
        own = np.datetime64(f"{self.month.year:04}-{self.month.month:02}", "M")
        return bool((self.calendar.sessions[starts].astype("datetime64[M]") != own).any())


def is_cut_by(stamp: str, calendar: TradingCalendar) -> bool:
    """Return whether a month file with this stamp was cut by the sessions of `calendar`, up to its last bucket."""
    through, _, digest = stamp.partition(" ")
    try:
        return digest != "" and calendar.digest(date.fromisoformat(through)) == digest
    except ValueError:
        return False

"""Which month file a bucket belongs to, and which month files are whose to do (pure)."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from services.resampler.aggregate import Buckets
from shared.calendar import TradingCalendar
from shared.lake import INTERVALS, Month

Due = npt.NDArray[np.bool_]
"""Which month files are to be done: a row an interval, a column a month since the calendar's first."""
EVERYTHING: Final = 0
"""The ordinal from which on all buckets are wanted."""


@dataclass(frozen=True, slots=True)
class ByMonth:
    """Buckets sorted by month, and where each month begins among them."""

    buckets: Buckets
    offsets: npt.NDArray[np.int64]

    def of(self, month: int) -> Buckets:
        """Give the buckets of the month with this number."""
        return self.buckets.taken(slice(int(self.offsets[month]), int(self.offsets[month + 1])))

    @property
    def filled(self) -> npt.NDArray[np.bool_]:
        """Which months have buckets."""
        return np.diff(self.offsets) > 0


@dataclass(frozen=True, slots=True)
class Months:
    """The calendar's months, numbered from its first."""

    first: Month
    numbers: npt.NDArray[np.int16]
    """The number of the month that each session lies in."""

    @classmethod
    def of(cls, calendar: TradingCalendar) -> "Months":
        """Give the months of `calendar`."""
        months = calendar.sessions.astype("datetime64[M]").astype(np.int64)
        return cls(Month.of(calendar.session(0)), (months - months[0]).astype(np.int16))

    @property
    def count(self) -> int:
        """How many months there are."""
        return int(self.numbers[-1]) + 1

    def month(self, number: int) -> Month:
        """Give the month with this number."""
        months = self.first.month - 1 + number
        return Month(self.first.year + months // 12, months % 12 + 1)

    def number(self, month: Month) -> int | None:
        """Give a month's number, or None if it lies outside the calendar."""
        number = (month.year - self.first.year) * 12 + month.month - self.first.month
        return number if 0 <= number < self.count else None

    def share(self, index: int, of: int) -> Due:
        """Give the month files that are machine `index`'s of `of`.

        Every so-manieth month, of all intervals: neighbours have as many buckets, so the shares are of one size.
        """
        mine = np.arange(self.count) % of == index
        return np.broadcast_to(mine, (len(INTERVALS), self.count)).copy()

    def sorted(self, buckets: Buckets, due: npt.NDArray[np.bool_], since: int) -> ByMonth:
        """Sort by month those buckets that start at ordinal `since` or later in a month that is due.

        Those of one month keep their order.
        """
        numbers = self.numbers[buckets.begins]
        wanted = np.flatnonzero(due[numbers] & (buckets.begins >= since))
        numbers = numbers[wanted]
        offsets = np.append(0, np.cumsum(np.bincount(numbers, minlength=self.count)))
        return ByMonth(buckets.taken(wanted[np.argsort(numbers, kind="stable")]), offsets)


def halves(due: Due) -> tuple[Due, Due]:
    """Split month files into two halves, each with every second month of each interval."""
    places = np.nonzero(due)
    kept, put_off = due.copy(), np.zeros_like(due)
    second = places[0][1::2], places[1][1::2]
    kept[second], put_off[second] = False, True
    return kept, put_off

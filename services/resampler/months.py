"""Which month file a bucket belongs to, and which machine computes which month files (pure)."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fiblake.aggregate import Buckets, Market, version_numbers
from fiblake.calendar import TradingCalendar
from fiblake.lake import INTERVALS, Month
from services.resampler.silver_join import NO_ROWS, Update

ROWS_OF_BLOCK: Final = 16_384
"""Rows that are made at once: for months with few buckets, making a table takes longer than filling it."""
Due = npt.NDArray[np.bool_]
"""Which month files are due: a row for each interval, a column for each month since the calendar's first."""


@dataclass(frozen=True, slots=True)
class ByMonth:
    """Buckets sorted by month, and where each month begins among them."""

    buckets: Buckets
    offsets: npt.NDArray[np.int64]

    def of(self, month: int) -> Buckets:
        """Return the buckets of the month with this number."""
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
        """Return the months of `calendar`."""
        months = calendar.sessions.astype("datetime64[M]").astype(np.int64)
        return cls(Month.of(calendar.session(0)), (months - months[0]).astype(np.int16))

    @property
    def count(self) -> int:
        """How many months there are."""
        return int(self.numbers[-1]) + 1

    def month(self, number: int) -> Month:
        """Return the month with this number."""
        months = self.first.month - 1 + number
        return Month(self.first.year + months // 12, months % 12 + 1)

    def number(self, month: Month) -> int:
        """Return the number of a month of the calendar."""
        return (month.year - self.first.year) * 12 + month.month - self.first.month

    def share(self, index: int, of: int) -> Due:
        """Return the month files of machine `index`, of `of` machines.

        Every n-th month of all intervals: neighbouring months have as many buckets, so the shares have the same size.
        """
        mine = np.arange(self.count) % of == index
        return np.broadcast_to(mine, (len(INTERVALS), self.count)).copy()

    def sorted(
        self, buckets: Buckets, interval: int, due: npt.NDArray[np.bool_] | None = None, since: int = 0
    ) -> ByMonth:
        """Sort by month the buckets that start at ordinal `since` or later in a due month (None: all months are due).

        The month is that of the bucket's first session, also for the part of a company that came later. Those of one
        month keep their order.
        """
        numbers = self.numbers[buckets.begins - buckets.begins % interval]
        starts = buckets.begins >= since
        first_rows = np.flatnonzero(starts if due is None else due[numbers] & starts)
        numbers = numbers[first_rows]
        offsets = np.append(0, np.cumsum(np.bincount(numbers, minlength=self.count)))
        return ByMonth(buckets.taken(first_rows[np.argsort(numbers, kind="stable")]), offsets)


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows of consecutive months."""

    first: int
    """The number of the first month."""
    offsets: npt.NDArray[np.int64]
    """Where each month begins among the rows, and where the last one ends."""
    rows: pa.Table

    @property
    def end(self) -> int:
        """The number of the month after the last one."""
        return self.first + self.offsets.size - 1

    def of(self, month: int) -> pa.Table:
        """Return the rows of one of the months."""
        begin, end = self.offsets[month - self.first : month - self.first + 2].tolist()
        return self.rows.slice(begin, end - begin)


@dataclass(slots=True)
class Recomputed:
    """All buckets of distinct symbols from a cut on, by month; the symbols are added some at a time."""

    calendar: TradingCalendar
    adjusted: bool
    symbols: list[str] = field(default_factory=list)
    versions: list[datetime] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """The ordinal of each symbol's first bucket."""
    parts: list[ByMonth] = field(default_factory=list)
    _columns: Update | None = None
    """The common part of all months' updates."""
    _block: _Block | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, market: Market, cuts: Sequence[int], buckets: ByMonth) -> None:
        """Add the buckets of a market's symbols."""
        owners = buckets.buckets.owners
        owners += np.int32(len(self.symbols))  # they refer to the longer list of symbols now
        self.parts.append(buckets)
        self._columns = self._block = None
        self.symbols += market.symbols
        self.versions += market.versions
        self.cuts += cuts

    @property
    def size(self) -> int:
        """How many buckets there are."""
        return sum(part.buckets.size for part in self.parts)

    @property
    def nbytes(self) -> int:
        """How much memory the buckets take."""
        return sum(part.buckets.nbytes for part in self.parts)

    def filled(self) -> npt.NDArray[np.intp]:
        """Return the numbers of the months that have buckets."""
        return np.flatnonzero(np.any([part.filled for part in self.parts], axis=0)) if self.parts else np.array([], int)

    def update(self, month: int) -> Update:
        """Return the update for the file of the month with this number."""
        with self._lock:
            columns = self._columns = self._columns or self._common()
            if self._block is None or not self._block.first <= month < self._block.end:
                self._block = self._block_from(month, columns)
            return replace(columns, rows=self._block.of(month))

    def _block_from(self, month: int, columns: Update) -> _Block:
        """Make rows of this month's buckets and of as many months after it as a block may hold."""
        sizes = np.sum([np.diff(part.offsets[month:]) for part in self.parts], axis=0)
        ends = np.cumsum(sizes)
        months = max(1, int(np.searchsorted(ends, ROWS_OF_BLOCK, side="right")))
        parts = [part.of(number) for number in range(month, month + months) for part in self.parts]
        rows = Buckets.joined(parts).table(columns.symbols, columns.versions, self.calendar, adjusted=self.adjusted)
        return _Block(month, np.append(0, ends[:months]), rows)

    def _common(self) -> Update:
        symbols, is_sorted = pa.array(self.symbols, pa.string()), self.symbols == sorted(self.symbols)
        cuts = np.array(self.cuts, np.int64)
        return Update(symbols, version_numbers(self.versions), cuts, NO_ROWS, is_sorted)


def split_in_halves(due: Due) -> tuple[Due, Due]:
    """Split month files into two halves, each with every second month of each interval."""
    due_positions = np.nonzero(due)
    due_now, postponed = due.copy(), np.zeros_like(due)
    second = due_positions[0][1::2], due_positions[1][1::2]
    due_now[second], postponed[second] = False, True
    return due_now, postponed

"""Which month file a bucket belongs to, and which machine computes which month files (pure)."""

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

ROWS_OF_GROUP: Final = 32_768
MONTHS_OF_GROUP: Final = 16
"""Rows that are made at once: for months with few buckets, making a table takes longer than filling it."""
Due = npt.NDArray[np.bool_]
"""Which month files are due: a row for each interval, a column for each month since the calendar's first."""


@dataclass(frozen=True, slots=True)
class ByMonth:
    """Buckets sorted by month, and where each month begins among them."""

    buckets: Buckets
    offsets: npt.NDArray[np.int64]

    @property
    def filled(self) -> npt.NDArray[np.bool_]:
        """Which months have buckets."""
        return np.diff(self.offsets) > 0


@dataclass(frozen=True, slots=True)
class Months:
    """The calendar's months, numbered from its first."""

    first: Month
    numbers: npt.NDArray[np.int16]
    """The number of each session's month."""

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
class _Round:
    """The buckets of distinct symbols, once all symbols are added."""

    calendar: TradingCalendar
    adjusted: bool
    parts: Sequence[ByMonth]
    offsets: npt.NDArray[np.int64]
    """Where each month begins in each part."""
    common: Update
    """The common part of all months' updates."""

    def of(self, months: Sequence[int]) -> list[Update]:
        """Return the updates of these months: their numbers, all from the first to the last that have buckets."""
        first, end = months[0], months[-1] + 1
        counts = np.diff(self.offsets[:, first : end + 1])
        bounds = zip(self.parts, self.offsets[:, [first, end]].tolist(), strict=True)
        buckets = Buckets.joined([part.buckets.taken(slice(*ends)) for part, ends in bounds if ends[0] < ends[1]])
        if len(self.parts) > 1 and len(months) > 1:
            numbers = np.repeat(np.tile(np.arange(end - first, dtype=np.int16), len(self.parts)), counts.ravel())
            buckets = buckets.taken(np.argsort(numbers, kind="stable"))
        rows = buckets.table(self.common.symbols, self.common.versions, self.calendar, adjusted=self.adjusted)
        sizes = counts.sum(axis=0)
        begins = np.cumsum(sizes) - sizes
        places = [month - first for month in months]
        return [replace(self.common, rows=rows.slice(int(begins[i]), int(sizes[i]))) for i in places]


@dataclass(frozen=True, slots=True)
class Changes:
    """The updates of one interval's month files: one of each round for each month."""

    numbering: Months
    rounds: Sequence[_Round]
    sizes: npt.NDArray[np.int64]
    """The number of rows of each month."""

    @classmethod
    def of(cls, numbering: Months, rounds: "Sequence[Recomputed]") -> "Changes":
        """Return the updates of rounds of distinct symbols, which are joined one after the other."""
        made = [recomputed.as_round() for recomputed in rounds]
        sizes = np.sum([np.diff(round_.offsets).sum(axis=0) for round_ in made], axis=0)
        return cls(numbering, made, sizes)

    def groups(self, months: Sequence[Month], workers: int) -> list[list[Month]]:
        """Divide months, which are sorted, into groups whose rows are made at once, by one of `workers`.

        A group has at most MONTHS_OF_GROUP months, and ROWS_OF_GROUP rows if it has more than one month.
        """
        most, divided, rows = min(MONTHS_OF_GROUP, -(-len(months) // workers)), list[list[Month]](), 0
        for month in months:
            size = int(self.sizes[self.numbering.number(month)])
            rows += size
            if not divided or len(divided[-1]) == most or rows > ROWS_OF_GROUP:
                divided.append([])
                rows = size
            divided[-1].append(month)
        return divided

    def count_rows(self, months: Sequence[Month]) -> int:
        """Return how many rows the updates of a group have."""
        return int(self.sizes[[self.numbering.number(month) for month in months]].sum())

    def updates(self, months: Sequence[Month]) -> list[tuple[Update, ...]]:
        """Return the updates of each month of a group."""
        numbers = [self.numbering.number(month) for month in months]
        return list(zip(*(round_.of(numbers) for round_ in self.rounds), strict=True))


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

    def take(self, market: Market, cuts: Sequence[int], buckets: ByMonth) -> None:
        """Add the buckets of a market's symbols."""
        owners = buckets.buckets.owners
        owners += np.int32(len(self.symbols))  # they refer to the longer list of symbols now
        self.parts.append(buckets)
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

    def as_round(self) -> _Round:
        """Return the buckets as a round of updates, once all symbols are added."""
        symbols, is_sorted = pa.array(self.symbols, pa.string()), self.symbols == sorted(self.symbols)
        cuts = np.array(self.cuts, np.int64)
        common = Update(symbols, version_numbers(self.versions), cuts, NO_ROWS, is_sorted)
        offsets = np.array([part.offsets for part in self.parts])
        return _Round(self.calendar, self.adjusted, self.parts, offsets, common)


def split_in_halves(due: Due) -> tuple[Due, Due]:
    """Split month files into two halves, each with every second month of each interval."""
    due_positions = np.nonzero(due)
    due_now, postponed = due.copy(), np.zeros_like(due)
    second = due_positions[0][1::2], due_positions[1][1::2]
    due_now[second], postponed[second] = False, True
    return due_now, postponed

"""Read, join and write month files: the one place that writes silver.

A file is read, new rows are joined into it, and it is written only if it has not changed since; otherwise it is read
and joined again. Bronze is not read again for that (rule 5 in docs/architecture.md).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from threading import Condition
from typing import Final

import pyarrow as pa

from fiblake.aggregate import SILVER, SILVER_CALENDAR, decode_silver
from fiblake.bars import encode
from fiblake.buckets import MonthGrid, is_cut_by
from fiblake.calendar import TradingCalendar
from fiblake.decoding import VALUE_BYTES, market_limit, parquet_rows
from fiblake.errors import ConflictError, FiblakeError
from fiblake.lake import Month, parse_silver_key, silver_key, silver_prefix
from services.resampler.computing import COMPUTING
from services.resampler.months import Changes
from services.resampler.silver_join import NO_ROWS, Update, is_equal_but_for_version, join, without_symbols
from shared.objects import ObjectStore
from shared.outcomes import catch_errors

MONTHS_AT_ONCE: Final = 8


class Memory:
    """The memory for the rows of files that are joined at once: a file waits until there is room for its rows.

    Otherwise the number of symbols, times the files that are joined at once, would determine the memory of a process.
    """

    def __init__(self, size: Callable[[], int]) -> None:
        """Hold `size()` bytes; it is called late, because it reads a setting."""
        self._size, self._taken = size, 0
        self._changed = Condition()

    @contextmanager
    def reserve(self, nbytes: int) -> Iterator[None]:
        """Wait until this many bytes are free, and reserve them for the block; a larger request gets the limit."""
        nbytes = min(nbytes, self._size())
        with self._changed:
            self._changed.wait_for(lambda: self._taken + nbytes <= self._size())
            self._taken += nbytes
        try:
            yield
        finally:
            with self._changed:
                self._taken -= nbytes
                self._changed.notify_all()


ROW_BYTES: Final = len(SILVER) * VALUE_BYTES
_MADE: Final = Memory(market_limit)
"""For the rows of updates that are made and not yet joined. It is always taken before _MEMORY."""
_MEMORY: Final = Memory(market_limit)
"""For the rows of files that are joined."""


class OtherCalendarError(ConflictError):
    """A month file was cut by another calendar: rows of this calendar must not be mixed into it."""

    def __init__(self, key: str, month: Month) -> None:
        super().__init__(f"{key} was cut by another trading calendar than this one")
        self.month = month


class _Outcome(Enum):
    WRITTEN = auto()
    UNCHANGED = auto()
    AFTER_THE_OTHERS = auto()
    """Rows must be removed that belong to an earlier file, which must be written first."""


@dataclass(frozen=True, slots=True)
class MonthFiles:
    """The month files of one interval's table."""

    store: ObjectStore
    calendar: TradingCalendar
    interval: int
    whole: bool = False
    """Whether updates hold whole histories. If so, files with the same values are not written, and files that were cut
    by another calendar are cut again.
    """
    wins_ties: bool = False
    """Whether updates win over rows of their own version, too."""

    def existing(self) -> list[Month]:
        """List the months that have a file, as far as the calendar reaches."""
        first, last = Month.of(self.calendar.session(0)), Month.of(self.calendar.session(-1))
        listing = self.store.list_objects(silver_prefix(self.interval))
        months = (parse_silver_key(self.interval, info.key) for info in listing)
        return [month for month in months if month and first <= month <= last]

    def exists(self, month: Month) -> bool:
        """Return whether a month has a file."""
        return self.store.versions([silver_key(self.interval, month)]) != [None]

    def is_cut_alike(self, month: Month) -> bool:
        """Return whether a month's file was cut by this calendar, according to its stamp."""
        key = silver_key(self.interval, month)
        stored = self.store.find(key)
        stamp = _read(stored.data, key)[1] if stored else ""
        return not stamp or is_cut_by(stamp, self.calendar)

    def join(
        self, months: Sequence[Month], changes: Changes, existing: Collection[Month],
        advance: Callable[[int], None] = lambda _: None, at_once: int = MONTHS_AT_ONCE,
    ) -> int:  # fmt: skip
        """Join each month's updates, one by one, into its file; return how many files were written.

        `months` are sorted, and all that have buckets are among them. `existing` are those that had a file when the
        caller looked. Raises OtherCalendarError if a file was cut by another calendar (unless these are whole
        histories), ConflictError if other writers always come first, UpstreamError if S3 fails, ContractError if a file
        cannot be read.
        """
        absent = set(months).difference(existing)
        outcomes = self._join(changes.groups(months, at_once), changes, absent, advance, at_once, last=False)
        late = [[month] for month, outcome in outcomes.items() if outcome is _Outcome.AFTER_THE_OTHERS]
        outcomes |= self._join(late, changes, absent, advance, at_once, last=True)
        return sum(outcome is _Outcome.WRITTEN for outcome in outcomes.values())

    def _join(
        self, groups: Sequence[Sequence[Month]], changes: Changes, absent: Collection[Month],
        advance: Callable[[int], None], at_once: int, *, last: bool,
    ) -> dict[Month, _Outcome]:  # fmt: skip
        outcomes: dict[Month, _Outcome] = {}

        def join_group(months: Sequence[Month]) -> list[_Outcome] | FiblakeError:
            return catch_errors(self._join_group, months, changes, absent, last=last)

        with ThreadPoolExecutor(at_once) as pool:
            in_turn = pool.map if len(groups) > 1 else map  # a thread for one group is waste
            for months, joined in zip(groups, in_turn(join_group, groups), strict=True):
                if isinstance(joined, FiblakeError):
                    pool.shutdown(cancel_futures=True)
                    raise joined
                outcomes |= zip(months, joined, strict=True)
                advance(sum(outcome is not _Outcome.AFTER_THE_OTHERS for outcome in joined))
        return outcomes

    def _join_group(
        self, months: Sequence[Month], changes: Changes, absent: Collection[Month], *, last: bool
    ) -> list[_Outcome]:
        with _MADE.reserve(changes.count_rows(months) * ROW_BYTES):
            with COMPUTING:
                pairs = list(zip(months, changes.updates(months), strict=True))
            return [self._join_month(month, updates, absent=month in absent, last=last) for month, updates in pairs]

    def _join_month(self, month: Month, updates: Sequence[Update], *, absent: bool, last: bool) -> _Outcome:
        key, grid = silver_key(self.interval, month), MonthGrid(self.calendar, self.interval, month)
        postponed = False

        def change(data: bytes | None) -> bytes | None:
            nonlocal postponed
            rows_there = parquet_rows(data) if data is not None else 0
            nbytes = (rows_there + sum(update.rows.num_rows for update in updates)) * ROW_BYTES
            with _MEMORY.reserve(nbytes), COMPUTING:
                rows, postponed = self._joined(data, key, updates, grid)
                postponed = postponed and not last
                if rows is None or postponed:
                    return None
                return encode(rows, {SILVER_CALENDAR: grid.calendar_stamp}, what=key, allowed=market_limit())

        written = self.store.update(key, change, absent=absent)
        return _Outcome.AFTER_THE_OTHERS if postponed else _Outcome.WRITTEN if written else _Outcome.UNCHANGED

    def _joined(
        self, data: bytes | None, key: str, updates: Sequence[Update], grid: MonthGrid
    ) -> tuple[pa.Table | None, bool]:
        """Return the rows to write (None: the file does not change), and whether misplaced rows are removed."""
        before, stamp = _read(data, key) if data is not None else (NO_ROWS, "")
        rows, is_alike = before, not stamp or is_cut_by(stamp, self.calendar)
        if self.whole and is_alike and not self.wins_ties and is_equal_but_for_version(before, updates[0].rows):
            return None, False  # the values stay, whichever rows win
        if not is_alike:
            rows = self._without_old_cut(rows, key, grid.month, updates)
        changed, misplaced = not is_alike, False
        for update in updates:
            joined = join(rows, update, grid, wins_ties=self.wins_ties)
            rows, changed, misplaced = joined.rows, changed or joined.changed, misplaced or joined.misplaced
        if self.wins_ties and data is not None and stamp != grid.calendar_stamp:
            changed = True
        elif changed and self.whole and is_alike and data is not None and is_equal_but_for_version(before, rows):
            changed = False
        return (rows if changed else None), misplaced

    def _without_old_cut(self, rows: pa.Table, key: str, month: Month, updates: Sequence[Update]) -> pa.Table:
        if not self.whole:
            raise OtherCalendarError(key, month)
        for update in updates:
            rows, is_newer = without_symbols(rows, update)
            if is_newer:
                raise ConflictError(f"{key} is still written by a resampler with another trading calendar: run again")
        return rows


def _read(data: bytes, key: str) -> tuple[pa.Table, str]:
    """Return a month file's rows, and the calendar by which they were cut (empty: it has no stamp)."""
    rows = decode_silver(data, key)
    return rows, (rows.schema.metadata or {}).get(SILVER_CALENDAR, b"").decode(errors="replace")

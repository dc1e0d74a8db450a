"""Compute all of silver again: every symbol is read once for all intervals, within a given memory.

The work is a set of month files. Each machine has a share of them, and computes as many at a time as fit into memory:
if they do not fit, half of them are postponed to another reading of bronze. Month files are joined by rules 5 and 6
(docs/architecture.md), as everywhere. So this may run beside the resamplers of the queues, and may be killed and run
again: files that are up to date are not written again.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice
from typing import Final

import numpy as np
import pyarrow as pa

from fiblake.aggregate import Bars, Buckets, Market, Prices
from fiblake.buckets import window_start
from fiblake.calendar import TradingCalendar
from fiblake.errors import FiblakeError, UpstreamError
from fiblake.lake import INTERVALS, Bronze, Month
from services.resampler import checkpoint
from services.resampler.computing import COMPUTING
from services.resampler.month_files import MONTHS_AT_ONCE, MonthFiles
from services.resampler.months import ByMonth, Changes, Due, Months, Recomputed, split_in_halves
from shared.batching import chunks
from shared.events import SYMBOLS_PER_EVENT, SilverUpdated
from shared.objects import ObjectStore, StoredObject
from shared.outcomes import catch_errors
from shared.queues import Topic
from shared.telemetry import emit_metrics, logger

SYMBOLS_AT_ONCE: Final = 48
"""So few that a column of their bars stays below 1 MB, in the processor's cache and in memory that is used again."""
BATCHES_AT_ONCE: Final = 3
"""One more than the job has cores: one batch waits for S3 while the others are computed."""
BYTES_OF_SYMBOL: Final = 13_000
"""Memory for each symbol beside the buckets: month files that are made, joined and encoded at once hold all symbols."""
Since = Mapping[int, int]
"""By interval: the ordinal from which on buckets are computed."""
Watch = Callable[[str, int, int], None]
"""Called with the progress: the name of the step, the finished amount, and the total."""


def no_progress(_what: str, _done: int, _of: int) -> None:
    """Report no progress."""


@dataclass(slots=True)
class Summary:
    """The counts of a run."""

    symbols: set[str] = field(default_factory=set)
    rows: dict[int, int] = field(default_factory=lambda: dict.fromkeys(INTERVALS, 0))
    """Buckets computed, by interval."""
    written: int = 0
    """Month files written; the others were up to date."""
    readings: int = 0
    last_session: date = date.min
    failed: dict[str, str] = field(default_factory=dict)
    """Why a symbol could not be read; its rows stay unchanged."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """The buckets of some symbols."""

    size: int
    market: Market
    buckets: dict[int, ByMonth]
    """By interval."""
    errors: dict[str, FiblakeError]


@dataclass(slots=True)
class _Reading:
    """The buckets of all symbols that were read so far."""

    due: Due
    """The month files whose buckets are all in memory."""
    postponed: Due
    tables: dict[int, Recomputed]
    """By interval."""
    months: Months
    errors: dict[str, FiblakeError] = field(default_factory=dict)
    last: int = 0
    """The ordinal of the last bar."""

    @property
    def symbols(self) -> list[str]:
        """The symbols that could be read."""
        return self.tables[INTERVALS[0]].symbols

    def take(self, batch: _Batch, since: Since) -> None:
        """Add a batch, without the months that were postponed since it was begun."""
        for n, table in self.tables.items():
            table.take(batch.market, [since[n]] * len(batch.market.symbols), batch.buckets[n])
        if self.postponed.any():
            self._drop_postponed(slice(-1, None))
        self.errors |= batch.errors
        self.last = max(self.last, int(batch.market.lasts.max(initial=0)))

    def shrink_to(self, nbytes: int) -> None:
        """Postpone half of the month files and drop their buckets, until the others take at most `nbytes`."""
        while self.due.sum() > 1 and sum(table.nbytes for table in self.tables.values()) > nbytes:
            self.due, second = split_in_halves(self.due)
            self.postponed |= second
            self._drop_postponed(slice(None))
            _return_freed_memory()  # it is another thread's: the threads that read would not use it

    def _drop_postponed(self, columns: slice) -> None:
        for i, (n, table) in enumerate(self.tables.items()):
            for k in range(len(table.parts))[columns]:  # one at a time, so that memory holds one of them twice
                table.parts[k] = self.months.sorted(table.parts[k].buckets, n, self.due[i])


@dataclass(frozen=True, slots=True)
class FullResampler:
    """The clients and settings of a full resample."""

    store: ObjectStore
    bronze: Bronze
    calendar: TradingCalendar
    updated: Topic
    retention_years: int
    adjusted: bool
    most_bytes: int
    """Memory for the buckets."""
    watch: Watch = no_progress
    months_at_once: int = MONTHS_AT_ONCE
    """Month files in work at once: more than compute, so that the others wait for S3."""
    rebuild: bool = False
    """Whether rows of the same version are overwritten, too. They differ if a setting, the calendar or the code
    changed.
    """

    def run(self, now: datetime, index: int = 0, of: int = 1) -> Summary:
        """Bring all month files of share `index` of `of` up to date with bronze, then publish the change.

        Raises ConflictError if others rewrite the same files all the time, UpstreamError if S3 or SNS fails.
        """
        months = Months.of(self.calendar)
        share = months.share(index, of)
        since = {n: self._first_ordinal(n, months, share[i], now.date()) for i, n in enumerate(INTERVALS)}
        summary = self._compute(months, share, since, self.months_at_once)
        for interval in INTERVALS if summary.symbols else ():
            self._publish(interval, since[interval], summary, now)
        return summary

    def cut_anew(self, interval: int, first: Month, now: datetime) -> None:
        """Compute one interval's month files, from `first` on, again: another calendar cut them.

        One after the other, oldest first: if this is killed, only the last files are still cut by the other calendar,
        and the next change finds them.
        """
        months = Months.of(self.calendar)
        due = months.share(0, 1)
        due[[n != interval for n in INTERVALS]] = False
        due[:, : months.number(first)] = False
        summary = self._compute(months, due, dict.fromkeys(INTERVALS, 0), at_once=1)
        if summary.symbols:
            begin = self.calendar.ordinal_on_or_after(date(first.year, first.month, 1))
            self._publish(interval, begin, summary, now)

    def _first_ordinal(self, interval: int, months: Months, due: Due, today: date) -> int:
        """Return the ordinal from which on buckets are computed: where the history window begins.

        It is 0 if a file at the window's edge or before it was cut by another calendar.
        """
        start = window_start(self.calendar, today, self.retention_years, interval)
        files, edge = MonthFiles(self.store, self.calendar, interval), Month.of(self.calendar.session(start))
        before = [m for m in files.existing() if m <= edge and due[months.number(m)]] if start else []
        return start if not before or files.is_cut_alike(max(before)) else 0

    def _compute(self, months: Months, due: Due, since: Since, at_once: int) -> Summary:
        """Compute the month files that are due, as many at a time as fit into memory."""
        symbols, summary = sorted(self.bronze.symbols_in(self.store.folders(f"{self.bronze.prefix}/"))), Summary()
        while due.any():
            reading = self._read(symbols, months, due, since)
            _return_freed_memory()
            written = self._write(reading, since, at_once)
            self._note(summary, reading, written)
            due = reading.postponed
            del reading  # its buckets are freed before the next reading
            _return_freed_memory()
        return summary

    def _read(self, symbols: Sequence[str], months: Months, due: Due, since: Since) -> _Reading:
        """Read the symbols and cut their bars into buckets, within the memory."""
        tables = {n: Recomputed(self.calendar, self.adjusted) for n in INTERVALS}
        reading = _Reading(due, np.zeros_like(due), tables, months)
        parts, symbols_done = chunks(symbols, SYMBOLS_AT_ONCE), 0
        most_bytes = max(self.most_bytes // 2, self.most_bytes - len(symbols) * BYTES_OF_SYMBOL)
        with ThreadPoolExecutor(BATCHES_AT_ONCE) as pool:

            def submit_next(most: int) -> list[Future[_Batch]]:
                some = islice(parts, most)
                return [pool.submit(self._read_batch, part, months, since, reading.due) for part in some]

            pending = submit_next(BATCHES_AT_ONCE)
            while pending:
                batch = pending.pop(0).result()
                reading.take(batch, since)
                reading.shrink_to(most_bytes)
                pending += submit_next(1)
                symbols_done += batch.size
                self.watch("reading symbols", symbols_done, len(symbols))
        return reading

    def _read_batch(self, symbols: Sequence[str], months: Months, since: Since, due: Due) -> _Batch:
        """Read these symbols, and cut them into the buckets that are due.

        A symbol without a data.parquet has yet to be consolidated: its first completion event is still to come.
        """
        objects = self.store.get_many([self.bronze.data_key(symbol) for symbol in symbols])
        with COMPUTING:
            return self._cut(dict(zip(symbols, objects, strict=True)), months, since, due)

    def _cut(self, objects: Mapping[str, StoredObject | None], months: Months, since: Since, due: Due) -> _Batch:
        outcomes: dict[str, Prices | Bars | FiblakeError] = {
            symbol: catch_errors(_read_prices, symbol, stored) for symbol, stored in objects.items() if stored
        }
        prices = [outcome for outcome in outcomes.values() if isinstance(outcome, Prices)]
        for own_prices, bars in zip(prices, Bars.of_many(prices, self.calendar), strict=True):
            outcomes[own_prices.symbol] = catch_errors(self._adjusted, own_prices, bars)
        errors = {symbol: outcome for symbol, outcome in outcomes.items() if isinstance(outcome, FiblakeError)}
        market = Market.of([outcome for outcome in outcomes.values() if isinstance(outcome, Bars)])
        buckets = {
            n: months.sorted(market.buckets(n) if due[i].any() else Buckets.joined([]), n, due[i], since[n])
            for i, n in enumerate(INTERVALS)
        }
        return _Batch(len(objects), market, buckets, errors)

    def _adjusted(self, prices: Prices, bars: Bars | FiblakeError) -> Bars:
        if isinstance(bars, FiblakeError):
            raise bars
        return bars.adjusted(prices.reference, self.calendar, "splits" if self.adjusted else "raw")

    def _write(self, reading: _Reading, since: Since, at_once: int) -> int:
        """Write the month files that change; return how many."""
        files = {n: MonthFiles(self.store, self.calendar, n, whole=True, wins_ties=self.rebuild) for n in INTERVALS}
        existing = {n: files[n].existing() if reading.due[i].any() else [] for i, n in enumerate(INTERVALS)}
        months_of = {n: self._months_to_join(reading, i, existing[n], since[n]) for i, n in enumerate(INTERVALS)}
        files_done, total, written = 0, sum(map(len, months_of.values())), 0

        def progress(count: int) -> None:
            nonlocal files_done
            files_done += count
            self.watch("writing month files", files_done, total)

        for n, months in months_of.items():
            if months:
                changes = Changes.of(reading.months, [reading.tables[n]])
                written += files[n].join(months, changes, existing[n], progress, at_once)
        return written

    def _months_to_join(self, reading: _Reading, row: int, existing: Sequence[Month], since: int) -> list[Month]:
        """Return the months that are due and have buckets, or a file whose buckets may have to be removed."""
        if not reading.symbols:
            return []
        earliest = Month.of(self.calendar.session(since))
        numbers = {reading.months.number(month) for month in existing if month >= earliest}
        numbers |= set(reading.tables[INTERVALS[row]].filled().tolist())
        return [reading.months.month(number) for number in sorted(numbers) if reading.due[row][number]]

    def _note(self, summary: Summary, reading: _Reading, written: int) -> None:
        summary.symbols |= set(reading.symbols)
        summary.failed |= {symbol: str(error) for symbol, error in reading.errors.items()}
        summary.written += written
        summary.readings += 1
        if reading.symbols:
            summary.last_session = max(summary.last_session, self.calendar.session(reading.last))
        for n in INTERVALS:
            summary.rows[n] += reading.tables[n].size
        due, postponed = int(reading.due.sum()), int(reading.postponed.sum())
        extra = {"symbols": len(reading.symbols), "due": due, "put_off": postponed, "written": written}
        logger.info("bronze read, month files written", extra=extra)

    def _publish(self, interval: int, since: int, summary: Summary, now: datetime) -> None:
        checkpoint.advance(self.store, interval, summary.last_session, summary.rows[interval], now)
        first, parts = self.calendar.session(since), chunks(sorted(summary.symbols), SYMBOLS_PER_EVENT)
        events = [SilverUpdated(interval=interval, changed_from=first, symbols=tuple(part)) for part in parts]
        if self.updated.publish(events):
            raise UpstreamError("SNS did not take the SilverUpdated event")
        emit_metrics(interval=interval, SymbolsResampled=len(summary.symbols), RowsComputed=summary.rows[interval])


def _read_prices(symbol: str, stored: StoredObject) -> Prices:
    return Prices.read(stored.data, symbol, stored.last_modified)


def _return_freed_memory() -> None:
    """Return to the system what Arrow and malloc keep for the next arrays: other threads follow, with other arrays."""
    pa.default_memory_pool().release_unused()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)

"""How all of silver is computed anew: every symbol read once for all six intervals, within a given memory.

What is to be done is a set of month files. Of these a share is due here (one of several machines each takes its own),
and of the share as many at a time as fit into memory: if they do not, half of them are put off to a further reading of
bronze. Month files are written as everywhere (rules 5 and 6 in docs/architecture.md), so this may run beside the
resamplers of the queues, and be killed and run again: what is in place already is not written again.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice
from typing import Final

import numpy as np
import pyarrow as pa

from services.resampler import checkpoint
from services.resampler.aggregate import Bars, Buckets, Market
from services.resampler.buckets import window_start
from services.resampler.months import EVERYTHING, ByMonth, Due, Months, halves
from services.resampler.silver import replaced, revocable
from shared.bars import decode_silver, encode
from shared.batching import chunks
from shared.calendar import TradingCalendar
from shared.errors import ConflictError, FiblakeError, UpstreamError
from shared.events import SYMBOLS_PER_EVENT, SilverUpdated
from shared.lake import INTERVALS, Bronze, Month, parse_silver_key, silver_key, silver_prefix, valid_symbol
from shared.objects import ObjectStore, StoredObject, pauses
from shared.outcomes import attempt
from shared.queues import Topic
from shared.telemetry import count, logger

ATTEMPTS: Final = 30
SYMBOLS_AT_ONCE: Final = 128
BATCHES_AT_ONCE: Final = 3
"""One more than the job's cores: one batch waits for S3 while the others are computed."""
WRITES_AT_ONCE: Final = 8
Versions = Mapping[int, Mapping[Month, str]]
"""By interval: the month files that are there, with their ETags."""
Watch = Callable[[str, int, int], None]
"""Told of progress: what is being done, how much of it is done, and of how much."""


def unwatched(_what: str, _done: int, _of: int) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class Summary:
    """What a run did."""

    symbols: set[str] = field(default_factory=set)
    rows: dict[int, int] = field(default_factory=lambda: dict.fromkeys(INTERVALS, 0))
    """Buckets computed, by interval."""
    written: int = 0
    """Month files written; the others were in place already."""
    readings: int = 0
    last_session: date = date.min
    failed: dict[str, str] = field(default_factory=dict)
    """Why a symbol could not be read; its rows stay as they were."""


@dataclass(frozen=True, slots=True)
class _Task:
    """Month files to be done for some symbols: all symbols of the lake, or those that changed meanwhile."""

    symbols: Sequence[str]
    due: Due
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class _Batch:
    """What reading some symbols gives."""

    size: int
    cut: dict[int, ByMonth]
    """Their buckets, by interval."""
    sources: dict[str, str]
    """The version (ETag) of each symbol's data.parquet that was read, in the order of symbols."""
    handed_over: set[str]
    errors: dict[str, FiblakeError]
    last_session: date


@dataclass(slots=True)
class _Reading:
    """What reading all of a task's symbols gives."""

    months: Months
    due: Due
    """The month files of which all buckets are here."""
    put_off: Due
    batches: list[dict[int, ByMonth]] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    handed_over: set[str] = field(default_factory=set)
    errors: dict[str, FiblakeError] = field(default_factory=dict)
    last_session: date = date.min

    def take(self, batch: _Batch) -> None:
        """Add what a batch gives; nothing of what was put off since it began to be read."""
        for one in batch.cut.values():
            one.buckets.renumber(len(self.sources))
        self.batches.append(self._kept(batch.cut) if self.put_off.any() else batch.cut)
        self.sources |= batch.sources
        self.handed_over |= batch.handed_over
        self.errors |= batch.errors
        self.last_session = max(self.last_session, batch.last_session)

    def fit(self, nbytes: int) -> None:
        """Put half of the month files off, and let go of their buckets, until the rest takes `nbytes` at most."""
        while self.due.sum() > 1 and sum(b.buckets.nbytes for cut in self.batches for b in cut.values()) > nbytes:
            self.due, second = halves(self.due)
            self.put_off |= second
            for i, cut in enumerate(self.batches):
                self.batches[i] = self._kept(cut)

    def _kept(self, cut: Mapping[int, ByMonth]) -> dict[int, ByMonth]:
        return {n: self.months.sorted(cut[n].buckets, self.due[i], EVERYTHING) for i, n in enumerate(INTERVALS)}


@dataclass(slots=True)
class _Written:
    """What writing a reading's month files came to."""

    conflicts: Due
    """The month files that somebody else wrote first."""
    files: int = 0
    revocable: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class FullResampler:
    """What computing all of silver needs."""

    store: ObjectStore
    bronze: Bronze
    calendar: TradingCalendar
    updated: Topic
    retention_years: int
    adjusted: bool
    most_bytes: int
    """Memory for the buckets at hand."""
    watch: Watch = unwatched

    def run(self, now: datetime, index: int = 0, of: int = 1) -> Summary:
        """Bring all month files of share `index` of `of` up to date with bronze; then tell of it, as ever.

        Raises ConflictError if others rewrite the same files all the time, UpstreamError if S3 or SNS fails.
        """
        since = {n: window_start(self.calendar, now.date(), self.retention_years, n) for n in INTERVALS}
        months, summary = Months.of(self.calendar), Summary()
        work = [_Task(self._symbols(), months.share(index, of))]
        while work:
            work += self._done(work.pop(), months, since, summary)
        for interval in INTERVALS if summary.symbols else ():
            self._tell(interval, self.calendar.session(since[interval]), summary, now)
        return summary

    def _symbols(self) -> list[str]:
        """List the lake's symbols, in the order of a month file's rows."""
        head = f"{self.bronze.prefix}/symbol="
        names = (folder.removeprefix(head).rstrip("/") for folder in self.store.folders(f"{self.bronze.prefix}/"))
        return sorted(name for name in names if valid_symbol(name))

    def _done(self, task: _Task, months: Months, since: Mapping[int, int], summary: Summary) -> list[_Task]:
        """Do a task as far as memory goes and nobody interferes; give what is left to do."""
        if task.attempt >= ATTEMPTS:
            raise ConflictError(f"silver or bronze was rewritten by others {ATTEMPTS} times while it was resampled")
        # Targets before sources: which versions we are to replace is settled before bronze is read.
        versions = {n: self._versions(n) for n in INTERVALS}
        reading = self._read(task, months, since)
        pa.default_memory_pool().release_unused()
        written = self._write(reading, versions, since)
        # A newer reading of bronze that found its rows in place already wrote nothing, and so guarded nothing: only the
        # sources tell whether what was written over them is older (rule 5).
        stale, conflicts = self._stale(reading, written.revocable), written.conflicts
        _note(summary, reading, written.files)
        others = [symbol for symbol in task.symbols if symbol not in reading.errors]
        again = [_Task(others, conflicts, task.attempt + 1), _Task(stale, reading.due, task.attempt + 1)]
        again = [one for one in again if one.symbols and one.due.any()]
        if again:
            extra = {"month_files": int(conflicts.sum()), "symbols": len(stale)}
            logger.info("rewritten by others meanwhile", extra=extra)
            time.sleep(list(pauses(task.attempt + 1))[-1])
        return [_Task(task.symbols, reading.put_off), *again] if reading.put_off.any() else again

    def _versions(self, interval: int) -> dict[Month, str]:
        listing = self.store.listed(silver_prefix(interval))
        found = [(parse_silver_key(interval, info.key), info.etag) for info in listing]
        return {month: etag for month, etag in found if month}

    def _read(self, task: _Task, months: Months, since: Mapping[int, int]) -> _Reading:
        """Read the symbols and cut their bars, keeping to the memory."""
        reading = _Reading(months, task.due, np.zeros_like(task.due))
        parts, done = chunks(task.symbols, SYMBOLS_AT_ONCE), 0
        with ThreadPoolExecutor(BATCHES_AT_ONCE) as pool:

            def begun(most: int) -> list[Future[_Batch]]:
                some = islice(parts, most)
                return [pool.submit(self._batch, part, months, since, reading.due) for part in some]

            coming = begun(BATCHES_AT_ONCE)
            while coming:
                batch = coming.pop(0).result()
                reading.take(batch)
                reading.fit(self.most_bytes)
                coming += begun(1)
                done += batch.size
                self.watch("reading symbols", done, len(task.symbols))
        return reading

    def _batch(self, symbols: Sequence[str], months: Months, since: Mapping[int, int], due: Due) -> _Batch:
        """Read these symbols, and cut them into the buckets that are due.

        A symbol without a data.parquet has yet to be consolidated: its first completion event is still to come.
        """
        found = self.store.get_many([self.bronze.data_key(symbol) for symbol in symbols])
        stored = {symbol: one for symbol, one in zip(symbols, found, strict=True) if one}
        outcomes = {s: attempt(lambda s=s, one=one: self._bars(s, one)) for s, one in stored.items()}  # type: ignore[misc]
        errors = {symbol: outcome for symbol, outcome in outcomes.items() if isinstance(outcome, FiblakeError)}
        sources = {symbol: one.etag for symbol, one in stored.items() if symbol not in errors}
        read = [outcome for outcome in outcomes.values() if isinstance(outcome, Bars)]
        handed_over = {bars.symbol for bars in read if bars.handovers.size}
        market = Market.of(read)
        cut = {n: months.sorted(market.buckets(n), due[i], since[n]) for i, n in enumerate(INTERVALS)}
        last = self.calendar.session(int(market.lasts.max())) if sources else date.min
        return _Batch(len(symbols), cut, sources, handed_over, errors, last)

    def _bars(self, symbol: str, found: StoredObject) -> Bars:
        return Bars.read(found.data, symbol, self.calendar, adjusted=self.adjusted)

    def _write(self, reading: _Reading, versions: Versions, since: Mapping[int, int]) -> _Written:
        """Write the month files that change."""
        symbols = pa.array(reading.sources, pa.string())
        cuts = {n: dict.fromkeys(reading.sources, self.calendar.session(since[n])) for n in INTERVALS}
        places = self._to_write(reading, versions, since)

        def one(place: tuple[int, int]) -> Collection[str] | FiblakeError | None:
            n, month = INTERVALS[place[0]], reading.months.month(place[1])
            buckets = Buckets.joined([cut[n].of(place[1]) for cut in reading.batches])
            rows = buckets.table(symbols, self.calendar, adjusted=self.adjusted)
            key, etag = silver_key(n, month), versions[n].get(month)
            return attempt(lambda: self._write_month(key, rows, cuts[n], etag, reading))

        written = _Written(np.zeros_like(reading.due))
        with ThreadPoolExecutor(WRITES_AT_ONCE) as pool:
            for done, (place, outcome) in enumerate(zip(places, pool.map(one, places), strict=True), 1):
                if isinstance(outcome, ConflictError):
                    written.conflicts[place] = True
                elif isinstance(outcome, FiblakeError):
                    pool.shutdown(cancel_futures=True)
                    raise outcome
                elif outcome is not None:
                    written.files += 1
                    if len(written.revocable) < len(reading.sources):
                        written.revocable.update(outcome)
                self.watch("writing month files", done, len(places))
        return written

    def _to_write(self, reading: _Reading, versions: Versions, since: Mapping[int, int]) -> list[tuple[int, int]]:
        """Give the (interval, month), by their numbers, of the files that are due and have rows, or may lose some."""
        if not reading.sources:
            return []
        wanted = np.zeros_like(reading.due)
        for i, n in enumerate(INTERVALS):
            for cut in reading.batches:
                wanted[i] |= cut[n].filled
            earliest = Month.of(self.calendar.session(since[n]))
            there = [reading.months.number(month) for month in versions[n] if month >= earliest]
            wanted[i, [number for number in there if number is not None]] = True
        return [(int(i), int(m)) for i, m in np.argwhere(wanted & reading.due)]

    def _write_month(
        self, key: str, rows: pa.Table, cuts: Mapping[str, date], etag: str | None, reading: _Reading
    ) -> Collection[str] | None:
        """Write the month if its rows change, and give the symbols that may have to be taken back; else None."""
        if etag is None:
            self.store.write_if_unchanged(key, encode(rows), None)
            return reading.sources.keys()  # not worth a closer look: a whole history reaches from month to month
        old = decode_silver(self.store.get_version(key, etag).data, key)
        wanted = replaced(old, rows, cuts)
        if wanted is None:
            return None
        self.store.write_if_unchanged(key, encode(wanted), etag)
        return revocable(old, rows, cuts, reading.handed_over)

    def _stale(self, reading: _Reading, revocable_: set[str]) -> list[str]:
        """Give, of the symbols that may have to be taken back, those whose data.parquet is a newer one by now."""
        symbols = [symbol for symbol in reading.sources if symbol in revocable_]
        versions = self.store.versions([self.bronze.data_key(symbol) for symbol in symbols])
        return [symbol for symbol, now in zip(symbols, versions, strict=True) if reading.sources[symbol] != now]

    def _tell(self, interval: int, first: date, summary: Summary, now: datetime) -> None:
        checkpoint.advance(self.store, interval, summary.last_session, summary.rows[interval], now)
        parts = chunks(sorted(summary.symbols), SYMBOLS_PER_EVENT)
        events = [SilverUpdated(interval=interval, changed_from=first, symbols=tuple(part)) for part in parts]
        if self.updated.publish(events):
            raise UpstreamError("SNS did not take the SilverUpdated event")
        count(interval=interval, SymbolsResampled=len(summary.symbols), RowsComputed=summary.rows[interval])


def _note(summary: Summary, reading: _Reading, written: int) -> None:
    summary.symbols |= reading.sources.keys()
    summary.failed |= {symbol: str(error) for symbol, error in reading.errors.items()}
    summary.written += written
    summary.readings += 1
    summary.last_session = max(summary.last_session, reading.last_session)
    for n in INTERVALS:
        summary.rows[n] += sum(cut[n].buckets.size for cut in reading.batches)
    due, put_off = int(reading.due.sum()), int(reading.put_off.sum())
    extra = {"symbols": len(reading.sources), "due": due, "put_off": put_off, "written": written}
    logger.info("bronze read, month files written", extra=extra)

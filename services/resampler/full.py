"""How all of silver is computed anew: every symbol read once for all six intervals, within a given memory.

What is to be done is a set of month files. Of these a share is due here (one of several machines may take each its own),
and of the share so many at a time as fit into memory: if they do not, half of them are put off to a further reading of
bronze. Month files are written as everywhere (rules 5 and 6 in docs/architecture.md), so it may run beside the resamplers
of the queues, and be killed and run again: what is in place already is not written again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from services.resampler import checkpoint
from services.resampler.aggregate import Bars, Buckets, Market
from services.resampler.buckets import window_start
from services.resampler.silver import replaced
from shared.bars import SILVER, decode_silver, encode
from shared.batching import chunks
from shared.calendar import TradingCalendar
from shared.errors import ConflictError, FiblakeError, UpstreamError
from shared.events import SYMBOLS_PER_EVENT, SilverUpdated
from shared.lake import INTERVALS, Bronze, Month, parse_silver_key, silver_key, silver_prefix, valid_symbol
from shared.objects import CONCURRENCY, ObjectStore, StoredObject, pauses
from shared.outcomes import attempt
from shared.queues import Topic
from shared.telemetry import logger

ATTEMPTS: Final = 30
SYMBOLS_AT_ONCE: Final = 128
BATCHES_AT_ONCE: Final = 3
"""One more than the cores of the job: one waits for S3 while the others compute."""
RESERVED_MB: Final = 400
"""What is needed beside the buckets: the interpreter and its libraries, two batches of bars, files on their way out."""

Due = npt.NDArray[np.bool_]
"""Which month files are to be done: a row an interval, a column a month since the calendar's first."""
Watch = Callable[[str, int, int], None]
"""Told of progress: what is being done, how much of it is done, and of how much."""


def unwatched(_what: str, _done: int, _of: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class _Task:
    """Month files to be done for some symbols: all symbols of the lake, or those that moved meanwhile."""

    symbols: Sequence[str]
    due: Due
    attempt: int = 0


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
class _Sorted:
    """Buckets by month, and where each month begins among them."""

    buckets: Buckets
    offsets: npt.NDArray[np.int64]

    def of(self, month: int) -> Buckets:
        return self.buckets.taken(slice(self.offsets[month], self.offsets[month + 1]))


@dataclass(frozen=True, slots=True)
class Months:
    """The calendar's months, numbered."""

    calendar: TradingCalendar
    numbers: npt.NDArray[np.int16]
    """The number of the month that each session lies in."""
    first: Month

    @classmethod
    def of(cls, calendar: TradingCalendar) -> "Months":
        """Number the months of `calendar`."""
        months = calendar.sessions.astype("datetime64[M]").astype(np.int64)
        return cls(calendar, (months - months[0]).astype(np.int16), Month.of(calendar.session(0)))

    @property
    def count(self) -> int:
        """How many months there are."""
        return int(self.numbers[-1]) + 1

    def month(self, number: int) -> Month:
        """Give the month with this number."""
        months = self.first.month - 1 + number
        return Month(self.first.year + months // 12, months % 12 + 1)

    def number(self, month: Month) -> int:
        """Give a month's number; outside the calendar it is negative or not below `count`."""
        return (month.year - self.first.year) * 12 + month.month - self.first.month

    def sorted(self, buckets: Buckets, due: npt.NDArray[np.bool_], since: int) -> _Sorted:
        """Sort by month the buckets that start at ordinal `since` or later, in a month that is due; keep their order."""
        numbers = self.numbers[buckets.begins]
        wanted = np.flatnonzero(due[numbers] & (buckets.begins >= since))
        numbers = numbers[wanted]
        offsets = np.append(0, np.cumsum(np.bincount(numbers, minlength=self.count)))
        return _Sorted(buckets.taken(wanted[np.argsort(numbers, kind="stable")]), offsets)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What reading some symbols gives."""

    symbols: int
    cut: dict[int, _Sorted]
    """Their buckets, by interval."""
    sources: dict[str, str]
    """The version (ETag) of each symbol's data.parquet that was read, in the order of symbols."""
    errors: dict[str, FiblakeError]
    last_session: date


@dataclass(slots=True)
class _Reading:
    """What reading all of a task's symbols gives."""

    due: Due
    """The month files of which all buckets are here."""
    put_off: Due
    batches: list[dict[int, _Sorted]] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    errors: dict[str, FiblakeError] = field(default_factory=dict)
    last_session: date = date.min

    def take(self, batch: _Batch, months: Months) -> None:
        """Add what a batch gives; of what was put off while it was read, nothing."""
        for one in batch.cut.values():
            one.buckets.renumber(len(self.sources))
        self.batches.append(batch.cut)
        if self.put_off.any():
            self._keep_due(batch.cut, months)
        self.sources |= batch.sources
        self.errors |= batch.errors
        self.last_session = max(self.last_session, batch.last_session)

    def put_half_off(self, months: Months) -> None:
        """Put every second month file off, and let go of its buckets."""
        rows, columns = np.nonzero(self.due)
        self.put_off[rows[1::2], columns[1::2]] = True
        self.due[rows[1::2], columns[1::2]] = False
        for batch in self.batches:
            self._keep_due(batch, months)

    def _keep_due(self, batch: dict[int, _Sorted], months: Months) -> None:
        for i, n in enumerate(INTERVALS):
            batch[n] = months.sorted(batch[n].buckets, self.due[i], 0)


def share(months: int, index: int, of: int) -> Due:
    """Give the month files that are machine `index`'s of `of`: every so-manieth month, which makes shares of one size."""
    mine = np.arange(months) % of == index
    return np.broadcast_to(mine, (len(INTERVALS), months)).copy()


@dataclass(frozen=True, slots=True)
class FullResampler:
    """What computing all of silver needs."""

    store: ObjectStore
    bronze: Bronze
    calendar: TradingCalendar
    updated: Topic
    retention_years: int
    adjusted: bool
    memory_mb: int
    watch: Watch = unwatched

    def run(self, now: datetime, index: int = 0, of: int = 1) -> Summary:
        """Bring all month files of this share up to date with bronze; then checkpoints and events, as ever.

        Raises ConflictError if others rewrite the same files all the time, UpstreamError if S3 or SNS fails.
        """
        summary, months = Summary(), Months.of(self.calendar)
        work = [_Task(self._symbols(), share(months.count, index, of))]
        while work:
            work += self._done(work.pop(), months, now.date(), summary)
        for interval in INTERVALS:
            self._tell(interval, summary, now)
        return summary

    def _symbols(self) -> list[str]:
        """List the lake's symbols, in the order of a month file's rows."""
        head = f"{self.bronze.prefix}/symbol="
        names = (folder.removeprefix(head).rstrip("/") for folder in self.store.folders(f"{self.bronze.prefix}/"))
        return sorted(name for name in names if valid_symbol(name))

    def _done(self, task: _Task, months: Months, today: date, summary: Summary) -> list[_Task]:
        """Do a task, as far as memory goes and nobody interferes; give what is left to do."""
        if task.attempt >= ATTEMPTS:
            raise ConflictError(f"silver or bronze was rewritten by others {ATTEMPTS} times during its resampling")
        # Targets before sources: which versions we are to replace is settled before bronze is read.
        versions = {interval: self._versions(interval) for interval in INTERVALS}
        since = {n: window_start(self.calendar, today, self.retention_years, n) for n in INTERVALS}
        reading = self._read(task, months, since)
        written, conflicts = self._write(reading, months, versions, since)
        stale = self._stale(reading) if written else []
        self._note(summary, reading, written)
        again = [
            _Task([symbol for symbol in task.symbols if symbol not in reading.errors], conflicts, task.attempt + 1),
            _Task(stale, reading.due, task.attempt + 1),
        ]
        left = [one for one in again if one.symbols and one.due.any()]
        if left:
            logger.info("written by others meanwhile", extra={"months": int(conflicts.sum()), "symbols": len(stale)})
            time.sleep(list(pauses(task.attempt + 1))[-1])
        return [_Task(task.symbols, reading.put_off), *left] if reading.put_off.any() else left

    def _versions(self, interval: int) -> dict[Month, str]:
        found = [(parse_silver_key(interval, o.key), o.etag) for o in self.store.listed(silver_prefix(interval))]
        return {month: etag for month, etag in found if month}

    def _read(self, task: _Task, months: Months, since: Mapping[int, int]) -> _Reading:
        """Read the symbols and cut their bars; put half of the month files off as often as memory demands."""
        reading = _Reading(task.due.copy(), np.zeros_like(task.due))
        most = max(1, self.memory_mb - RESERVED_MB) << 20
        done = 0
        for batch in self._batches(task.symbols, months, since, reading):
            reading.take(batch, months)
            while sum(map(_nbytes, reading.batches)) > most and reading.due.sum() > 1:
                reading.put_half_off(months)
            done += batch.symbols
            self.watch("reading symbols", done, len(task.symbols))
        return reading

    def _batches(
        self, symbols: Sequence[str], months: Months, since: Mapping[int, int], reading: _Reading
    ) -> Iterator[_Batch]:
        """Read and cut some batches of symbols at a time, and give them in order."""
        parts = chunks(symbols, SYMBOLS_AT_ONCE)
        with ThreadPoolExecutor(BATCHES_AT_ONCE) as pool:
            coming = [pool.submit(self._batch, part, months, since, reading.due.copy()) for part in islice(parts, BATCHES_AT_ONCE)]
            while coming:
                yield coming.pop(0).result()
                coming += [pool.submit(self._batch, part, months, since, reading.due.copy()) for part in islice(parts, 1)]

    def _batch(self, symbols: Sequence[str], months: Months, since: Mapping[int, int], due: Due) -> _Batch:
        """Read these symbols, and cut them into the buckets that are due.

        A symbol without a data.parquet has yet to be consolidated: its first completion event is still to come.
        """
        found = self.store.get_many([self.bronze.data_key(symbol) for symbol in symbols])
        stored = [(symbol, one) for symbol, one in zip(symbols, found, strict=True) if one]
        outcomes = {symbol: attempt(lambda o=one, s=symbol: self._bars(o, s)) for symbol, one in stored}  # type: ignore[misc]
        errors = {symbol: outcome for symbol, outcome in outcomes.items() if isinstance(outcome, FiblakeError)}
        market = Market.of([outcome for outcome in outcomes.values() if isinstance(outcome, Bars)])
        cut = {n: months.sorted(market.buckets(n), due[i], since[n]) for i, n in enumerate(INTERVALS)}
        sources = {symbol: one.etag for symbol, one in stored if symbol not in errors}
        last = self.calendar.session(int(market.lasts.max())) if sources else date.min
        return _Batch(len(symbols), cut, sources, errors, last)

    def _bars(self, found: StoredObject, symbol: str) -> Bars:
        return Bars.read(found.data, symbol, self.calendar, adjusted=self.adjusted)

    def _write(
        self, reading: _Reading, months: Months, versions: Mapping[int, Mapping[Month, str]], since: Mapping[int, int]
    ) -> tuple[int, Due]:
        """Write the month files that change; give how many, and those that somebody else wrote first."""
        symbols = pa.array(list(reading.sources), pa.string())
        cuts = {n: dict.fromkeys(reading.sources, self.calendar.session(since[n])) for n in INTERVALS}
        places = self._to_write(reading, months, versions, since)

        def one(place: tuple[int, int]) -> bool | FiblakeError:
            n, month = INTERVALS[place[0]], months.month(place[1])
            rows = Buckets.joined([batch[n].of(place[1]) for batch in reading.batches])
            table = rows.table(symbols, self.calendar, adjusted=self.adjusted)
            return attempt(lambda: self._write_month(n, month, table, cuts[n], versions[n].get(month)))

        conflicts, written = np.zeros_like(reading.due), 0
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            for done, (place, outcome) in enumerate(zip(places, pool.map(one, places), strict=True)):
                if isinstance(outcome, ConflictError):
                    conflicts[place] = True
                elif isinstance(outcome, FiblakeError):
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise outcome
                written += outcome is True
                self.watch("writing month files", done + 1, len(places))
        return written, conflicts

    def _to_write(
        self, reading: _Reading, months: Months, versions: Mapping[int, Mapping[Month, str]], since: Mapping[int, int]
    ) -> list[tuple[int, int]]:
        """Give the (interval, month) of all files that are due and either have rows now or may lose some."""
        if not reading.sources:
            return []
        wanted = np.zeros_like(reading.due)
        for i, n in enumerate(INTERVALS):
            for batch in reading.batches:
                wanted[i] |= np.diff(batch[n].offsets) > 0
            there = [months.number(month) for month in versions[n] if month >= Month.of(self.calendar.session(since[n]))]
            wanted[i, [number for number in there if 0 <= number < months.count]] = True
        return [(int(i), int(m)) for i, m in np.argwhere(wanted & reading.due)]

    def _write_month(  # noqa: PLR0917
        self, interval: int, month: Month, rows: pa.Table, cuts: Mapping[str, date], etag: str | None
    ) -> bool:
        """Write the month if its rows change, and tell whether."""
        key = silver_key(interval, month)
        if etag:
            old = decode_silver(self.store.get_version(key, etag).data, key)
            changed = replaced(old, rows, cuts)
            if changed is None:
                return False
            rows = changed
        self.store.write_if_unchanged(key, encode(rows), etag)
        return True

    def _stale(self, reading: _Reading) -> list[str]:
        """Give the symbols whose data.parquet is a newer one by now than the one written from."""
        versions = self.store.versions([self.bronze.data_key(symbol) for symbol in reading.sources])
        return [s for (s, etag), now in zip(reading.sources.items(), versions, strict=True) if etag != now]

    def _note(self, summary: Summary, reading: _Reading, written: int) -> None:
        summary.symbols |= reading.sources.keys()
        summary.failed |= {symbol: str(error) for symbol, error in reading.errors.items()}
        summary.written += written
        summary.readings += 1
        summary.last_session = max(summary.last_session, reading.last_session)
        for n in INTERVALS:
            summary.rows[n] += sum(batch[n].buckets.size for batch in reading.batches)
        extra = {"symbols": len(reading.sources), "written": written, "put_off": int(reading.put_off.sum())}
        logger.info("bronze read and month files written", extra={**extra, "month_files": int(reading.due.sum())})

    def _tell(self, interval: int, summary: Summary, now: datetime) -> None:
        if not summary.symbols:
            return
        checkpoint.advance(self.store, interval, summary.last_session, summary.rows[interval], now)
        first = self.calendar.session(window_start(self.calendar, now.date(), self.retention_years, interval))
        parts = chunks(sorted(summary.symbols), SYMBOLS_PER_EVENT)
        events = [SilverUpdated(interval=interval, changed_from=first, symbols=tuple(part)) for part in parts]
        if self.updated.publish(events):
            raise UpstreamError("SNS did not take the SilverUpdated event")


def _nbytes(batch: Mapping[int, _Sorted]) -> int:
    return sum(one.buckets.nbytes for one in batch.values())

"""How silver follows bronze: whole buckets recomputed, month files rewritten only if nobody else did meanwhile."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from itertools import zip_longest
from typing import Final

import pyarrow as pa

from services.resampler import checkpoint
from services.resampler.aggregate import Bars, aggregate
from services.resampler.buckets import first_to_recompute, window_start
from services.resampler.silver import by_month, replaced, revocable
from shared.bars import SILVER, decode_silver, encode
from shared.batching import chunks
from shared.calendar import TradingCalendar
from shared.errors import ConflictError, FiblakeError, NotFoundError, UpstreamError
from shared.events import SYMBOLS_PER_EVENT, SilverUpdated
from shared.lake import Bronze, Month, parse_silver_key, silver_key, silver_prefix
from shared.objects import ObjectStore, StoredObject, pauses
from shared.outcomes import attempt
from shared.queues import Topic
from shared.telemetry import count, logger

ATTEMPTS: Final = 30
MONTHS_AT_ONCE: Final = 8
SYMBOLS_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Change:
    """What a batch of completion events says of one symbol."""

    symbol: str
    changed_from: date
    correlation_id: str = ""
    put_at: datetime | None = None
    """When the oldest file that led here was put."""


@dataclass(slots=True)
class _Recomputed:
    """What one reading of bronze gives: rows by month, and from which bucket on each symbol was recomputed."""

    rows: dict[Month, pa.Table] = field(default_factory=dict)
    cuts: dict[str, date] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    """The version (ETag) of each symbol's data.parquet that was read."""
    handed_over: set[str] = field(default_factory=set)
    errors: dict[str, FiblakeError] = field(default_factory=dict)
    written: int = 0
    revocable: set[str] = field(default_factory=set)
    """The symbols that were written in such a way that newer bronze might take it back (`silver.revocable`)."""
    last_session: date = date.min


@dataclass(frozen=True, slots=True)
class Resampler:
    """What resampling one interval needs."""

    store: ObjectStore
    bronze: Bronze
    calendar: TradingCalendar
    updated: Topic
    interval: int
    retention_years: int
    adjusted: bool = True
    """Whether splits are applied; else silver is as traded."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def resample(self, changes: Sequence[Change], now: datetime) -> dict[str, FiblakeError]:
        """Bring the interval's table up to date with the changed symbols; give the errors by symbol.

        The others are in the month files, the checkpoint, and a SilverUpdated event when this returns.
        """
        outcome = attempt(lambda: self._resampled(changes, now))
        return {change.symbol: outcome for change in changes} if isinstance(outcome, FiblakeError) else outcome

    def _resampled(self, changes: Sequence[Change], now: datetime) -> dict[str, FiblakeError]:
        """Resample until no bronze file that was read has given way to a newer one meanwhile.

        Month files guard themselves against writers, but not against one that found its newer bars in place already and
        wrote nothing: only the sources tell that what was written over them is older.
        """
        errors: dict[str, FiblakeError] = {}
        left = list(changes)
        for pause in pauses(ATTEMPTS):
            done = self._until_written(left, now.date())
            errors |= done.errors
            stale = self._stale(done)
            fresh = sorted(done.cuts.keys() - stale)
            if fresh:
                rows = _count(done.rows.values())
                checkpoint.advance(self.store, self.interval, done.last_session, rows, now)
                self._tell(fresh, done, changes)
                self._measure(fresh, rows, done.written, changes)
            left = [change for change in left if change.symbol in stale]
            if not left:
                return errors
            time.sleep(pause)
        moving = ConflictError(f"data.parquet was rewritten by others {ATTEMPTS} times while it was resampled")
        return errors | {change.symbol: moving for change in left}

    def _until_written(self, changes: Sequence[Change], today: date) -> _Recomputed:
        """Recompute and write; months that others wrote meanwhile are done again from a new reading of bronze."""
        conflicts: set[Month] | None = None
        errors: dict[str, FiblakeError] = {}
        sources: dict[str, str] = {}
        revocable: set[str] = set()
        written = 0
        for pause in pauses(ATTEMPTS):
            # Targets before sources: which versions we are to replace is settled before bronze is read.
            versions = self._versions()
            # A symbol that failed once is left out for good: the months written without it are not written again.
            recomputed = self._recompute([c for c in changes if c.symbol not in errors], today)
            conflicts = self._write(recomputed, versions, conflicts)
            errors |= recomputed.errors
            written += recomputed.written
            revocable |= recomputed.revocable
            # The oldest version counts: the months of the first reading are not written again.
            sources = recomputed.sources | sources
            if not conflicts:
                return replace(recomputed, errors=errors, written=written, revocable=revocable, sources=sources)
            logger.info("months rewritten by others", extra={"interval": self.interval, "months": len(conflicts)})
            time.sleep(pause)
        raise ConflictError(
            f"{len(conflicts or ())} month files of {self.interval}d were rewritten by others {ATTEMPTS} times"
        )

    def _stale(self, done: _Recomputed) -> set[str]:
        """Give, of the symbols that may have to be taken back, those whose data.parquet is a newer one by now."""
        symbols = sorted(done.revocable & done.cuts.keys())
        versions = self.store.versions([self.bronze.data_key(symbol) for symbol in symbols])
        return {symbol for symbol, etag in zip(symbols, versions, strict=True) if etag != done.sources[symbol]}

    def _versions(self) -> dict[Month, str]:
        listing = self.store.listed(silver_prefix(self.interval))
        found = [(parse_silver_key(self.interval, info.key), info.etag) for info in listing]
        return {month: etag for month, etag in found if month}

    def _recompute(self, changes: Sequence[Change], today: date) -> _Recomputed:
        """Read each symbol's bars once and aggregate what may have changed; keep only the buckets."""
        result = _Recomputed()
        tables = [SILVER.empty_table()]
        for part in self._read(changes):
            tails: list[Bars] = []
            for change, found in part:
                outcome = attempt(lambda c=change, f=found: self._tail(c, f, today, result))  # type: ignore[misc]
                if isinstance(outcome, FiblakeError):
                    result.errors[change.symbol] = outcome
                else:
                    tails.append(outcome)
            tables.append(aggregate(tails, self.interval, self.calendar, adjusted=self.adjusted))
        result.rows = by_month(pa.concat_tables(tables).combine_chunks())
        return result

    def _read(self, changes: Sequence[Change]) -> Iterator[list[tuple[Change, StoredObject | None]]]:
        """Give changes with their data.parquet, some at a time; meanwhile the next ones are on their way."""

        def get(some: Sequence[Change]) -> list[StoredObject | None]:
            return self.store.get_many([self.bronze.data_key(change.symbol) for change in some])

        parts = list(chunks(changes, SYMBOLS_AT_ONCE))
        with ThreadPoolExecutor(1) as pool:
            coming = [pool.submit(get, part) for part in parts[:1]]
            for part, following in zip_longest(parts, parts[1:]):
                objects = coming.pop().result()
                if following:
                    coming.append(pool.submit(get, following))
                yield list(zip(part, objects, strict=True))

    def _tail(self, change: Change, found: StoredObject | None, today: date, result: _Recomputed) -> Bars:
        """Give the symbol's bars from the first bucket on that is to be recomputed."""
        if found is None:
            raise NotFoundError(f"{change.symbol} has no data.parquet: consolidate it first")
        bars = Bars.read(found.data, change.symbol, self.calendar, adjusted=self.adjusted)
        changed = self.calendar.ordinal_on_or_after(change.changed_from)
        window = window_start(self.calendar, today, self.retention_years, self.interval)
        first = max(window, first_to_recompute(bars.ordinals, changed, self.interval))
        tail = bars.since(first)
        result.cuts[change.symbol] = self.calendar.session(first)
        result.sources[change.symbol] = found.etag
        if bars.handovers.size:
            result.handed_over.add(change.symbol)
        result.last_session = max(result.last_session, self.calendar.session(bars.ordinals[-1]))
        return tail

    def _write(self, new: _Recomputed, versions: Mapping[Month, str], only: set[Month] | None) -> set[Month]:
        """Write the months that change (of `only`, if given); give those that somebody else wrote first."""
        if not new.cuts:
            return set()
        earliest = Month.of(min(new.cuts.values()))
        months = sorted({m for m in versions if m >= earliest} | set(new.rows))
        wanted = [m for m in months if only is None or m in only]
        with ThreadPoolExecutor(MONTHS_AT_ONCE) as pool:
            outcomes = list(pool.map(lambda m: attempt(lambda: self._write_month(m, new, versions.get(m))), wanted))
        for outcome in outcomes:
            if isinstance(outcome, FiblakeError) and not isinstance(outcome, ConflictError):
                raise outcome
        written = [outcome for outcome in outcomes if isinstance(outcome, set)]
        new.written = len(written)
        new.revocable = set().union(*written)
        return {month for month, outcome in zip(wanted, outcomes, strict=True) if isinstance(outcome, ConflictError)}

    def _write_month(self, month: Month, new: _Recomputed, etag: str | None) -> set[str] | None:
        """Write the month if its rows change, and give the symbols that may have to be taken back; else None."""
        key = silver_key(self.interval, month)
        old = decode_silver(self.store.get_version(key, etag).data, key) if etag else None
        recomputed = new.rows.get(month, SILVER.empty_table())
        rows = replaced(old, recomputed, new.cuts)
        if rows is None:
            return None
        self.store.write_if_unchanged(key, encode(rows), etag)
        return revocable(old, recomputed, new.cuts, new.handed_over)

    def _tell(self, fresh: Sequence[str], done: _Recomputed, changes: Sequence[Change]) -> None:
        correlation = {change.symbol: change.correlation_id for change in changes}
        events = [
            SilverUpdated(
                interval=self.interval, changed_from=min(done.cuts[s] for s in symbols), symbols=tuple(symbols),
                correlation_id=correlation[symbols[0]],
            )
            for symbols in chunks(fresh, SYMBOLS_PER_EVENT)
        ]  # fmt: skip
        if self.updated.publish(events):
            raise UpstreamError("SNS did not take the SilverUpdated event")
        for symbol in fresh:
            extra = {"symbol": symbol, "interval": self.interval, "correlation_id": correlation[symbol]}
            logger.info("resampled", extra={**extra, "changed_from": done.cuts[symbol].isoformat()})

    def _measure(self, fresh: Sequence[str], rows: int, months: int, changes: Sequence[Change]) -> None:
        count(interval=self.interval, SymbolsResampled=len(fresh), RowsComputed=rows, MonthsWritten=months)
        oldest = min((c.put_at for c in changes if c.put_at and c.symbol in fresh), default=None)
        if oldest:
            # What S3 calls the instant of a put is to the second: a quick chain could be there before it.
            seconds = max(0.0, (self.clock() - oldest).total_seconds())
            count(interval=self.interval, PutToSilverSeconds=seconds)


def _count(tables: Iterable[pa.Table]) -> int:
    return sum(table.num_rows for table in tables)

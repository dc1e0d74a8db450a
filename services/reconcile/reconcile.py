"""What has been lost on the way from bronze to silver, symbol by symbol, and how it is set going again.

An audit, not the driver: it reads everything that could have been told of, and compares. What it finds it can enqueue;
everything it enqueues may safely come twice.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from math import ceil
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from fiblake.bars import SILVER, Consolidated, decode_manifest, decode_silver
from fiblake.errors import ContractError, FiblakeError, PermanentError, UpstreamError
from fiblake.lake import (
    INTERVALS,
    MANIFEST_KEY,
    Bronze,
    Month,
    check_known,
    checkpoint_key,
    identities_key,
    parse_silver_key,
    silver_prefix,
    splits_key,
)
from fiblake.reference import read_identities, read_splits, reference_of
from fiblake.source_log import is_merged
from services.reconcile.lag import Cause, Lag, completions, requests
from services.reconcile.silver import Grid, first_difference
from shared.batching import chunks
from shared.checkpoints import read_checkpoint
from shared.jobs import JobQueue
from shared.objects import CONCURRENCY, ObjectInfo, ObjectStore, StoredObject
from shared.outcomes import catch_errors
from shared.queues import Queue, Topic
from shared.source_files import SourceBars, bars_of_source

SYMBOLS_AT_ONCE: Final = 500
"""Bounds the memory: so many symbols' bars and buckets are held at a time."""
KEYS_NAMED: Final = 3
FILES_LOOKED_INTO: Final = 20
"""Of a symbol with more unmerged files only so many are read, those that were put last: what waits is among them."""
RESTORE: Final = "put an earlier version of it back, or delete it: the source files that are there are merged anew"
Advance = Callable[[int], None]
Manifest = Mapping[str, Mapping[str, Any]]
"""The manifest's rows by symbol."""


@dataclass(slots=True)
class Report:
    """What an audit found."""

    symbols: int = 0
    lags: list[Lag] = field(default_factory=list)
    newest_session: date | None = None
    """Last session that any symbol's data.parquet holds."""

    def facts(self, sent: "Sent | None", most: int) -> dict[str, Any]:
        """Return the audit as JSON can say it: counts by cause, `most` of the lags, and what was enqueued."""
        causes = Counter(lag.cause.name.lower() for lag in self.lags)
        return {
            "symbols": self.symbols,
            "newest_session": self.newest_session.isoformat() if self.newest_session else None,
            "lagging": len({lag.symbol for lag in self.lags} - {""}),
            "causes": dict(causes.most_common()),
            "lags": [lag.facts() for lag in self.lags[:most]],
            "enqueued": None if sent is None else asdict(sent),
        }


@dataclass(frozen=True, slots=True)
class Sent:
    """What was enqueued to make good what lags."""

    requests: int
    completions: int
    unsent: int
    job: str | None


@dataclass(frozen=True, slots=True)
class _Known:
    symbol: str
    stored: Consolidated | None
    lags: Sequence[Lag]


@dataclass(frozen=True, slots=True)
class Reconciler:
    """What an audit works with."""

    store: ObjectStore
    bronze: Bronze
    grid: Grid
    today: date
    window_start: date | None = None
    """Where the resampler's history window begins; None: it resamples all of it."""

    def audit(
        self, symbols: Sequence[str], since: date | None, advance: Advance = lambda _: None,
        intervals: Sequence[int] = INTERVALS,
    ) -> Report:  # fmt: skip
        """Compare all there is of these symbols (none named: of all): bronze, manifest, silver, checkpoints.

        `since` spares buckets that end before it: older ones are not compared, nor are other `intervals`. Raises
        UpstreamError if S3 fails, and NotFoundError if one of `symbols` is unknown.
        """
        report = Report()
        manifest = self._manifest(report)
        symbols_known = {*self.symbols_of_bronze(), *(manifest or ())}
        check_known(symbols, symbols_known)
        wanted = sorted(symbols or symbols_known)
        report.symbols = len(wanted)
        for some in chunks(wanted, SYMBOLS_AT_ONCE):
            known = self._known(some, manifest)
            report.lags += [lag for one in known for lag in one.lags]
            consolidated = {one.symbol: one.stored for one in known if one.stored}
            for interval in intervals:
                report.lags += self._silver(consolidated, interval, since)
            last = [stored.last_session for stored in consolidated.values()]
            report.newest_session = max([*last, *filter(None, [report.newest_session])], default=None)
            advance(len(some))
        if not symbols:
            report.lags += self._checkpoints(report, manifest or {})
        report.lags += [*_twins(wanted, symbols_known), *self._strays(symbols)]
        report.lags = list(dict.fromkeys(report.lags))  # an unreadable month file is met once for each part of symbols
        return report

    def symbols_lagging(self) -> list[Lag]:
        """Compare every symbol's files with its data.parquet; manifest and silver are not read."""
        parts = chunks(sorted(self.symbols_of_bronze()), SYMBOLS_AT_ONCE)
        return [lag for some in parts for one in self._known(some, None) for lag in one.lags]

    def symbols_of_bronze(self) -> list[str]:
        """Return the symbols that have a folder in bronze."""
        return self.bronze.symbols_in(self.store.folders(f"{self.bronze.prefix}/"))

    def _manifest(self, report: Report) -> Manifest | None:
        """Read the manifest's rows by symbol; None, and a lag in the report, if it cannot be read."""
        found = self.store.find(MANIFEST_KEY)
        rows = catch_errors(lambda: decode_manifest(found.data).to_pylist()) if found else []
        if isinstance(rows, FiblakeError):
            report.lags.append(Lag("", Cause.UNREADABLE, str(rows)))
            return None
        return {row["symbol"]: row for row in rows}

    def _strays(self, symbols: Sequence[str]) -> list[Lag]:
        """Name the objects below these symbols' folders (none named: below bronze) that no service reads, by symbol."""
        prefixes = [self.bronze.symbol_prefix(symbol) for symbol in symbols] or self.bronze.roots()
        strays: dict[str, list[str]] = {}
        for info in (info for prefix in prefixes for info in self.store.listed(prefix)):
            if remedy := self.bronze.stray(info.key):
                strays.setdefault(self.bronze.symbol_of(info.key), []).append(f"{info.key!r}: {remedy}")
        return [Lag(symbol, Cause.STRAY, _first_of(remedies, "; ")) for symbol, remedies in strays.items()]

    def _known(self, symbols: Sequence[str], manifest: Manifest | None) -> list[_Known]:
        with ThreadPoolExecutor(min(CONCURRENCY, len(symbols))) as pool:
            return list(pool.map(lambda symbol: self._read(symbol, manifest), symbols))

    def _read(self, symbol: str, manifest: Manifest | None) -> _Known:
        outcome = catch_errors(self._compared, symbol, manifest)
        if isinstance(outcome, UpstreamError):
            raise outcome
        if isinstance(outcome, FiblakeError):
            detail = f"{self.bronze.data_key(symbol)}: {outcome}; {RESTORE}"
            return _Known(symbol, None, [Lag(symbol, Cause.UNREADABLE, detail)])
        return outcome

    def _compared(self, symbol: str, manifest: Manifest | None) -> _Known:
        """Compare a symbol's files with its data.parquet, and that with its manifest's row.

        data.parquet is read before the listing: what is merged in between looks unmerged, and is enqueued in vain.
        """
        found = self.store.find(self.bronze.data_key(symbol))
        listing = [i for i in self.store.listed(self.bronze.symbol_prefix(symbol)) if self.bronze.is_source(i.key)]
        stored = Consolidated.decode(found.data, symbol, found.last_modified) if found else None
        log = stored.log if stored else {}
        entry = (manifest or {}).get(symbol)
        unmerged = [info for info in listing if not is_merged(log, info.key, info.etag, info.last_modified)]
        mergeable, lags = self._looked_into(symbol, unmerged, are_first=stored is None)
        if stored is None:
            if mergeable:
                lags.append(Lag(symbol, Cause.NEVER_CONSOLIDATED, f"{len(listing)} files"))
            if entry and not listing:
                lags.append(Lag(symbol, Cause.UNREADABLE, "the manifest has it, and bronze has nothing of it"))
            return _Known(symbol, None, lags)
        if mergeable:
            lags.append(self._unmerged(symbol, mergeable))
        if stored.adopted:
            lags.append(Lag(symbol, Cause.ADOPTED, f"{stored.bars.num_rows} bars"))
        lags += self._reference_lag(symbol, stored)
        lags += _manifest_lag(symbol, stored, entry) if manifest is not None else []
        return _Known(symbol, stored if stored.bars.num_rows else None, lags)

    def _looked_into(
        self, symbol: str, unmerged: Sequence[ObjectInfo], *, are_first: bool
    ) -> tuple[list[str], list[Lag]]:
        """Return the keys of the files that a worker would merge, and the lags of those that it would refuse.

        To ask for such a one each day would make a dead letter each day. Of the first files of a symbol those without a
        bar that can be merged are refused too: they make no data.parquet whose log would name them. If all that are
        looked into are such, the others are not asked for either, but named: they are looked into when the former are
        mended or gone.
        """
        newest = sorted(unmerged, key=lambda info: info.last_modified, reverse=True)[:FILES_LOOKED_INTO]
        objects = self.store.get_many([info.key for info in newest])
        outcomes = {found.key: catch_errors(self._bars_of, found) for found in objects if found}
        faults = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, PermanentError)}
        if are_first:
            read = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, SourceBars)}
            faults |= {key: _without_bars(bars) for key, bars in read.items() if not bars.bars.num_rows}
        lags = [Lag(symbol, Cause.UNMERGEABLE, f"{key}: {fault}") for key, fault in sorted(faults.items())]
        if len(faults) < len(newest) or len(newest) == len(unmerged):
            return [info.key for info in unmerged if info.key not in faults], lags
        others = f"{len(unmerged) - len(newest)} older files are not looked into before these are mended or removed"
        return [], [*lags, Lag(symbol, Cause.UNMERGEABLE, others)]

    def _bars_of(self, found: StoredObject) -> SourceBars:
        source = self.bronze.parse_source(found.key)
        return bars_of_source(found.data, source, found.last_modified, self.grid.calendar, self.today)

    def _unmerged(self, symbol: str, keys: Sequence[str]) -> Lag:
        names = [key.rsplit("/", 1)[-1] for key in keys]
        first = min(self.bronze.parse_source(key).first for key in keys)
        return Lag(symbol, Cause.UNMERGED, _first_of(names, ", "), first)

    def _reference_lag(self, symbol: str, stored: Consolidated) -> list[Lag]:
        keys = (splits_key(symbol), identities_key(symbol))
        files = self.store.get_many(keys)
        splits = catch_errors(lambda: read_splits(files[0].data, symbol) if files[0] else ())
        identities = catch_errors(lambda: read_identities(files[1].data, symbol) if files[1] else ())
        if isinstance(splits, FiblakeError) or isinstance(identities, FiblakeError):
            outcomes = zip(keys, (splits, identities), strict=True)
            faults = [f"{key}: {outcome}" for key, outcome in outcomes if isinstance(outcome, FiblakeError)]
            return [Lag(symbol, Cause.UNREADABLE, fault) for fault in faults]
        now = reference_of(splits, identities)
        if now == stored.reference:
            return []
        return [Lag(symbol, Cause.REFERENCE, f"{len(now.splits)} splits, {len(now.handovers)} handovers")]

    def _silver(self, consolidated: Mapping[str, Consolidated], interval: int, since: date | None) -> Iterator[Lag]:
        """Compare these symbols' rows of one interval, from the first bucket that is resampled or touches `since`."""
        if not consolidated:
            return
        first = self._first_bucket(interval, since)
        tables = self._tables(interval, first, list(consolidated))
        if isinstance(tables, Lag):
            yield tables
            return
        for symbol, stored in consolidated.items():
            rows = tables.get(symbol, SILVER.empty_table())
            newest = pc.max(rows["version"]).as_py()
            if newest and newest > stored.last_updated:
                yield from self._restored(symbol, newest, interval)
                continue
            day = catch_errors(first_difference, stored, rows, interval, first, self.grid)
            if isinstance(day, FiblakeError):
                yield Lag(symbol, Cause.UNREADABLE, str(day), interval=interval)
            elif day:
                # A wrong row of this very version gives way to a newer version only.
                version = pc.max(rows.filter(pc.equal(rows["ts"], day))["version"]).as_py()
                floor = version if version == stored.last_updated else None
                begin = self._lags_since(stored, day, interval, first)
                yield Lag(symbol, Cause.SILVER, f"from bucket {day} on", begin, interval, stored.last_session, floor)

    def _lags_since(self, stored: Consolidated, day: date, interval: int, first: int) -> date:
        """Return from which session on silver is to be made good, if `day` is the first wrong bucket from `first` on.

        If that is the first bucket with a bar that was compared, nobody knows whether those before it are right.
        """
        calendar = self.grid.calendar
        sessions = stored.bars["timestamp"].to_pylist()
        compared = next((s for s in sessions if calendar.ordinal(s) >= first), stored.last_session)
        ordinals = (calendar.ordinal_on_or_after(bucket) for bucket in (day, compared))
        at_the_edge = len({ordinal // interval for ordinal in ordinals}) == 1
        return stored.first_session if at_the_edge else day

    def _restored(self, symbol: str, version: datetime, interval: int) -> Iterator[Lag]:
        """Read data.parquet again, which is older than silver: it was put back, unless it is a newer one by now."""
        found = self.store.find(self.bronze.data_key(symbol))
        stored = catch_errors(Consolidated.decode, found.data, symbol, found.last_modified) if found else None
        if isinstance(stored, FiblakeError):
            yield Lag(symbol, Cause.UNREADABLE, f"{self.bronze.data_key(symbol)}: {stored}; {RESTORE}")
        elif stored and stored.last_updated < version:
            yield Lag(symbol, Cause.RESTORED, f"silver is of {version}", interval=interval, version_floor=version)

    def _first_bucket(self, interval: int, since: date | None) -> int:
        starts = [day for day in (since, self.window_start) if day]
        if not starts:
            return 0
        ordinal = self.grid.calendar.ordinal_on_or_after(max(starts))
        return ordinal - ordinal % interval

    def _tables(self, interval: int, first: int, symbols: Sequence[str]) -> dict[str, pa.Table] | Lag:
        """Read the rows of some symbols, from bucket `first` on, and return them by symbol, sorted by `ts`.

        If a month file cannot be read, return the lag that names it: every symbol would lag by what is in it.
        """
        day = self.grid.calendar.session(first)
        months = {
            info.key: month
            for info in self.store.listed(silver_prefix(interval))
            if (month := parse_silver_key(interval, info.key)) and month >= Month.of(day)
        }
        wanted = pa.array(symbols, pa.string())
        parts = [SILVER.empty_table()]
        for keys in chunks(months, CONCURRENCY):
            for found in filter(None, self.store.get_many(keys)):
                rows = catch_errors(decode_silver, found.data, found.key)
                if isinstance(rows, FiblakeError):
                    detail = f"{rows}; until then this interval is not compared"
                    return Lag("", Cause.UNREADABLE, detail, interval=interval)
                kept = pc.and_(pc.is_in(rows["symbol"], value_set=wanted), pc.greater_equal(rows["ts"], day))
                parts.append(rows.filter(kept))
        return _by_symbol(pa.concat_tables(parts).sort_by([("symbol", "ascending"), ("ts", "ascending")]))

    def _checkpoints(self, report: Report, manifest: Manifest) -> list[Lag]:
        """Find the checkpoints that are behind silver that is right: the run that wrote it died before it said so."""
        newest = max(manifest, key=lambda symbol: manifest[symbol]["last_consolidated_date"], default=None)
        if newest is None:
            return []
        last = manifest[newest]["last_consolidated_date"]
        late = {lag.interval for lag in report.lags if lag.symbol == newest and lag.cause is Cause.SILVER}
        lags = []
        keys = [checkpoint_key(interval) for interval in INTERVALS]
        for interval, found in zip(INTERVALS, self.store.get_many(keys), strict=True):
            at = catch_errors(_processed, found) if found else ""
            if isinstance(at, FiblakeError):
                lags.append(Lag("", Cause.UNREADABLE, str(at), interval=interval))
            elif at < last.isoformat() and interval not in late:
                lags.append(Lag(newest, Cause.CHECKPOINT, f"it says {at or 'nothing'}", last, interval, last))
        return lags


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where work is enqueued."""

    consolidation: Queue
    complete: Topic
    jobs: JobQueue
    symbols_per_child: int

    def enqueue(self, lags: Sequence[Lag], run: str) -> Sent:
        """Enqueue what makes the lags good: requests and a job that drains them, or events for the resampler.

        Raises UpstreamError if no job can be submitted; the requests are in the queue by then, for the next job.
        """
        asked, told = requests(lags, run), completions(lags, run)
        unsent = self.consolidation.send([request.model_dump_json() for request in asked])
        untold = self.complete.publish(told)
        sent = len(asked) - len(unsent)
        job = self.jobs.ensure(run, ceil(sent / self.symbols_per_child)) if sent else None
        return Sent(sent, len(told) - len(untold), len(unsent) + len(untold), job)


def _without_bars(bars: SourceBars) -> ContractError:
    if not bars.broken:
        return ContractError("it holds no bars: put it again with some, or delete it")
    return ContractError(
        f"none of its {len(bars.broken)} bars can be merged ({bars.broken[0].reason}): release those that "
        "`fiblake quarantine list` shows, or put the file again"
    )


def _manifest_lag(symbol: str, stored: Consolidated, entry: Mapping[str, Any] | None) -> list[Lag]:
    if stored.adopted or not stored.bars.num_rows:
        return []
    if entry and entry["last_updated"] > stored.last_updated:
        version = entry["last_updated"]  # the manifest was read first: it cannot be ahead unless data.parquet went back
        return [Lag(symbol, Cause.RESTORED, f"the manifest has version {version}", version_floor=version)]
    is_ = (stored.last_session, stored.bars.num_rows, stored.last_updated)
    says = entry and (entry["last_consolidated_date"], entry["row_count"], entry["last_updated"])
    if says == is_:
        return []
    detail = f"it says {says[0]} and {says[1]} bars" if says else "it has no row of it"
    return [Lag(symbol, Cause.MANIFEST, f"{detail}; data.parquet has {is_[0]} and {is_[1]} bars", stored.last_session)]


def _by_symbol(rows: pa.Table) -> dict[str, pa.Table]:
    counts = pc.value_counts(rows["symbol"]).to_pylist()
    tables, start = {}, 0
    for count in counts:  # in order of appearance, which is the order of the rows
        tables[count["values"]] = rows.slice(start, count["counts"])
        start += count["counts"]
    return tables


def _processed(found: StoredObject) -> str:
    return read_checkpoint(found.data, found.key).last_processed.isoformat()


def _twins(symbols: Sequence[str], symbols_known: Collection[str]) -> list[Lag]:
    """Point out the symbols without a capital whose name in capitals is a symbol, too."""
    return [
        Lag(symbol, Cause.TWIN, f"if its bars are {symbol.upper()}'s: put them below symbol={symbol.upper()}/")
        for symbol in symbols
        if symbol == symbol.lower() != symbol.upper() and symbol.upper() in symbols_known
    ]


def _first_of(texts: Sequence[str], joint: str) -> str:
    more = f" and {len(texts) - KEYS_NAMED} more" if len(texts) > KEYS_NAMED else ""
    return f"{joint.join(texts[:KEYS_NAMED])}{more}"

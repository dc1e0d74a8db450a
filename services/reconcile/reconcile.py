"""The audit: find, symbol by symbol, the effects of lost messages between bronze and silver, and enqueue the repair.

It reads and compares everything and trusts no event. What it enqueues may safely come twice.
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

from fiblake.aggregate import SILVER, decode_silver
from fiblake.bars import Consolidated, decode_manifest
from fiblake.decoding import MAKE_ANEW, decoding, market_limit
from fiblake.errors import ContractError, FiblakeError, PermanentError, UpstreamError
from fiblake.lake import (
    INTERVALS,
    LATEST_VERSION,
    MANIFEST_KEY,
    Bronze,
    Month,
    check_known,
    check_symbol,
    checkpoint_key,
    parse_silver_key,
    silver_prefix,
)
from fiblake.source_log import is_merged
from fiblake.wording import pluralize
from services.reconcile.lag import Cause, Lag, completions, requests
from services.reconcile.silver import Grid, first_difference
from shared.batching import chunks
from shared.checkpoints import read_checkpoint
from shared.jobs import JobQueue
from shared.objects import CONCURRENCY, ObjectInfo, ObjectStore, StoredObject
from shared.outcomes import catch_errors
from shared.queues import Queue, Topic
from shared.reference_files import read_reference
from shared.source_files import SourceBars, bars_of_source

SYMBOLS_AT_ONCE: Final = 500
"""How many symbols' bars and buckets are in memory at a time."""
KEYS_NAMED: Final = 3
FILES_LOOKED_INTO: Final = 20
"""How many unmerged files of a symbol are read: those that were put last, because the waiting ones are among them."""
RESTORE: Final = "put an earlier version of it back, or delete it: the source files that are there are merged again"
Advance = Callable[[int], None]
Manifest = Mapping[str, Mapping[str, Any]]
"""The manifest's rows by symbol."""


def read_manifest(data: bytes) -> dict[str, Mapping[str, Any]]:
    """Return the manifest's rows by symbol; raise ContractError if it cannot be read, or has a row of no symbol."""
    rows = {row["symbol"]: row for row in decode_manifest(data).to_pylist()}
    with decoding(f"{MANIFEST_KEY} has a row of another program", MAKE_ANEW):
        return {check_symbol(symbol): row for symbol, row in rows.items()}


@dataclass(slots=True)
class Report:
    """The result of an audit."""

    symbols: int = 0
    lags: list[Lag] = field(default_factory=list)
    newest_session: date | None = None
    """Last session that any symbol's data.parquet holds."""

    def facts(self, sent: "Sent | None", most: int) -> dict[str, Any]:
        """Return the audit as values for JSON: counts by cause, at most `most` lags, and the enqueued repairs."""
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
    """The requests and events that were sent as repairs."""

    requests: int
    completions: int
    unsent: int
    job: str | None


@dataclass(frozen=True, slots=True)
class _Comparison:
    symbol: str
    stored: Consolidated | None
    lags: Sequence[Lag]


@dataclass(frozen=True, slots=True)
class Reconciler:
    """The clients and settings of an audit."""

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
        """Compare bronze, manifest, silver and checkpoints of these symbols (none named: of all).

        Buckets that end before `since` are not compared, nor are intervals other than `intervals`. Raises UpstreamError
        if S3 fails, and NotFoundError if one of `symbols` is unknown.
        """
        report = Report()
        manifest = self._read_manifest(report)
        symbols_known = {*self.symbols_of_bronze(), *(manifest or ())}
        check_known(symbols, symbols_known)
        audited = sorted(symbols or symbols_known)
        files, strays = self._list(symbols)
        report.symbols = len(audited)
        for some in chunks(audited, SYMBOLS_AT_ONCE):
            comparisons = self._compare_all(some, files, manifest)
            report.lags += [lag for comparison in comparisons for lag in comparison.lags]
            consolidated = {comparison.symbol: comparison.stored for comparison in comparisons if comparison.stored}
            for interval in intervals:
                report.lags += self._compare_silver(consolidated, interval, since)
            last = [stored.last_session for stored in consolidated.values()]
            report.newest_session = max([*last, *filter(None, [report.newest_session])], default=None)
            advance(len(some))
        if not symbols:
            report.lags += self._check_checkpoints(report, manifest or {})
        report.lags += [*_find_twins(audited, symbols_known), *strays]
        report.lags = list(
            dict.fromkeys(report.lags)
        )  # an unreadable month file is found once for each part of symbols
        return report

    def symbols_lagging(self) -> list[Lag]:
        """Compare every symbol's files with its data.parquet; manifest and silver are not read."""
        files, _ = self._list(())
        parts = chunks(sorted(self.symbols_of_bronze()), SYMBOLS_AT_ONCE)
        return [lag for part in parts for comparison in self._compare_all(part, files, None) for lag in comparison.lags]

    def symbols_of_bronze(self) -> list[str]:
        """Return the symbols that have a folder in bronze."""
        return self.bronze.symbols_in(self.store.folders(f"{self.bronze.prefix}/"))

    def _read_manifest(self, report: Report) -> Manifest | None:
        """Read the manifest's rows by symbol; None, and a lag in the report, if it cannot be read."""
        stored = self.store.find(MANIFEST_KEY)
        rows = catch_errors(lambda: read_manifest(stored.data)) if stored else {}
        if isinstance(rows, FiblakeError):
            report.lags.append(Lag("", Cause.UNREADABLE, str(rows)))
            return None
        return rows

    def _list(self, symbols: Sequence[str]) -> tuple[Mapping[str, Sequence[ObjectInfo]], list[Lag]]:
        """List these symbols' folders (none named: all of bronze, 1,000 keys a request).

        Returns the source files by symbol, and the lags that name objects that no service reads.
        """
        prefixes = [self.bronze.symbol_prefix(symbol) for symbol in symbols] or self.bronze.roots()
        files: dict[str, list[ObjectInfo]] = {}
        strays: dict[str, list[str]] = {}
        for info in (info for prefix in prefixes for info in self.store.list_objects(prefix)):
            if self.bronze.is_source(info.key):
                files.setdefault(self.bronze.symbol_of(info.key), []).append(info)
            elif remedy := self.bronze.remedy_for_stray(info.key):
                strays.setdefault(self.bronze.symbol_of(info.key), []).append(f"{info.key!r}: {remedy}")
        return files, [Lag(symbol, Cause.STRAY, _first_of(remedies, "; ")) for symbol, remedies in strays.items()]

    def _compare_all(
        self, symbols: Sequence[str], files: Mapping[str, Sequence[ObjectInfo]], manifest: Manifest | None
    ) -> list[_Comparison]:
        with ThreadPoolExecutor(min(CONCURRENCY, len(symbols))) as pool:
            return list(pool.map(lambda symbol: self._read(symbol, files.get(symbol, ()), manifest), symbols))

    def _read(self, symbol: str, files: Sequence[ObjectInfo], manifest: Manifest | None) -> _Comparison:
        outcome = catch_errors(self._compare, symbol, files, manifest)
        if isinstance(outcome, UpstreamError):
            raise outcome
        if isinstance(outcome, FiblakeError):
            detail = f"{self.bronze.data_key(symbol)}: {outcome}; {RESTORE}"
            return _Comparison(symbol, None, [Lag(symbol, Cause.UNREADABLE, detail)])
        return outcome

    def _compare(self, symbol: str, files: Sequence[ObjectInfo], manifest: Manifest | None) -> _Comparison:
        """Compare a symbol's source files, as listed, with its data.parquet, and that with its manifest's row.

        data.parquet is read after the listing: what was merged in between is in its log.
        """
        data = self.store.find(self.bronze.data_key(symbol))
        stored = Consolidated.decode(data.data, symbol, data.last_modified) if data else None
        log = stored.log if stored else {}
        entry = (manifest or {}).get(symbol)
        unmerged = [info for info in files if not is_merged(log, info.key, info.etag, info.last_modified)]
        mergeable, lags = self._inspect_files(symbol, unmerged, stored)
        if stored is None:
            if mergeable:
                lags.append(Lag(symbol, Cause.NEVER_CONSOLIDATED, pluralize(len(files), "file")))
            if entry and not files:
                lags.append(Lag(symbol, Cause.UNREADABLE, "the manifest has it, and bronze has nothing of it"))
            return _Comparison(symbol, None, lags)
        if mergeable:
            lags.append(self._unmerged_lag(symbol, mergeable))
        if stored.adopted:
            lags.append(Lag(symbol, Cause.ADOPTED, pluralize(stored.bars.num_rows, "bar")))
        lags += self._reference_lag(symbol, stored)
        lags += _manifest_lag(symbol, stored, entry) if manifest is not None else []
        return _Comparison(symbol, stored if stored.bars.num_rows else None, lags)

    def _inspect_files(
        self, symbol: str, unmerged: Sequence[ObjectInfo], stored: Consolidated | None
    ) -> tuple[list[str], list[Lag]]:
        """Return the keys of the files that a worker would merge, and the lags of those that it would refuse.

        A request for a refused file would make a dead letter each day. The first files of a symbol are refused too if
        they hold no bar that can be merged: they make no data.parquet whose log would name them. If all inspected files
        are refused, the others are named and not requested: they are inspected when the former are repaired or deleted.
        """
        newest = sorted(unmerged, key=lambda info: info.last_modified, reverse=True)[:FILES_LOOKED_INTO]
        objects = self.store.get_many([info.key for info in newest])
        settled = {info.key for info, file in zip(newest, objects, strict=True) if _is_settled(file, stored)}
        present = [file for file in objects if file and file.key not in settled]
        outcomes = {file.key: catch_errors(self._bars_of, file) for file in present}
        faults = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, PermanentError)}
        if stored is None:
            read = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, SourceBars)}
            faults |= {key: _no_bars_error(bars) for key, bars in read.items() if not bars.bars.num_rows}
        lags = [Lag(symbol, Cause.UNMERGEABLE, f"{key}: {fault}") for key, fault in sorted(faults.items())]
        if len(faults) < len(newest) or len(newest) == len(unmerged):
            return [info.key for info in unmerged if info.key not in faults.keys() | settled], lags
        others = f"{len(unmerged) - len(newest)} older files are not checked before these are repaired or deleted"
        return [], [*lags, Lag(symbol, Cause.UNMERGEABLE, others)]

    def _bars_of(self, file: StoredObject) -> SourceBars:
        source = self.bronze.parse_source(file.key)
        return bars_of_source(file.data, source, file.last_modified, self.grid.calendar, self.today)

    def _unmerged_lag(self, symbol: str, keys: Sequence[str]) -> Lag:
        names = [key.rsplit("/", 1)[-1] for key in keys]
        first = min(self.bronze.parse_source(key).first for key in keys)
        return Lag(symbol, Cause.UNMERGED, _first_of(names, ", "), first)

    def _reference_lag(self, symbol: str, stored: Consolidated) -> list[Lag]:
        now, faults = read_reference(self.store, symbol, stored.reference)
        lags = [Lag(symbol, Cause.UNREADABLE, f"{key}: {fault}") for key, fault in faults.items()]
        if now.of_silver != stored.reference.of_silver:
            detail = f"{pluralize(len(now.splits), 'split')}, {pluralize(len(now.handovers), 'handover')}"
            lags.append(Lag(symbol, Cause.REFERENCE, detail))
        if now.dividends != stored.reference.dividends:
            lags.append(Lag(symbol, Cause.DIVIDENDS, f"dividends of {pluralize(len(now.dividends), 'day')}"))
        return lags

    def _compare_silver(
        self, consolidated: Mapping[str, Consolidated], interval: int, since: date | None
    ) -> Iterator[Lag]:
        """Compare these symbols' rows of one interval, from the first bucket that is resampled or touches `since`."""
        if not consolidated:
            return
        first = self._first_bucket(interval, since)
        tables = self._read_tables(interval, first, list(consolidated))
        if isinstance(tables, Lag):
            yield tables
            return
        for symbol, stored in consolidated.items():
            rows = tables.get(symbol, SILVER.empty_table())
            newest = pc.max(rows["version"]).as_py()
            if newest and newest > stored.last_updated:
                yield from self._check_restored(symbol, newest, interval)
                continue
            day = catch_errors(first_difference, stored, rows, interval, first, self.grid)
            if isinstance(day, FiblakeError):
                yield Lag(symbol, Cause.UNREADABLE, str(day), interval=interval)
            elif day:
                # A wrong row of this very version is replaced only by a row of a newer version.
                version = pc.max(rows.filter(pc.equal(rows["ts"], day))["version"]).as_py()
                floor = version if version == stored.last_updated else None
                begin = self._first_lagging_session(stored, day, interval, first)
                yield Lag(symbol, Cause.SILVER, f"from bucket {day} on", begin, interval, stored.last_session, floor)

    def _first_lagging_session(self, stored: Consolidated, day: date, interval: int, first: int) -> date:
        """Return the session from which on silver must be computed, if `day` is the first wrong bucket from `first` on.

        If `day` is the first bucket that was compared, the buckets before it may be wrong, too.
        """
        calendar = self.grid.calendar
        sessions = stored.bars["timestamp"].to_pylist()
        compared = next((s for s in sessions if calendar.ordinal(s) >= first), stored.last_session)
        ordinals = (calendar.ordinal_on_or_after(bucket) for bucket in (day, compared))
        at_the_edge = len({ordinal // interval for ordinal in ordinals}) == 1
        return stored.first_session if at_the_edge else day

    def _check_restored(self, symbol: str, version: datetime, interval: int) -> Iterator[Lag]:
        """Read data.parquet again, which was older than silver: an earlier version may have been put back."""
        data = self.store.find(self.bronze.data_key(symbol))
        stored = catch_errors(lambda: Consolidated.decode(data.data, symbol, data.last_modified)) if data else None
        if isinstance(stored, FiblakeError):
            yield Lag(symbol, Cause.UNREADABLE, f"{self.bronze.data_key(symbol)}: {stored}; {RESTORE}")
        elif stored and stored.last_updated < version:
            yield _restored_lag(symbol, f"silver is of {version}", version, interval)

    def _first_bucket(self, interval: int, since: date | None) -> int:
        starts = [day for day in (since, self.window_start) if day]
        if not starts:
            return 0
        ordinal = self.grid.calendar.ordinal_on_or_after(max(starts))
        return ordinal - ordinal % interval

    def _read_tables(self, interval: int, first: int, symbols: Sequence[str]) -> dict[str, pa.Table] | Lag:
        """Read the rows of some symbols, from bucket `first` on, and return them by symbol, sorted by `ts`.

        If a month file cannot be read, return the lag that names it: otherwise every symbol would seem to lag.
        """
        day = self.grid.calendar.session(first)
        files = [
            info
            for info in self.store.list_objects(silver_prefix(interval))
            if (month := parse_silver_key(interval, info.key)) and month >= Month.of(day)
        ]
        symbols_read = pa.array(symbols, pa.string())
        parts = [SILVER.empty_table()]
        for some in chunks(files, CONCURRENCY, market_limit(), lambda info: info.size):
            for file in filter(None, self.store.get_many([info.key for info in some])):
                rows = catch_errors(_silver_rows, file)
                if isinstance(rows, FiblakeError):
                    detail = f"{rows}; until then this interval is not compared"
                    return Lag("", Cause.UNREADABLE, detail, interval=interval)
                is_compared = pc.and_(
                    pc.is_in(rows["symbol"], value_set=symbols_read), pc.greater_equal(rows["ts"], day)
                )
                parts.append(rows.filter(is_compared))
        return _by_symbol(pa.concat_tables(parts).sort_by([("symbol", "ascending"), ("ts", "ascending")]))

    def _check_checkpoints(self, report: Report, manifest: Manifest) -> list[Lag]:
        """Find the checkpoints that are behind silver: a run wrote silver and died before it wrote the checkpoint."""
        newest = max(manifest, key=lambda symbol: manifest[symbol]["last_consolidated_date"], default=None)
        if newest is None:
            return []
        last = manifest[newest]["last_consolidated_date"]
        late = {lag.interval for lag in report.lags if lag.symbol == newest and lag.cause is Cause.SILVER}
        lags = []
        keys = [checkpoint_key(interval) for interval in INTERVALS]
        for interval, file in zip(INTERVALS, self.store.get_many(keys), strict=True):
            at = catch_errors(_last_processed, file) if file else ""
            if isinstance(at, FiblakeError):
                lags.append(Lag("", Cause.UNREADABLE, str(at), interval=interval))
            elif at < last.isoformat() and interval not in late:
                lags.append(Lag(newest, Cause.CHECKPOINT, f"it says {at or 'nothing'}", last, interval, last))
        return lags


@dataclass(frozen=True, slots=True)
class Outlets:
    """The queues and the topic that repairs are sent to."""

    consolidation: Queue
    complete: Topic
    jobs: JobQueue
    symbols_per_child: int

    def enqueue(self, lags: Sequence[Lag], run: str) -> Sent:
        """Enqueue what repairs the lags: requests and a job that drains them, or events for the resampler.

        Raises UpstreamError if no job can be submitted; the requests are in the queue by then, for the next job.
        """
        requested, events = requests(lags, run), completions(lags, run)
        unsent = self.consolidation.send([request.model_dump_json() for request in requested])
        unpublished = self.complete.publish(events)
        sent = len(requested) - len(unsent)
        job = self.jobs.ensure(run, ceil(sent / self.symbols_per_child)) if sent else None
        return Sent(sent, len(events) - len(unpublished), len(unsent) + len(unpublished), job)


def _is_settled(file: StoredObject | None, stored: Consolidated | None) -> bool:
    """Return whether a file that seemed unmerged is settled: it was deleted, or its present version is merged."""
    return file is None or (stored is not None and is_merged(stored.log, file.key, file.etag, file.last_modified))


def _no_bars_error(bars: SourceBars) -> ContractError:
    if not bars.broken:
        return ContractError("it holds no bars: put it again with some, or delete it")
    return ContractError(
        f"it holds {pluralize(len(bars.broken), 'bar')}, none of which can be merged ({bars.broken[0].reason}): "
        "release those that `fiblake quarantine list` shows, or put the file again"
    )


def _manifest_lag(symbol: str, stored: Consolidated, entry: Mapping[str, Any] | None) -> list[Lag]:
    if stored.adopted or not stored.bars.num_rows:
        return []
    if entry and entry["last_updated"] > stored.last_updated:
        version = entry[
            "last_updated"
        ]  # the manifest was read first: it can be ahead only if an earlier data.parquet was put back
        return [_restored_lag(symbol, f"the manifest has version {version}", version)]
    is_ = (stored.last_session, stored.bars.num_rows, stored.last_updated)
    says = entry and (entry["last_consolidated_date"], entry["row_count"], entry["last_updated"])
    if says == is_:
        return []
    detail = f"it says {says[0]} and {pluralize(says[1], 'bar')}" if says else "it has no row of it"
    truth = f"data.parquet has {is_[0]} and {pluralize(is_[1], 'bar')}"
    return [Lag(symbol, Cause.MANIFEST, f"{detail}; {truth}", stored.last_session)]


def _restored_lag(symbol: str, detail: str, version: datetime, interval: int | None = None) -> Lag:
    """Return the lag of a data.parquet that is older than `version`; no version can follow an impossible one."""
    if version >= LATEST_VERSION:
        remedy = f"{detail}, which no version can follow: {MAKE_ANEW}"
        return Lag(symbol, Cause.UNREADABLE, remedy, interval=interval)
    return Lag(symbol, Cause.RESTORED, detail, interval=interval, version_floor=version)


def _silver_rows(file: StoredObject) -> pa.Table:
    return decode_silver(file.data, file.key)


def _by_symbol(rows: pa.Table) -> dict[str, pa.Table]:
    counts = pc.value_counts(rows["symbol"]).to_pylist()
    tables, start = {}, 0
    for count in counts:  # in order of appearance, which is the order of the rows
        tables[count["values"]] = rows.slice(start, count["counts"])
        start += count["counts"]
    return tables


def _last_processed(file: StoredObject) -> str:
    return read_checkpoint(file.data, file.key).last_processed.isoformat()


def _find_twins(symbols: Sequence[str], symbols_known: Collection[str]) -> list[Lag]:
    """Name the symbols in lower case whose name in upper case is a symbol, too."""
    return [
        Lag(symbol, Cause.TWIN, f"if its bars are {symbol.upper()}'s: put them below symbol={symbol.upper()}/")
        for symbol in symbols
        if symbol == symbol.lower() != symbol.upper() and symbol.upper() in symbols_known
    ]


def _first_of(texts: Sequence[str], joint: str) -> str:
    more = f" and {len(texts) - KEYS_NAMED} more" if len(texts) > KEYS_NAMED else ""
    return f"{joint.join(texts[:KEYS_NAMED])}{more}"

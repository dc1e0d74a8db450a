"""How one symbol's new files get into its data.parquet: read, merge, write conditionally, start over on a conflict.

Whoever compares and then writes nothing leaves no version behind that would make a slower writer lose. So each such
place needs a reason why it is safe; docs/architecture.md lists them all ("Who compares and skips").
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fiblake.adjustment import NO_REFERENCE, Reference
from fiblake.bars import Consolidated
from fiblake.calendar import TradingCalendar
from fiblake.errors import ConflictError, ContractError, FiblakeError, NotFoundError, PermanentError, TransientError
from fiblake.lake import Bronze, identities_key, splits_key
from fiblake.reference import read_identities, read_splits, reference_of
from fiblake.source_log import SourceVersion, is_merged
from services.consolidator.broken import quarantine_broken
from services.consolidator.merge import Merged, merge
from services.consolidator.tail import tail_of
from shared.cleanup import is_lot_due, oldest_session_kept
from shared.events import FILES_NAMED, ConsolidationRequest, SourceObject, Tail
from shared.objects import ObjectInfo, ObjectStore, StoredObject, backoff_delays
from shared.outcomes import catch_errors
from shared.source_files import SourceBars, bars_of_adopted, bars_of_source

ATTEMPTS: Final = 20
TICK: Final = timedelta(microseconds=1)


class ReferenceFileError(ContractError):
    """A file of splits or identities cannot be used; the reference of before is kept."""


class OnlyBrokenBarsError(PermanentError):
    """The symbol's files hold no bar that can be merged: all wait in quarantine, and no message is to blame."""


@dataclass(frozen=True, slots=True)
class Task:
    """What the requests of one symbol ask for, taken together."""

    symbol: str
    changed_from: date | None = None
    """Earliest session that is reported as changed in any case; None: all of the history is."""
    keys: frozenset[str] = frozenset()
    """Source files that are read and merged, whatever the log says."""
    lists: bool = True
    """Whether the symbol's folder is listed for more files; a listed file is merged unless it is in the log."""
    reference_changed: bool = False
    """Whether splits or identities arrived: then a version is written even if nothing changes."""
    version_floor: datetime | None = None
    """The version is to be greater than this."""
    full: bool = False
    """Whether listed files are merged also if they are in the log."""
    retention_days: int | None = None
    """Merged files of older sessions are deleted; None: nothing is deleted."""
    withdrawn: Mapping[date, datetime] = field(default_factory=dict)
    """Bars to take out: session -> instant up to which a bar of the session was ingested."""
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a source or reference file could not be taken in; it stays where it is, the others are taken in."""

    key: str
    error: FiblakeError


@dataclass(frozen=True, slots=True)
class Consolidation:
    """What became of one symbol: its data.parquet as it now stands in S3, and what is to be reported of it."""

    symbol: str
    stored: Consolidated
    etag: str
    """The version of data.parquet that `stored` is."""
    listing: Sequence[ObjectInfo]
    """The source files that were there, merged or not; none if the folder was not listed."""
    changed_from: date
    merged_files: int
    faults: Sequence[Fault] = ()
    tail: Tail | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    """A source file's version and its bars."""

    key: str
    version: SourceVersion
    content: SourceBars

    @property
    def bars(self) -> pa.Table:
        """The bars that can be merged."""
        return self.content.bars


@dataclass(frozen=True, slots=True)
class _Draft:
    """A version of data.parquet that may be written, and what it was made of."""

    before: Consolidated | None
    etag: str | None
    """The ETag of `before`."""
    after: Consolidated
    listing: Sequence[ObjectInfo]
    sources: Sequence[_Source]
    faults: Sequence[Fault]
    changed_from: date | None
    """Earliest session that `after` tells differently from `before`; None: it tells nothing else."""

    @property
    def is_new(self) -> bool:
        """Whether there is something to write."""
        return self.after is not self.before


Announce = Callable[[ConsolidationRequest], None]


def announce_nothing(_request: ConsolidationRequest) -> None:
    """Announce to nobody: for callers who start over until it is done, and report all of the history."""


@dataclass(frozen=True, slots=True)
class Consolidator:
    """What consolidating a symbol needs."""

    store: ObjectStore
    bronze: Bronze
    calendar: TradingCalendar

    def consolidate(self, task: Task, now: datetime, announce: Announce = announce_nothing) -> Consolidation:
        """Bring the symbol's data.parquet up to date with its source files.

        `announce` sends a request for the symbol: it is called before a write that changes sessions before
        `task.changed_from`, because if we die after that write, only a message makes somebody report them.
        Raises NotFoundError if the symbol has no bars at all, ConflictError if 20 attempts met another writer.
        """
        for pause in backoff_delays(ATTEMPTS):
            try:
                draft = self._read_and_merge(task, now)
                task = _announced(task, draft, announce)
                return self._store(task, draft)
            except ConflictError:
                time.sleep(pause)
        raise ConflictError(f"data.parquet of {task.symbol} was rewritten by others {ATTEMPTS} times in a row")

    def _read_and_merge(self, task: Task, now: datetime) -> _Draft:
        key = self.bronze.data_key(task.symbol)
        # Read before the source files: what a rival takes in between makes our write fail, or our look.
        stored = self.store.find(key)
        before = Consolidated.decode(stored.data, task.symbol, stored.last_modified) if stored else None
        etag = stored.etag if stored else None
        adopted = self._judge_adopted(key, before, stored, now)
        listing = self._list(task, before, now)
        sources, faults = self._read(_pending(task, before, listing), now)
        reference = before.reference if before else NO_REFERENCE
        if _needs_reference(task, before, sources):
            # After data.parquet, like the source files: of two readings the later one stands in the later version.
            reference, reference_faults = self._read_reference(task.symbol, reference)
            faults += reference_faults
        merged = _merged(task, before, adopted, sources)
        contents = {source.key: source.content for source in sources} | ({key: adopted} if adopted else {})
        quarantine_broken(self.store, contents, merged.bars, now)
        if merged.bars.num_rows == 0:
            self._check_unchanged(key, etag)
            raise _nothing_to_merge(task, faults, sum(len(content.broken) for content in contents.values()))
        after = _next_version(task, before, merged, sources, listing, reference, now)
        changed_from = merged.changed_from
        if before and reference != before.reference:
            changed_from = after.first_session
        return _Draft(before, etag, after, listing or (), sources, faults, changed_from)

    def _store(self, task: Task, draft: _Draft) -> Consolidation:
        key = self.bronze.data_key(task.symbol)
        if draft.is_new:
            etag = self.store.write_if_unchanged(key, draft.after.encode(), draft.etag)
            if draft.before is None:
                self._check_reference(task.symbol, draft.after)
        else:
            etag = self._check_unchanged(key, draft.etag)
        after = draft.after
        changed = min(day for day in (task.changed_from or after.first_session, draft.changed_from) if day)
        if _shows_a_split(after, changed) or (task.withdrawn and after.reference.splits):
            # A withdrawn bar may have been the only one to show a split.
            changed = min(changed, after.first_session)
        tail = tail_of(after, changed, self.calendar) if task.changed_from else None
        return Consolidation(task.symbol, after, etag, draft.listing, changed, len(draft.sources), draft.faults, tail)

    def _list(self, task: Task, before: Consolidated | None, now: datetime) -> list[ObjectInfo] | None:
        """List the source files, or return None if what the task names is all that need be looked at."""
        if before and not (before.adopted or task.lists or task.full):
            days = task.retention_days
            if days is None or not is_lot_due(before.log, oldest_session_kept(now.date(), days)):
                return None
        infos = self.store.listed(self.bronze.symbol_prefix(task.symbol))
        return [info for info in infos if self.bronze.is_source(info.key)]

    def _read(self, keys: Sequence[str], now: datetime) -> tuple[list[_Source], list[Fault]]:
        """Read the files that can be read, and return the faults of the others; one that is gone is no fault."""
        objects = [stored for stored in self.store.get_many(keys) if stored]
        outcomes = [(stored.key, catch_errors(self._decode, stored, now)) for stored in objects]
        faults = [Fault(key, outcome) for key, outcome in outcomes if isinstance(outcome, FiblakeError)]
        return [outcome for _, outcome in outcomes if isinstance(outcome, _Source)], faults

    def _decode(self, stored: StoredObject, now: datetime) -> _Source:
        source = self.bronze.parse_source(stored.key)
        try:
            content = bars_of_source(stored.data, source, stored.last_modified, self.calendar, now.date())
        except PermanentError as error:
            raise ContractError(f"{stored.key}: {error}") from error
        # Bars without an instant took the object's. A stamped bar of that very instant only keeps its file longer.
        stamped = not pc.any(pc.equal(content.bars["ingested_at"], stored.last_modified)).as_py()
        return _Source(stored.key, SourceVersion(stored.etag, stored.last_modified, stamped), content)

    def _read_reference(self, symbol: str, stored: Reference) -> tuple[Reference, list[Fault]]:
        """Read the symbol's splits and identities (no file: none), and return the faults of what cannot be read.

        If one of them cannot be read, both stay as `stored` in data.parquet.
        """
        keys = splits_key(symbol), identities_key(symbol)
        files = self.store.get_many(keys)
        splits = catch_errors(lambda: read_splits(files[0].data, symbol) if files[0] else ())
        identities = catch_errors(lambda: read_identities(files[1].data, symbol) if files[1] else ())
        faults = [
            Fault(key, ReferenceFileError(f"{key}: {outcome}") if isinstance(outcome, PermanentError) else outcome)
            for key, outcome in zip(keys, (splits, identities), strict=True)
            if isinstance(outcome, FiblakeError)
        ]
        if isinstance(splits, FiblakeError) or isinstance(identities, FiblakeError):
            return stored, faults
        return reference_of(splits, identities), faults

    def _check_unchanged(self, key: str, etag: str | None) -> str:
        """Raise ConflictError if data.parquet (or its absence) is not what we read; return its ETag.

        Whoever writes nothing looks: a rival that held the same message may have merged its file, and died before its
        event, and a clean-up have deleted the file before we read it.
        """
        (now,) = self.store.versions([key])
        if now != etag:
            raise ConflictError(f"{key} was written by somebody else")
        return etag or ""

    def _check_reference(self, symbol: str, created: Consolidated) -> None:
        """Raise ConflictError if splits or identities are not those that a new data.parquet carries.

        Whoever takes in splits writes a version, so that an older reading loses. Before the first bar there is nothing
        to write: whoever creates data.parquet looks again. If it dies first, its message comes again, and
        whoever takes that reads them (`_repeats`).
        """
        reference, _ = self._read_reference(symbol, created.reference)
        if reference != created.reference:
            raise ConflictError(f"splits or identities of {symbol} were put while its first bars were merged")

    def _judge_adopted(
        self, key: str, before: Consolidated | None, stored: StoredObject | None, now: datetime
    ) -> SourceBars | None:
        """Judge the bars of a data.parquet that somebody else wrote like those of a source file; None: it is ours."""
        if not (stored and before and before.adopted):
            return None
        try:
            return bars_of_adopted(before.bars, stored.last_modified, self.calendar, now.date())
        except PermanentError as error:
            raise ContractError(f"{key}: {error}") from error


def _pending(task: Task, before: Consolidated | None, listing: Sequence[ObjectInfo] | None) -> list[str]:
    """Return the keys of the files to merge: those named, and of those listed the ones that are not in the log."""
    log = before.log if before else {}
    listed = (
        info.key for info in listing or () if task.full or not is_merged(log, info.key, info.etag, info.last_modified)
    )
    return sorted({*task.keys, *listed})


def _needs_reference(task: Task, before: Consolidated | None, sources: Sequence[_Source]) -> bool:
    """Return whether splits and identities are to be read: somebody asked for it, or nobody may have read them yet."""
    if task.full or task.changed_from is None or before is None or before.adopted:
        return True
    return _repeats(task, before.log, sources)


def _repeats(task: Task, log: Mapping[str, SourceVersion], sources: Sequence[_Source]) -> bool:
    """Return whether a named file is merged already, so that this may be the message of a worker that died."""
    new = {s.key for s in sources if s.key not in log or log[s.key].etag != s.version.etag}
    return not new or not task.keys <= new


def _announced(task: Task, draft: _Draft, announce: Announce) -> Task:
    """Announce what the draft changes before the sessions that the task reports; return the task that reports both."""
    changed = draft.changed_from
    if not (draft.is_new and changed and task.changed_from and changed < task.changed_from):
        return task
    keys = [source.key for source in draft.sources]
    names = [SourceObject(name=key.rpartition("/")[2]) for key in keys] if len(keys) <= FILES_NAMED else []
    announce(
        ConsolidationRequest(
            symbol=task.symbol, changed_from=changed, files=tuple(names), correlation_id=task.correlation_id
        )
    )
    return replace(task, changed_from=changed)


def _shows_a_split(after: Consolidated, changed_from: date) -> bool:
    """Return whether the bars from `changed_from` on are the first to show a split, so that all before them change too.

    A split counts from the first bar on or after its execution date.
    """
    if not after.reference.splits:
        return False
    sessions = after.bars["timestamp"].to_numpy()
    before = int(np.searchsorted(sessions, np.datetime64(changed_from, "D")))
    last_before = sessions[before - 1].item() if before else date.min
    return any(last_before < day <= after.last_session for day, _ in after.reference.splits)


def _merged(task: Task, before: Consolidated | None, adopted: SourceBars | None, sources: Sequence[_Source]) -> Merged:
    """Merge the files; somebody's own data.parquet is an arrival like them: nobody was told of its bars yet."""
    arrivals = [source.bars for source in sources]
    withdrawn = dict(before.withdrawn) if before else {}
    for session, until in task.withdrawn.items():
        withdrawn[session] = max(until, withdrawn.get(session, until))
    if adopted:
        return merge(None, [adopted.bars, *arrivals], withdrawn)
    return merge(before.bars if before else None, arrivals, withdrawn)


def _next_version(  # noqa: PLR0917
    task: Task, before: Consolidated | None, merged: Merged, sources: Sequence[_Source],
    listing: Sequence[ObjectInfo] | None, reference: Reference, now: datetime,
) -> Consolidated:  # fmt: skip
    """Return the version to write, or `before` itself if there is nothing to write."""
    logged = before.log if before else {}
    if listing is not None:
        existing = {info.key for info in listing}
        logged = {key: version for key, version in logged.items() if key in existing}
    log = logged | {source.key: source.version for source in sources}
    floor = task.version_floor
    if (
        before
        and not before.adopted
        and not merged.changed_from
        and merged.withdrawn == before.withdrawn
        and log.items() <= before.log.items()
        and reference == before.reference
        and not task.reference_changed
        and (floor is None or before.last_updated > floor)
    ):
        return before
    older = [at for at in (before and before.last_updated, floor) if at]
    version = max([now, *(at + TICK for at in older)])
    return Consolidated(merged.bars, log, version, reference, withdrawn=merged.withdrawn)


def _nothing_to_merge(task: Task, faults: Sequence[Fault], broken: int) -> FiblakeError:
    if task.changed_from:  # splits and identities are no business of a message that names a session
        faults = [fault for fault in faults if not isinstance(fault.error, ReferenceFileError)]
    errors = [fault.error for fault in faults]
    transient = [error for error in errors if isinstance(error, TransientError)]
    if transient:
        return transient[0]
    if errors:
        kind = ReferenceFileError if all(isinstance(error, ReferenceFileError) for error in errors) else ContractError
        return kind(f"{task.symbol} has no file that can be merged: {'; '.join(map(str, errors))}")
    if broken:
        rest = f"{broken} broken ones, which wait in quarantine: see `fiblake quarantine list`"
        return OnlyBrokenBarsError(f"{task.symbol} has no bars but {rest}")
    return NotFoundError(f"{task.symbol} has no bars: no data.parquet, no date= or range= file with rows")

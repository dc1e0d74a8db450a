"""Consolidate one symbol: read its new files, merge, write data.parquet conditionally, start over on a conflict.

The work is a generator that yields its requests to S3 and SQS (`interleaving.py`).

A worker that finds nothing to change writes no version, so a slower worker with older data would not lose against it.
Each place that skips a write needs a reason why that is safe: docs/architecture.md lists them ("Who compares and
skips").
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Final

import numpy as np
import pyarrow as pa

from fiblake.adjustment import NO_REFERENCE, PayoutDispute, Reference
from fiblake.bars import Consolidated
from fiblake.calendar import TradingCalendar
from fiblake.errors import ConflictError, ContractError, FiblakeError, NotFoundError, PermanentError, TransientError
from fiblake.lake import LATEST_VERSION, Bronze, revisions_key
from fiblake.revisions import NO_REVISIONS, add_revisions, revise
from fiblake.source_log import SourceVersion, is_merged
from services.consolidator.broken import quarantine_broken
from services.consolidator.interleaving import Steps, run_alone
from services.consolidator.merge import Merged, merge
from services.consolidator.tail import tail_of
from shared.cleanup import is_lot_due, oldest_session_kept
from shared.events import FILES_NAMED, ConsolidationRequest, SourceObject, Tail
from shared.objects import ObjectInfo, ObjectStore, StoredObject, backoff_delays
from shared.outcomes import catch_errors
from shared.reference_files import read_reference
from shared.source_files import SourceBars, bars_of_adopted, bars_of_source

ATTEMPTS: Final = 20
TICK: Final = timedelta(microseconds=1)


NO_SESSION_CHANGED: Final = date.max
"""As `changed_from`: no session changes. It is after every session, so the earliest of several still counts."""


class ReferenceFileError(ContractError):
    """A file of splits, identities or dividends cannot be used; data.parquet keeps its earlier content of them."""


class OnlyBrokenBarsError(PermanentError):
    """No bar of the symbol's files can be merged. All of them are in quarantine, and the messages succeed."""


@dataclass(frozen=True, slots=True)
class Task:
    """The combined requests of one symbol."""

    symbol: str
    changed_from: date | None = None
    """The event reports at least the sessions from this one on as changed; None: all of the history.

    NO_SESSION_CHANGED: there is no event, unless something besides the dividends turns out to be new.
    """
    keys: frozenset[str] = frozenset()
    """Source files that are read and merged, whatever the log says."""
    lists: bool = True
    """Whether the symbol's folder is listed for more files; a listed file is merged unless it is in the log."""
    reference_changed: bool = False
    """Whether splits, identities or dividends arrived. A version is then written even if nothing changes."""
    version_floor: datetime | None = None
    """The new version must be greater than this."""
    full: bool = False
    """Whether listed files are merged even if they are in the log."""
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
    """The result of one symbol: its present data.parquet in S3, and the change to report."""

    symbol: str
    stored: Consolidated
    etag: str
    """The version of data.parquet that `stored` is."""
    listing: Sequence[ObjectInfo]
    """The existing source files, merged or not; empty if the folder was not listed."""
    changed_from: date
    """Earliest session to report as changed; NO_SESSION_CHANGED: silver is not affected, and nothing is reported."""
    merged_files: int
    faults: Sequence[Fault] = ()
    tail: Tail | None = None
    disputes: Sequence[PayoutDispute] = ()
    """New dividends of this version whose vendor factor contradicts cash and close."""


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
    """A version of data.parquet that may be written, and its inputs."""

    before: Consolidated | None
    etag: str | None
    """The ETag of `before`."""
    after: Consolidated
    listing: Sequence[ObjectInfo]
    sources: Sequence[_Source]
    faults: Sequence[Fault]
    changed_from: date | None
    """Earliest session in which `after` differs from `before`; None: they are equal."""
    revisions: pa.Table
    """Statements of `before` that `after` does not have (schema REVISIONS)."""

    @property
    def is_new(self) -> bool:
        """Whether there is something to write."""
        return self.after is not self.before


Announce = Callable[[ConsolidationRequest], None]


def announce_nothing(_request: ConsolidationRequest) -> None:
    """Announce nothing: for callers that repeat the work until it succeeds, and report all of the history."""


@dataclass(frozen=True, slots=True)
class Consolidator:
    """The clients and settings of a consolidation."""

    store: ObjectStore
    bronze: Bronze
    calendar: TradingCalendar

    def consolidate(self, task: Task, now: datetime, announce: Announce = announce_nothing) -> Consolidation:
        """Bring the symbol's data.parquet up to date with its source files.

        `announce` sends a request for the symbol. It is called before a write that changes sessions earlier than
        `task.changed_from`: if this process dies after the write, the request makes another worker report those
        sessions. Raises NotFoundError if the symbol has no bars, ConflictError if another writer came first 20 times in
        a row.
        """
        return run_alone(self.steps(task, now, announce))

    def steps(self, task: Task, now: datetime, announce: Announce) -> Steps[Consolidation]:
        """Do the same as `consolidate` (errors, too), and yield each request instead of waiting for it."""
        for pause in backoff_delays(ATTEMPTS):
            try:
                draft = yield from self._read_and_merge(task, now)
                if earlier := _earlier_change(task, draft):
                    yield partial(announce, earlier)
                    task = replace(task, changed_from=earlier.changed_from)
                return (yield from self._store(task, draft))
            except ConflictError:
                yield partial(time.sleep, pause)
        raise ConflictError(f"data.parquet of {task.symbol} was rewritten by others {ATTEMPTS} times in a row")

    def _read_and_merge(self, task: Task, now: datetime) -> Steps[_Draft]:
        key = self.bronze.data_key(task.symbol)
        stored, objects = yield partial(self._read, key, sorted(task.keys))
        before = Consolidated.decode(stored.data, task.symbol, stored.last_modified) if stored else None
        etag = stored.etag if stored else None
        adopted = self._judge_adopted(key, before, stored, now)
        listing = (yield partial(self._list, task.symbol)) if self._must_list(task, before, now) else None
        if others := _keys_to_merge(task, before, listing):
            objects += yield partial(self.store.get_many, others)
        sources, faults = self._decode_all(objects, now)
        reference = before.reference if before else NO_REFERENCE
        if _needs_reference(task, before, sources):
            # Read after data.parquet, like the source files: the later version then holds the later reading.
            reference, reference_faults = yield partial(self._read_reference, task.symbol, reference)
            faults += reference_faults
        merged = _merge_sources(task, before, adopted, sources)
        contents = {source.key: source.content for source in sources} | ({key: adopted} if adopted else {})
        if any(content.broken or content.rivals for content in contents.values()):
            yield partial(quarantine_broken, self.store, contents, merged.bars, now)
        if merged.bars.num_rows == 0:
            yield partial(self._check_unchanged, key, etag)
            raise _nothing_to_merge_error(task, faults, sum(len(content.broken) for content in contents.values()))
        after = _next_version(task, before, merged, sources, listing, reference, now)
        changed_from = merged.changed_from
        if before and reference.of_silver != before.reference.of_silver:
            changed_from = after.first_session
        revisions = NO_REVISIONS
        if after is not before:
            floor = task.version_floor
            restored = before is not None and floor is not None and before.last_updated <= floor
            after, revisions = revise(before, after, restored=restored, extends=merged.extends_base)
        return _Draft(before, etag, after, listing or (), sources, faults, changed_from, revisions)

    def _store(self, task: Task, draft: _Draft) -> Steps[Consolidation]:
        key = self.bronze.data_key(task.symbol)
        if draft.is_new:
            # Before data.parquet, which drops these statements: after a crash in between, they are in both.
            if draft.revisions.num_rows:
                yield partial(
                    self.store.update, revisions_key(task.symbol), add_revisions(draft.revisions, task.symbol)
                )
            etag = yield partial(self.store.write_if_unchanged, key, draft.after.encode(), draft.etag)
            if draft.before is None:
                yield partial(self._check_reference, task.symbol, draft.after)
        else:
            etag = yield partial(self._check_unchanged, key, draft.etag)
        after = draft.after
        changed = min(day for day in (task.changed_from or after.first_session, draft.changed_from) if day)
        if _reveals_split(after, changed) or (task.withdrawn and after.reference.splits):
            # The withdrawn bar may have been the first one on or after a split.
            changed = min(changed, after.first_session)
        has_tail = task.changed_from and changed != NO_SESSION_CHANGED
        tail = tail_of(after, changed, self.calendar) if has_tail else None
        return Consolidation(
            task.symbol, after, etag, draft.listing, changed, len(draft.sources), draft.faults, tail, _disputes(draft)
        )

    def _read(self, key: str, named: Sequence[str]) -> tuple[StoredObject | None, list[StoredObject | None]]:
        """Read data.parquet, then the files that the task names.

        In this order: if another worker merges files in between, our conditional write (or our check) fails.
        """
        return self.store.find(key), self.store.get_many(named)

    def _must_list(self, task: Task, before: Consolidated | None, now: datetime) -> bool:
        """Return whether the source files must be listed, because not only those that the task names may be read."""
        if before is None or before.adopted or task.lists or task.full:
            return True
        days = task.retention_days
        return days is not None and is_lot_due(before.log, oldest_session_kept(now.date(), days))

    def _list(self, symbol: str) -> list[ObjectInfo]:
        """List the symbol's source files."""
        infos = self.store.list_objects(self.bronze.symbol_prefix(symbol))
        return [info for info in infos if self.bronze.is_source(info.key)]

    def _decode_all(self, objects: Sequence[StoredObject | None], now: datetime) -> tuple[list[_Source], list[Fault]]:
        """Return the bars of the files, and the faults of the others; a file that no longer exists is no fault."""
        outcomes = [(stored.key, catch_errors(self._decode, stored, now)) for stored in objects if stored]
        faults = [Fault(key, outcome) for key, outcome in outcomes if isinstance(outcome, FiblakeError)]
        return [outcome for _, outcome in outcomes if isinstance(outcome, _Source)], faults

    def _decode(self, stored: StoredObject, now: datetime) -> _Source:
        source = self.bronze.parse_source(stored.key)
        try:
            content = bars_of_source(stored.data, source, stored.last_modified, self.calendar, now.date())
        except PermanentError as error:
            raise ContractError(f"{stored.key}: {error}") from error
        # Bars without `ingested_at` have the object's instant. A stamped bar of that very instant only keeps its file
        # longer.
        put_at = np.datetime64(stored.last_modified.astimezone(UTC).replace(tzinfo=None), "us")
        stamped = bool((content.bars["ingested_at"].to_numpy() != put_at).all())
        return _Source(stored.key, SourceVersion(stored.etag, stored.last_modified, stamped), content)

    def _read_reference(self, symbol: str, stored: Reference) -> tuple[Reference, list[Fault]]:
        """Read the symbol's reference files; return the reference, and the faults of unreadable files."""
        reference, errors = read_reference(self.store, symbol, stored)
        faults = [
            Fault(key, ReferenceFileError(f"{key}: {error}") if isinstance(error, PermanentError) else error)
            for key, error in errors.items()
        ]
        return reference, faults

    def _check_unchanged(self, key: str, etag: str | None) -> str:
        """Return the ETag of data.parquet; raise ConflictError if it is not the version that was read.

        This check is needed when nothing is written. Another worker with the same message may have merged the file and
        died before its event, and a clean-up may have deleted the file before we read it.
        """
        (now,) = self.store.versions([key])
        if now != etag:
            raise ConflictError(f"{key} was written by another client")
        return etag or ""

    def _check_reference(self, symbol: str, created: Consolidated) -> None:
        """Raise ConflictError if the reference files differ from what a new data.parquet carries.

        A worker that reads new splits writes a version, so an older reading loses. Before the first bar there is no
        data.parquet to write, so the worker that creates it reads the splits a second time. If that worker dies first,
        its message comes again, and the next worker reads the splits (`_is_repeated`).
        """
        reference, _ = self._read_reference(symbol, created.reference)
        if reference != created.reference:
            raise ConflictError(
                f"splits, identities or dividends of {symbol} were put while its first bars were merged"
            )

    def _judge_adopted(
        self, key: str, before: Consolidated | None, stored: StoredObject | None, now: datetime
    ) -> SourceBars | None:
        """Check the bars of a data.parquet that another program wrote, as those of a source file; None: it is ours."""
        if not (stored and before and before.adopted):
            return None
        try:
            return bars_of_adopted(before.bars, stored.last_modified, self.calendar, now.date())
        except PermanentError as error:
            raise ContractError(f"{key}: {error}") from error


def _keys_to_merge(task: Task, before: Consolidated | None, listing: Sequence[ObjectInfo] | None) -> list[str]:
    """Return the keys of the files to merge besides the named ones: the listed ones that are not in the log."""
    log = before.log if before else {}
    unnamed = [info for info in listing or () if info.key not in task.keys]
    return sorted(
        info.key for info in unnamed if task.full or not is_merged(log, info.key, info.etag, info.last_modified)
    )


def _needs_reference(task: Task, before: Consolidated | None, sources: Sequence[_Source]) -> bool:
    """Return whether the reference files must be read: the task requires it, or no worker may have read them yet."""
    if task.full or task.reference_changed or task.changed_from is None or before is None or before.adopted:
        return True
    return _is_repeated(task, before.log, sources)


def _is_repeated(task: Task, log: Mapping[str, SourceVersion], sources: Sequence[_Source]) -> bool:
    """Return whether a named file is merged already, so that this may be the message of a worker that died."""
    new = {s.key for s in sources if s.key not in log or log[s.key].etag != s.version.etag}
    return not new or not task.keys <= new


def _earlier_change(task: Task, draft: _Draft) -> ConsolidationRequest | None:
    """Return the request that reports a change before the sessions that the task reports; None: there is none."""
    changed = draft.changed_from
    if not (draft.is_new and changed and task.changed_from and changed < task.changed_from):
        return None
    keys = [source.key for source in draft.sources]
    names = [SourceObject(name=key.rpartition("/")[2]) for key in keys] if len(keys) <= FILES_NAMED else []
    return ConsolidationRequest(
        symbol=task.symbol, changed_from=changed, files=tuple(names), correlation_id=task.correlation_id
    )


def _disputes(draft: _Draft) -> list[PayoutDispute]:
    """Return the disputes about the draft's dividends, if they differ from those of the version before."""
    after = draft.after
    if draft.before and draft.before.reference.dividends == after.reference.dividends:
        return []
    sessions = after.bars["timestamp"].to_numpy().astype("datetime64[D]")
    return after.reference.payout_disputes(sessions, after.bars["close"].to_numpy())


def _reveals_split(after: Consolidated, changed_from: date) -> bool:
    """Return whether the bars from `changed_from` on are the first to show a split, so that all before them change too.

    A split takes effect with the first bar on or after its execution date.
    """
    if not after.reference.splits:
        return False
    sessions = after.bars["timestamp"].to_numpy()
    before = int(np.searchsorted(sessions, np.datetime64(changed_from, "D")))
    last_before = sessions[before - 1].item() if before else date.min
    return any(last_before < day <= after.last_session for day, _ in after.reference.splits)


def _merge_sources(
    task: Task, before: Consolidated | None, adopted: SourceBars | None, sources: Sequence[_Source]
) -> Merged:
    """Merge the files. A data.parquet of another program is treated as an arrival: its bars were never published."""
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
    if version >= LATEST_VERSION:
        raise ContractError(
            f"the next version of data.parquet of {task.symbol} would be {version}, which none can follow: put an "
            "earlier version of it back; if silver or the manifest has such a version, `fiblake adopt` moves that file "
            "away"
        )
    return Consolidated(merged.bars, log, version, reference, withdrawn=merged.withdrawn)


def _nothing_to_merge_error(task: Task, faults: Sequence[Fault], broken: int) -> FiblakeError:
    if task.changed_from and not task.reference_changed:  # no request was about the reference files
        faults = [fault for fault in faults if not isinstance(fault.error, ReferenceFileError)]
    errors = [fault.error for fault in faults]
    transient = [error for error in errors if isinstance(error, TransientError)]
    if transient:
        return transient[0]
    if errors:
        kind = ReferenceFileError if all(isinstance(error, ReferenceFileError) for error in errors) else ContractError
        return kind(f"{task.symbol} has no file that can be merged: {'; '.join(map(str, errors))}")
    if broken:
        waiting = f"{broken} broken ones, which wait in quarantine: see `fiblake quarantine list`"
        return OnlyBrokenBarsError(f"{task.symbol} has no bars but {waiting}")
    return NotFoundError(f"{task.symbol} has no bars: no data.parquet, no date= or range= file with rows")

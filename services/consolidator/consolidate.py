"""How one symbol's new files get into its data.parquet: list, merge, write conditionally, start over on a conflict."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa

from services.consolidator.merge import Merged, merge
from shared.adjustment import NO_REFERENCE, Reference
from shared.bars import Consolidated
from shared.calendar import TradingCalendar
from shared.errors import ConflictError, ContractError, FiblakeError, NotFoundError, PermanentError, TransientError
from shared.lake import Bronze, identities_key, splits_key
from shared.objects import ObjectInfo, ObjectStore, StoredObject, pauses
from shared.outcomes import attempt
from shared.reference import read_identities, read_splits, reference_of
from shared.source_files import bars_of_source, check_sessions

ATTEMPTS: Final = 20
TICK: Final = timedelta(microseconds=1)


class ReferenceFileError(ContractError):
    """A file of splits or identities cannot be used; the reference of before is kept."""


@dataclass(frozen=True, slots=True)
class Consolidation:
    """What became of one symbol: its data.parquet as it now stands in S3, and what is to be told of it."""

    symbol: str
    stored: Consolidated
    etag: str
    """The version of data.parquet that `stored` is."""
    listing: Sequence[ObjectInfo]
    """The source files that were there, merged or not."""
    changed_from: date
    merged_files: int
    faults: Sequence[FiblakeError]
    """Why source or reference files could not be taken in; they stay where they are, the others are."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A source file's version and its bars."""

    key: str
    etag: str
    bars: pa.Table


@dataclass(frozen=True, slots=True)
class Consolidator:
    """What consolidating a symbol needs."""

    store: ObjectStore
    bronze: Bronze
    calendar: TradingCalendar

    def consolidate(self, symbol: str, hint: date | None, now: datetime, *, full: bool = False) -> Consolidation:
        """Bring the symbol's data.parquet up to date with its source files.

        `hint` is the earliest session the caller knows to have arrived (None: it does not know, so all of the history
        is reported as changed, and splits and identities are read anew); `full` merges all source files again, also
        those in the log.
        Raises NotFoundError if the symbol has no bars at all, ConflictError if 20 attempts met another writer.
        """
        for pause in pauses(ATTEMPTS):
            try:
                return self._once(symbol, hint, now, full=full)
            except ConflictError:
                time.sleep(pause)
        raise ConflictError(f"data.parquet of {symbol} was rewritten by others {ATTEMPTS} times in a row")

    def _once(self, symbol: str, hint: date | None, now: datetime, *, full: bool) -> Consolidation:
        key = self.bronze.data_key(symbol)
        # Read before listing: what another worker logs in between is then in the listing, and is merged again at worst.
        found = self.store.find(key)
        before = Consolidated.decode(found.data, symbol, found.last_modified) if found else None
        listing = [
            info for info in self.store.listed(self.bronze.symbol_prefix(symbol)) if self.bronze.is_source(info.key)
        ]
        log = before.log if before else {}
        pending = [info for info in listing if full or log.get(info.key) != info.etag]
        files, faults = self._read(pending, hint, now)
        if before and before.adopted:
            self._check_sessions(before.bars, key)
        reference = known = before.reference if before else NO_REFERENCE
        if full or hint is None or before is None or before.adopted:
            # After data.parquet, like the listing: of two readings the later one stands in the later version.
            reference, unread = self._reference(symbol, known)
            faults += unread if full or hint is None else []
        merged = _merged(before, files)
        if merged.bars.num_rows == 0:
            raise _nothing_to_merge(symbol, faults)
        after = _with_log(before, merged, files, listing, reference, now)
        etag = found.etag if found else None
        if after is not before or etag is None:
            etag = self.store.write_if_unchanged(key, after.encode(), etag)
        changed = self._changed_from(after, merged, hint if reference == known else None)
        return Consolidation(symbol, after, etag, listing, changed, len(files), faults)

    def _read(
        self, pending: Sequence[ObjectInfo], hint: date | None, now: datetime
    ) -> tuple[list[_Read], list[FiblakeError]]:
        """Read the files that can be read, and give the faults of those that cannot and that `hint` may speak of.

        A file from before `hint` was reported with the message of its own arrival; if it stays where it is, the later
        messages of its symbol are not to blame. One that was deleted since the listing is nobody's fault.
        """
        objects = [found for found in self.store.get_many([info.key for info in pending]) if found]
        outcomes = [(found.key, attempt(lambda found=found: self._bars_of(found, now))) for found in objects]  # type: ignore[misc]
        read = [outcome for _, outcome in outcomes if isinstance(outcome, _Read)]
        faults = [(key, outcome) for key, outcome in outcomes if isinstance(outcome, FiblakeError)]
        return read, [f for key, f in faults if hint is None or self.bronze.parse_source(key).last >= hint]

    def _reference(self, symbol: str, known: Reference) -> tuple[Reference, list[FiblakeError]]:
        """Read the symbol's splits and identities (no file: none), and give the faults of what cannot be read.

        Then what is `known` stays.
        """
        keys = splits_key(symbol), identities_key(symbol)
        files = self.store.get_many(keys)
        splits = attempt(lambda: read_splits(files[0].data, symbol) if files[0] else ())
        identities = attempt(lambda: read_identities(files[1].data, symbol) if files[1] else ())
        faults = [
            ReferenceFileError(f"{key}: {outcome}") if isinstance(outcome, PermanentError) else outcome
            for key, outcome in zip(keys, (splits, identities), strict=True)
            if isinstance(outcome, FiblakeError)
        ]
        if isinstance(splits, FiblakeError) or isinstance(identities, FiblakeError):
            return known, faults
        return reference_of(splits, identities), faults

    def _bars_of(self, found: StoredObject, now: datetime) -> _Read:
        source = self.bronze.parse_source(found.key)
        try:
            bars = bars_of_source(found.data, source, found.last_modified, self.calendar, now.date())
        except PermanentError as error:
            raise ContractError(f"{found.key}: {error}") from error
        return _Read(found.key, found.etag, bars)

    def _check_sessions(self, bars: pa.Table, key: str) -> None:
        try:
            check_sessions(bars, self.calendar)
        except PermanentError as error:
            raise ContractError(f"{key}: {error}") from error

    def _changed_from(self, after: Consolidated, merged: Merged, hint: date | None) -> date:
        """Give the earliest session that readers may not know of yet.

        If nothing was new, a worker before us may have died between its write and its event; what it merged is in the
        log for as long as its source files exist, so all of the log counts as changed.
        """
        known = [after.first_session if hint is None else hint]
        if merged.changed_from:
            known.append(merged.changed_from)
        else:
            known += [self.bronze.parse_source(key).first for key in after.log]
        earliest = min(known)
        return after.first_session if _meets_a_split(after, earliest) else earliest


def _meets_a_split(after: Consolidated, changed_from: date) -> bool:
    """Tell whether the bars from `changed_from` on are the first to show a split, so that all before them change too.

    A split counts from the first bar on or after its execution date. Of the bars before `changed_from` readers know.
    """
    if not after.reference.splits:
        return False
    sessions = after.bars["timestamp"].to_numpy()
    before = int(np.searchsorted(sessions, np.datetime64(changed_from, "D")))
    told = sessions[before - 1].item() if before else date.min
    return any(told < day <= after.last_session for day, _ in after.reference.splits)


def _merged(before: Consolidated | None, files: Sequence[_Read]) -> Merged:
    """Merge the files; somebody's own data.parquet is an arrival like them: nobody was told of its bars yet."""
    arrivals = [file.bars for file in files]
    if before and before.adopted:
        return merge(None, [before.bars, *arrivals])
    return merge(before.bars if before else None, arrivals)


def _with_log(  # noqa: PLR0917
    before: Consolidated | None, merged: Merged, files: Sequence[_Read], listing: Sequence[ObjectInfo],
    reference: Reference, now: datetime,
) -> Consolidated:  # fmt: skip
    """Give the object to store: merged bars, a log of what of the listing is merged, a later `last_updated`."""
    merged_before = before.log if before else {}
    log = {info.key: merged_before[info.key] for info in listing if info.key in merged_before}
    log |= {file.key: file.etag for file in files}
    same = not merged.changed_from and log.items() <= merged_before.items()
    if before and not before.adopted and same and reference == before.reference:
        return before
    last_updated = max(now, before.last_updated + TICK) if before else now
    return Consolidated(merged.bars, log, last_updated, reference)


def _nothing_to_merge(symbol: str, faults: Sequence[FiblakeError]) -> FiblakeError:
    transient = [fault for fault in faults if isinstance(fault, TransientError)]
    if transient:
        return transient[0]
    if faults:
        kind = ReferenceFileError if all(isinstance(f, ReferenceFileError) for f in faults) else ContractError
        return kind(f"{symbol} has no file that can be merged: {'; '.join(map(str, faults))}")
    return NotFoundError(f"{symbol} has no bars: no data.parquet, no date= or range= file with rows")

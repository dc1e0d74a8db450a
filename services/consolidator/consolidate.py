"""How one symbol's new files get into its data.parquet: list, merge, write conditionally, start over on a conflict."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.consolidator.merge import Merged, in_order, merge
from shared.bars import Consolidated, read_bars
from shared.calendar import TradingCalendar
from shared.errors import ConflictError, ContractError, FiblakeError, NotFoundError
from shared.lake import Bronze, SourceFile
from shared.objects import ObjectInfo, ObjectStore, StoredObject, pauses
from shared.outcomes import attempt

ATTEMPTS: Final = 20
TICK: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Consolidation:
    """What became of one symbol: its data.parquet as it now stands in S3, and what is to be told of it."""

    symbol: str
    stored: Consolidated
    listing: Sequence[ObjectInfo]
    """The source files that were there, merged or not."""
    changed_from: date
    merged_files: int
    faults: Sequence[FiblakeError]
    """Why source files could not be merged; they stay where they are, the others are merged."""


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
        is reported as changed); `full` merges all source files again, also those in the log.
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
        files, faults = self._read([info for info in listing if full or log.get(info.key) != info.etag])
        merged = _merged(before, files)
        if merged.bars.num_rows == 0:
            raise _nothing_to_merge(symbol, faults)
        after = _with_log(before, merged, files, listing, now)
        if after is not before:
            self.store.write_if_unchanged(key, after.encode(), found.etag if found else None)
        changed = self._changed_from(after, merged, hint)
        return Consolidation(symbol, after, listing, changed, len(files), faults)

    def _read(self, pending: Sequence[ObjectInfo]) -> tuple[list[_Read], list[FiblakeError]]:
        """Read the files that can be read; one that was deleted since the listing is nobody's fault."""
        objects = [found for found in self.store.get_many([info.key for info in pending]) if found]
        outcomes = [attempt(lambda found=found: self._bars_of(found)) for found in objects]  # type: ignore[misc]
        return [o for o in outcomes if isinstance(o, _Read)], [o for o in outcomes if isinstance(o, FiblakeError)]

    def _bars_of(self, found: StoredObject) -> _Read:
        source = self.bronze.parse_source(found.key)
        try:
            bars = read_bars(found.data, source.symbol, found.last_modified)
            self._check_sessions(bars, source)
        except FiblakeError as error:
            raise type(error)(f"{found.key}: {error}") from error
        return _Read(found.key, found.etag, bars)

    def _check_sessions(self, bars: pa.Table, source: SourceFile) -> None:
        if bars.num_rows == 0:
            return
        low, high = pc.min(bars["timestamp"]).as_py(), pc.max(bars["timestamp"]).as_py()
        if low < source.first or high > source.last:
            raise ContractError(f"holds sessions {low} to {high}, which its name does not say")
        self.calendar.ordinals(np.asarray(bars["timestamp"].to_numpy(), dtype="datetime64[D]"))

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
        return min(known)


def _merged(before: Consolidated | None, files: Sequence[_Read]) -> Merged:
    """Merge the files; somebody's own data.parquet that is not in order is an arrival like them."""
    arrivals = [file.bars for file in files]
    if before and not in_order(before.bars):
        return merge(None, [before.bars, *arrivals])
    return merge(before.bars if before else None, arrivals)


def _with_log(
    before: Consolidated | None, merged: Merged, files: Sequence[_Read], listing: Sequence[ObjectInfo], now: datetime
) -> Consolidated:
    """Give the object to store: merged bars, a log of what of the listing is merged, a later `last_updated`."""
    merged_before = before.log if before else {}
    log = {info.key: merged_before[info.key] for info in listing if info.key in merged_before}
    log |= {file.key: file.etag for file in files}
    if before and not merged.changed_from and log.items() <= merged_before.items():
        return before
    last_updated = max(now, before.last_updated + TICK) if before else now
    return Consolidated(merged.bars, log, last_updated)


def _nothing_to_merge(symbol: str, faults: Sequence[FiblakeError]) -> FiblakeError:
    if faults:
        return ContractError(f"{symbol} has no file that can be merged: {'; '.join(map(str, faults))}")
    return NotFoundError(f"{symbol} has no bars: no data.parquet, no date= or range= file with rows")

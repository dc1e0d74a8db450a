"""Which symbols wait to be consolidated, at a glance, and which files were left out: without reading a bar."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from fiblake.bars import read_log
from fiblake.lake import Bronze
from fiblake.source_log import SourceVersion, is_merged
from shared.batching import chunks
from shared.objects import CONCURRENCY, ObjectInfo, ObjectStore, StoredObject
from shared.outcomes import catch_errors

if TYPE_CHECKING:
    from datetime import datetime

FOOTER_BYTES: Final = 1 << 16
"""So much of the end of a data.parquet holds its log, unless hundreds of its source files are still there."""


def waiting(bronze: Bronze, listing: Iterable[ObjectInfo]) -> list[str]:
    """Return the symbols with a source file that is younger than their data.parquet, or that have none.

    `listing` is all of bronze. A glance: of a file put within the moments of a consolidation it may be wrong, and it
    knows nothing of silver. `reconcile` reads, and is exact.
    """
    consolidated: dict[str, datetime] = {}
    newest: dict[str, datetime] = {}
    for info in listing:
        if bronze.is_consolidated(info.key):
            consolidated[bronze.symbol_of(info.key)] = info.last_modified
        elif bronze.is_source(info.key):
            symbol = bronze.symbol_of(info.key)
            newest[symbol] = max(info.last_modified, newest.get(symbol, info.last_modified))
    return sorted(symbol for symbol, at in newest.items() if symbol not in consolidated or at > consolidated[symbol])


def left_out(store: ObjectStore, bronze: Bronze, listing: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """Return the source files that are older than their symbol's data.parquet, whose log does not have them.

    A consolidation has refused them, or their own messages have yet to be worked on. `listing` is all of bronze; of
    each data.parquet only the log is read. One that cannot be read is left to `reconcile`.
    """
    consolidated = {bronze.symbol_of(i.key): i for i in listing if bronze.is_consolidated(i.key)}
    older: dict[str, list[ObjectInfo]] = {}
    for info in listing:
        whole = consolidated.get(bronze.symbol_of(info.key))
        if whole and info.last_modified <= whole.last_modified and bronze.is_source(info.key):
            older.setdefault(whole.key, []).append(info)
    candidates: list[ObjectInfo] = []
    for keys in chunks(older, CONCURRENCY):
        for key, tail in zip(keys, store.tails(keys, FOOTER_BYTES), strict=True):
            log = catch_errors(_log_of, store, bronze, tail) if tail else {}
            if isinstance(log, dict):
                candidates += [i for i in older[key] if not is_merged(log, i.key, i.etag, i.last_modified)]
    # What was merged and cleaned up since the listing is in no log either.
    versions = store.versions([info.key for info in candidates])
    return [info for info, etag in zip(candidates, versions, strict=True) if etag == info.etag]


def _log_of(store: ObjectStore, bronze: Bronze, tail: StoredObject) -> dict[str, SourceVersion] | None:
    symbol = bronze.symbol_of(tail.key)
    log = read_log(tail.data, symbol)
    if log is None and (found := store.find(tail.key)):
        return read_log(found.data, symbol)
    return log

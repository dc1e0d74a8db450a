"""Find the symbols that wait to be consolidated, and the files that were left out, without reading a bar."""

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
"""The end of a data.parquet that is read: it holds the log, unless hundreds of source files are not deleted yet."""


def find_waiting(bronze: Bronze, listing: Iterable[ObjectInfo]) -> list[str]:
    """Return the symbols that have no data.parquet, or a source file that is younger than it.

    `listing` is all of bronze. The answer is quick and not exact: it may be wrong for a file that was put during a
    consolidation, and it does not look at silver. The audit (`fiblake reconcile`) is exact.
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


def find_left_out(store: ObjectStore, bronze: Bronze, listing: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """Return the source files that are older than their symbol's data.parquet and are not in its log.

    A consolidation has refused them, or their messages have not been processed yet. `listing` is all of bronze; only
    the log of each data.parquet is read. A log that cannot be read is ignored: the audit names it.
    """
    consolidated = {bronze.symbol_of(i.key): i for i in listing if bronze.is_consolidated(i.key)}
    older: dict[str, list[ObjectInfo]] = {}
    for info in listing:
        data = consolidated.get(bronze.symbol_of(info.key))
        if data and info.last_modified <= data.last_modified and bronze.is_source(info.key):
            older.setdefault(data.key, []).append(info)
    candidates: list[ObjectInfo] = []
    for keys in chunks(older, CONCURRENCY):
        for key, tail in zip(keys, store.tails(keys, FOOTER_BYTES), strict=True):
            log = catch_errors(_log_of, store, bronze, tail) if tail else {}
            if isinstance(log, dict):
                candidates += [i for i in older[key] if not is_merged(log, i.key, i.etag, i.last_modified)]
    # A file that was merged and deleted since the listing is in no log either.
    versions = store.versions([info.key for info in candidates])
    return [info for info, etag in zip(candidates, versions, strict=True) if etag == info.etag]


def _log_of(store: ObjectStore, bronze: Bronze, tail: StoredObject) -> dict[str, SourceVersion] | None:
    symbol = bronze.symbol_of(tail.key)
    log = read_log(tail.data, symbol)
    if log is None and (stored := store.find(tail.key)):
        return read_log(stored.data, symbol)
    return log

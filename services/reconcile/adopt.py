"""Adopt a lake that another program has filled, without losing a byte.

Bars need only a consolidation: a data.parquet without a log is merged like an arrival, and published. Objects of
another format (month files, manifest, checkpoints) have keys that our own objects need. They are
copied byte for byte below `archive/adopted/`, read back, and only then deleted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow.compute as pc

from fiblake.aggregate import SILVER_CALENDAR, check_sessions, check_version, decode_silver
from fiblake.bars import OLDEST_VERSION
from fiblake.buckets import is_cut_by
from fiblake.calendar import TradingCalendar
from fiblake.decoding import TooLargeError
from fiblake.errors import ConflictError, FiblakeError
from fiblake.lake import ARCHIVE_ROOT, CLEANUP_RECORD_KEY, INTERVALS, MANIFEST_KEY, checkpoint_key, silver_prefix
from services.reconcile.lag import Cause, Lag
from services.reconcile.reconcile import Reconciler, read_manifest
from shared.checkpoints import read_checkpoint
from shared.cleanup import with_run
from shared.objects import ObjectStore, StoredObject
from shared.outcomes import catch_errors

ARCHIVE_PREFIX: Final = f"{ARCHIVE_ROOT}adopted/"
Advance = Callable[[int], None]


@dataclass(slots=True)
class Foreign:
    """The objects that another program wrote into the lake."""

    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Key and version of each object that our readers cannot read, and whose key our own object needs."""
    symbols: list[Lag] = field(default_factory=list)
    """Symbols whose data.parquet carries no log, or that lag in another way that a consolidation repairs."""


def find_foreign(reconciler: Reconciler, advance: Advance = lambda _: None) -> Foreign:
    """Find the objects of another program; change nothing."""
    store = reconciler.store
    keys = [info.key for n in INTERVALS for info in store.list_objects(silver_prefix(n))]
    keys += [MANIFEST_KEY, CLEANUP_RECORD_KEY, *(checkpoint_key(n) for n in INTERVALS)]
    result = Foreign()
    for key in keys:
        stored = store.find(key)
        if stored and isinstance(catch_errors(_read, stored, reconciler.grid.calendar), FiblakeError):
            result.unreadable.append((key, stored.etag))
        advance(1)
    result.symbols = _adopted_lags(reconciler)
    return result


def move_away(store: ObjectStore, unreadable: Sequence[tuple[str, str]], advance: Advance = lambda _: None) -> int:
    """Move objects below the archive and return how many. An object that has changed since stays where it is.

    One that is too large to be copied stays, too, and does not stop the others: its error is raised at the end.
    """
    moved = 0
    too_large: TooLargeError | None = None
    for key, etag in unreadable:
        outcome = catch_errors(store.get_version, key, etag)
        advance(1)
        if isinstance(outcome, ConflictError):
            continue
        if isinstance(outcome, FiblakeError):
            raise outcome
        if isinstance(outcome.content, TooLargeError):
            too_large = outcome.content
            continue
        _keep(store, outcome)
        moved += len(store.delete_versions([(key, etag)]))
    if too_large:
        raise too_large
    return moved


def _keep(store: ObjectStore, original: StoredObject) -> None:
    """Write a copy and read it back; raise ConflictError if the key has another object or the copy differs."""
    key = f"{ARCHIVE_PREFIX}{original.key}"
    copy = store.find(key)
    if copy is None:
        store.write_if_unchanged(key, original.data, None)
        copy = store.find(key)
    if copy is None or copy.data != original.data:
        raise ConflictError(
            f"s3://{store.bucket}/{key} is not a copy of {original.key}: move one of the two away first"
        )


def _adopted_lags(reconciler: Reconciler) -> list[Lag]:
    """Return the symbols whose data.parquet another program wrote.

    Silver and manifest are not compared: they may not be readable yet, and both follow from the consolidation.
    """
    return [lag for lag in reconciler.symbols_lagging() if lag.cause in {Cause.ADOPTED, Cause.UNREADABLE}]


def _read(stored: StoredObject, calendar: TradingCalendar) -> Any:  # noqa: ANN401 (only whether it can be read counts)
    """Read an object; raise FiblakeError for all that makes a reader or the audit name `fiblake adopt`."""
    if stored.key == MANIFEST_KEY:
        versions = [row["last_updated"] for row in read_manifest(stored.data).values()]
        return check_version(max(versions, default=OLDEST_VERSION))
    if stored.key == CLEANUP_RECORD_KEY:
        return with_run(stored.data, "probe", stored.last_modified, {})
    if stored.key.endswith(".json"):
        return read_checkpoint(stored.data, stored.key)
    rows = decode_silver(stored.data, stored.key)
    stamp = (rows.schema.metadata or {}).get(SILVER_CALENDAR, b"").decode(errors="replace")
    if stamp and not is_cut_by(stamp, calendar):
        return rows  # one of our own files: a resampler cuts it again
    check_version(pc.max(rows["version"]).as_py() or OLDEST_VERSION)
    return check_sessions(rows, calendar)

"""How a lake that somebody else's jobs have filled becomes ours, without losing a byte.

Bars need nothing but a consolidation: a data.parquet without a log is merged like an arrival, and told of. What our own
readers cannot read (month files, manifest, checkpoints of another shape) stands in the way of what is to be written
there: it is moved below `archive/adopted/`, byte for byte, read back, and only then deleted where it stood.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fiblake.bars import decode_manifest, decode_silver
from fiblake.errors import ConflictError, FiblakeError
from fiblake.lake import CLEANUP_RECORD_KEY, INTERVALS, MANIFEST_KEY, checkpoint_key, silver_prefix
from services.reconcile.lag import Cause, Lag
from services.reconcile.reconcile import Reconciler
from shared.checkpoints import read_checkpoint
from shared.cleanup import recorded
from shared.objects import ObjectStore, StoredObject
from shared.outcomes import catch_errors

ARCHIVE_PREFIX: Final = "archive/adopted/"
Advance = Callable[[int], None]


@dataclass(slots=True)
class Foreign:
    """What is somebody else's in the lake."""

    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Key and version of each object that stands where ours will, and that our readers cannot read."""
    symbols: list[Lag] = field(default_factory=list)
    """Symbols whose data.parquet carries no log, or that lag in another way that a consolidation makes good."""


def foreign(reconciler: Reconciler, advance: Advance = lambda _: None) -> Foreign:
    """See what is somebody else's; nothing is changed."""
    store = reconciler.store
    keys = [info.key for n in INTERVALS for info in store.listed(silver_prefix(n))]
    keys += [MANIFEST_KEY, CLEANUP_RECORD_KEY, *(checkpoint_key(n) for n in INTERVALS)]
    found = Foreign()
    for key in keys:
        one = store.find(key)
        if one and isinstance(catch_errors(_read, one), FiblakeError):
            found.unreadable.append((key, one.etag))
        advance(1)
    found.symbols = _adopted(reconciler)
    return found


def move_away(store: ObjectStore, unreadable: Sequence[tuple[str, str]], advance: Advance = lambda _: None) -> int:
    """Move objects below the archive, and return how many; one that is another version by now is left where it is."""
    moved = 0
    for key, etag in unreadable:
        outcome = catch_errors(store.get_version, key, etag)
        advance(1)
        if isinstance(outcome, ConflictError):
            continue
        if isinstance(outcome, FiblakeError):
            raise outcome
        _keep(store, outcome)
        moved += len(store.delete_versions([(key, etag)]))
    return moved


def _keep(store: ObjectStore, found: StoredObject) -> None:
    """Write a copy, and read it back; raise ConflictError if something else stands there or what is read differs."""
    key = f"{ARCHIVE_PREFIX}{found.key}"
    there = store.find(key)
    if there is None:
        store.write_if_unchanged(key, found.data, None)
        there = store.find(key)
    if there is None or there.data != found.data:
        raise ConflictError(f"s3://{store.bucket}/{key} is not a copy of {found.key}: move one of the two away first")


def _adopted(reconciler: Reconciler) -> list[Lag]:
    """Return the symbols whose data.parquet is somebody else's.

    Silver and manifest are not compared: they may not be readable yet, and both follow from the consolidation.
    """
    return [lag for lag in reconciler.symbols_lagging() if lag.cause in {Cause.ADOPTED, Cause.UNREADABLE}]


def _read(found: StoredObject) -> Any:  # noqa: ANN401 (only whether it can be read counts)
    if found.key == MANIFEST_KEY:
        return decode_manifest(found.data)
    if found.key == CLEANUP_RECORD_KEY:
        return recorded(found.data, "probe", found.last_modified, {})
    if found.key.endswith(".json"):
        return read_checkpoint(found.data, found.key)
    return decode_silver(found.data, found.key)

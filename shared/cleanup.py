"""Which source files may go: those that are provably merged and older than the retention; and the record of it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, Final

from shared.batching import chunks
from shared.errors import ContractError
from shared.lake import CLEANUP_RECORD_KEY, Bronze
from shared.objects import DELETES_PER_REQUEST, ObjectInfo, ObjectStore
from shared.telemetry import logger

RUNS_KEPT: Final = 1_000

Counts = dict[str, dict[str, int]]
"""Files and bytes by symbol."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What one version of a symbol's data.parquet proves to be merged of the source files that were there."""

    symbol: str
    etag: str
    log: Mapping[str, str]
    listing: Sequence[ObjectInfo]

    def deletable(self, bronze: Bronze, today: date, retention_days: int) -> list[ObjectInfo]:
        """Give the source files that may be deleted as long as data.parquet is still this version."""
        return deletable(bronze, self.listing, self.log, today, retention_days)


def deletable(
    bronze: Bronze, listing: Iterable[ObjectInfo], log: Mapping[str, str], today: date, retention_days: int
) -> list[ObjectInfo]:
    """Give the source files that may be deleted (pure).

    `log` is the log of the data.parquet that is in S3: a file is in it with the very ETag it has, or it stays. Of the
    merged ones those go whose last session is more than `retention_days` before `today`.
    """
    oldest_kept = today - timedelta(days=retention_days)
    merged = [info for info in listing if log.get(info.key) == info.etag]
    return [info for info in merged if bronze.parse_source(info.key).last < oldest_kept]


def clean_up(  # noqa: PLR0917
    store: ObjectStore, bronze: Bronze, proofs: Sequence[Proof], run: str, now: datetime, retention_days: int
) -> Counts:
    """Delete what may go of the symbols' source files, record it, and give what was deleted, by symbol.

    Each deletion holds only for the version that was merged: a file restated meanwhile stays. A symbol whose
    data.parquet is another one by now is left to whoever wrote that, or to the next run.
    """
    due = {proof.symbol: proof.deletable(bronze, now.date(), retention_days) for proof in proofs}
    asked = [proof for proof in proofs if due[proof.symbol]]
    versions = store.versions([bronze.data_key(proof.symbol) for proof in asked])
    proven = [proof.symbol for proof, etag in zip(asked, versions, strict=True) if etag == proof.etag]
    infos = {info.key: info for symbol in proven for info in due[symbol]}
    deleted: list[ObjectInfo] = []
    for batch in chunks(infos.values(), DELETES_PER_REQUEST):
        gone = store.delete_versions([(info.key, info.etag) for info in batch])
        if gone:
            logger.info("merged source files deleted", extra={"run": run, "keys": gone})
            counts = by_symbol(bronze, [infos[key] for key in gone])
            store.update(CLEANUP_RECORD_KEY, partial(recorded, run=run, now=now, counts=counts))
        deleted += [infos[key] for key in gone]
    return by_symbol(bronze, deleted)


def recorded(data: bytes | None, run: str, now: datetime, counts: Counts) -> bytes:
    """Give the record's bytes with these deletions added to run `run` (the newest 1,000 runs are kept)."""
    try:
        runs: list[dict[str, Any]] = json.loads(data)["runs"] if data else []
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{CLEANUP_RECORD_KEY} cannot be read: {error}; move it away and run again") from error
    entry = next((entry for entry in runs if entry["run"] == run), None)
    if entry is None:
        entry = {"run": run, "started_at": now.isoformat(), "files": 0, "bytes": 0, "symbols": {}}
        runs.append(entry)
    for symbol, added in counts.items():
        known = entry["symbols"].setdefault(symbol, {"files": 0, "bytes": 0})
        for name, number in added.items():
            known[name] += number
            entry[name] += number
    entry["updated_at"] = now.isoformat()
    return json.dumps({"runs": runs[-RUNS_KEPT:]}, indent=1).encode()


def by_symbol(bronze: Bronze, infos: Iterable[ObjectInfo]) -> Counts:
    """Count source files and their bytes by symbol."""
    counts: Counts = {}
    for info in infos:
        count = counts.setdefault(bronze.parse_source(info.key).symbol, {"files": 0, "bytes": 0})
        count["files"] += 1
        count["bytes"] += info.size
    return counts

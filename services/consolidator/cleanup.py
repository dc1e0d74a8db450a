"""Which source files may go: those that are provably merged and older than the retention; and the record of it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, Final

from services.consolidator.consolidate import Consolidation
from shared.batching import chunks
from shared.errors import ContractError
from shared.lake import CLEANUP_RECORD_KEY, Bronze
from shared.objects import DELETES_PER_REQUEST, ObjectInfo, ObjectStore
from shared.telemetry import logger

RUNS_KEPT: Final = 1_000


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
    store: ObjectStore, bronze: Bronze, done: Sequence[Consolidation], run: str, now: datetime, retention_days: int
) -> int:
    """Delete what may go of the consolidated symbols' source files, record it, and give the number of files.

    Each deletion holds only for the version that was merged: a file restated meanwhile stays. A symbol whose
    data.parquet is another one by now is left to whoever wrote that, or to the next run.
    """
    due = {one.symbol: deletable(bronze, one.listing, one.stored.log, now.date(), retention_days) for one in done}
    asked = [one for one in done if due[one.symbol]]
    versions = store.versions([bronze.data_key(one.symbol) for one in asked])
    proven = [one.symbol for one, etag in zip(asked, versions, strict=True) if etag == one.etag]
    infos = {info.key: info for symbol in proven for info in due[symbol]}
    deleted = 0
    for batch in chunks(infos.values(), DELETES_PER_REQUEST):
        gone = store.delete_versions([(info.key, info.etag) for info in batch])
        if gone:
            logger.info("merged source files deleted", extra={"run": run, "keys": gone})
            counts = _by_symbol(bronze, [infos[key] for key in gone])
            store.update(CLEANUP_RECORD_KEY, partial(recorded, run=run, now=now, by_symbol=counts))
        deleted += len(gone)
    return deleted


def recorded(data: bytes | None, run: str, now: datetime, by_symbol: Mapping[str, Mapping[str, int]]) -> bytes:
    """Give the record's bytes with these deletions added to run `run` (the newest 1,000 runs are kept)."""
    try:
        runs: list[dict[str, Any]] = json.loads(data)["runs"] if data else []
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{CLEANUP_RECORD_KEY} cannot be read: {error}; move it away and run again") from error
    entry = next((entry for entry in runs if entry["run"] == run), None)
    if entry is None:
        entry = {"run": run, "started_at": now.isoformat(), "files": 0, "bytes": 0, "symbols": {}}
        runs.append(entry)
    for symbol, added in by_symbol.items():
        counts = entry["symbols"].setdefault(symbol, {"files": 0, "bytes": 0})
        for name, number in added.items():
            counts[name] += number
            entry[name] += number
    entry["updated_at"] = now.isoformat()
    return json.dumps({"runs": runs[-RUNS_KEPT:]}, indent=1).encode()


def _by_symbol(bronze: Bronze, infos: Iterable[ObjectInfo]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for info in infos:
        count = counts.setdefault(bronze.parse_source(info.key).symbol, {"files": 0, "bytes": 0})
        count["files"] += 1
        count["bytes"] += info.size
    return counts

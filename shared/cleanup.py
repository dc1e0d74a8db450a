"""Delete source files that are provably merged and older than the retention, and record it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import partial
from typing import Any, Final

from fiblake.calendar import days_before
from fiblake.decoding import MAKE_ANEW, checked_json, decoding, json_limit, read_json
from fiblake.lake import CLEANUP_RECORD_KEY, Bronze
from fiblake.source_log import SourceLog, is_merged
from shared.batching import chunks
from shared.objects import DELETES_PER_REQUEST, ObjectInfo, ObjectStore
from shared.telemetry import logger

RUNS_KEPT: Final = 1_000
FILES_PER_LOT: Final = 20
"""A symbol's merged files are deleted in lots: a deletion each day would cost a listing and a read each day."""

Counts = dict[str, dict[str, int]]
"""Files and bytes by symbol."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Which of the listed source files one version of a symbol's data.parquet proves to be merged."""

    symbol: str
    etag: str
    log: SourceLog
    listing: Sequence[ObjectInfo]

    def deletable(self, bronze: Bronze, today: date, retention_days: int) -> list[ObjectInfo]:
        """Return the source files that may be deleted as long as data.parquet is still this version."""
        return deletable(bronze, self.listing, self.log, today, retention_days)


def deletable(
    bronze: Bronze, listing: Iterable[ObjectInfo], log: SourceLog, today: date, retention_days: int
) -> list[ObjectInfo]:
    """Return the source files that may be deleted (pure).

    `log` is the log of the data.parquet that is in S3. A file may be deleted if the log holds it with its present ETag
    and LastModified, and its last session is more than `retention_days` before `today`. If the log does not say that
    all its bars carry `ingested_at`, it must also have been put more than `retention_days` ago. Such bars win by the
    instant of the put, and a deletion is conditional on the ETag only, which does not change when the same bytes are
    put again.
    """
    oldest_kept = oldest_session_kept(today, retention_days)
    put_before = datetime.combine(oldest_kept, time(), UTC)
    return [
        info
        for info in listing
        if is_merged(log, info.key, info.etag, info.last_modified)
        and bronze.parse_source(info.key).last < oldest_kept
        and (log[info.key].stamped or info.last_modified < put_before)
    ]


def oldest_session_kept(today: date, retention_days: int) -> date:
    """Return the first day whose source files stay."""
    return days_before(today, retention_days)


def is_lot_due(log: SourceLog, oldest_kept: date) -> bool:
    """Return whether the log names enough files beyond the retention to make a listing worthwhile."""
    if len(log) < FILES_PER_LOT:
        return False
    day, put_before = oldest_kept.isoformat(), datetime.combine(oldest_kept, time(), UTC)
    # Each key ends in its last session. A wrong guess about an odd key only makes a listing earlier or later.
    expired = (v for key, v in log.items() if key[-len("YYYY-MM-DD.parquet") : -len(".parquet")] < day)
    due = sum(v.stamped or v.last_modified is None or v.last_modified < put_before for v in expired)
    return due >= FILES_PER_LOT


def clean_up(  # noqa: PLR0917
    store: ObjectStore, bronze: Bronze, proofs: Sequence[Proof], run: str, now: datetime, retention_days: int
) -> Counts:
    """Record which of the symbols' source files are deleted, delete them, and return the counts by symbol.

    Only recorded files are deleted: if the record cannot be read or written, all files stay. A file that stays
    for another reason is removed from the record again, so a run that is killed in between leaves too much in the
    record, never too little. Each deletion is conditional on the version that was merged: a file that was put again
    stays. A symbol whose data.parquet has changed since is left to its writer, or to the next run.
    """
    due = [(proof, info) for proof in proofs for info in proof.deletable(bronze, now.date(), retention_days)]
    deleted: list[ObjectInfo] = []
    for batch in chunks(due, DELETES_PER_REQUEST):
        infos = {info.key: info for _, info in batch}
        _record(store, run, now, by_symbol(bronze, infos.values()))
        keys = _delete_proven(store, bronze, batch)
        if keys:
            logger.info("merged source files deleted", extra={"run": run, "keys": keys})
        deleted += [infos.pop(key) for key in keys]
        if infos:
            _record(store, run, now, by_symbol(bronze, infos.values(), sign=-1))
    return by_symbol(bronze, deleted)


def _record(store: ObjectStore, run: str, now: datetime, counts: Counts) -> None:
    store.update(CLEANUP_RECORD_KEY, partial(with_run, run=run, now=now, counts=counts))


def _delete_proven(store: ObjectStore, bronze: Bronze, batch: Sequence[tuple[Proof, ObjectInfo]]) -> list[str]:
    """Delete the files whose symbols' data.parquet is still the version of the proof; return the keys deleted."""
    keys = {proof.symbol: bronze.data_key(proof.symbol) for proof, _ in batch}
    versions = dict(zip(keys, store.versions(list(keys.values())), strict=True))
    proven = [(info.key, info.etag) for proof, info in batch if versions[proof.symbol] == proof.etag]
    return store.delete_versions(proven) if proven else []


def with_run(data: bytes | None, run: str, now: datetime, counts: Counts) -> bytes:
    """Return the record's bytes with these counts added to run `run`.

    The newest 1,000 runs are kept, up to half of the bytes that a reader accepts.

    A symbol or a run without files is not in the record.
    """
    with decoding(f"{CLEANUP_RECORD_KEY} cannot be read", MAKE_ANEW):
        runs = _with_counts(read_json(data, "it")["runs"] if data else [], run, now, counts)[-RUNS_KEPT:]
        # A record too large to be read would stop every clean-up: the oldest runs are dropped.
        while len(text := json.dumps({"runs": runs}, indent=1).encode()) > json_limit() // 2 and len(runs) > 1:
            runs = runs[len(runs) // 4 + 1 :]
    return checked_json(text, CLEANUP_RECORD_KEY)


def _with_counts(runs: list[dict[str, Any]], run: str, now: datetime, counts: Counts) -> list[dict[str, Any]]:
    entry = next((entry for entry in runs if entry["run"] == run), None)
    if entry is None:
        entry = {"run": run, "started_at": now.isoformat(), "files": 0, "bytes": 0, "symbols": {}}
        runs.append(entry)
    for symbol, added in counts.items():
        count = entry["symbols"].setdefault(symbol, {"files": 0, "bytes": 0})
        for name, number in added.items():
            count[name] += number
            entry[name] += number
    entry["symbols"] = {symbol: count for symbol, count in entry["symbols"].items() if count["files"]}
    entry["updated_at"] = now.isoformat()
    return [other for other in runs if other is not entry or entry["files"]]


def by_symbol(bronze: Bronze, infos: Iterable[ObjectInfo], sign: int = 1) -> Counts:
    """Count source files and their bytes by symbol; `sign` -1 subtracts them."""
    counts: Counts = {}
    for info in infos:
        count = counts.setdefault(bronze.parse_source(info.key).symbol, {"files": 0, "bytes": 0})
        count["files"] += sign
        count["bytes"] += sign * info.size
    return counts

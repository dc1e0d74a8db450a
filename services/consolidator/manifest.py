"""Which symbols are consolidated, and up to when: the manifest, one Parquet file anyone can read."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from services.consolidator.consolidate import Consolidation
from shared.bars import MANIFEST, decode, encode
from shared.lake import MANIFEST_KEY
from shared.objects import ObjectStore


def flush(store: ObjectStore, done: Sequence[Consolidation]) -> None:
    """Enter the symbols that were consolidated; raise ConflictError if others rewrite the manifest all the time."""
    if done:
        store.update(MANIFEST_KEY, lambda data: entered(data, done))


def entered(data: bytes | None, done: Sequence[Consolidation]) -> bytes | None:
    """Give the manifest's bytes with `done` entered, or None if nothing changes.

    A row gives way only to a later version of its data.parquet, so workers may enter their rows in any order.
    """
    rows = {} if data is None else {row["symbol"]: row for row in _rows(data)}
    newer = [row for row in map(_row, done) if _is_newer(row, rows.get(row["symbol"]))]
    if not newer:
        return None
    rows |= {row["symbol"]: row for row in newer}
    return encode(pa.Table.from_pylist([rows[symbol] for symbol in sorted(rows)], schema=MANIFEST))


def _rows(data: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = decode(data, MANIFEST, MANIFEST_KEY).to_pylist()
    return rows


def _row(done: Consolidation) -> dict[str, Any]:
    return {
        "symbol": done.symbol,
        "last_consolidated_date": done.stored.last_session,
        "row_count": done.stored.bars.num_rows,
        "last_updated": done.stored.last_updated,
    }


def _is_newer(row: dict[str, Any], known: dict[str, Any] | None) -> bool:
    return known is None or row["last_updated"] > known["last_updated"]

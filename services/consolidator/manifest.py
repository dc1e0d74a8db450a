"""Which symbols are consolidated, and up to when: the manifest, one Parquet file anyone can read."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fiblake.bars import MANIFEST, decode_manifest, encode
from fiblake.lake import MANIFEST_KEY
from services.consolidator.consolidate import Consolidation
from shared.objects import ObjectStore


def flush(store: ObjectStore, done: Sequence[Consolidation]) -> None:
    """Enter the symbols that were consolidated; raise ConflictError if others rewrite the manifest all the time."""
    if done:
        store.update(MANIFEST_KEY, lambda data: entered(data, done))


def entered(data: bytes | None, done: Sequence[Consolidation]) -> bytes | None:
    """Return the manifest's bytes with `done` entered, or None if nothing changes.

    A row gives way only to a later version of its data.parquet, so workers may enter their rows in any order.
    """
    known = MANIFEST.empty_table() if data is None else decode_manifest(data)
    new = pa.Table.from_pylist([_row(one) for one in done], schema=MANIFEST)
    rows = pa.concat_tables([known, new]).combine_chunks()
    # By symbol and version; of equal versions the known row comes last, and the last row of each symbol stays.
    place = pa.array(range(rows.num_rows - 1, -1, -1), pa.int64())
    keys = [("symbol", "ascending"), ("last_updated", "ascending"), ("place", "ascending")]
    order = pc.sort_indices(rows.append_column("place", place), sort_keys=keys)
    symbols = rows["symbol"].take(order).combine_chunks()
    is_last = pc.not_equal(symbols.slice(0, len(symbols) - 1), symbols.slice(1))
    wanted = rows.take(order.filter(pa.concat_arrays([is_last, pa.array([True])])))
    return None if wanted.equals(known) else encode(wanted)


def _row(done: Consolidation) -> dict[str, Any]:
    return {
        "symbol": done.symbol,
        "last_consolidated_date": done.stored.last_session,
        "row_count": done.stored.bars.num_rows,
        "last_updated": done.stored.last_updated,
    }

"""The manifest: one Parquet file with the last consolidated session of each symbol."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fiblake.bars import MANIFEST, decode_manifest, encode
from fiblake.lake import MANIFEST_KEY
from services.consolidator.consolidate import Consolidation
from shared.objects import ObjectStore


def add_symbols(store: ObjectStore, consolidations: Sequence[Consolidation]) -> None:
    """Write the rows of the symbols that were consolidated; raise ConflictError if other writers always come first."""
    if consolidations:
        store.update(MANIFEST_KEY, lambda data: with_symbols(data, consolidations))


def with_symbols(data: bytes | None, consolidations: Sequence[Consolidation]) -> bytes | None:
    """Return the manifest's bytes with the rows of `consolidations`, or None if nothing changes.

    Only a later version of its data.parquet replaces a row, so workers may write their rows in any order.
    """
    stored = MANIFEST.empty_table() if data is None else decode_manifest(data)
    new = pa.Table.from_pylist([_row(consolidation) for consolidation in consolidations], schema=MANIFEST)
    rows = pa.concat_tables([stored, new]).combine_chunks()
    # By symbol and version; of equal versions the stored row comes last, and the last row of each symbol stays.
    position = pa.array(range(rows.num_rows - 1, -1, -1), pa.int64())
    keys = [("symbol", "ascending"), ("last_updated", "ascending"), ("place", "ascending")]
    order = pc.sort_indices(rows.append_column("place", position), sort_keys=keys)
    symbols = rows["symbol"].take(order).combine_chunks()
    is_last = pc.not_equal(symbols.slice(0, len(symbols) - 1), symbols.slice(1))
    newest = rows.take(order.filter(pa.concat_arrays([is_last, pa.array([True])])))
    return None if newest.equals(stored) else encode(newest, what=MANIFEST_KEY)


def _row(consolidation: Consolidation) -> dict[str, Any]:
    return {
        "symbol": consolidation.symbol,
        "last_consolidated_date": consolidation.stored.last_session,
        "row_count": consolidation.stored.bars.num_rows,
        "last_updated": consolidation.stored.last_updated,
    }

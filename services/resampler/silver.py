"""What a month file becomes: recomputed rows of some symbols replace their old ones (pure)."""

from collections.abc import Mapping
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shared.bars import SILVER
from shared.lake import Month


def by_month(rows: pa.Table) -> dict[Month, pa.Table]:
    """Split rows (schema SILVER) by the month their bucket starts in."""
    months = np.asarray(rows["ts"].to_numpy(), dtype="datetime64[M]")
    order = np.argsort(months, kind="stable")
    ordered, months = rows.take(pa.array(order)), months[order]
    names, starts = np.unique(months, return_index=True)
    lengths = np.diff(np.append(starts, months.size))
    return {
        Month.of(name.astype("datetime64[D]").item()): ordered.slice(int(start), int(length))
        for name, start, length in zip(names, starts, lengths, strict=True)
    }


def replaced(old: pa.Table | None, new: pa.Table, cuts: Mapping[str, date]) -> pa.Table | None:
    """Give a month file's rows, sorted by (symbol, ts), or None if they are what they were.

    `cuts` names the recomputed symbols and from which `ts` on: their old rows from there on give way to `new`.
    """
    known = SILVER.empty_table() if old is None else old
    wanted = pa.concat_tables([known.filter(_kept(known, cuts)), new])
    wanted = wanted.sort_by([("symbol", "ascending"), ("ts", "ascending")]).combine_chunks()
    return None if wanted.equals(known.combine_chunks()) else wanted


def _kept(rows: pa.Table, cuts: Mapping[str, date]) -> pa.ChunkedArray:
    symbols = pa.array(list(cuts), pa.string())
    days = pa.array(list(cuts.values()), pa.date32())
    cut = days.take(pc.index_in(rows["symbol"], value_set=symbols).combine_chunks())
    return pc.fill_null(pc.less(rows["ts"], cut), fill_value=True)

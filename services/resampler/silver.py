"""What a month file becomes: recomputed rows of some symbols replace their old ones (pure)."""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shared.bars import SILVER
from shared.lake import Month

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
_DAY_BITS: Final = 32
_NOWHERE: Final = np.iinfo(np.int64).min


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
    wanted = pa.concat_tables([known.filter(_kept(known, _symbols(cuts), cuts)), new])
    wanted = wanted.sort_by([("symbol", "ascending"), ("ts", "ascending")]).combine_chunks()
    return None if wanted.equals(known.combine_chunks()) else wanted


def revocable(old: pa.Table | None, new: pa.Table, cuts: Mapping[str, date], handed_over: Collection[str]) -> set[str]:
    """Name the symbols whose old rows, once `new` has replaced them, newer bronze might want back (rule 5).

    Bars never leave bronze, so a bucket that has grown by a bar never shrinks again: whoever reads newer bronze has to
    write this month file as well, and cannot have found it in place. Unless a handover yet unknown to us leaves it the
    bars it had, and gives the others a row in a later month's file: then it is complete, and can only have been in
    place if it was complete before. Symbols that were `handed_over` as far as we know are all named: of theirs,
    buckets may be joined again, too.
    """
    symbols = _symbols(cuts)
    known = SILVER.empty_table() if old is None else old
    gone = known.filter(pc.invert(_kept(known, symbols, cuts)))
    owner, place = _places(gone, symbols)
    new_owner, new_place = _places(new, symbols)
    order = np.argsort(new_place)
    # An old row's successor; behind the last one stands none.
    found = np.searchsorted(new_place, place, sorter=order)
    follows = np.append(new_place[order], _NOWHERE)[found] == place
    successor = order[found[follows]]
    before, after = gone.filter(pa.array(follows)), new.take(pa.array(successor))
    same, grown = _same(before, after), _flags(pc.greater(after["bars"], before["bars"]))
    safe = np.zeros(new.num_rows, dtype=bool)
    safe[successor] = same | (grown & ~_flags(before["is_complete"]))
    taken_back = [owner[~follows], owner[follows][~grown & ~same], new_owner[_reaches_on(new) & ~safe]]
    return {*symbols.take(pa.array(np.unique(np.concatenate(taken_back)))).to_pylist(), *handed_over}


def _symbols(cuts: Mapping[str, date]) -> pa.Array:
    return pa.array(list(cuts), pa.string())


def _kept(rows: pa.Table, symbols: pa.Array, cuts: Mapping[str, date]) -> pa.ChunkedArray:
    days = pa.array(list(cuts.values()), pa.date32())
    cut = days.take(pc.index_in(rows["symbol"], value_set=symbols).combine_chunks())
    return pc.fill_null(pc.less(rows["ts"], cut), fill_value=True)


def _places(rows: pa.Table, symbols: pa.Array) -> tuple[Numbers, Numbers]:
    """Give each row's symbol, by its place in `symbols`, and one number for symbol and `ts` together."""
    owner = pc.index_in(rows["symbol"], value_set=symbols).to_numpy().astype(np.int64)
    days = rows["ts"].to_numpy().astype("datetime64[D]").astype(np.int64)
    return owner, (owner << _DAY_BITS) + days


def _same(before: pa.Table, after: pa.Table) -> Flags:
    equal = [_flags(pc.equal(before[name], after[name])) for name in SILVER.names]
    return np.asarray(np.logical_and.reduce(equal))


def _reaches_on(rows: pa.Table) -> Flags:
    first, last = (rows[name].to_numpy().astype("datetime64[M]") for name in ("ts", "last_date"))
    return np.asarray(first != last)


def _flags(column: pa.ChunkedArray) -> Flags:
    return np.asarray(column.to_numpy(), dtype=bool)

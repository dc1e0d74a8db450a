"""Merge source files into a symbol's bars (pure).

For each session the last write wins by `ingested_at`; if instants are equal, the greater row wins, in a fixed order of
columns. So merging is commutative, associative and idempotent, whatever the order, duplication or batching of arrivals.
A withdrawal is merged like an arrival without a row: if instants are equal, the withdrawal wins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final, cast

import pyarrow as pa
import pyarrow.compute as pc

from fiblake.bars import BRONZE, TIE_ORDER

_ORDER: Final = [(name, "ascending", "at_start") for name in ("timestamp", "ingested_at", *TIE_ORDER)]
_ARRIVED: Final = "arrived"
_NO_BARS: Final = pa.Table.from_batches([], schema=BRONZE)  # `empty_table` is slow


@dataclass(frozen=True, slots=True)
class Merged:
    """All bars of a symbol after a merge (schema BRONZE, one row for each session, sorted), and the change."""

    bars: pa.Table
    changed_from: date | None
    """The earliest session whose row is new, changed or withdrawn; None if all arrivals lost or were stored."""
    withdrawn: Mapping[date, datetime] = field(default_factory=dict)
    """The withdrawals that no later row has ended: a session is either in `bars` or here."""
    extends_base: bool = False
    """Whether `bars` are surely those of the base, followed by new ones, so that no comparison is needed."""


def merge(
    base: pa.Table | None, arrivals: Sequence[pa.Table], withdrawn: Mapping[date, datetime] | None = None
) -> Merged:
    """Merge `arrivals` (schema BRONZE, any order, any duplication) into `base` (None: the first of this symbol).

    `withdrawn` maps a session to an instant: a row of that session that was ingested at or before it does not count.
    """
    if not withdrawn:
        return _merge_rows(base, arrivals)
    stored = _NO_BARS if base is None else base
    is_withdrawn = _is_withdrawn(stored, withdrawn)
    taken_out = stored.filter(is_withdrawn)
    remaining = [table.filter(pc.invert(_is_withdrawn(table, withdrawn))) for table in arrivals]
    merged = _merge_rows(stored.filter(pc.invert(is_withdrawn)), remaining)
    changes = [day for day in (merged.changed_from, pc.min(taken_out["timestamp"]).as_py()) if day]
    present = pc.is_in(pa.array(list(withdrawn), pa.date32()), value_set=merged.bars["timestamp"]).to_pylist()
    open_ = {day: until for (day, until), has_row in zip(withdrawn.items(), present, strict=True) if not has_row}
    return Merged(merged.bars.combine_chunks(), min(changes, default=None), open_)


def _is_withdrawn(bars: pa.Table, withdrawn: Mapping[date, datetime]) -> pa.ChunkedArray:
    """Return, for each row, whether it is withdrawn."""
    sessions = pa.array(list(withdrawn), pa.date32())
    instants = pa.array(list(withdrawn.values()), BRONZE.field("ingested_at").type)
    until = pc.take(instants, pc.index_in(bars["timestamp"], value_set=sessions))
    return pc.fill_null(pc.less_equal(bars["ingested_at"], until), fill_value=False)


def _merge_rows(base: pa.Table | None, arrivals: Sequence[pa.Table]) -> Merged:
    stored = _NO_BARS if base is None else base
    new = pa.concat_tables([_NO_BARS, *arrivals])
    if new.num_rows == 0:
        return Merged(stored, None)
    first = pc.min(new["timestamp"])
    if new.num_rows == 1 and (stored.num_rows == 0 or stored["timestamp"][-1].as_py() < first.as_py()):
        # One added session: there is no row to compare with.
        # Without copies: the rows stay in the chunks of both tables.
        bars = pa.concat_tables([stored, new])
        return Merged(bars, cast("date", first.as_py()), extends_base=base is not None)
    untouched, tail = _split(stored, first)
    winners = _last_writes(tail, new)
    changed = winners.filter(winners[_ARRIVED])
    bars = pa.concat_tables([untouched, winners.drop_columns([_ARRIVED])]).combine_chunks()
    return Merged(bars, cast("date | None", pc.min(changed["timestamp"]).as_py()))


def _split(bars: pa.Table, first: pa.Scalar) -> tuple[pa.Table, pa.Table]:
    """Cut sorted `bars` before session `first`: rows that no arrival can change need no sorting."""
    rows = pc.sum(pc.less(bars["timestamp"], first)).as_py() or 0
    return bars.slice(0, rows), bars.slice(rows)


def _last_writes(stored: pa.Table, new: pa.Table) -> pa.Table:
    """Return the winning row of each session, with a flag for arrivals."""
    flagged = [
        table.append_column(_ARRIVED, pa.repeat(pa.scalar(arrived), table.num_rows))
        for table, arrived in ((stored, False), (new, True))
    ]
    rows = pa.concat_tables(flagged)
    # Of identical rows the stored one sorts last and wins, so that a duplicate counts as no change.
    order = [*_ORDER, (_ARRIVED, "descending", "at_start")]
    rows = rows.take(pc.sort_indices(rows, sort_keys=order)).combine_chunks()
    session = rows["timestamp"]
    is_last = pc.not_equal(session.slice(0, rows.num_rows - 1), session.slice(1))
    return rows.filter(pa.chunked_array([*is_last.chunks, pa.array([True])]))

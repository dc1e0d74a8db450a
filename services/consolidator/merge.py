"""Which bar wins: merging source files into a symbol's bars (pure).

Last write wins by `ingested_at`, per session; of equal instants the greater row wins, by a fixed order of columns. So
merging is commutative, associative and idempotent, whatever the order, duplication or batching of arrival.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, cast

import pyarrow as pa
import pyarrow.compute as pc

from shared.bars import BRONZE

_FIRST: Final = ("timestamp", "ingested_at", "close")
_CONSTANT: Final = ("symbol", "interval")
_ORDER: Final = [
    (name, "ascending", "at_start")
    for name in (*_FIRST, *(name for name in BRONZE.names if name not in {*_FIRST, *_CONSTANT}))
]
"""Every column of the schema that varies takes part; else which of two rows wins would depend on their order."""
_ARRIVED: Final = "arrived"


@dataclass(frozen=True, slots=True)
class Merged:
    """All bars of a symbol after a merge (schema BRONZE, one row a session, sorted), and what the merge changed."""

    bars: pa.Table
    changed_from: date | None
    """Earliest session whose row is new or another one; None if all arrivals lost or were known."""


def merge(base: pa.Table | None, arrivals: Sequence[pa.Table]) -> Merged:
    """Merge `arrivals` (schema BRONZE, any order, any duplication) into `base` (None: the first of this symbol)."""
    known = BRONZE.empty_table() if base is None else base
    new = pa.concat_tables([BRONZE.empty_table(), *arrivals])
    if new.num_rows == 0:
        return Merged(known, None)
    first = pc.min(new["timestamp"])
    if new.num_rows == 1 and (known.num_rows == 0 or known["timestamp"][-1].as_py() < first.as_py()):
        # A day's bar: there is nothing to win against.
        return Merged(pa.concat_tables([known, new]).combine_chunks(), cast("date", first.as_py()))
    untouched, tail = _split(known, first)
    winners = _last_writes(tail, new)
    changed = winners.filter(winners[_ARRIVED])
    bars = pa.concat_tables([untouched, winners.drop_columns([_ARRIVED])]).combine_chunks()
    return Merged(bars, cast("date | None", pc.min(changed["timestamp"]).as_py()))


def _split(bars: pa.Table, first: pa.Scalar) -> tuple[pa.Table, pa.Table]:
    """Cut sorted `bars` before session `first`: what no arrival can touch need not be sorted again."""
    rows = pc.sum(pc.less(bars["timestamp"], first)).as_py() or 0
    return bars.slice(0, rows), bars.slice(rows)


def _last_writes(known: pa.Table, new: pa.Table) -> pa.Table:
    """Give one row a session, the winner, with a flag that tells whether it is an arrival."""
    flagged = [
        table.append_column(_ARRIVED, pa.repeat(pa.scalar(arrived), table.num_rows))
        for table, arrived in ((known, False), (new, True))
    ]
    rows = pa.concat_tables(flagged)
    # Of identical rows the known one sorts last and wins, so that a duplicate counts as no change.
    order = [*_ORDER, (_ARRIVED, "descending", "at_start")]
    rows = rows.take(pc.sort_indices(rows, sort_keys=order)).combine_chunks()
    session = rows["timestamp"]
    is_last = pc.not_equal(session.slice(0, rows.num_rows - 1), session.slice(1))
    return rows.filter(pa.chunked_array([*is_last.chunks, pa.array([True])]))

"""Join newer rows into a month file (pure).

An update holds all buckets of some symbols from a cut on, each symbol's at one version of its data.parquet. For each
symbol and bucket, the rows of the greater version win as a whole, so the order of updates does not matter.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fiblake.aggregate import SILVER, sort_rows
from fiblake.bars import OLDEST_VERSION
from fiblake.buckets import MonthGrid

Numbers = npt.NDArray[np.int64]
NO_ROWS: Final = SILVER.empty_table()
"""Made once: Arrow takes longer for it than for a month of rows."""


@dataclass(frozen=True, slots=True)
class Update:
    """All buckets of some symbols from a cut on that belong to one month file."""

    symbols: pa.Array
    """Distinct symbols, also those without a row here."""
    versions: Numbers
    """The version that each symbol's rows were computed from, in microseconds."""
    cuts: Numbers
    """The ordinal from which on the update holds all of each symbol's buckets."""
    rows: pa.Table
    """Schema SILVER."""
    is_sorted: bool = False
    """Whether the rows are known to be sorted by (symbol, ts)."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A month file's rows after a join, sorted by (symbol, ts)."""

    rows: pa.Table
    changed: bool
    """Whether any row was removed or added."""
    misplaced: bool
    """Whether a row was removed that belongs to an earlier month's file."""


def join(old: pa.Table, update: Update, grid: MonthGrid, *, wins_ties: bool = False) -> Joined:
    """Join an update into a month file's rows.

    An old row is removed if its symbol is in the update, its bucket is not before the cut, and its version is lower (or
    the same, if the update `wins_ties`). A new row is added unless an old row of its symbol and bucket stays.
    """
    if not len(update.symbols):
        return Joined(old, changed=False, misplaced=False)
    if not old.num_rows:
        rows = update.rows if update.is_sorted else sort_rows(update.rows)
        return Joined(rows, changed=rows.num_rows > 0, misplaced=False)
    owners, starts = _owners(old, update), grid.bucket_starts(old["ts"].to_numpy())
    covered = (owners >= 0) & (starts >= update.cuts[owners])
    beaten = covered & (_versions(old) < update.versions[owners] + wins_ties)
    new_owners, new_starts = _owners(update.rows, update), grid.bucket_starts(update.rows["ts"].to_numpy())
    stays = covered & ~beaten
    wins = ~np.isin(_places(new_owners, new_starts), _places(owners[stays], starts[stays]))
    if not beaten.any() and not wins.any():
        return Joined(old, changed=False, misplaced=False)
    rows = pa.concat_tables([old.filter(pa.array(~beaten)), update.rows.filter(pa.array(wins))])
    return Joined(sort_rows(rows), changed=True, misplaced=grid.are_misplaced(starts[beaten]))


def without_symbols(old: pa.Table, update: Update) -> tuple[pa.Table, bool]:
    """Return the rows of other symbols with the oldest version, and whether a removed row is newer than the update.

    This is for rows that were cut by another calendar: later rows of their symbols win over them.
    """
    owners = _owners(old, update)
    newer = (owners >= 0) & (_versions(old) > update.versions[owners])
    rows = old.filter(pa.array(owners < 0))
    position = SILVER.get_field_index("version")
    oldest = pa.repeat(pa.scalar(OLDEST_VERSION, SILVER.field(position).type), rows.num_rows)
    return rows.set_column(position, SILVER.field(position), oldest), bool(newer.any())


def is_equal_but_for_version(old: pa.Table, new: pa.Table) -> bool:
    """Return whether two months' rows have the same values."""
    return bool(old.drop_columns(["version"]).equals(new.drop_columns(["version"])))


def _owners(rows: pa.Table, update: Update) -> Numbers:
    """Return each row's symbol as its position in the update; -1: the update does not have it."""
    positions = pc.index_in(rows["symbol"], value_set=update.symbols).fill_null(-1)
    return np.asarray(positions.to_numpy(), dtype=np.int64)


def _versions(rows: pa.Table) -> Numbers:
    return np.asarray(rows["version"].cast(pa.int64()).to_numpy())


def _places(owners: Numbers, starts: Numbers) -> Numbers:
    """Return one number for symbol and bucket together."""
    return np.asarray((owners << 32) + starts)

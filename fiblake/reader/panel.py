"""Converts rows to a table of sessions by symbols (pure)."""

from collections.abc import Sequence
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fiblake.calendar import Days, TradingCalendar

NUMBERS: Final = ("open", "high", "low", "close", "volume")


def pivot(
    rows: pa.Table, column: str, interval: int, calendar: TradingCalendar, symbols: Sequence[str] | None
) -> pa.Table:
    """Return a column `ts` and a column of numbers for each symbol (None: each symbol with rows); null: no row.

    `rows` must be sorted by symbol and `ts`. If a symbol has several rows for one bucket, the last one is used.
    """
    names = list(symbols) if symbols is not None else rows["symbol"].unique().to_pylist()
    ordinals = calendar.ordinals(cast("Days", rows["ts"].to_numpy().astype("datetime64[D]")))
    starts = ordinals - ordinals % interval
    buckets = np.unique(starts)
    values = np.full((len(names), buckets.size), np.nan)
    owners = _places(rows["symbol"], names)
    values[owners, np.searchsorted(buckets, starts)] = rows[column].to_numpy()
    days = pa.array(calendar.days[buckets], pa.int32()).view(pa.date32())
    columns = [pa.array(row, pa.float64(), from_pandas=True) for row in values]
    return pa.Table.from_arrays([days, *columns], names=["ts", *names])


def _places(symbols: pa.ChunkedArray, names: Sequence[str]) -> npt.NDArray[np.intp]:
    encoded = symbols.combine_chunks().dictionary_encode()
    place_of = {name: place for place, name in enumerate(names)}
    places: npt.NDArray[np.intp] = np.array([place_of[name] for name in encoded.dictionary.to_pylist()], dtype=np.intp)
    return places[np.asarray(encoded.indices.to_numpy(), dtype=np.intp)]

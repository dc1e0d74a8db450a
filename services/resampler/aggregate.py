"""What a bucket says: open of its first bar, close of its last, extremes and sum of all (pure)."""

from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shared.bars import SILVER
from shared.calendar import Days, Ordinals, TradingCalendar

Values = npt.NDArray[np.float64]
_VALUES: Final = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class Bars:
    """One symbol's daily bars as arrays, in the order of sessions; `ordinals` place them on the grid."""

    symbol: str
    sessions: Days
    ordinals: Ordinals
    open: Values
    high: Values
    low: Values
    close: Values
    volume: Values

    @classmethod
    def of(cls, symbol: str, table: pa.Table, calendar: TradingCalendar) -> "Bars":
        """Take bars (schema BRONZE, sorted, one a session); raises as TradingCalendar.ordinals does."""
        sessions = cast("Days", np.asarray(table["timestamp"].to_numpy(), dtype="datetime64[D]"))
        values: dict[str, Any] = {name: table[name].to_numpy() for name in _VALUES}
        return cls(symbol, sessions, calendar.ordinals(sessions), **values)

    def since(self, ordinal: int) -> "Bars":
        """Give the bars from the session with this ordinal on."""
        rows = slice(int(np.searchsorted(self.ordinals, ordinal)), None)
        values: dict[str, Any] = {name: getattr(self, name)[rows] for name in _VALUES}
        return Bars(self.symbol, self.sessions[rows], self.ordinals[rows], **values)


def aggregate(bars: Bars, interval: int, first: int, calendar: TradingCalendar) -> pa.Table:
    """Give the buckets (schema SILVER, by `ts`) of `bars` that start at ordinal `first`, a bucket's start, or later."""
    tail = bars.since(first)
    if tail.ordinals.size == 0:
        return SILVER.empty_table()
    grid = tail.ordinals - tail.ordinals % interval
    starts = np.flatnonzero(np.diff(grid, prepend=-1))
    ends = np.append(starts[1:], grid.size) - 1
    first_ordinals = grid[starts]
    columns = [
        pa.repeat(pa.scalar(bars.symbol), starts.size),
        pa.array(calendar.sessions[first_ordinals], pa.date32()),
        tail.open[starts],
        np.maximum.reduceat(tail.high, starts),
        np.minimum.reduceat(tail.low, starts),
        tail.close[ends],
        np.add.reduceat(tail.volume, starts),
        pa.array(ends - starts + 1, pa.int32()),
        pa.array(tail.sessions[ends], pa.date32()),
        tail.ordinals[-1] >= first_ordinals + interval - 1,
    ]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SILVER, strict=True)], schema=SILVER
    )

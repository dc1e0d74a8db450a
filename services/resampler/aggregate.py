"""What a bucket says: open of its first bar, close of its last, extremes and sum of all (pure)."""

from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shared.adjustment import NO_REFERENCE, Factors, Reference
from shared.bars import SILVER
from shared.calendar import Days, Ordinals, TradingCalendar

Values = npt.NDArray[np.float64]
_PRICES: Final = ("open", "high", "low", "close")
_VALUES: Final = (*_PRICES, "volume")


@dataclass(frozen=True, slots=True)
class Bars:
    """One symbol's daily bars as arrays, in the order of sessions; `ordinals` place them on the grid.

    `handovers` are the ordinals of the sessions with which another company took the symbol over; `adjusted` tells
    whether prices and volumes are comparable across splits, or as traded.
    """

    symbol: str
    sessions: Days
    ordinals: Ordinals
    open: Values
    high: Values
    low: Values
    close: Values
    volume: Values
    handovers: Ordinals
    adjusted: bool

    @classmethod
    def of(
        cls, symbol: str, table: pa.Table, calendar: TradingCalendar, reference: Reference = NO_REFERENCE,
        *, adjusted: bool = True,
    ) -> "Bars":  # fmt: skip
        """Take bars (schema BRONZE, sorted, one a session), with the splits of `reference` applied if `adjusted`.

        Raises as TradingCalendar.ordinals does.
        """
        sessions = cast("Days", np.asarray(table["timestamp"].to_numpy(), dtype="datetime64[D]"))
        values: dict[str, Any] = {name: table[name].to_numpy() for name in _VALUES}
        if adjusted and reference.splits and sessions.size:
            values = _adjusted(values, reference.as_of(sessions[-1].item()).factors(sessions))
        handovers = np.searchsorted(calendar.sessions, np.array(reference.handovers, dtype="datetime64[D]"))
        return cls(
            symbol, sessions, calendar.ordinals(sessions), handovers=handovers.astype(np.int64), adjusted=adjusted,
            **values,
        )  # fmt: skip

    def since(self, ordinal: int) -> "Bars":
        """Give the bars from the session with this ordinal on."""
        rows = slice(int(np.searchsorted(self.ordinals, ordinal)), None)
        values: dict[str, Any] = {name: getattr(self, name)[rows] for name in _VALUES}
        return replace(self, sessions=self.sessions[rows], ordinals=self.ordinals[rows], **values)


def _adjusted(values: dict[str, Any], factors: Factors) -> dict[str, Any]:
    prices = {name: values[name] * factors for name in _PRICES}
    return {**prices, "volume": values["volume"] / factors}


def aggregate(bars: Bars, interval: int, first: int, calendar: TradingCalendar) -> pa.Table:
    """Give the buckets (schema SILVER, by `ts`) of `bars` that start at ordinal `first`, a bucket's start, or later.

    A bucket in which the symbol was handed over is two rows; `ts` of the second is the new company's first session.
    """
    tail = bars.since(first)
    if tail.ordinals.size == 0:
        return SILVER.empty_table()
    begins, lasts = _extents(tail, interval)
    starts = np.flatnonzero(np.diff(begins, prepend=-1))
    ends = np.append(starts[1:], begins.size) - 1
    columns = [
        pa.repeat(pa.scalar(bars.symbol), starts.size),
        pa.array(calendar.sessions[begins[starts]], pa.date32()),
        tail.open[starts],
        np.maximum.reduceat(tail.high, starts),
        np.minimum.reduceat(tail.low, starts),
        tail.close[ends],
        np.add.reduceat(tail.volume, starts),
        pa.array(ends - starts + 1, pa.int32()),
        pa.array(tail.sessions[ends], pa.date32()),
        tail.ordinals[-1] >= lasts[starts],
        pa.repeat(pa.scalar(bars.adjusted), starts.size),
    ]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SILVER, strict=True)], schema=SILVER
    )


def _extents(bars: Bars, interval: int) -> tuple[Ordinals, Ordinals]:
    """Give, for each bar, the first and the last ordinal of the row it belongs to: its bucket, cut at handovers."""
    begins = bars.ordinals - bars.ordinals % interval
    lasts = begins + interval - 1
    if bars.handovers.size == 0:
        return begins, lasts
    company = np.searchsorted(bars.handovers, bars.ordinals, side="right")
    taken_over = np.append(-1, bars.handovers)[company]
    handed_over = np.append(bars.handovers, np.iinfo(np.int64).max)[company]
    return np.maximum(begins, taken_over), np.minimum(lasts, handed_over - 1)

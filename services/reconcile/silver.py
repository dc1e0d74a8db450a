"""Compare an interval's table with buckets that are computed from the bars alone (pure).

It shares no code with the resampler: otherwise the audit would share its faults.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fiblake.bars import Consolidated
from fiblake.calendar import Ordinals, TradingCalendar
from fiblake.rules import PRICE_COLUMNS

Columns = dict[str, npt.NDArray[Any]]
CLOSE_ENOUGH: Final = 1e-9
"""Relative; sums may be taken in another order."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The calendar that cuts silver, and whether silver is adjusted."""

    calendar: TradingCalendar
    adjusted: bool
    """Whether splits are applied."""


def first_difference(stored: Consolidated, rows: pa.Table, interval: int, since: int, grid: Grid) -> date | None:
    """Return the first bucket (its `ts`) from ordinal `since` (a bucket's start) on that is wrong in `rows`, or None.

    `rows` are the symbol's in the table (schema SILVER), sorted by `ts`, from that bucket on.
    """
    expected = buckets(stored, interval, since, grid)
    actual = {name: rows[name].to_numpy() for name in expected}
    days = [np.asarray(columns["ts"], dtype="datetime64[D]") for columns in (expected, actual)]
    common = min(day.size for day in days)
    wrong = np.zeros(common, dtype=bool)
    for name in expected:
        wrong |= ~_same(expected[name][:common], actual[name][:common])
    first = int(np.argmax(wrong)) if wrong.any() else common
    at = [day[first] for day in days if first < day.size]
    return cast("date", min(at).item()) if at else None


def buckets(stored: Consolidated, interval: int, since: int, grid: Grid) -> Columns:
    """Compute the rows of the symbol's bars from ordinal `since` on, as arrays by SILVER's column names."""
    sessions = np.asarray(stored.bars["timestamp"].to_numpy(), dtype="datetime64[D]")
    ordinals = grid.calendar.ordinals(sessions)
    factors = np.ones(sessions.size)
    if grid.adjusted and stored.reference.splits and sessions.size:
        factors = stored.reference.as_of(sessions[-1].item()).factors(sessions)
    is_recent = ordinals >= since
    values = {name: stored.bars[name].to_numpy()[is_recent] * factors[is_recent] for name in PRICE_COLUMNS}
    volume = stored.bars["volume"].to_numpy()[is_recent] / factors[is_recent]
    begins, ends = _extents(ordinals, stored, interval, grid.calendar)
    return _rows(
        sessions[is_recent], values, volume, begins[is_recent], ends[is_recent] <= ordinals[-1:].max(initial=-1), grid
    )


def _extents(
    ordinals: Ordinals, stored: Consolidated, interval: int, calendar: TradingCalendar
) -> tuple[Ordinals, Ordinals]:
    """Return, for each bar, the first and the last ordinal of its row: its bucket, as far as one company goes."""
    begins, ends = ordinals // interval * interval, ordinals // interval * interval + interval - 1
    for handover in stored.reference.handovers:
        first = int(np.searchsorted(calendar.sessions, np.datetime64(handover, "D")))
        begins = np.where(ordinals >= first, np.maximum(begins, first), begins)
        ends = np.where(ordinals < first, np.minimum(ends, first - 1), ends)
    return begins, ends


def _rows(  # noqa: PLR0917
    sessions: npt.NDArray[Any], values: Columns, volume: npt.NDArray[Any], begins: Ordinals, whole: npt.NDArray[Any],
    grid: Grid,
) -> Columns:  # fmt: skip
    starts = np.flatnonzero(np.diff(begins, prepend=-1))
    if starts.size == 0:
        empty = np.array([])
        return {"ts": empty.astype("datetime64[D]"), "last_date": empty.astype("datetime64[D]")}
    lasts = np.append(starts[1:], begins.size) - 1
    return {
        "ts": grid.calendar.sessions[begins[starts]],
        "open": values["open"][starts],
        "high": np.maximum.reduceat(values["high"], starts),
        "low": np.minimum.reduceat(values["low"], starts),
        "close": values["close"][lasts],
        "volume": np.add.reduceat(volume, starts),
        "bars": lasts - starts + 1,
        "last_date": sessions[lasts],
        "is_complete": whole[starts],
        "adjusted": np.full(starts.size, grid.adjusted),
    }


def _same(expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if expected.dtype.kind == "f":
        return cast("npt.NDArray[np.bool_]", np.isclose(expected, actual, rtol=CLOSE_ENOUGH, atol=0, equal_nan=True))
    return np.asarray(expected == actual, dtype=np.bool_)

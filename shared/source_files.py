"""Whether a date or range file holds what its name says, and can be merged (pure)."""

from datetime import UTC, date, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa

from shared.bars import is_released, read_bars
from shared.calendar import TradingCalendar
from shared.errors import ContractError
from shared.lake import SourceFile
from shared.rules import PRICES, any_broken, broken_rules

CLOCK_SKEW: Final = timedelta(days=1)
"""How far a writer's clock may be ahead of S3's: no later write could win over an instant of the far future."""


def bars_of_source(
    data: bytes, source: SourceFile, last_modified: datetime, calendar: TradingCalendar, today: date
) -> pa.Table:
    """Give the bars of a source file; raise PermanentError with the reason if it cannot be merged as it is."""
    bars = read_bars(data, source.symbol, last_modified)
    _check_rows(bars, source, data, last_modified, today)
    check_sessions(bars, calendar)
    return bars


def check_sessions(bars: pa.Table, calendar: TradingCalendar) -> None:
    """Raise PermanentError if one of the bars is of a day without trade."""
    calendar.ordinals(np.asarray(bars["timestamp"].to_numpy(), dtype="datetime64[D]"))


def _check_rows(bars: pa.Table, source: SourceFile, data: bytes, last_modified: datetime, today: date) -> None:
    """Raise ContractError if a row is of a session its file's name does not say, of the future, or cannot be.

    A bar that a person has released from quarantine may break the rules of prices.
    """
    if _all_well(bars, source, last_modified, today):
        return
    for row in bars.to_pylist():
        session = row["timestamp"]
        if not source.first <= session <= source.last:
            raise ContractError(f"holds session {session}, which its name does not say")
        if session > today:
            raise ContractError(f"holds session {session}, which is yet to come")
        if row["ingested_at"] > last_modified + CLOCK_SKEW:
            raise ContractError(f"ingested_at {row['ingested_at']} of session {session} is after the file was stored")
        if (broken := broken_rules(row)) and not is_released(data):
            raise ContractError(f"session {session}: {'; '.join(broken)}")


def _all_well(bars: pa.Table, source: SourceFile, last_modified: datetime, today: date) -> bool:
    """Tell whether no row is at fault: the same rules for all rows at once, because nearly always none is."""
    sessions = bars["timestamp"].to_numpy()
    if sessions.size == 0:
        return True
    newest = np.datetime64((last_modified + CLOCK_SKEW).astimezone(UTC).replace(tzinfo=None), "us")
    return bool(
        sessions.min() >= np.datetime64(source.first, "D")
        and sessions.max() <= np.datetime64(min(source.last, today), "D")
        and bars["ingested_at"].to_numpy().max() <= newest
        and not any_broken({name: bars[name].to_numpy() for name in (*PRICES, "volume")})
    )

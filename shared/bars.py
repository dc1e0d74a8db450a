"""The name that fiblake.bars had until 0.1: kept for operators' scripts until 0.3, imported by nothing of ours."""

from datetime import date, datetime
from typing import Any

from fiblake.aggregate import SILVER, SILVER_CALENDAR, decode_silver  # noqa: F401
from fiblake.bars import *  # noqa: F403
from fiblake.bars import ReportedBar


def bar_row(  # noqa: PLR0917
    symbol: str, session: date, open_: float, high: float, low: float, close: float, volume: float,
    vwap: float | None, trades: int | None, ingested_at: datetime,
) -> dict[str, Any]:  # fmt: skip
    """Return one bar as a row of BRONZE: the older name of `ReportedBar(...).row(ingested_at)`."""
    return ReportedBar(symbol, session, open_, high, low, close, volume, vwap, trades).row(ingested_at)

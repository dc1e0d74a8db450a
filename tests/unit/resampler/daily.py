"""Daily bars to test with, and silver recomputed slowly: plain Python, bar by bar, sharing no code with the service."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from services.resampler.aggregate import Bars
from shared.bars import BRONZE, Consolidated
from shared.calendar import nyse

NOW = datetime(2026, 3, 2, 22, tzinfo=UTC)
SESSIONS: list[date] = nyse().sessions.tolist()
ORDINAL = {session: ordinal for ordinal, session in enumerate(SESSIONS)}


@dataclass(frozen=True)
class Daily:
    open: float
    high: float
    low: float
    close: float
    volume: float


def flat(price: float) -> Daily:
    return Daily(price, price + 1, price - 1, price + 0.5, price * 10)


def numbered(sessions: Iterable[date]) -> dict[date, Daily]:
    """Bars no two of which are alike: each says which session it is of."""
    return {session: flat(100 + ORDINAL[session]) for session in sessions}


def table(symbol: str, days: Mapping[date, Daily]) -> pa.Table:
    rows = [
        {
            "symbol": symbol, "timestamp": session, "open": day.open, "high": day.high, "low": day.low,
            "close": day.close, "volume": day.volume, "vwap": None, "trades": None, "interval": "1d",
            "ingested_at": NOW,
        }
        for session, day in sorted(days.items())
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=BRONZE)


def bars(symbol: str, days: Mapping[date, Daily]) -> Bars:
    return Bars.of(symbol, table(symbol, days), nyse())


def data_parquet(symbol: str, days: Mapping[date, Daily]) -> bytes:
    return Consolidated(table(symbol, days), {}, NOW).encode()


def slow_silver(symbol: str, days: Mapping[date, Daily], interval: int, since: int = 0) -> list[dict[str, Any]]:
    """All buckets of one symbol that start at ordinal `since` or later."""
    slots: dict[int, list[date]] = {}
    for session in sorted(days):
        slots.setdefault(ORDINAL[session] // interval, []).append(session)
    return [
        bucket(symbol, number * interval, interval, inside, days)
        for number, inside in sorted(slots.items())
        if number * interval >= since
    ]


def bucket(
    symbol: str, start: int, interval: int, inside: Sequence[date], days: Mapping[date, Daily]
) -> dict[str, Any]:
    volume = 0.0
    for session in inside:
        volume += days[session].volume
    return {
        "symbol": symbol,
        "ts": SESSIONS[start],
        "open": days[inside[0]].open,
        "high": max(days[session].high for session in inside),
        "low": min(days[session].low for session in inside),
        "close": days[inside[-1]].close,
        "volume": volume,
        "bars": len(inside),
        "last_date": inside[-1],
        "is_complete": ORDINAL[max(days)] >= start + interval - 1,
    }

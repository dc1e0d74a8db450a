"""Daily bars to test with, and silver recomputed slowly: plain Python, bar by bar, sharing no code with the service."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from fiblake.adjustment import NO_REFERENCE, Reference
from fiblake.aggregate import Bars
from fiblake.bars import BRONZE, Consolidated
from fiblake.calendar import nyse

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
    """Bars that all differ: each has values that follow from its session."""
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


@dataclass(frozen=True)
class Facts:
    """The facts about a symbol besides its bars: its splits (day, shares before, shares after) and its handovers."""

    splits: tuple[tuple[date, int, int], ...] = ()
    handovers: tuple[date, ...] = ()

    def reference(self) -> Reference:
        """The same in the vendor's form: each split with the product of itself and all later ones."""
        factor, splits = 1.0, []
        for day, before, after in sorted(self.splits, reverse=True):
            factor *= before / after
            splits.append((day, factor))
        return Reference(tuple(reversed(splits)), tuple(sorted(self.handovers)))


NO_FACTS = Facts()


def bars(
    symbol: str, days: Mapping[date, Daily], reference: Reference = NO_REFERENCE, *, adjusted: bool = True
) -> Bars:
    return Bars.of(symbol, table(symbol, days), nyse(), reference, adjust="splits" if adjusted else "raw")


def data_parquet(
    symbol: str, days: Mapping[date, Daily], reference: Reference = NO_REFERENCE, version: datetime = NOW
) -> bytes:
    return Consolidated(table(symbol, days), {}, version, reference).encode()


SLOW_COLUMNS = (
    "symbol", "ts", "open", "high", "low", "close", "volume", "bars", "last_date", "is_complete", "adjusted",
)  # fmt: skip
"""The columns that `slow_silver` computes. tests/unit/fiblake/test_aggregate.py compares all columns with the audit."""


def slow_silver(
    symbol: str, days: Mapping[date, Daily], interval: int, facts: Facts = NO_FACTS, *, adjusted: bool = True
) -> list[dict[str, Any]]:
    """All buckets of one symbol."""
    company_of = {session: sum(handover <= session for handover in facts.handovers) for session in sorted(days)}
    slots: dict[tuple[int, int], list[date]] = {}
    for session, company in company_of.items():
        slots.setdefault((ORDINAL[session] // interval, company), []).append(session)
    session_of = {company: session for session, company in company_of.items()}
    last_of = {company: slow_last(session, days, facts) for company, session in session_of.items()}
    used = {
        session: slow_adjusted(session, day, last_of[company_of[session]], facts) if adjusted else day
        for session, day in days.items()
    }
    return [
        bucket(symbol, *slow_extent(number, interval, inside[0], facts), inside, used) | {"adjusted": adjusted}
        for (number, _), inside in sorted(slots.items())
    ]


def slow_extent(number: int, interval: int, session: date, facts: Facts) -> tuple[int, int]:
    """The first and the last ordinal of the part of the bucket that belongs to the company of `session`."""
    inside = range(number * interval, (number + 1) * interval)
    before = [h for h in facts.handovers if h <= session]
    after = [h for h in facts.handovers if h > session]
    own = [o for o in inside if all(h <= SESSIONS[o] for h in before) and all(SESSIONS[o] < h for h in after)]
    return own[0], own[-1]


def slow_last(session: date, days: Mapping[date, Daily], facts: Facts) -> date:
    """The last bar of the company that had the symbol in `session`."""
    ends = [handover for handover in facts.handovers if handover > session]
    return max(day for day in days if all(day < end for end in ends))


def slow_adjusted(session: date, day: Daily, last: date, facts: Facts) -> Daily:
    """One bar, adjusted for each later split of its own company up to `last`, the company's last bar."""
    for split_day, before, after in facts.splits:
        taken_over = any(session < handover <= split_day for handover in facts.handovers)
        if session < split_day <= last and not taken_over:
            ratio = before / after
            day = Daily(day.open * ratio, day.high * ratio, day.low * ratio, day.close * ratio, day.volume / ratio)
    return day


def bucket(symbol: str, first: int, last: int, inside: Sequence[date], days: Mapping[date, Daily]) -> dict[str, Any]:
    volume = 0.0
    for session in inside:
        volume += days[session].volume
    return {
        "symbol": symbol,
        "ts": SESSIONS[first],
        "open": days[inside[0]].open,
        "high": max(days[session].high for session in inside),
        "low": min(days[session].low for session in inside),
        "close": days[inside[-1]].close,
        "volume": volume,
        "bars": len(inside),
        "last_date": inside[-1],
        "is_complete": ORDINAL[max(days)] >= last,
    }

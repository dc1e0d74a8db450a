"""Lags, their causes, and the messages that repair them (pure)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from shared.events import ConsolidationComplete, ConsolidationRequest


class Cause(StrEnum):
    """Why a symbol lags."""

    NEVER_CONSOLIDATED = "it has files, and no data.parquet"
    UNMERGED = "files are not merged into data.parquet"
    ADOPTED = "data.parquet is of another program: it has no log, and its bars were never published"
    REFERENCE = "splits or identities are not those that data.parquet carries"
    DIVIDENDS = "dividends are not those that data.parquet carries"
    MANIFEST = "the manifest is behind data.parquet"
    RESTORED = "data.parquet is older than its last published version: it was put back"
    SILVER = "silver is not what the bars give"
    CHECKPOINT = "the checkpoint is behind silver"
    UNMERGEABLE = "a file cannot be merged as it is"
    UNREADABLE = "it cannot be read"
    STRAY = "objects in bronze that no service reads"
    TWIN = "another symbol has the same name in capitals"


NEEDS_A_PERSON = frozenset({Cause.UNMERGEABLE, Cause.UNREADABLE, Cause.STRAY, Cause.TWIN})
NEEDS_THE_RESAMPLER = frozenset({Cause.SILVER, Cause.CHECKPOINT})


@dataclass(frozen=True, slots=True)
class Lag:
    """One lag of one symbol."""

    symbol: str
    """Empty if it belongs to no symbol: the manifest, a month file, a checkpoint."""
    cause: Cause
    detail: str
    changed_from: date | None = None
    """The earliest session that lags; None: all of the history."""
    interval: int | None = None
    last_session: date | None = None
    version_floor: datetime | None = None
    """data.parquet needs a version greater than this one, so that silver and the manifest can follow it again."""

    def facts(self) -> dict[str, Any]:
        """Return all facts, for a person or a program."""
        return {
            "symbol": self.symbol,
            "cause": self.cause.name.lower(),
            "what": str(self.cause),
            "detail": self.detail,
            "interval": None if self.interval is None else f"{self.interval}d",
            "changed_from": self.changed_from.isoformat() if self.changed_from else None,
        }


def requests(lags: Iterable[Lag], correlation_id: str) -> list[ConsolidationRequest]:
    """Return one request a symbol whose consolidation lags; it repairs the symbol's silver too."""
    by_symbol: dict[str, list[Lag]] = {}
    for lag in lags:
        by_symbol.setdefault(lag.symbol, []).append(lag)
    return [
        ConsolidationRequest(
            symbol=symbol,
            changed_from=_earliest(own),
            reference_changed=any(lag.cause is Cause.REFERENCE for lag in own),
            dividends_changed=any(lag.cause is Cause.DIVIDENDS for lag in own),
            version_floor=max((lag.version_floor for lag in own if lag.version_floor), default=None),
            correlation_id=correlation_id,
        )
        for symbol, own in by_symbol.items()
        if any(lag.version_floor or lag.cause not in NEEDS_A_PERSON | NEEDS_THE_RESAMPLER for lag in own)
    ]


def completions(lags: Sequence[Lag], correlation_id: str) -> list[ConsolidationComplete]:
    """Return one completion event a symbol of which only silver lags, for the intervals that lag."""
    requested = {request.symbol for request in requests(lags, correlation_id)}
    by_symbol: dict[str, list[Lag]] = {}
    for lag in lags:
        if lag.cause in NEEDS_THE_RESAMPLER and lag.symbol not in requested:
            by_symbol.setdefault(lag.symbol, []).append(lag)
    return [
        ConsolidationComplete(
            symbol=symbol,
            changed_from=min(lag.changed_from for lag in own if lag.changed_from),
            last_session=max(lag.last_session for lag in own if lag.last_session),
            intervals=tuple(sorted({lag.interval for lag in own if lag.interval})),
            correlation_id=correlation_id,
        )
        for symbol, own in by_symbol.items()
    ]


def _earliest(lags: Sequence[Lag]) -> date | None:
    days = [lag.changed_from for lag in lags if lag.cause not in NEEDS_A_PERSON | {Cause.DIVIDENDS}]
    named = [day for day in days if day]
    return min(named, default=None) if len(named) == len(days) else None

"""Classify the bars of one answer: new rows, unchanged ones, refused ones, and suspicious ones (pure)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final

from fiblake.bars import VALUE_COLUMNS
from fiblake.calendar import TradingCalendar
from fiblake.rules import is_jump
from services.fetcher.validation import VendorBar, faults

TWICE: Final = "the vendor reported this session twice"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredState:
    """The stored state: rows by symbol and session, last closes before the answer, splits in between."""

    rows: Mapping[tuple[str, date], Mapping[str, Any]] = field(default_factory=dict)
    closes: Mapping[str, float] = field(default_factory=dict)
    split_ratios: Mapping[tuple[str, date], float] = field(default_factory=dict)
    """By symbol and session: the factor of splits since the previous bar on a price."""


@dataclass(slots=True)
class ClassifiedBars:
    """The bars of one answer, sorted by session and symbol."""

    rows: list[Row] = field(default_factory=list)
    """Rows of BRONZE that are new or differ from what is stored."""
    unchanged: int = 0
    refused: list[tuple[VendorBar, str]] = field(default_factory=list)
    """With the reasons, for quarantine."""
    flagged: list[str] = field(default_factory=list)
    """Symbols whose price jumped; their bars are among the rows all the same."""


def classify_bars(
    bars: Iterable[VendorBar], calendar: TradingCalendar, past: StoredState, jump_limit: float, now: datetime
) -> ClassifiedBars:
    """Sort the bars of one answer; rows are ingested at `now`."""
    result = ClassifiedBars()
    closes = dict(past.closes)
    seen: set[tuple[str, date]] = set()
    for bar, row, stored_bar in _in_order(bars, past, now):
        place = (bar.symbol, bar.session)
        if place not in seen and stored_bar:
            # The same bar is stored, so it may stay: an operator may have released it from quarantine.
            seen.add(place)
            closes[bar.symbol] = bar.close
            result.unchanged += 1
            continue
        reasons = faults(bar, calendar)
        if place in seen:
            # Postgres would refuse the whole session with a second row of one key.
            reasons.append(TWICE)
        if reasons:
            result.refused.append((bar, "; ".join(reasons)))
            continue
        seen.add(place)
        result.rows.append(row)
        previous = closes.get(bar.symbol)
        if previous and previous > 0 and is_jump(bar.close, previous, past.split_ratios.get(place, 1.0), jump_limit):
            result.flagged.append(bar.symbol)
        closes[bar.symbol] = bar.close
    return result


def _in_order(bars: Iterable[VendorBar], past: StoredState, now: datetime) -> list[tuple[VendorBar, Row, bool]]:
    """Return each bar with its row, and whether the same bar is stored.

    Of two bars of one session the stored one comes first, so it stays, in any order of the vendor's rows.
    """
    rows = [(bar, bar.row(now)) for bar in bars]
    compared = [(bar, row, _is_same(row, past.rows.get((bar.symbol, bar.session)))) for bar, row in rows]
    return sorted(compared, key=lambda entry: (entry[0].session, entry[0].symbol, not entry[2]))


def _is_same(row: Row, stored: Mapping[str, Any] | None) -> bool:
    return stored is not None and all(row[name] == stored[name] for name in VALUE_COLUMNS)

"""Measure how fresh the lake is: which symbols and closed sessions are not consolidated, or not in an interval's table.

Sessions are counted and not hours: a weekend or a holiday makes nothing stale. Symbols are counted too, because one
fresh symbol must not hide thousands of stale ones. A symbol is behind if bronze has bars of it that the next step does
not have.
"""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any, Final

from fiblake.aggregate import decode_silver
from fiblake.bars import decode_manifest
from fiblake.buckets import bucket_start
from fiblake.calendar import TradingCalendar
from fiblake.lake import INTERVALS, MANIFEST_KEY, Bronze, Month, checkpoint_key, silver_key
from shared.checkpoints import read_checkpoint
from shared.objects import ObjectStore
from shared.telemetry import emit_metrics, logger

RECENT_SESSIONS: Final = 21
"""Only symbols with a bar in this many last sessions are compared with silver here; the audit compares all symbols."""
Days = Mapping[str, date]
"""The last session of each symbol."""


def measure(store: ObjectStore, bronze: Bronze, calendar: TradingCalendar, now: datetime) -> dict[str, Any]:
    """Measure how far each step is behind; emit the numbers as metrics and return them.

    A step that has never run is behind by every session and every symbol.
    """
    closed = calendar.last_closed(now)
    consolidated = _last_consolidated(store)
    unmerged = [s for s, day in _last_arrived(store, bronze, closed).items() if consolidated.get(s, date.min) < day]
    resampled = {n: _last_resampled(store, calendar, n, closed) for n in INTERVALS}
    recent = calendar.session(max(0, calendar.ordinal(closed) - RECENT_SESSIONS))
    stale = {n: _stale_symbols(consolidated, resampled[n], recent, closed) for n in INTERVALS}
    sessions = _sessions_behind(calendar, consolidated.values(), closed)
    missing = {n: _sessions_behind(calendar, _last_processed(store, n), closed) for n in INTERVALS}
    emit_metrics(
        SessionsNotConsolidated=sessions,
        SymbolsNotConsolidated=len(unmerged),
        SessionsNotResampled=max(missing.values()),
        SymbolsNotResampled=max(map(len, stale.values())),
    )
    for n in INTERVALS:
        emit_metrics(interval=n, SessionsNotResampled=missing[n], SymbolsNotResampled=len(stale[n]))
    shown = {
        "last_closed": closed.isoformat(),
        "not_consolidated": sessions,
        "not_resampled": {f"{n}d": missing[n] for n in INTERVALS},
        "symbols_not_consolidated": len(unmerged),
        "symbols_not_resampled": {f"{n}d": len(stale[n]) for n in INTERVALS},
    }
    logger.info("freshness", extra=shown | {"examples": _examples([unmerged, *stale.values()])})
    return shown


def _examples(behind: Iterable[Iterable[str]]) -> list[str]:
    return sorted({symbol for symbols in behind for symbol in symbols})[:10]


def _sessions_behind(calendar: TradingCalendar, days: Iterable[date], closed: date) -> int:
    """Return how many sessions have closed since the newest of `days`; if there is none, how many ever have."""
    last = max(days, default=None)
    ordinal = calendar.ordinal(closed)
    return ordinal + 1 if last is None else ordinal - calendar.ordinal_on_or_after(min(last, closed))


def _last_consolidated(store: ObjectStore) -> Days:
    stored = store.find(MANIFEST_KEY)
    rows = decode_manifest(stored.data) if stored else None
    return _by_symbol(rows["symbol"], rows["last_consolidated_date"]) if rows else {}


def _last_processed(store: ObjectStore, interval: int) -> list[date]:
    """Return the last session that an interval's checkpoint says is in silver, if there is one."""
    stored = store.find(checkpoint_key(interval))
    return [read_checkpoint(stored.data, stored.key).last_processed] if stored else []


def _last_arrived(store: ObjectStore, bronze: Bronze, closed: date) -> Days:
    """Return the last session that each symbol's source files name, by their keys alone."""
    arrived: dict[str, date] = {}
    for key in store.keys(f"{bronze.prefix}/"):
        if bronze.is_source(key):
            source = bronze.parse_source(key)
            arrived[source.symbol] = max(min(source.last, closed), arrived.get(source.symbol, date.min))
    return arrived


def _last_resampled(store: ObjectStore, calendar: TradingCalendar, interval: int, closed: date) -> Days:
    """Return the last session of each symbol in an interval's newest month files."""
    ordinal = calendar.ordinal(closed)
    first = Month.of(calendar.session(bucket_start(max(0, ordinal - RECENT_SESSIONS), interval)))
    last = Month.of(closed)  # a bucket in which a symbol was handed over begins a second row later
    days: dict[str, date] = {}
    for stored in filter(None, store.get_many([silver_key(interval, month) for month in _months(first, last)])):
        rows = decode_silver(stored.data, stored.key)
        for symbol, day in _by_symbol(rows["symbol"], rows["last_date"]).items():
            days[symbol] = max(day, days.get(symbol, day))
    return days


def _stale_symbols(consolidated: Days, resampled: Days, since: date, closed: date) -> list[str]:
    recent = {symbol: day for symbol, day in consolidated.items() if since <= day <= closed}
    return [symbol for symbol, day in recent.items() if resampled.get(symbol, date.min) < day]


def _months(first: Month, last: Month) -> list[Month]:
    numbers = range(12 * first.year + first.month - 1, 12 * last.year + last.month)
    return [Month(number // 12, number % 12 + 1) for number in numbers]


def _by_symbol(symbols: Any, days: Any) -> dict[str, date]:  # noqa: ANN401 (columns of Arrow)
    """Return the greatest day of each symbol."""
    last_days: dict[str, date] = {}
    for symbol, day in zip(symbols.to_pylist(), days.to_pylist(), strict=True):
        last_days[symbol] = max(day, last_days.get(symbol, day))
    return last_days

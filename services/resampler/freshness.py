"""How fresh is the lake? Closed sessions that are not consolidated, and not in each interval's table, as metrics.

Counting sessions, not hours: a weekend or a holiday makes nothing stale.
"""

import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from shared.bars import decode_manifest
from shared.calendar import TradingCalendar
from shared.errors import unreadable
from shared.lake import INTERVALS, MANIFEST_KEY, checkpoint_key
from shared.objects import ObjectStore, StoredObject
from shared.telemetry import count, logger


def measure(store: ObjectStore, calendar: TradingCalendar, now: datetime) -> dict[str, Any]:
    """Measure how many closed sessions each step is behind, by manifest and checkpoints; write and give the numbers.

    A step that has not done anything yet is None, and no metric: there is nothing that it could be behind.
    """
    manifest, *checkpoints = store.get_many([MANIFEST_KEY, *map(checkpoint_key, INTERVALS)])
    consolidated = _consolidated(manifest)
    resampled = {n: _processed(found) for n, found in zip(INTERVALS, checkpoints, strict=True)}
    closed = calendar.last_closed(now)
    behind = _behind(calendar, consolidated, closed)
    tables = {n: _behind(calendar, last, closed) for n, last in resampled.items()}
    if behind is not None:
        count(SessionsNotConsolidated=behind)
    for interval, sessions in tables.items():
        if sessions is not None:
            count(interval=interval, SessionsNotResampled=sessions)
    shown = _shown(closed, behind, tables)
    logger.info("freshness", extra=shown)
    return shown


def _shown(closed: date, behind: int | None, tables: Mapping[int, int | None]) -> dict[str, Any]:
    named = {f"{interval}d": sessions for interval, sessions in tables.items()}
    return {"last_closed": closed.isoformat(), "not_consolidated": behind, "not_resampled": named}


def _behind(calendar: TradingCalendar, last: date | None, closed: date) -> int | None:
    return None if last is None else max(0, calendar.ordinal(closed) - calendar.ordinal_on_or_after(last))


def _consolidated(found: StoredObject | None) -> date | None:
    rows = decode_manifest(found.data)["last_consolidated_date"].to_pylist() if found else []
    return max(rows, default=None)


def _processed(found: StoredObject | None) -> date | None:
    if found is None:
        return None
    try:
        return date.fromisoformat(json.loads(found.data)["last_processed_date"])
    except (ValueError, TypeError, KeyError) as error:
        raise unreadable(found.key, error) from error

"""Release a bar from quarantine into the lake, at a person's request."""

import math
from collections.abc import Iterable
from dataclasses import asdict
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from fiblake.bars import BRONZE, encode, released
from fiblake.calendar import TradingCalendar
from fiblake.errors import ConflictError, ContractError, NotFoundError
from fiblake.lake import QUARANTINE_RECORD_KEY, Bronze, valid_symbol
from fiblake.rules import NUMBER_COLUMNS
from shared.database import Database, Settled, session_scope
from shared.objects import ObjectStore
from shared.quarantine import QuarantinedBar, encode_quarantined, read_quarantined, row_of
from shared.records import add_entry
from shared.telemetry import logger


def find_quarantined(bars: Iterable[QuarantinedBar], symbol: str, session: date, row: int | None) -> QuarantinedBar:
    """Return the bar that is named; raise NotFoundError if there is none, ContractError if there are several."""
    matching = [held for held in bars if (held.bar.symbol, held.bar.session) == (symbol, session)]
    chosen = [held for held in matching if row in {None, held.row}]
    if not chosen:
        raise NotFoundError(f"no such bar of {symbol} in {session} is in quarantine: see `fiblake quarantine list`")
    if len(chosen) > 1:
        rows = ", ".join(str(held.row) for held in chosen)
        raise ContractError(f"{len(chosen)} bars of {symbol} in {session} are in quarantine: name one (--row {rows})")
    return chosen[0]


async def release(  # noqa: PLR0917
    store: ObjectStore, bronze: Bronze, database: Database, calendar: TradingCalendar, bar: QuarantinedBar, by: str,
    now: datetime,
) -> str:  # fmt: skip
    """Release a bar into the lake as it was reported; return the key of its date file.

    The order is date file, row in Postgres, audit record, and then the removal from quarantine: an interrupted run can
    be repeated. Raises ContractError if the bar can never be stored (an invalid key, session or number), ConflictError
    if the quarantine file changed since it was read.
    """
    row = _check_releasable(bar, calendar, now)
    _check_unchanged(store, bar)
    key = bronze.date_key(bar.bar.symbol, bar.bar.session)
    scope = session_scope(bar.bar.session)
    async with database.session_lock(scope):
        await database.note(scope, [key])
        store.put(key, encode(released(pa.Table.from_pylist([row], schema=BRONZE), by)))
        await database.store([row], Settled(scope, [key]))
    entry = {
        "released_at": now.isoformat(), "by": by, "key": key, "quarantine_key": bar.key, "reason": bar.reason,
        "source": bar.source, "bar": {**asdict(bar.bar), "session": bar.bar.session.isoformat()},
    }  # fmt: skip
    add_entry(store, QUARANTINE_RECORD_KEY, "releases", entry)
    _take_out(store, bar)
    logger.info("bar released", extra={"symbol": bar.bar.symbol, "session": str(bar.bar.session), "by": by})
    return key


def _check_releasable(held: QuarantinedBar, calendar: TradingCalendar, now: datetime) -> dict[str, Any]:
    bar = held.bar
    if not valid_symbol(bar.symbol):
        raise ContractError(f"the bar of {bar.symbol!r} cannot be released: its symbol cannot be a key")
    calendar.ordinal(bar.session)
    for name in NUMBER_COLUMNS:
        if not math.isfinite(getattr(bar, name)):
            raise ContractError(f"the bar of {bar.symbol} in {bar.session} cannot be released: it has no {name}")
    return bar.row(now)


def _check_unchanged(store: ObjectStore, bar: QuarantinedBar) -> bytes:
    """Return the bytes of the object that holds a bar; raise ConflictError if it changed since it was read."""
    stored = store.find(bar.key)
    if stored is None or stored.etag != bar.etag:
        raise ConflictError(f"{bar.key} changed since its bars were read: see `fiblake quarantine list`")
    return stored.data


def _take_out(store: ObjectStore, bar: QuarantinedBar) -> None:
    """End the quarantine of one bar; raise ConflictError if its object changed since it was read."""
    rows = read_quarantined(bar.key, bar.etag, _check_unchanged(store, bar))
    rest = [row_of(other) for other in rows if other.row != bar.row]
    if rest:
        store.write_if_unchanged(bar.key, encode_quarantined(bar.key, rest), bar.etag)
    else:
        store.delete_versions([(bar.key, bar.etag)])

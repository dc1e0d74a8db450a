"""Where bars that failed validation wait, and how a person lets one into the lake after all."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from services.fetcher.validation import VendorBar
from shared.bars import BRONZE, bar_row, encode, released
from shared.calendar import TradingCalendar
from shared.database import Database
from shared.errors import ConflictError, ContractError, NotFoundError
from shared.lake import QUARANTINE_PREFIX, QUARANTINE_RECORD_KEY, UNNAMED, Bronze, quarantine_key
from shared.objects import ObjectStore
from shared.telemetry import logger

_NUMBERS: Final = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class Held:
    """A bar in quarantine, as the vendor reported it, and where it lies: row `row` (from 1) of the file `key`."""

    key: str
    etag: str
    row: int
    bar: VendorBar
    reason: str
    held_since: datetime


def hold(store: ObjectStore, refused: Iterable[tuple[VendorBar, str]], now: datetime) -> None:
    """Put refused bars into quarantine, one file a symbol and session; raise UpstreamError if one cannot be written.

    Symbols that cannot be keys share one file a session.
    """
    files: dict[str, list[dict[str, Any]]] = {}
    for bar, reason in refused:
        row = {**_as_reported(bar), "reason": reason, "ingested_at": now}
        files.setdefault(quarantine_key(bar.symbol, bar.session), []).append(row)
        logger.warning("bar quarantined", extra={"symbol": bar.symbol, "session": str(bar.session), "reason": reason})
    failures = store.put_many([(key, encode(pa.Table.from_pylist(rows))) for key, rows in files.items()])
    for error in failures.values():
        raise error


def held(store: ObjectStore, symbol: str | None = None) -> list[Held]:
    """Give the bars in quarantine (of one symbol), sorted by symbol and session."""
    prefix = f"{QUARANTINE_PREFIX}/" if symbol is None else f"{quarantine_key(symbol, date.min).rpartition('/')[0]}/"
    keys = [info.key for info in store.listed(prefix) if info.key.endswith(".parquet")]
    return [bar for found in store.get_many(keys) if found for bar in _read(found.key, found.etag, found.data)]


async def release(  # noqa: PLR0917
    store: ObjectStore, bronze: Bronze, database: Database, calendar: TradingCalendar, bar: Held, by: str, now: datetime
) -> str:
    """Let a held bar into the lake as the vendor reported it; give the key of its date file.

    Date file, row in Postgres, audit record, and only then the end of the quarantine: a run that is cut off is done
    again. Raises ContractError if the bar cannot be one at all (no key, no session, a number that is none),
    ConflictError if the quarantine file changed since it was read.
    """
    row = _releasable(bar, calendar, now)
    _as_it_was_read(store, bar)
    key = bronze.date_key(bar.bar.symbol, bar.bar.session)
    async with database.alone(bar.bar.session):
        store.put(key, encode(released(pa.Table.from_pylist([row], schema=BRONZE), by)))
        await database.store([row])
    entry = {
        "released_at": now.isoformat(), "by": by, "key": key, "quarantine_key": bar.key, "reason": bar.reason,
        "bar": {**_as_reported(bar.bar), "session": bar.bar.session.isoformat()},
    }  # fmt: skip
    store.update(QUARANTINE_RECORD_KEY, lambda data: _recorded(data, entry))
    _take_out(store, bar)
    logger.info("bar released", extra={"symbol": bar.bar.symbol, "session": str(bar.bar.session), "by": by})
    return key


def _releasable(bar: Held, calendar: TradingCalendar, now: datetime) -> dict[str, Any]:
    one = bar.bar
    if bar.key.split("/")[-2] == f"symbol={UNNAMED}":
        raise ContractError(f"the bar of {one.symbol!r} cannot be released: its symbol cannot be a key")
    calendar.ordinal(one.session)
    for name in _NUMBERS:
        if not math.isfinite(getattr(one, name)):
            raise ContractError(f"the bar of {one.symbol} in {one.session} cannot be released: it has no {name}")
    prices = (one.open, one.high, one.low, one.close)
    return bar_row(one.symbol, one.session, *prices, one.volume, one.vwap, one.trades, now)


def _as_it_was_read(store: ObjectStore, bar: Held) -> bytes:
    found = store.find(bar.key)
    if found is None or found.etag != bar.etag:
        raise ConflictError(f"{bar.key} changed since its bars were read: look at `fiblake quarantine list` again")
    return found.data


def _take_out(store: ObjectStore, bar: Held) -> None:
    rest = [other for other in _read(bar.key, bar.etag, _as_it_was_read(store, bar)) if other.row != bar.row]
    if not rest:
        store.delete_versions([(bar.key, bar.etag)])
        return
    rows = [{**_as_reported(other.bar), "reason": other.reason, "ingested_at": other.held_since} for other in rest]
    store.write_if_unchanged(bar.key, encode(pa.Table.from_pylist(rows)), bar.etag)


def find(bars: Iterable[Held], symbol: str, session: date, row: int | None) -> Held:
    """Give the one bar meant; raise NotFoundError if there is none, ContractError if there are several and no `row`."""
    matching = [held for held in bars if (held.bar.symbol, held.bar.session) == (symbol, session)]
    chosen = [held for held in matching if row in {None, held.row}]
    if not chosen:
        raise NotFoundError(f"no such bar of {symbol} in {session} is in quarantine: see `fiblake quarantine list`")
    if len(chosen) > 1:
        rows = ", ".join(str(held.row) for held in chosen)
        raise ContractError(f"{len(chosen)} bars of {symbol} in {session} are in quarantine: name one (--row {rows})")
    return chosen[0]


def _read(key: str, etag: str, data: bytes) -> list[Held]:
    try:
        rows = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).to_pylist()  # see shared.bars.decode
        return [_held(key, etag, number, row) for number, row in enumerate(rows, start=1)]
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        raise ContractError(f"{key} is not a quarantine file: {error}; move it away") from error


def _as_reported(bar: VendorBar) -> dict[str, Any]:
    """Return the bar's fields as a quarantine file has them; what its instant named stands in the reason."""
    return {name: value for name, value in asdict(bar).items() if name != "dated"}


def _held(key: str, etag: str, number: int, row: dict[str, Any]) -> Held:
    numbers: dict[str, Any] = {name: math.nan if row[name] is None else float(row[name]) for name in _NUMBERS}
    vwap = None if row["vwap"] is None else float(row["vwap"])
    bar = VendorBar(row["symbol"], row["session"], **numbers, vwap=vwap, trades=row["trades"])
    return Held(key, etag, number, bar, row["reason"], row["ingested_at"])


def _recorded(data: bytes | None, entry: dict[str, Any]) -> bytes:
    try:
        releases = cast("list[dict[str, Any]]", json.loads(data)["releases"]) if data else []
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{QUARANTINE_RECORD_KEY} cannot be read: {error}; move it away and run again") from error
    return json.dumps({"releases": [*releases, entry]}, indent=1).encode()

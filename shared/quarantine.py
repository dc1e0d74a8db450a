"""The quarantine: bars of the vendor or of files that broke a rule.

There is one object for each symbol and session. If a file has many broken bars, they share one object. A flat file has
the bars of all symbols; its broken bars share one object for each session, in the folder `symbol=~`. A bar is stored
once: if a source reports it again, the new report replaces the earlier one.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import Any, Final

import pyarrow as pa

from fiblake.bars import BRONZE, VALUE_COLUMNS, ReportedBar, decode_rows, encode_rows
from fiblake.decoding import decoding, market_limit
from fiblake.errors import ContractError
from fiblake.lake import (
    QUARANTINE_PREFIX,
    UNNAMED,
    is_quarantined,
    quarantine_key,
    quarantine_range_key,
    valid_symbol,
)
from fiblake.rules import NUMBER_COLUMNS
from shared.batching import chunks
from shared.objects import ObjectStore, StoredObject
from shared.telemetry import logger

MAX_OBJECTS: Final = 32
"""The broken bars of a file with more of them are put into one object."""
MAX_LOGGED: Final = 20
OBJECTS_AT_ONCE: Final = 1_000
_SCHEMA: Final = pa.schema(
    [
        ("symbol", pa.string()),
        ("session", pa.date32()),
        *((name, BRONZE.field(name).type) for name in VALUE_COLUMNS),
        ("reason", pa.string()),
        ("ingested_at", pa.timestamp("us", tz="UTC")),
        ("source", pa.string()),
    ]
)
"""`ingested_at`: when the bar came into quarantine. `source`: the file that held it; null: the vendor reported it."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class QuarantinedBar:
    """A bar in quarantine as it was reported; it is row `row` (from 1) of the object `key`."""

    key: str
    etag: str
    row: int
    bar: ReportedBar
    reason: str
    held_since: datetime
    source: str | None = None
    """The file that held it; None: the vendor reported it."""


def quarantine(
    store: ObjectStore, refused: Iterable[tuple[ReportedBar, str]], now: datetime, source: str | None = None
) -> int:
    """Put bars into quarantine, each with its reason; return the number of new ones.

    `source` is the key of the file that held them. Raises UpstreamError if an object cannot be written, ContractError
    if an object in quarantine cannot be read. Symbols that cannot be keys share one object for each session.
    """
    objects: dict[str, list[Row]] = {}
    for bar, reason in refused:
        row = {**_fields(bar), "reason": reason, "ingested_at": now, "source": source}
        objects.setdefault(quarantine_key(bar.symbol, bar.session), []).append(row)
    if source is not None and len(objects) > MAX_OBJECTS:
        objects = _in_one_object([row for rows in objects.values() for row in rows])
    return _put(store, objects, lambda row: row["source"])


def quarantine_of_sessions(store: ObjectStore, refused: Iterable[tuple[ReportedBar, str, str]], now: datetime) -> int:
    """Put bars of files that hold all symbols into quarantine, each with its reason and the key of its file.

    The bars of a session share one object, so that a broken file adds one object. Return the number of new bars. Raises
    as `quarantine` does. A file's earlier rows of other symbols stay: a file may be put in parts, by symbol.
    """
    objects: dict[str, list[Row]] = {}
    for bar, reason, source in refused:
        row = {**_fields(bar), "reason": reason, "ingested_at": now, "source": source}
        objects.setdefault(quarantine_key(UNNAMED, bar.session), []).append(row)
    return _put(store, objects, lambda row: (row["source"], row["symbol"]))


def _put(store: ObjectStore, objects: Mapping[str, list[Row]], replaced_by: Callable[[Row], object]) -> int:
    """Put rows into their objects; return how many rows are in objects that changed.

    A row takes the place of the earlier ones for which `replaced_by` returns the same.
    """
    written: dict[str, list[Row]] = {}

    def change(key: str, stored: StoredObject | None) -> bytes | None:
        changed = _with_rows(stored.data if stored else None, key, objects[key], replaced_by)
        written.update({key: objects[key]} if changed else {})
        return changed

    for error in store.update_many({key: partial(change, key) for key in objects}).values():
        raise error
    rows = [row for rows in written.values() for row in rows]
    for row in rows[:MAX_LOGGED]:
        extra = {name: str(row[name]) for name in ("symbol", "session", "reason")} | {"source": row["source"]}
        logger.warning("bar quarantined", extra=extra)
    if len(rows) > MAX_LOGGED:
        more = {"bars": len(rows) - MAX_LOGGED, "source": rows[-1]["source"]}
        logger.warning("more bars quarantined", extra=more)
    return len(rows)


def list_quarantined(
    store: ObjectStore, symbol: str | None = None, unreadable: dict[str, str] | None = None
) -> list[QuarantinedBar]:
    """Return the bars in quarantine (of one symbol), sorted by symbol and session.

    An object that cannot be read stops no list: a warning names it, and `unreadable` gets its key and the reason.
    """
    folders = [quarantine_key(name, date.min).rpartition("/")[0] for name in (symbol, UNNAMED) if name]
    prefixes = [f"{QUARANTINE_PREFIX}/"] if symbol is None else sorted({f"{folder}/" for folder in folders})
    files = [info for prefix in prefixes for info in store.list_objects(prefix) if is_quarantined(info.key)]
    bars: list[QuarantinedBar] = []
    for batch in chunks(files, OBJECTS_AT_ONCE, market_limit(), lambda info: info.size):
        for stored in filter(None, store.get_many([info.key for info in batch])):
            try:
                bars += read_quarantined(stored.key, stored.etag, stored.data)
            except ContractError as error:
                logger.warning("quarantine object not read", extra={"key": stored.key, "reason": str(error)})
                if unreadable is not None:
                    unreadable[stored.key] = str(error)
    wanted = [held for held in bars if symbol in {None, held.bar.symbol}]
    return sorted(wanted, key=_place)


def read_quarantined(key: str, etag: str, data: bytes) -> list[QuarantinedBar]:
    """Read the bytes of a quarantine object; raise ContractError if they cannot be read."""
    with decoding(f"{key} is not a quarantine file", "move it away"):
        rows = decode_rows(data, _SCHEMA, "it", "", market_limit())
        return [_quarantined(key, etag, number, row) for number, row in enumerate(rows, start=1)]


def _in_one_object(rows: Sequence[Row]) -> dict[str, list[Row]]:
    days = [row["session"] for row in rows]
    return {quarantine_range_key(rows[0]["symbol"], min(days), max(days)): list(rows)}


def _with_rows(
    data: bytes | None, key: str, rows: Sequence[Row], replaced_by: Callable[[Row], object]
) -> bytes | None:  # fmt: skip
    """Return the object's bytes with rows in place of the earlier ones that they replace; None if nothing changes."""
    stored = [row_of(bar) for bar in read_quarantined(key, "", data)] if data is not None else []
    replaced = {replaced_by(row) for row in rows}
    earlier = [row for row in stored if replaced_by(row) in replaced]
    if [_facts(row) for row in earlier] == [_facts(row) for row in rows]:
        return None
    return encode_quarantined(key, [*(row for row in stored if replaced_by(row) not in replaced), *rows])


def _place(held: QuarantinedBar) -> tuple[bool, str, date, str, int]:
    """Return by what bars are sorted: symbol and session, symbols that cannot be keys last."""
    return (not valid_symbol(held.bar.symbol), held.bar.symbol, held.bar.session, held.key, held.row)


def _fields(bar: ReportedBar) -> Row:
    return {"symbol": bar.symbol, "session": bar.session, **bar.values()}


def _facts(row: Mapping[str, Any]) -> list[str]:
    """Return the values by which reports are compared: all but the instant; as text, because NaN != NaN."""
    return [str(row[name]) for name in _SCHEMA.names if name != "ingested_at"]


def encode_quarantined(key: str, rows: Sequence[Row]) -> bytes:
    """Return rows as the bytes of a quarantine object; raise TooLargeError if it could not be read again."""
    return encode_rows(rows, _SCHEMA, key, market_limit())


def row_of(held: QuarantinedBar) -> Row:
    """Return a bar in quarantine as a row of its object."""
    return {**_fields(held.bar), "reason": held.reason, "ingested_at": held.held_since, "source": held.source}


def _quarantined(key: str, etag: str, number: int, row: Row) -> QuarantinedBar:
    missing = [name for name in ("symbol", "session", "reason", "ingested_at") if row[name] is None]
    if missing:
        raise ContractError(f"row {number} has no {', '.join(missing)}")
    numbers = {name: math.nan if row[name] is None else row[name] for name in NUMBER_COLUMNS}
    bar = ReportedBar.of_row(row | numbers | {"timestamp": row["session"]})
    return QuarantinedBar(key, etag, number, bar, row["reason"], row["ingested_at"], row["source"])

"""The companies of each symbol, and whether their history is loaded: the table symbol_metadata."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from operator import attrgetter
from typing import Final

from fiblake.symbols import RECORD_FIELDS, SymbolRecord
from shared.database.connection import Connected

_HISTORY: Final = ("history_requested_at", "history_loaded_at", "history_from")
_KEY: Final = ("symbol", "valid_from")
DETAIL_FIELDS: Final = ("details_at", "list_date", "sic_code", "sector", "industry")
"""The fields of the vendor's details of a company."""
_row: Final = attrgetter(*RECORD_FIELDS)

_UNIVERSE: Final = """
SELECT symbol FROM symbol_metadata
WHERE (type IS NULL OR type = ANY($1)) AND valid_from <= $2 AND (valid_to IS NULL OR valid_to >= $2)
"""
_ALL: Final = "SELECT * FROM symbol_metadata ORDER BY symbol, valid_from"
_CURRENT: Final = "SELECT * FROM symbol_metadata WHERE symbol = $1 AND valid_to IS NULL"
_STAGE: Final = "CREATE TEMP TABLE incoming_symbols (LIKE symbol_metadata) ON COMMIT DROP"
_REPLACED: Final = ", ".join(f"{name} = excluded.{name}" for name in RECORD_FIELDS if name not in {*_KEY, *_HISTORY})
_REQUESTED_ANEW: Final = ", ".join(
    f"{name} = CASE WHEN known.valid_to IS NOT NULL AND excluded.valid_to IS NULL THEN NULL ELSE known.{name} END"
    for name in _HISTORY
)
# Periods that end come first: a symbol has one row without an end at any time, also within the statement.
_UPSERT: Final = f"""
INSERT INTO symbol_metadata AS known
SELECT * FROM incoming_symbols ORDER BY valid_to IS NULL, symbol, valid_from
ON CONFLICT (symbol, valid_from) DO UPDATE SET {_REPLACED}, {_REQUESTED_ANEW}
"""  # noqa: S608 (names of our own columns)
# By company, not by `valid_from`: whoever loads the past may have moved that since the record was read.
_SAVE_DETAILS: Final = f"""
UPDATE symbol_metadata AS known SET {", ".join(f"{name} = given.{name}" for name in DETAIL_FIELDS)}
FROM incoming_symbols AS given
WHERE known.symbol = given.symbol AND known.valid_to IS NULL
  AND known.composite_figi IS NOT DISTINCT FROM given.composite_figi
"""  # noqa: S608 (names of our own columns)
_MOVE: Final = """
UPDATE symbol_metadata AS known SET valid_from = move.new
FROM unnest($1::text[], $2::date[], $3::date[]) AS move (symbol, old, new)
WHERE known.symbol = move.symbol AND known.valid_from = move.old
"""
# The history of a delisted company is requested once: the vendor may have no bar of it.
_HISTORY_DUE: Final = """
SELECT DISTINCT symbol FROM symbol_metadata
WHERE (type IS NULL OR type = ANY($1)) AND history_loaded_at IS NULL AND (
  (valid_to IS NULL AND active AND (history_requested_at IS NULL OR history_requested_at < $2))
  OR (valid_to IS NOT NULL AND history_requested_at IS NULL)
)
ORDER BY symbol
"""
_HISTORY_REQUESTED: Final = """
UPDATE symbol_metadata SET history_requested_at = $2 WHERE symbol = ANY($1) AND history_loaded_at IS NULL
"""
_COMPANIES: Final = "SELECT * FROM symbol_metadata WHERE symbol = $1 ORDER BY valid_from"
_HISTORY_LOADED: Final = """
UPDATE symbol_metadata AS known SET history_loaded_at = $2, history_from = loaded.first
FROM unnest($3::date[], $4::date[]) AS loaded (valid_from, first)
WHERE known.symbol = $1 AND known.valid_from = loaded.valid_from
"""


class SymbolTable(Connected):
    """One row for each company that has, or had, a symbol."""

    async def universe(self, types: Collection[str], session: date) -> set[str]:
        """Return the symbols of these types, or without a type, that a company had in `session`."""
        async with self._transaction():
            records = await self._connection.fetch(_UNIVERSE, list(types), session)
        return {record["symbol"] for record in records}

    async def metadata(self) -> list[SymbolRecord]:
        """Return all records, sorted by symbol and `valid_from`."""
        async with self._transaction():
            return [SymbolRecord(**record) for record in await self._connection.fetch(_ALL)]

    async def current_record(self, symbol: str) -> SymbolRecord | None:
        """Return the record of the company that has `symbol` now, or None."""
        async with self._transaction():
            record = await self._connection.fetchrow(_CURRENT, symbol)
        return SymbolRecord(**record) if record else None

    async def companies(self, symbol: str) -> list[SymbolRecord]:
        """Return the records of all companies that had `symbol`, oldest first."""
        async with self._transaction():
            return [SymbolRecord(**record) for record in await self._connection.fetch(_COMPANIES, symbol)]

    async def save_metadata(
        self, records: Sequence[SymbolRecord], moved: Mapping[tuple[str, date], date] | None = None
    ) -> None:
        """Upsert records by symbol and `valid_from`, all in one transaction.

        `moved` first changes the `valid_from` of records, by symbol and the old one.

        The history fields of an existing record stay. The exception is a symbol that comes back after it had vanished:
        bars are missing in between, so its history is due again.
        """
        if not records:
            return
        moves = [(symbol, old, new) for (symbol, old), new in (moved or {}).items()]
        async with self._transaction():
            if moves:
                await self._connection.execute(_MOVE, *map(list, zip(*moves, strict=True)))
            await self._stage(records)
            await self._connection.execute(_UPSERT)

    async def save_details(self, records: Sequence[SymbolRecord]) -> None:
        """Save the DETAIL_FIELDS of current records in one transaction; all other fields stay unchanged.

        A symbol that belongs to another company now, or to none, stays unchanged.
        """
        if not records:
            return
        async with self._transaction():
            await self._stage(records)
            await self._connection.execute(_SAVE_DETAILS)

    async def history_due(self, types: Collection[str], asked_before: datetime) -> list[str]:
        """Return the symbols whose history is not loaded, and was not requested since `asked_before`.

        The history of a delisted company is due until it was requested once. Only symbols of these types, or without a
        type, count.
        """
        async with self._transaction():
            records = await self._connection.fetch(_HISTORY_DUE, list(types), asked_before)
        return [record["symbol"] for record in records]

    async def history_requested(self, symbols: Sequence[str], now: datetime) -> None:
        """Record that these symbols' histories were requested."""
        async with self._transaction():
            await self._connection.execute(_HISTORY_REQUESTED, list(symbols), now)

    async def history_loaded(self, symbol: str, now: datetime, firsts: Mapping[date, date | None]) -> None:
        """Record that the histories of a symbol's companies are loaded, with the first session by `valid_from`."""
        async with self._transaction():
            await self._connection.execute(_HISTORY_LOADED, symbol, now, list(firsts), list(firsts.values()))

    async def _stage(self, records: Sequence[SymbolRecord]) -> None:
        """Put records into the table incoming_symbols, which exists as long as the transaction."""
        await self._connection.execute(_STAGE)
        rows = map(_row, records)
        await self._connection.copy_records_to_table("incoming_symbols", records=rows, columns=RECORD_FIELDS)

"""The stored dividends, and the last request for each symbol's: the tables dividends and dividend_checks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import date, datetime
from operator import attrgetter
from typing import Final

from fiblake.reference import Dividend
from shared.database.doubts import DoubtTable, Settled

_COLUMNS: Final = tuple(field.name for field in fields(Dividend))
_row: Final = attrgetter(*_COLUMNS)
_OF_SYMBOLS: Final = "SELECT * FROM dividends WHERE symbol = ANY($1) ORDER BY symbol, ex_dividend_date, id"
_SINCE: Final = "SELECT * FROM dividends WHERE ex_dividend_date >= $1 ORDER BY symbol, ex_dividend_date, id"
_CHECKED: Final = "SELECT symbol, checked_at FROM dividend_checks"
_FORGET: Final = "DELETE FROM dividends WHERE symbol = ANY($1)"
_CHECK: Final = """
INSERT INTO dividend_checks (symbol, checked_at) SELECT unnest($1::text[]), $2
ON CONFLICT (symbol) DO UPDATE SET checked_at = excluded.checked_at
"""


class DividendTable(DoubtTable):
    """Dividends by symbol."""

    async def dividends(self, symbols: Sequence[str]) -> dict[str, list[Dividend]]:
        """Return the dividends of these symbols, oldest first; a symbol without any is left out."""
        async with self._transaction():
            return _by_symbol(Dividend(**row) for row in await self._connection.fetch(_OF_SYMBOLS, list(symbols)))

    async def dividends_since(self, first: date) -> dict[str, list[Dividend]]:
        """Return all dividends with an ex-date on or after `first`, by symbol, oldest first."""
        async with self._transaction():
            return _by_symbol(Dividend(**row) for row in await self._connection.fetch(_SINCE, first))

    async def dividends_checked(self) -> dict[str, datetime]:
        """Return the instant of the last request for each symbol's dividends whose answer was stored."""
        async with self._transaction():
            return {row["symbol"]: row["checked_at"] for row in await self._connection.fetch(_CHECKED)}

    async def replace_dividends(
        self, dividends: Mapping[str, Sequence[Dividend]], checked: Sequence[str], now: datetime, settled: Settled
    ) -> None:
        """Replace the dividends of each named symbol, and record the request for those `checked`, in one transaction.

        `settled`: the notes of their files, which the transaction removes.
        """
        records = [_row(dividend) for of_symbol in dividends.values() for dividend in of_symbol]
        async with self._transaction():
            await self._connection.execute(_FORGET, list(dividends))
            await self._connection.copy_records_to_table("dividends", records=records, columns=_COLUMNS)
            await self._connection.execute(_CHECK, list(checked), now)
            await self._remove_notes(settled)


def _by_symbol(dividends: Iterable[Dividend]) -> dict[str, list[Dividend]]:
    grouped: dict[str, list[Dividend]] = {}
    for dividend in dividends:
        grouped.setdefault(dividend.symbol, []).append(dividend)
    return grouped

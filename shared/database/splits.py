"""The stored splits: the table splits."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import date
from operator import attrgetter
from typing import Final

from fiblake.reference import Split
from shared.database.doubts import DoubtTable, Settled

_COLUMNS: Final = tuple(field.name for field in fields(Split))
_row: Final = attrgetter(*_COLUMNS)
_ALL: Final = "SELECT * FROM splits WHERE $1::text IS NULL OR symbol = $1 ORDER BY symbol, execution_date, id"
_BETWEEN: Final = """
SELECT symbol, split_from, split_to FROM splits
WHERE execution_date > $1 AND execution_date <= $2
ORDER BY symbol, execution_date, id
"""
_FORGET: Final = "DELETE FROM splits WHERE symbol = ANY($1)"


class SplitTable(DoubtTable):
    """Splits by symbol."""

    async def splits(self, symbol: str | None = None) -> dict[str, list[Split]]:
        """Return the splits of `symbol`, or of all, oldest first; a symbol without any is left out."""
        async with self._transaction():
            records = await self._connection.fetch(_ALL, symbol)
        by_symbol: dict[str, list[Split]] = {}
        for record in records:
            by_symbol.setdefault(record["symbol"], []).append(Split(**record))
        return by_symbol

    async def split_ratios(self, after: date, through: date) -> dict[str, float]:
        """Return, by symbol, the factor of one share's price by all splits executed after `after` and up to `through`.

        It is the product of `split_from` / `split_to`: 0.5 for a 2-for-1.
        """
        async with self._transaction():
            records = await self._connection.fetch(_BETWEEN, after, through)
        ratios: dict[str, float] = {}
        for record in records:
            ratio = record["split_from"] / record["split_to"]
            ratios[record["symbol"]] = ratios.get(record["symbol"], 1.0) * ratio
        return ratios

    async def replace_splits(self, splits: Mapping[str, Sequence[Split]], settled: Settled | None = None) -> None:
        """Replace the splits of each named symbol, all symbols in one transaction.

        `settled`: the notes of their files, which the transaction removes.
        """
        records = [_row(split) for of_symbol in splits.values() for split in of_symbol]
        async with self._transaction():
            await self._connection.execute(_FORGET, list(splits))
            await self._connection.copy_records_to_table("splits", records=records, columns=_COLUMNS)
            await self._remove_notes(settled)

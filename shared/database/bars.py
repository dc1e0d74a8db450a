"""The daily bars in Postgres: the table raw_ohlcv."""

from collections.abc import Sequence
from datetime import date
from typing import Any, Final

from fiblake.bars import BRONZE, DAILY, KEY_COLUMNS
from shared.database.doubts import DoubtTable, Settled

COLUMNS: Final = tuple(BRONZE.names)
Row = dict[str, Any]

_STAGE: Final = "CREATE TEMP TABLE incoming_bars (LIKE raw_ohlcv) ON COMMIT DROP"
# All writers use one order of rows, so that two of them cannot wait for each other (a deadlock).
_NAMES: Final = ", ".join(f'"{name}"' for name in COLUMNS)
_CHANGES: Final = ", ".join(f'"{name}" = excluded."{name}"' for name in COLUMNS if name not in KEY_COLUMNS)
_UPSERT: Final = f"""
INSERT INTO raw_ohlcv AS known ({_NAMES})
SELECT {_NAMES} FROM incoming_bars ORDER BY symbol, "timestamp"
ON CONFLICT (symbol, "timestamp", "interval") DO UPDATE
SET {_CHANGES}
WHERE excluded.ingested_at >= known.ingested_at
"""  # noqa: S608 (names of columns of our own schema)
_OF_SESSION: Final = 'SELECT * FROM raw_ohlcv WHERE "timestamp" = $1 AND "interval" = $2'
_LAST_CLOSES: Final = """
SELECT DISTINCT ON (symbol) symbol, "timestamp", close
FROM raw_ohlcv
WHERE "timestamp" >= $1 AND "timestamp" < $2 AND "interval" = $3
ORDER BY symbol, "timestamp" DESC
"""
_BEFORE: Final = """
SELECT "timestamp" AS session, count(*) AS bars
FROM raw_ohlcv
WHERE "timestamp" < $1 AND "interval" = $2
GROUP BY 1 ORDER BY 1
"""
# If a row was written again since it was read, its `ingested_at` differs, and it stays.
_DELETE: Final = """
DELETE FROM raw_ohlcv AS known
USING unnest($3::text[], $4::timestamptz[]) AS gone (symbol, ingested_at)
WHERE known."timestamp" = $1 AND known."interval" = $2
  AND known.symbol = gone.symbol AND known.ingested_at = gone.ingested_at
"""


class BarTable(DoubtTable):
    """Daily bars as rows of BRONZE."""

    async def store(self, rows: Sequence[Row], settled: Settled | None = None) -> None:
        """Upsert bars, all or none: of two writes of a bar the one with the later `ingested_at` stays.

        `settled`: the notes of their files, which the transaction removes.
        """
        async with self._transaction():
            await self._upsert_bars(rows)
            await self._remove_notes(settled)

    async def bars(self, session: date) -> dict[str, Row]:
        """Return the bars of one session by symbol."""
        async with self._transaction():
            records = await self._connection.fetch(_OF_SESSION, session, DAILY)
        return {record["symbol"]: dict(record) for record in records}

    async def last_closes(self, first: date, before: date) -> dict[str, tuple[date, float]]:
        """Return, by symbol, session and close of the last bar from session `first` up to the one before `before`."""
        async with self._transaction():
            records = await self._connection.fetch(_LAST_CLOSES, first, before, DAILY)
        return {record["symbol"]: (record["timestamp"], record["close"]) for record in records}

    async def sessions_before(self, before: date) -> dict[date, int]:
        """Return the sessions before that day that have bars, oldest first, with the number of bars."""
        async with self._transaction():
            records = await self._connection.fetch(_BEFORE, before, DAILY)
        return {record["session"]: record["bars"] for record in records}

    async def delete_bars(self, session: date, rows: Sequence[Row]) -> int:
        """Delete bars of one session whose `ingested_at` is still that of `rows`; return the number of deleted bars."""
        symbols, instants = [row["symbol"] for row in rows], [row["ingested_at"] for row in rows]
        async with self._transaction():
            status = await self._connection.execute(_DELETE, session, DAILY, symbols, instants)
        return int(status.rsplit(" ", 1)[-1])

    async def _upsert_bars(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        records = [tuple(row[name] for name in COLUMNS) for row in rows]
        await self._connection.execute(_STAGE)
        await self._connection.copy_records_to_table("incoming_bars", records=records, columns=COLUMNS)
        await self._connection.execute(_UPSERT)

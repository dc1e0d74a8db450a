"""The ledger of sessions that are stored whole (ingested_sessions), and the watermark (data_ingestion_watermark)."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import date, datetime
from typing import Final

from fiblake.calendar import TradingCalendar
from shared.database.bars import BarTable, Row
from shared.database.doubts import Settled, session_scope

OHLCV: Final = "ohlcv_1d"
"""The dataset whose watermark the OHLCV fetcher moves."""

_READ_WATERMARK: Final = "SELECT last_session FROM data_ingestion_watermark WHERE dataset = $1"
# Two writers of sessions take turns here, so that the second one reads the first one's entry in the ledger.
_LOCK_WATERMARK: Final = """
INSERT INTO data_ingestion_watermark AS known (dataset, last_session, updated_at)
VALUES ($1, $2, now())
ON CONFLICT (dataset) DO UPDATE SET updated_at = excluded.updated_at
RETURNING last_session
"""
_MOVE_WATERMARK: Final = "UPDATE data_ingestion_watermark SET last_session = $2, updated_at = now() WHERE dataset = $1"
_ENTER: Final = """
INSERT INTO ingested_sessions (session, bars, quarantined, outside_universe, flagged, stored_at)
VALUES ($1, $2, $3, $4, $5, now())
ON CONFLICT (session) DO UPDATE
SET bars = excluded.bars, quarantined = excluded.quarantined, outside_universe = excluded.outside_universe,
    flagged = excluded.flagged, stored_at = excluded.stored_at
"""
_ENTERED_SINCE: Final = "SELECT session FROM ingested_sessions WHERE session >= $1"
# If the rows of an entry were deleted without being archived, the session must be fetched again.
_STORED: Final = """
SELECT session FROM ingested_sessions
WHERE session BETWEEN $1 AND $2
  AND (bars = 0 OR archived_at IS NOT NULL OR EXISTS (SELECT FROM raw_ohlcv WHERE "timestamp" = session))
"""
_COUNTS: Final = "SELECT session, bars FROM ingested_sessions WHERE session BETWEEN $1 AND $2"
_ARCHIVED: Final = "UPDATE ingested_sessions SET archived_at = $2 WHERE session = $1"


@dataclass(frozen=True, slots=True)
class SessionCounts:
    """The counts of one session's bars, for the ledger; `bars` is the number of stored ones."""

    bars: int
    quarantined: int
    outside_universe: int
    flagged: int


class SessionTables(BarTable):
    """The ledger of sessions that are stored whole, and the watermark, before which no session is missing."""

    async def watermark(self) -> date | None:
        """Return the last session before which no session is missing since ingestion began, or None."""
        async with self._transaction():
            last_session: date | None = await self._connection.fetchval(_READ_WATERMARK, OHLCV)
        return last_session

    async def stored_sessions(self, first: date, last: date) -> set[date]:
        """Return the sessions from `first` to `last` that are stored whole, their rows still there or archived."""
        async with self._transaction():
            records = await self._connection.fetch(_STORED, first, last)
        return {record["session"] for record in records}

    async def ledger_counts(self, first: date, last: date) -> dict[date, int]:
        """Return the number of bars of each session from `first` to `last` that is in the ledger."""
        async with self._transaction():
            records = await self._connection.fetch(_COUNTS, first, last)
        return {record["session"]: record["bars"] for record in records}

    async def mark_archived(self, session: date, now: datetime) -> None:
        """Record in the ledger, if it has the session, that its rows are archived and may be deleted from the table."""
        async with self._transaction():
            await self._connection.execute(_ARCHIVED, session, now)

    async def store_session(
        self, rows: Sequence[Row], session: date, counts: SessionCounts, calendar: TradingCalendar
    ) -> date:
        """Store one session whole: rows, ledger and watermark in one transaction; return the watermark.

        Rows are upserted like in `store`. The watermark starts with the first stored session, never goes back, and
        advances only over sessions that are in the ledger. The transaction removes the session's files in doubt.
        """
        calendar.ordinal(session)  # raises if the day is no session, before it is in the ledger
        async with self._transaction():
            mark: date = await self._connection.fetchval(_LOCK_WATERMARK, OHLCV, session)
            await self._upsert_bars(rows)
            await self._remove_notes(Settled(session_scope(session)))
            await self._connection.execute(_ENTER, session, *astuple(counts))
            entered = await self._connection.fetch(_ENTERED_SINCE, mark)
            moved = calendar.end_of_run(mark, {record["session"] for record in entered})
            await self._connection.execute(_MOVE_WATERMARK, OHLCV, moved)
        return moved

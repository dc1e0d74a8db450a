"""Move old rows from Postgres to the archive: written, read back, compared, and only then deleted.

One session at a time, its deletion in batches: after an interruption, the next run continues.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final

from fiblake.bars import BRONZE, decode_rows, encode_rows
from fiblake.calendar import days_before
from fiblake.decoding import market_limit
from fiblake.errors import ConfigurationError, ConflictError, ContractError, FiblakeError, UpstreamError
from fiblake.lake import archive_key
from shared.batching import chunks
from shared.database import Database
from shared.objects import ObjectStore

FLOOR_DAYS: Final = 60
"""The fetcher compares with the closes of the last weeks, and looks back at sessions it has stored."""
Row = dict[str, Any]
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Due:
    """The rows that are older than the retention: how many, by session, oldest first."""

    before: date
    sessions: Mapping[date, int]

    @property
    def rows(self) -> int:
        """How many rows that are."""
        return sum(self.sessions.values())


@dataclass(slots=True)
class Retired:
    """The counts of a run."""

    sessions: int = 0
    rows: int = 0
    kept: int = 0
    """Rows that were written again while they were archived: they stay for the next run."""
    faults: dict[date, FiblakeError] = field(default_factory=dict)
    """Why a session's rows stay in Postgres: its archive cannot be read or written."""


async def find_due(database: Database, today: date, days: int) -> Due:
    """Find the rows that are more than `days` days old; raise ConfigurationError below the floor of 60."""
    if days < FLOOR_DAYS:
        raise ConfigurationError(
            f"{days} days are below the floor of {FLOOR_DAYS}: the fetcher compares with the rows of the last weeks"
        )
    before = days_before(today, days)
    return Due(before, await database.sessions_before(before))


async def archive_rows(  # noqa: PLR0917
    database: Database, store: ObjectStore, old: Due, batch: int, now: datetime, advance: Advance = lambda _: None
) -> Retired:
    """Archive the rows and delete them, `batch` at a time.

    A session whose archive cannot be read, or that another run archives, stays in Postgres, and the others go on.
    Raises UpstreamError if S3 or Postgres fails, or if what is read back from the archive is not what was written;
    nothing of that session is deleted then.
    """
    result = Retired()
    for session in old.sessions:
        rows = list((await database.bars(session)).values())
        try:
            _archive(store, session, rows)
        except (ContractError, ConflictError) as error:
            result.faults[session] = error
            advance(len(rows))
            continue
        # Before the rows are deleted: a session without rows that is not in the archive would be fetched again.
        await database.mark_archived(session, now)
        deleted = 0
        for part in chunks(rows, batch):
            deleted += await database.delete_bars(session, part)
        result.sessions += 1
        result.rows += deleted
        result.kept += len(rows) - deleted
        advance(len(rows))
    return result


def _archive(store: ObjectStore, session: date, rows: Sequence[Row]) -> None:
    """Add the rows to the session's archive, read it back, and compare."""
    key = archive_key(session)
    stored = store.find(key)
    archived = _by_symbol(stored.data, key) if stored else {}
    merged = archived | {row["symbol"]: row for row in rows if _is_newer(row, archived.get(row["symbol"]))}
    if merged != archived or stored is None:
        data = encode_rows([merged[symbol] for symbol in sorted(merged)], BRONZE, key, market_limit())
        store.write_if_unchanged(key, data, stored.etag if stored else None)
    written = store.find(key)
    if written is None or _by_symbol(written.data, key) != merged:
        raise UpstreamError(
            f"what is read back from s3://{store.bucket}/{key} is not what was written: nothing is deleted"
        )


def _by_symbol(data: bytes, key: str) -> dict[str, Row]:
    return {row["symbol"]: row for row in decode_rows(data, BRONZE, key, "move it away", market_limit())}


def _is_newer(row: Row, archived: Row | None) -> bool:
    """Return whether a row is newer than the one in the archive, or as old: then the table's row counts."""
    return archived is None or row["ingested_at"] >= archived["ingested_at"]

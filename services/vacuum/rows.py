"""Which rows leave Postgres, and how none is lost on the way: archived, read back, compared, and only then deleted.

A session at a time, and its deletion in batches: whatever cuts it off, the next run goes on where it was.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import pyarrow as pa

from fiblake.bars import BRONZE, decode_rows, encode
from fiblake.errors import ConfigurationError, UpstreamError
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
    """What a run did."""

    sessions: int = 0
    rows: int = 0
    kept: int = 0
    """Rows that were written again while they were archived, and so stay for the next run."""


async def due(database: Database, today: date, days: int) -> Due:
    """See which rows are more than `days` days old; raise ConfigurationError below the floor of 60."""
    if days < FLOOR_DAYS:
        raise ConfigurationError(
            f"{days} days are below the floor of {FLOOR_DAYS}: the fetcher compares with the rows of the last weeks"
        )
    before = today - timedelta(days=days)
    return Due(before, await database.sessions_before(before))


async def retire(  # noqa: PLR0917
    database: Database, store: ObjectStore, old: Due, batch: int, now: datetime, advance: Advance = lambda _: None
) -> Retired:
    """Archive the rows that are due and delete them, `batch` at a time.

    Raises UpstreamError if what is read back from the archive is not what was written; nothing of that session is
    deleted then. ConflictError: somebody else archives the same session.
    """
    done = Retired()
    for session in old.sessions:
        rows = list((await database.bars(session)).values())
        _archive(store, session, rows)
        # Before the rows go: a session without rows that is not in the archive would be fetched again.
        await database.mark_archived(session, now)
        gone = 0
        for part in chunks(rows, batch):
            gone += await database.delete_bars(session, part)
        done.sessions += 1
        done.rows += gone
        done.kept += len(rows) - gone
        advance(len(rows))
    return done


def _archive(store: ObjectStore, session: date, rows: Sequence[Row]) -> None:
    """Write the rows beside those of the session that were archived before, and compare what can be read."""
    key = archive_key(session)
    found = store.find(key)
    known = _by_symbol(found.data, key) if found else {}
    wanted = known | {row["symbol"]: row for row in rows if _is_news(row, known.get(row["symbol"]))}
    if wanted != known or found is None:
        table = pa.Table.from_pylist([wanted[symbol] for symbol in sorted(wanted)], schema=BRONZE)
        store.write_if_unchanged(key, encode(table), found.etag if found else None)
    there = store.find(key)
    if there is None or _by_symbol(there.data, key) != wanted:
        raise UpstreamError(
            f"what is read back from s3://{store.bucket}/{key} is not what was written: nothing is deleted"
        )


def _by_symbol(data: bytes, key: str) -> dict[str, Row]:
    return {row["symbol"]: row for row in decode_rows(data, BRONZE, key, "move it away")}


def _is_news(row: Row, known: Row | None) -> bool:
    """Return whether a row is of a later writing than the one in the archive; of one writing the table's counts."""
    return known is None or row["ingested_at"] >= known["ingested_at"]

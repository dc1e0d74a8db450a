"""Files in doubt: a run died after it put them, or while it put them, and before their rows were stored.

The rule. Before files are put, their keys are noted in Postgres. The transaction that stores their rows removes the
notes. Before a run compares with Postgres, it stores the bars of noted files there. So Postgres agrees with bronze, and
a bar that equals its row need not be written.

Every place in services/fetcher that compares and skips, and why it is safe:

- `sifting.classify_bars` skips a bar that equals its row: `settle_bars` has run before, under the session's lock; a bar
  whose noted file is gone or cannot be read is not compared (`ohlcv._past`).
- `split_changes` skips a symbol whose splits equal its rows: a symbol whose file is noted is always written, and the
  whole step holds the lock of splits. (The vendor reports all splits each time, so nothing is read.)
- `dividend_changes` skips a symbol whose dividends equal its rows, and `dividends_due` a symbol that was requested
  lately and has no recent change: a symbol whose file is noted is always requested and written, under the lock of
  dividends. The transaction that stores a symbol's rows also records its request.
- `reference_files.put_identities` skips a symbol whose companies are as in its file: it compares with the file itself,
  under the lock of identities, and the records are saved whether or not a file was written.
- `gaps.plan` skips sessions that are in the ledger: the transaction that stores the rows, after the files, also writes
  the ledger's entry. A session with notes is compared again, although it is in the ledger.
- `history.load_unless_there` skips a loaded history: this is recorded after the file and its rows are stored. A load
  itself compares nothing.
- `metadata._histories` skips a history that was requested lately: the time is recorded after the message was sent.
- `identities.details_due` skips details that are fresh: they are in Postgres only.
- The upsert of bars skips a row that is older than the stored one: merging files in bronze does the same.
- `flat_files` skips a loaded version of a day file: its ledger is written after every range file is put, and a
  repeated load puts the same keys.
"""

import asyncio
from collections.abc import Callable
from datetime import date, datetime
from typing import Any, Final, Protocol

from fiblake.bars import latest_rows
from fiblake.calendar import TradingCalendar
from fiblake.errors import FiblakeError, PermanentError
from fiblake.lake import Bronze
from shared.database import DIVIDENDS, SPLITS, Database, Settled, session_of
from shared.objects import ObjectStore, StoredObject
from shared.source_files import bars_of_source
from shared.telemetry import logger

AT_ONCE: Final = 1_000


class Lake(Protocol):
    """The part of `intake.Intake` that this module uses."""

    @property
    def store(self) -> ObjectStore:
        """The bucket."""

    @property
    def bronze(self) -> Bronze:
        """The keys of bronze."""

    @property
    def database(self) -> Database:
        """The connection to Postgres."""

    @property
    def calendar(self) -> TradingCalendar:
        """The trading calendar."""

    @property
    def clock(self) -> Callable[[], datetime]:
        """Returns the present instant (UTC)."""


async def settle_bars(lake: Lake, scope: str) -> set[str]:
    """Store the bars of the scope's noted files; return the symbols of files that are deleted or cannot be read.

    The caller holds the scope's lock. Notes of unreadable files stay until the session's bars are written again.
    """
    keys = await lake.database.noted(scope)
    unknown: set[str] = set()
    for first in range(0, len(keys), AT_ONCE):
        batch = keys[first : first + AT_ONCE]
        files = await asyncio.to_thread(lake.store.get_many, batch)
        read = [(key, _rows(lake, stored) if stored else None) for key, stored in zip(batch, files, strict=True)]
        rows = [row for _, of_file in read if of_file is not None for row in of_file]
        await lake.database.store(rows, Settled(scope, [key for key, of_file in read if of_file is not None]))
        unknown |= {lake.bronze.parse_source(key).symbol for key, of_file in read if of_file is None}
    if keys:
        logger.warning("settled what a dead run left", extra={"scope": scope, "files": len(keys)})
    return unknown


async def settle_all_bars(lake: Lake) -> set[date]:
    """Settle all scopes of bars that no run has locked; return the sessions that must be requested again.

    These are all sessions with notes: the vendor's bars may differ by now from those of the dead run. A scope that
    cannot be settled keeps its notes, which the log names, and does not stop the others: the next run tries again.
    """
    again: set[date] = set()
    for scope in await lake.database.noted_scopes():
        if scope in {SPLITS, DIVIDENDS}:
            continue
        async with lake.database.session_lock(scope, wait=False) as mine:
            if mine:
                try:
                    await settle_bars(lake, scope)
                except FiblakeError as error:
                    logger.warning("noted files not settled", extra={"scope": scope, "reason": str(error)})
        if session := session_of(scope):
            again.add(session)
    return again


def _rows(lake: Lake, stored: StoredObject) -> list[dict[str, Any]] | None:
    """Return a noted file's bars as rows of Postgres, or None if it cannot be read."""
    source, today = lake.bronze.parse_source(stored.key), lake.clock().date()
    try:
        bars = bars_of_source(stored.data, source, stored.last_modified, lake.calendar, today)
        return latest_rows(bars.to_pylist())  # the table of bars has one row for each session
    except PermanentError as error:
        logger.warning("file of bars cannot be read", extra={"key": stored.key, "reason": str(error)})
        return None

"""The files in doubt: the table files_in_doubt, and locks that exclude two writers of the same files.

A run that puts files and then stores their rows first notes the keys, in a separate transaction. The transaction that
stores the rows removes the notes. If a note exists and its scope is not locked, its run died: the file and the rows may
differ. (`services/fetcher/doubts.py` reads such files.)
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import date
from typing import Final

from fiblake.errors import UpstreamError
from shared.database.connection import Connected, translated

LOCK_SECONDS: Final = 300
"""The longest wait for another run that writes the same files."""
SPLITS: Final = "splits"
DIVIDENDS: Final = "dividends"
IDENTITIES: Final = "identities"
_SESSION: Final = "session "
_HISTORY: Final = "history "

_NOTE: Final = "INSERT INTO files_in_doubt (scope, key) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING"
_OF_SCOPE: Final = "SELECT key FROM files_in_doubt WHERE scope = $1 ORDER BY key"
_SCOPES: Final = "SELECT DISTINCT scope FROM files_in_doubt ORDER BY scope"
_SETTLE: Final = "DELETE FROM files_in_doubt WHERE scope = $1 AND ($2::text[] IS NULL OR key = ANY($2))"
# In a transaction: a pooler may give the next transaction another connection, which does not have the lock.
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('fiblake'), hashtext($1))"
_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtext('fiblake'), hashtext($1))"


def session_scope(session: date) -> str:
    """Return the scope of one session's date files."""
    return f"{_SESSION}{session.isoformat()}"


def history_scope(symbol: str) -> str:
    """Return the scope of one symbol's range files."""
    return f"{_HISTORY}{symbol}"


def session_of(scope: str) -> date | None:
    """Return the session of a scope of date files, or None for another scope."""
    return date.fromisoformat(scope.removeprefix(_SESSION)) if scope.startswith(_SESSION) else None


@dataclass(frozen=True, slots=True)
class Settled:
    """Notes to remove: of these keys of a scope, or of all its keys (None)."""

    scope: str
    keys: Sequence[str] | None = None


class DoubtTable(Connected):
    """Notes of files in doubt, and locks by scope."""

    async def note(self, scope: str, keys: Sequence[str]) -> None:
        """Note these files before they are put, because they may differ from the rows until these are stored."""
        if keys:
            async with self._transaction():
                await self._connection.execute(_NOTE, scope, list(keys))

    async def noted(self, scope: str) -> list[str]:
        """Return the keys that are in doubt."""
        async with self._transaction():
            return [record["key"] for record in await self._connection.fetch(_OF_SCOPE, scope)]

    async def noted_scopes(self) -> list[str]:
        """Return the scopes whose files are in doubt, or are being put at present."""
        async with self._transaction():
            return [record["scope"] for record in await self._connection.fetch(_SCOPES)]

    async def settle(self, settled: Settled) -> None:
        """Remove notes of files whose rows need not be stored."""
        async with self._transaction():
            await self._remove_notes(settled)

    @asynccontextmanager
    async def session_lock(self, work: date | str, *, wait: bool = True) -> AsyncIterator[bool]:
        """Lock the files of a session, or of a scope, for the block.

        Wait for another run that holds the lock; without `wait`, yield False instead. The lock belongs to a separate
        connection, in a transaction that ends with the block. If that connection breaks, the block can store nothing
        more.
        """
        scope = session_scope(work) if isinstance(work, date) else work
        async with self._open_another() as connection:
            transaction = connection.transaction()
            with translated():
                await transaction.start()
                statement = _LOCK if wait else _TRY_LOCK
                answer = await connection.fetchval(statement, scope, timeout=LOCK_SECONDS)
            mine = wait or bool(answer)
            if mine:
                self._locks.append(connection)
            try:
                yield mine
            finally:
                if mine:
                    self._locks.remove(connection)
                with suppress(UpstreamError), translated():
                    await transaction.rollback()

    async def _remove_notes(self, settled: Settled | None) -> None:
        """Remove notes in the transaction that stores the rows of the files."""
        if settled:
            await self._check_locks()
            keys = None if settled.keys is None else list(settled.keys)
            await self._connection.execute(_SETTLE, settled.scope, keys)

    async def _check_locks(self) -> None:
        for connection in self._locks:
            await connection.execute("SELECT 1")

"""Which files are in doubt: the table files_in_doubt, and the locks that keep two writers of the same files apart.

Whoever puts files and then stores their rows notes the keys first, in a transaction of its own; the transaction that
stores the rows removes the notes. A note that is there while nobody holds its scope's lock is a dead run's: its file
may say otherwise than the rows. (`services/fetcher/doubts.py` looks what it says.)
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import date
from typing import Final

from fiblake.errors import UpstreamError
from shared.database.connection import Connected, translated

LOCK_SECONDS: Final = 300
"""How long another one's work on the same files is waited for."""
SPLITS: Final = "splits"
DIVIDENDS: Final = "dividends"
IDENTITIES: Final = "identities"
_SESSION: Final = "session "
_HISTORY: Final = "history "

_NOTE: Final = "INSERT INTO files_in_doubt (scope, key) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING"
_OF_SCOPE: Final = "SELECT key FROM files_in_doubt WHERE scope = $1 ORDER BY key"
_SCOPES: Final = "SELECT DISTINCT scope FROM files_in_doubt ORDER BY scope"
_SETTLE: Final = "DELETE FROM files_in_doubt WHERE scope = $1 AND ($2::text[] IS NULL OR key = ANY($2))"
# Within a transaction, because a pooler gives the next transaction another connection, and a lock with it to nobody.
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('fiblake'), hashtext($1))"
_TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtext('fiblake'), hashtext($1))"


def session_scope(session: date) -> str:
    """Return the scope of one session's date files."""
    return f"{_SESSION}{session.isoformat()}"


def history_scope(symbol: str) -> str:
    """Return the scope of one symbol's range files."""
    return f"{_HISTORY}{symbol}"


def session_of(scope: str) -> date | None:
    """Return the session whose date files the scope is of, or None if it is of other files."""
    return date.fromisoformat(scope.removeprefix(_SESSION)) if scope.startswith(_SESSION) else None


@dataclass(frozen=True, slots=True)
class Settled:
    """Notes to remove: of these keys of a scope, or of all (None)."""

    scope: str
    keys: Sequence[str] | None = None


class DoubtTable(Connected):
    """Notes of files in doubt, and locks by scope."""

    async def note(self, scope: str, keys: Sequence[str]) -> None:
        """Note, before they are put, that these files may soon say otherwise than the rows."""
        if keys:
            async with self._transaction():
                await self._connection.execute(_NOTE, scope, list(keys))

    async def noted(self, scope: str) -> list[str]:
        """Return the keys that are in doubt."""
        async with self._transaction():
            return [record["key"] for record in await self._connection.fetch(_OF_SCOPE, scope)]

    async def noted_scopes(self) -> list[str]:
        """Return the scopes of which files are in doubt, or are being put right now."""
        async with self._transaction():
            return [record["scope"] for record in await self._connection.fetch(_SCOPES)]

    async def settle(self, settled: Settled) -> None:
        """Remove notes of files that nothing is to be stored of."""
        async with self._transaction():
            await self._remove_notes(settled)

    @asynccontextmanager
    async def session_lock(self, work: date | str, *, wait: bool = True) -> AsyncIterator[bool]:
        """Let nobody else work on the same files (a session's, or a scope's) within the block.

        Whoever is at work is waited for; without `wait`, yield False instead. The lock belongs to a connection of its
        own, in a transaction that ends with the block. If that connection breaks, nothing can be stored within the
        block any more.
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
        """Remove notes within the transaction that stores what the files say."""
        if settled:
            await self._check_locks()
            keys = None if settled.keys is None else list(settled.keys)
            await self._connection.execute(_SETTLE, settled.scope, keys)

    async def _check_locks(self) -> None:
        for connection in self._locks:
            await connection.execute("SELECT 1")

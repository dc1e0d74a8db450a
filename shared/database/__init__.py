"""How rows get into Postgres, and out: the one place that talks to it (asyncpg)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.database.bars import COLUMNS, BarTable
from shared.database.connection import CONNECT_SECONDS, STATEMENT_SECONDS, DatabaseAddress, Tls, connection_to
from shared.database.runs import RunTable
from shared.database.sessions import OHLCV, SessionCounts, SessionTables
from shared.database.splits import SplitTable
from shared.database.symbols import SymbolTable
from shared.symbols import SymbolRecord

__all__ = [
    "COLUMNS",
    "CONNECT_SECONDS",
    "OHLCV",
    "STATEMENT_SECONDS",
    "Database",
    "DatabaseAddress",
    "SessionCounts",
    "SymbolRecord",
    "Tls",
    "connected",
]


class Database(SessionTables, BarTable, SymbolTable, SplitTable, RunTable):
    """One connection to Postgres, and what is asked over it, table by table. Methods raise UpstreamError if it fails.

    A connection serves one question at a time.
    """


@asynccontextmanager
async def connected(address: DatabaseAddress, tls: Tls) -> AsyncIterator[Database]:
    """Open one connection; raise EntitlementError if the credentials are refused, UpstreamError if nobody answers."""
    async with connection_to(address, tls) as connection:
        yield Database(connection)

"""Read and write rows in Postgres: the one place that talks to it (asyncpg)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fiblake.symbols import SymbolRecord
from shared.database.bars import COLUMNS, BarTable
from shared.database.connection import CONNECT_SECONDS, STATEMENT_SECONDS, DatabaseAddress, Tls, connection_to
from shared.database.dividends import DividendTable
from shared.database.doubts import (
    DIVIDENDS,
    IDENTITIES,
    SPLITS,
    DoubtTable,
    Settled,
    history_scope,
    session_of,
    session_scope,
)
from shared.database.runs import RunTable
from shared.database.sessions import OHLCV, SessionCounts, SessionTables
from shared.database.splits import SplitTable
from shared.database.symbols import SymbolTable

__all__ = [
    "COLUMNS",
    "CONNECT_SECONDS",
    "DIVIDENDS",
    "IDENTITIES",
    "OHLCV",
    "SPLITS",
    "STATEMENT_SECONDS",
    "Database",
    "DatabaseAddress",
    "SessionCounts",
    "Settled",
    "SymbolRecord",
    "Tls",
    "connected",
    "history_scope",
    "session_of",
    "session_scope",
]


class Database(SessionTables, BarTable, SymbolTable, SplitTable, DividendTable, RunTable, DoubtTable):
    """One connection to Postgres, with the methods of all tables. They raise UpstreamError if Postgres fails.

    A connection serves one query at a time.
    """


@asynccontextmanager
async def connected(address: DatabaseAddress, tls: Tls) -> AsyncIterator[Database]:
    """Open one connection; raise EntitlementError for refused credentials, UpstreamError without an answer."""
    async with connection_to(address, tls) as connection:
        yield Database(connection, partial(connection_to, address, tls))

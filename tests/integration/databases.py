"""A database of a test's own, seen past the services."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from shared.database import Database, DatabaseAddress, Tls, connected


async def ask(address: DatabaseAddress, sql: str, *values: object) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(**address.arguments(), timeout=30)
    try:
        return [dict(record) for record in await connection.fetch(sql, *values)]
    finally:
        await connection.close()


@asynccontextmanager
async def opened(address: DatabaseAddress) -> AsyncIterator[Database]:
    async with connected(address, Tls(verify=False)) as database:
        yield database

"""A database of a test's own, read without the services."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asyncpg

from fiblake.symbols import BEGINNING
from shared.database import Database, DatabaseAddress, SymbolRecord, Tls, connected


async def ask(address: DatabaseAddress, sql: str, *values: object) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(**address.arguments(), ssl=False, timeout=30)
    try:
        return [dict(record) for record in await connection.fetch(sql, *values)]
    finally:
        await connection.close()


TRUSTED = "any"


def fetcher_of(owner: DatabaseAddress) -> DatabaseAddress:
    """Return the address with the fetchers' user."""
    return replace(owner, user="fiblake_fetcher", _password=TRUSTED)


@asynccontextmanager
async def opened(address: DatabaseAddress) -> AsyncIterator[Database]:
    """Open the database as the services do: as the fetchers' user, if the address is the owner's."""
    login = fetcher_of(address) if address.user == "postgres" else address
    async with connected(login, Tls(verify=False)) as database:
        yield database


async def know(address: DatabaseAddress, *symbols: str) -> None:
    """Add these symbols to symbol_metadata as common stock, of companies without a FIGI."""
    now = datetime.now(UTC)
    records = [
        SymbolRecord(
            symbol=symbol,
            valid_from=BEGINNING,
            valid_to=None,
            composite_figi=None,
            share_class_figi=None,
            name=symbol,
            industry=None,
            sector=None,
            sic_code=None,
            exchange="XNAS",
            type="CS",
            currency="usd",
            list_date=None,
            delisted_date=None,
            active=True,
            first_seen=now,
            last_seen=now,
        )
        for symbol in symbols
    ]
    async with opened(address) as database:
        await database.save_metadata(records)

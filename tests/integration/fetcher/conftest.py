"""A database of its own with the symbols it knows, on a server that serves all of these tests."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest

from local.postgres import postgres
from migrations.schema import upgrade
from shared.database import DatabaseAddress, SymbolRecord, Tls, connected
from shared.symbols import BEGINNING

NOW = datetime(2013, 3, 1, 21, 5, tzinfo=UTC)


def record(symbol: str, kind: str = "CS") -> SymbolRecord:
    return SymbolRecord(
        symbol=symbol, valid_from=BEGINNING, valid_to=None, composite_figi=None, share_class_figi=None,
        name=symbol, industry=None, sector=None, sic_code=None, exchange="XNAS", type=kind, currency="usd",
        list_date=None, delisted_date=None, active=True, first_seen=NOW, last_seen=NOW,
    )  # fmt: skip


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseAddress]:
    with postgres(tmp_path_factory.mktemp("postgres") / "data") as secret:
        yield DatabaseAddress.of_secret(json.dumps(secret))


@pytest.fixture
def address(server: DatabaseAddress) -> DatabaseAddress:
    """A new database with the newest schema."""
    name = f"fetcher_{uuid.uuid4().hex}"
    asyncio.run(_create(server, name))
    address = replace(server, database=name)
    upgrade(address, Tls(verify=False))
    return address


async def _create(server: DatabaseAddress, name: str) -> None:
    connection = await asyncpg.connect(**server.arguments())
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()


async def know(address: DatabaseAddress, *symbols: str) -> None:
    """Let symbol_metadata know these symbols, as common stock."""
    async with connected(address, Tls(verify=False)) as database:
        await database.save_metadata([record(symbol) for symbol in symbols])

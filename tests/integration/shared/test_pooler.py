"""Work through a pooler that gives each transaction another connection, and refuses unknown start-up parameters."""

import asyncio
from datetime import UTC, date, datetime

import asyncpg
import pytest

from fiblake.bars import ReportedBar
from fiblake.calendar import nyse
from fiblake.errors import ConfigurationError
from fiblake.reference import Split
from fiblake.symbols import BEGINNING
from migrations import schema
from shared.database import DatabaseAddress, SessionCounts, Settled, SymbolRecord, Tls, connected
from tests.integration.databases import ask
from tests.integration.pooler import pooling

NOON = datetime(2025, 11, 20, 12, tzinfo=UTC)
DAY = date(2025, 11, 19)
PLAIN = Tls(verify=False)
SPLIT = Split("AAPL", DAY, 1.0, 4.0, "forward_split", 0.25, "E1")
RECORD = SymbolRecord(
    symbol="AAPL", valid_from=BEGINNING, valid_to=None, composite_figi="F", share_class_figi=None, name="Apple",
    industry=None, sector=None, sic_code=None, exchange=None, type="CS", currency=None, list_date=None,
    delisted_date=None, active=True, first_seen=NOON, last_seen=NOON,
)  # fmt: skip


async def test_schema_rows_ledger_locks_and_notes_work_through_a_pooler(address: DatabaseAddress) -> None:
    rows = [ReportedBar(f"S{n}", DAY, 1.0, 1.0, 1.0, 1.0, 1.0).row(NOON) for n in range(300)]
    async with pooling(address) as (front, pooler):
        await asyncio.to_thread(schema.upgrade, front, PLAIN)
        async with connected(front, PLAIN) as first, connected(front, PLAIN) as second:
            await first.save_metadata([RECORD])
            await first.replace_splits({"AAPL": [SPLIT]})
            async with first.session_lock(DAY), second.session_lock(DAY, wait=False) as both:
                assert not both
                await first.note("session 2025-11-19", ["a", "b"])
                await first.store_session(rows, DAY, SessionCounts(300, 0, 0, 0), nyse())
            async with second.session_lock(DAY, wait=False) as mine:
                assert mine
            await second.store(rows[:1], Settled("session 2025-11-19", ["a"]))
            assert (await second.watermark(), len(await second.bars(DAY))) == (DAY, 300)
            assert (await second.metadata(), await second.splits()) == ([RECORD], {"AAPL": [SPLIT]})
            assert await second.noted_scopes() == []
            await first.begin_run("ohlcv", {}, NOON)
    assert pooler.refused == []
    assert min(pooler.transactions) > 5
    assert len(await ask(address, "SELECT * FROM runs")) == 1


async def test_a_statement_still_has_its_limit_of_time(migrated: DatabaseAddress) -> None:
    async with connected(migrated, PLAIN) as database, database._transaction():  # noqa: SLF001 (what all tables ask by)
        assert await database._connection.fetchval("SHOW statement_timeout") == "1min"  # noqa: SLF001


async def test_the_pooler_of_this_test_refuses_what_pgbouncer_refuses(address: DatabaseAddress) -> None:
    async with pooling(address) as (front, pooler):
        with pytest.raises(asyncpg.PostgresError, match="unsupported startup parameter: statement_timeout"):
            await asyncpg.connect(**front.arguments(), ssl=False, server_settings={"statement_timeout": "1"})
        connection = await asyncpg.connect(**front.arguments(), ssl=False)
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await connection.fetch("SELECT $1::text", "prepared by name")
    assert pooler.refused == ["statement_timeout", "a statement that is prepared by name"]


async def test_a_pooler_that_refuses_a_start_up_parameter_is_a_configuration_error_that_says_so(
    address: DatabaseAddress,
) -> None:
    async with pooling(address, frozenset({"user", "database"})) as (front, _):
        with pytest.raises(ConfigurationError, match=r"unsupported startup parameter: client_encoding; let the pooler"):
            async with connected(front, PLAIN):
                pass

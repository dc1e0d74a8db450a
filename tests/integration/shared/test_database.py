import asyncio
import json
import subprocess
import sys
import traceback
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiblake.bars import BRONZE, ReportedBar
from fiblake.calendar import nyse
from fiblake.errors import ConfigurationError, EntitlementError, UpstreamError
from migrations import schema
from shared.database import COLUMNS, Database, DatabaseAddress, SessionCounts, Tls
from tests.integration.databases import ask, opened

DAY = date(2025, 11, 19)
NOON = datetime(2025, 11, 20, 12, tzinfo=UTC)
PASSWORD = "s3cret-passw0rd"  # noqa: S105 (nobody's)
TABLES = [
    "data_ingestion_watermark",
    "dividend_checks",
    "dividends",
    "files_in_doubt",
    "ingested_sessions",
    "raw_ohlcv",
    "runs",
    "splits",
    "symbol_metadata",
]


async def tables(address: DatabaseAddress) -> list[str]:
    rows = await ask(
        address,
        "SELECT table_name FROM information_schema.tables "
        "WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY table_name",
    )
    return [row["table_name"] for row in rows]


async def stored(address: DatabaseAddress) -> list[dict[str, Any]]:
    return await ask(address, 'SELECT * FROM raw_ohlcv ORDER BY symbol, "timestamp"')


def row(symbol: str = "AAPL", session: date = DAY, close: float = 10.0, at: datetime = NOON) -> dict[str, Any]:
    return ReportedBar(symbol, session, close - 1, close + 1, close - 2, close, 25933.6, 10.25, 917).row(at)


async def whole(database: Database, rows: list[dict[str, Any]], session: date, quarantined: int = 0) -> date:
    """Store a session whole; return the watermark."""
    return await database.store_session(rows, session, SessionCounts(len(rows), quarantined, 0, 0), nyse())


# ---------------------------------------------------------------------------------------------------------- the schema


def test_a_second_upgrade_leaves_the_schema_and_its_rows_as_they_are(address: DatabaseAddress) -> None:
    schema.upgrade(address, Tls(verify=False))
    asyncio.run(ask(address, "INSERT INTO data_ingestion_watermark VALUES ('d', '2025-11-19', now())"))
    schema.upgrade(address, Tls(verify=False))
    assert asyncio.run(tables(address)) == TABLES
    assert len(asyncio.run(ask(address, "SELECT * FROM data_ingestion_watermark"))) == 1


def test_two_upgrades_at_once_both_end_well(address: DatabaseAddress) -> None:
    # Two processes, as two deployments are: Alembic keeps its state in module globals, one migration a process.
    code = f"""
from migrations.schema import upgrade
from shared.database import DatabaseAddress, Tls
address = DatabaseAddress({address.host!r}, {address.port}, {address.user!r}, {address.database!r}, "")
upgrade(address, Tls(verify=False))
"""
    both = [subprocess.Popen([sys.executable, "-W", "error", "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert asyncio.run(tables(address)) == TABLES


def test_a_downgrade_takes_the_tables_away_and_an_upgrade_brings_them_back(migrated: DatabaseAddress) -> None:
    schema.downgrade(migrated, Tls(verify=False))
    assert asyncio.run(tables(migrated)) == []
    schema.downgrade(migrated, Tls(verify=False))
    schema.upgrade(migrated, Tls(verify=False))
    assert asyncio.run(tables(migrated)) == TABLES


async def test_the_tables_columns_are_those_the_rows_are_staged_in(migrated: DatabaseAddress) -> None:
    columns = await ask(
        migrated,
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
        "WHERE table_name = 'raw_ohlcv' ORDER BY ordinal_position",
    )
    assert {column["column_name"] for column in columns} == set(COLUMNS)
    nullable = {column["column_name"] for column in columns if column["is_nullable"] == "YES"}
    assert nullable == {field.name for field in BRONZE if field.nullable}


def test_an_upgrade_prints_no_password_and_an_error_quotes_none(
    address: DatabaseAddress, capfd: pytest.CaptureFixture[str]
) -> None:
    schema.upgrade(replace(address, _password=PASSWORD), Tls(verify=False))
    with pytest.raises(UpstreamError, match="the schema cannot be migrated") as raised:
        schema.upgrade(replace(address, _password=PASSWORD, host="/nowhere"), Tls(verify=False))
    assert PASSWORD not in "".join([*capfd.readouterr(), *traceback.format_exception(raised.value)])


def test_an_upgrade_without_rights_is_refused(address: DatabaseAddress) -> None:
    with pytest.raises(EntitlementError, match="nobody"):
        schema.upgrade(replace(address, user="nobody"), Tls(verify=False))


# ------------------------------------------------------------------------------------------------- rows and watermark


async def test_a_bar_is_stored_as_it_came(migrated: DatabaseAddress) -> None:
    bare = row("KIMpL") | {"vwap": None, "trades": None}
    async with opened(migrated) as database:
        await whole(database, [row(), bare], DAY)
    assert await stored(migrated) == [row(), bare]


async def test_the_watermark_is_the_session_stored_last(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        assert await database.watermark() is None
        await whole(database, [row()], DAY)
        assert await database.watermark() == DAY


async def test_the_watermark_never_goes_back(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        await whole(database, [row()], DAY)
        await whole(database, [row(session=DAY - timedelta(days=1))], DAY - timedelta(days=1))
        assert await database.watermark() == DAY
    assert len(await stored(migrated)) == 2


async def test_rows_alone_leave_ledger_and_watermark(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        await database.store([row()])
        assert await database.watermark() is None


async def test_a_session_without_rows_moves_the_watermark(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        await whole(database, [], DAY)
        assert await database.watermark() == DAY


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [(1, 2, 1), (2, 1, 0), (1, 1, 1)],
    ids=["a later write wins", "an earlier write loses", "of equals the second wins"],
)
async def test_of_two_writes_of_a_bar_the_later_by_ingestion_stays(
    migrated: DatabaseAddress, first: int, second: int, winner: int
) -> None:
    writes = [row(close=100, at=NOON + timedelta(minutes=first)), row(close=200, at=NOON + timedelta(minutes=second))]
    async with opened(migrated) as database:
        for write in writes:
            await database.store([write])
    assert await stored(migrated) == [writes[winner]]


async def test_rows_and_watermark_are_seen_together_or_not_at_all(migrated: DatabaseAddress) -> None:
    broken = row("MSFT") | {"close": None}
    async with opened(migrated) as database:
        await whole(database, [row()], DAY)
        with pytest.raises(UpstreamError):
            await whole(database, [row("IBM"), broken], DAY + timedelta(days=1))
        assert await database.watermark() == DAY
        await database.store([row("IBM")])
    assert [bar["symbol"] for bar in await stored(migrated)] == ["AAPL", "IBM"]


async def test_a_failure_between_rows_and_watermark_leaves_neither(migrated: DatabaseAddress) -> None:
    await ask(migrated, "ALTER TABLE data_ingestion_watermark ADD CHECK (last_session < '2025-11-19')")
    async with opened(migrated) as database:
        with pytest.raises(UpstreamError, match="CheckViolationError"):
            await whole(database, [row()], DAY)
        assert await database.watermark() is None
    assert await stored(migrated) == []


async def test_one_bar_twice_in_one_call_is_an_error_and_nothing_is_stored(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        with pytest.raises(UpstreamError, match="CardinalityViolationError"):
            await whole(database, [row(close=1), row(close=2)], DAY)
        assert await database.watermark() is None
    assert await stored(migrated) == []


async def test_a_whole_session_of_5350_tickers_is_one_call_and_may_be_repeated(migrated: DatabaseAddress) -> None:
    rows = [row(f"S{i:04d}", close=100 + i) for i in range(5_350)]
    async with opened(migrated) as database:
        await whole(database, rows, DAY)
        await whole(database, rows, DAY)
    assert await stored(migrated) == rows


async def test_two_fetchers_of_one_session_store_it_once(migrated: DatabaseAddress) -> None:
    rows = [row(f"S{i:04d}") for i in range(500)]
    async with opened(migrated) as first, opened(migrated) as second:
        await asyncio.gather(whole(first, rows, DAY), whole(second, rows, DAY))
    assert await stored(migrated) == rows


Write = tuple[str, int, int]
WRITES = st.lists(st.tuples(st.sampled_from(["A", "B"]), st.integers(0, 2), st.integers(0, 5)), max_size=8)


@given(writes=WRITES)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_order_of_writes_ends_with_each_bars_latest(migrated: DatabaseAddress, writes: list[Write]) -> None:
    async def play() -> list[dict[str, Any]]:
        await ask(migrated, "TRUNCATE raw_ohlcv")
        async with opened(migrated) as database:
            for symbol, day, minute in writes:
                bar = row(symbol, DAY + timedelta(days=day), 100 + minute, NOON + timedelta(minutes=minute))
                await database.store([bar])
        return await stored(migrated)

    latest: dict[tuple[str, int], int] = {}
    for symbol, day, minute in writes:
        latest[symbol, day] = max(minute, latest.get((symbol, day), 0))
    assert asyncio.run(play()) == [
        row(symbol, DAY + timedelta(days=day), 100 + minute, NOON + timedelta(minutes=minute))
        for (symbol, day), minute in sorted(latest.items())
    ]


# --------------------------------------------------------------------------------------------------------------- errors


async def test_missing_tables_are_an_error_that_names_the_command(address: DatabaseAddress) -> None:
    async with opened(address) as database:
        with pytest.raises(ConfigurationError, match="fiblake migrate"):
            await database.watermark()
        with pytest.raises(ConfigurationError, match="fiblake migrate"):
            await whole(database, [row()], DAY)


async def test_a_missing_column_is_an_error_that_names_the_command(migrated: DatabaseAddress) -> None:
    await ask(migrated, "ALTER TABLE raw_ohlcv DROP COLUMN vwap")
    async with opened(migrated) as database:
        with pytest.raises(ConfigurationError, match="fiblake migrate"):
            await whole(database, [row()], DAY)


@pytest.mark.parametrize("changes", [{"host": "/nowhere"}, {"host": "127.0.0.1", "port": 1}, {"database": "no_such"}])
async def test_an_address_where_no_database_is_is_a_fault_that_may_pass(
    server: DatabaseAddress, changes: dict[str, Any]
) -> None:
    with pytest.raises(UpstreamError, match=r"there is no answer at|the database failed") as raised:
        async with opened(replace(server, _password=PASSWORD, **changes)):
            pass
    assert PASSWORD not in "".join(traceback.format_exception(raised.value))


async def test_a_user_the_database_does_not_know_is_refused(server: DatabaseAddress) -> None:
    with pytest.raises(EntitlementError, match="the database refuses its user") as raised:
        async with opened(replace(server, user="nobody", _password=PASSWORD)):
            pass
    assert PASSWORD not in "".join(traceback.format_exception(raised.value))


async def test_a_connection_that_is_cut_is_a_fault_that_may_pass(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert await ask(migrated, f"SELECT pg_terminate_backend(pid, 30000) AS ended {others}") == [{"ended": True}]
        with pytest.raises(UpstreamError):
            await whole(database, [row()], DAY)
    assert await stored(migrated) == []


def test_an_address_shows_no_password() -> None:
    address = DatabaseAddress("db.test", 5432, "me", "lake", PASSWORD)
    assert (repr(address), str(address)) == ("DatabaseAddress(me@db.test:5432/lake)", "me@db.test:5432/lake")


@pytest.mark.parametrize(
    "secret",
    [
        "", "x", "[]", f'"{PASSWORD}"', f'{{"password": "{PASSWORD}"', f'{{"password": "{PASSWORD}"}}',
        f'{{"host": "h", "port": "{PASSWORD}", "username": "u", "password": "{PASSWORD}"}}',
    ],
)  # fmt: skip
def test_a_secret_in_another_form_is_an_error_that_does_not_quote_it(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="is not RDS's JSON") as raised:
        DatabaseAddress.of_secret(secret)
    assert PASSWORD not in "".join(traceback.format_exception(raised.value))


def test_a_secret_without_port_and_name_means_postgress_own() -> None:
    address = DatabaseAddress.of_secret(json.dumps({"host": "h", "username": "u", "password": PASSWORD}))
    arguments = address.arguments()
    assert (arguments["host"], arguments["port"]) == ("h", 5432)
    assert (arguments["user"], arguments["database"], arguments["password"]) == ("u", "postgres", PASSWORD)


def test_migrations_ship_with_the_package() -> None:
    names = sorted(path.name for path in Path(schema.__file__).with_name("versions").glob("v*.py"))
    assert [name[:5] for name in names] == [f"v{number:04}" for number in range(1, len(names) + 1)]
    assert names[:2] == ["v0001_bars_and_watermark.py", "v0002_reference_and_ledger.py"]

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiblake.bars import ReportedBar
from fiblake.calendar import CalendarRangeError, NotASessionError, nyse
from fiblake.errors import UpstreamError
from migrations import schema
from migrations.fetcher_user import set_up_fetcher_user
from shared.database import Database, DatabaseAddress, SessionCounts, Tls
from tests.integration.databases import ask, fetcher_of, opened

NOON = datetime(2025, 11, 20, 12, tzinfo=UTC)
WEEK = nyse().between(date(2025, 11, 17), date(2025, 11, 26))
MON, TUE, WED, THU, FRI, MON2, TUE2, WED2 = WEEK


def row(symbol: str, session: date, close: float = 10.0) -> dict[str, Any]:
    return ReportedBar(symbol, session, close, close, close, close, 1.0).row(NOON)


async def whole(database: Database, session: date, symbols: Sequence[str] = ("AAPL",), **counts: int) -> date:
    rows = [row(symbol, session) for symbol in symbols]
    session_counts = SessionCounts(
        **{"bars": len(rows), "quarantined": 0, "outside_universe": 0, "flagged": 0} | counts
    )
    return await database.store_session(rows, session, session_counts, nyse())


async def test_the_watermark_waits_at_a_missing_session_and_advances_when_it_is_stored(
    migrated: DatabaseAddress,
) -> None:
    async with opened(migrated) as database:
        marks = [await whole(database, session) for session in (MON, WED, THU, TUE, FRI)]
        assert marks == [MON, MON, MON, THU, FRI]
        assert await database.watermark() == FRI


async def test_a_weekend_is_no_hole(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        assert [await whole(database, session) for session in (FRI, MON2)] == [FRI, MON2]


async def test_the_ledger_has_the_counts_of_a_sessions_bars(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        await whole(database, MON, ["AAPL", "MSFT"], quarantined=1, outside_universe=4_000, flagged=2)
        await whole(database, MON, ["AAPL"], bars=2)
    [entry] = await ask(migrated, "SELECT * FROM ingested_sessions")
    assert entry.pop("stored_at")
    assert entry == {
        "session": MON, "bars": 2, "quarantined": 0, "outside_universe": 0, "flagged": 0, "archived_at": None,
    }  # fmt: skip


async def test_stored_sessions_are_those_of_the_ledger_whose_rows_are_there_or_archived_or_never_were(
    migrated: DatabaseAddress,
) -> None:
    async with opened(migrated) as database:
        for session in (MON, TUE, THU, FRI):
            await whole(database, session)
        await whole(database, WED, ())
        await database.store([row("AAPL", MON2)])
        await ask(migrated, 'DELETE FROM raw_ohlcv WHERE "timestamp" IN ($1, $2)', TUE, THU)
        await ask(migrated, "UPDATE ingested_sessions SET archived_at = now() WHERE session = $1", THU)
        assert await database.stored_sessions(MON, MON2) == {MON, WED, THU, FRI}
        assert await database.stored_sessions(TUE, THU) == {WED, THU}


async def test_a_day_that_is_no_session_is_not_stored(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        with pytest.raises(NotASessionError):
            await whole(database, date(2025, 11, 22))
        with pytest.raises(CalendarRangeError):
            await whole(database, date(2999, 1, 2))
        assert await database.stored_sessions(MON, WED2) == set()
    assert await ask(migrated, "SELECT * FROM raw_ohlcv") == []


async def test_a_ledger_that_cannot_be_written_leaves_rows_and_watermark_as_they_were(
    migrated: DatabaseAddress,
) -> None:
    await ask(migrated, "ALTER TABLE ingested_sessions ADD CHECK (session < '2025-11-18')")
    async with opened(migrated) as database:
        await whole(database, MON)
        with pytest.raises(UpstreamError, match="CheckViolationError"):
            await whole(database, TUE)
        assert await database.watermark() == MON
    assert [row["timestamp"] for row in await ask(migrated, 'SELECT "timestamp" FROM raw_ohlcv')] == [MON]


async def test_sessions_stored_at_once_by_many_leave_the_watermark_at_the_last(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as first:
        await whole(first, MON)

    async def store(session: date) -> None:
        async with opened(migrated) as database:
            await whole(database, session, [f"S{i:03d}" for i in range(200)])

    await asyncio.gather(*(store(session) for session in reversed(WEEK[1:])))
    async with opened(migrated) as database:
        assert await database.watermark() == WED2


OURS = "FROM pg_locks JOIN pg_database ON oid = database WHERE datname = current_database() AND locktype = 'advisory'"


async def until_one_waits(address: DatabaseAddress) -> None:
    for _ in range(1_000):
        if await ask(address, f"SELECT {OURS} AND NOT granted"):
            return
    raise AssertionError("nobody waits")


async def test_of_two_runs_with_one_session_the_second_waits_and_with_another_session_none_waits(
    migrated: DatabaseAddress,
) -> None:
    finished: list[str] = []

    async def lock_monday() -> None:
        async with opened(migrated) as database, database.session_lock(MON):
            finished.append("second")

    async with opened(migrated) as first, opened(migrated) as second:
        async with first.session_lock(MON), second.session_lock(TUE):
            waiting = asyncio.create_task(lock_monday())
            await until_one_waits(migrated)
            finished.append("first")
        await waiting
    assert finished == ["first", "second"]


async def test_a_process_that_ends_without_unlocking_blocks_no_other(migrated: DatabaseAddress) -> None:
    async def cut_off(database: Database) -> None:
        async with database.session_lock(MON):
            await ask(migrated, f"SELECT pg_terminate_backend(pid) {OURS}")
            # Another process has the lock now: nothing may be stored under it any more.
            await whole(database, MON)

    async with opened(migrated) as first, opened(migrated) as second:
        with pytest.raises(UpstreamError):
            await cut_off(first)
        async with second.session_lock(MON):
            assert await ask(migrated, f"SELECT {OURS} AND granted") == [{}]


@given(order=st.lists(st.sampled_from(WEEK), min_size=1, max_size=12))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_no_session_from_the_first_to_the_watermark_is_missing_whatever_the_order(
    migrated: DatabaseAddress, order: list[date]
) -> None:
    async def play() -> None:
        await ask(migrated, "TRUNCATE raw_ohlcv, ingested_sessions, data_ingestion_watermark")
        stored: set[date] = set()
        mark = order[0]
        async with opened(migrated) as database:
            for session in order:
                stored.add(session)
                before, mark = mark, await whole(database, session)
                assert mark >= before
                assert set(nyse().between(order[0], mark)) <= stored
                assert mark == WEEK[-1] or WEEK[WEEK.index(mark) + 1] not in stored

    asyncio.run(play())


def test_a_database_of_the_first_version_keeps_its_watermark_as_the_ledgers_first_entry(
    address: DatabaseAddress,
) -> None:
    async def fill() -> None:
        await ask(address, "INSERT INTO data_ingestion_watermark VALUES ('ohlcv_1d', $1, now())", TUE)
        for session in (MON, TUE):
            await ask(
                address, "INSERT INTO raw_ohlcv VALUES ('AAPL', $1, 1, 1, 1, 1, 1, NULL, NULL, '1d', now())", session
            )

    async def go_on() -> None:
        async with opened(address) as database:
            assert await database.stored_sessions(MON, WED) == {TUE}
            assert await whole(database, WED) == WED

    schema.upgrade(address, Tls(verify=False), "0001")
    asyncio.run(fill())
    schema.upgrade(address, Tls(verify=False))
    set_up_fetcher_user(address, fetcher_of(address), Tls(verify=False))
    asyncio.run(go_on())
    schema.downgrade(address, Tls(verify=False), "0001")
    assert asyncio.run(ask(address, "SELECT last_session FROM data_ingestion_watermark")) == [{"last_session": WED}]


# ------------------------------------------------------------------------------------------------------ bars to compare


async def test_the_bars_of_a_session_are_given_by_symbol(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        await database.store([row("AAPL", MON, 1), row("MSFT", MON, 2), row("AAPL", TUE, 3)])
        assert await database.bars(MON) == {"AAPL": row("AAPL", MON, 1), "MSFT": row("MSFT", MON, 2)}
        assert await database.bars(WED) == {}


async def test_the_last_close_before_a_session_is_each_symbols_own(migrated: DatabaseAddress) -> None:
    rows = [row("AAPL", MON, 1), row("AAPL", WED, 2), row("AAPL", THU, 3), row("MSFT", TUE, 4), row("OLD", MON, 5)]
    async with opened(migrated) as database:
        await database.store(rows)
        assert await database.last_closes(TUE, THU) == {"AAPL": (WED, 2.0), "MSFT": (TUE, 4.0)}
        assert await database.last_closes(MON, WED) == {"AAPL": (MON, 1.0), "MSFT": (TUE, 4.0), "OLD": (MON, 5.0)}

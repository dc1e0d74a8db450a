"""Rows move from a real Postgres to the archive, and none is lost."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from fiblake.bars import BRONZE, ReportedBar, decode, encode
from fiblake.calendar import nyse
from fiblake.errors import ConfigurationError, UpstreamError
from fiblake.lake import archive_key
from services.vacuum.rows import Due, Retired, archive_rows, find_due
from shared.database import Database, DatabaseAddress, SessionCounts
from tests.fakes import MemoryObjectStore
from tests.integration.databases import ask, opened

TODAY = date(2025, 11, 20)
NOON = datetime(2025, 11, 20, 12, tzinfo=UTC)
OLD = nyse().between(date(2023, 1, 3), date(2023, 1, 9))
YOUNG = date(2025, 11, 19)
DAYS = 730


def row(symbol: str, session: date, close: float = 10.0, seconds: int = 0) -> dict[str, Any]:
    at = NOON + timedelta(seconds=seconds, microseconds=123)
    return ReportedBar(symbol, session, close, close + 1, close - 1, close, 0.5, None, 3).row(at)


async def filled(address: DatabaseAddress) -> None:
    async with opened(address) as database:
        for session in (*OLD, YOUNG):
            rows = [row(symbol, session) for symbol in ("AAPL", "BRK.B", "MSFT")]
            await database.store_session(rows, session, SessionCounts(len(rows), 0, 0, 0), nyse())


async def retired(database: Database, store: MemoryObjectStore, batch: int = 2) -> Retired:
    return await archive_rows(database, store, await find_due(database, TODAY, DAYS), batch, NOON)


def archived(store: MemoryObjectStore) -> list[dict[str, Any]]:
    rows = [
        row
        for key in store.keys("archive/raw_ohlcv")
        for row in decode(store.peek(key) or b"", BRONZE, key).to_pylist()
    ]
    return sorted(rows, key=lambda row: (row["symbol"], row["timestamp"]))


async def in_table(address: DatabaseAddress) -> list[dict[str, Any]]:
    return await ask(address, 'SELECT * FROM raw_ohlcv ORDER BY symbol, "timestamp"')


async def test_what_would_go_is_shown_and_nothing_is_changed(migrated: DatabaseAddress) -> None:
    await filled(migrated)
    async with opened(migrated) as database:
        to_retire = await find_due(database, TODAY, DAYS)
    assert to_retire == Due(TODAY - timedelta(days=DAYS), dict.fromkeys(OLD, 3))
    assert to_retire.rows == 15
    assert len(await in_table(migrated)) == 18


async def test_old_rows_are_in_the_archive_and_young_ones_in_the_table_and_each_once(migrated: DatabaseAddress) -> None:
    await filled(migrated)
    before = await in_table(migrated)
    store = MemoryObjectStore()
    async with opened(migrated) as database:
        report = await retired(database, store)
    after = await in_table(migrated)
    assert (report.sessions, report.rows, report.kept) == (5, 15, 0)
    assert {row["timestamp"] for row in after} == {YOUNG}
    together = sorted([*archived(store), *after], key=lambda row: (row["symbol"], row["timestamp"]))
    assert together == before
    assert store.keys("archive")[0] == "archive/raw_ohlcv/year=2023/month=01/date=2023-01-03.parquet"


async def test_an_archived_session_still_counts_as_stored(migrated: DatabaseAddress) -> None:
    await filled(migrated)
    async with opened(migrated) as database:
        await retired(database, MemoryObjectStore())
        assert await database.stored_sessions(OLD[0], OLD[-1]) == set(OLD)
        assert await database.watermark() is not None


@pytest.mark.parametrize("verb", ["write", "get"])
async def test_if_the_archive_fails_nothing_of_the_session_is_deleted_and_the_next_run_continues(
    migrated: DatabaseAddress, verb: str
) -> None:
    await filled(migrated)
    before = await in_table(migrated)
    store = MemoryObjectStore()
    store.fail(verb, of=lambda key: key == archive_key(OLD[2]))
    async with opened(migrated) as database:
        with pytest.raises(UpstreamError):
            await retired(database, store)
        remaining = await in_table(migrated)
        assert {row["timestamp"] for row in remaining} == {*OLD[2:], YOUNG}
        await retired(database, store)
    assert [*archived(store)] == [row for row in before if row["timestamp"] != YOUNG]


async def test_a_session_whose_archive_cannot_be_read_stays_and_the_others_go_on(migrated: DatabaseAddress) -> None:
    await filled(migrated)
    before = await in_table(migrated)
    store = MemoryObjectStore()
    store.lay(archive_key(OLD[1]), b"not Parquet")
    async with opened(migrated) as database:
        report = await retired(database, store)
        assert (report.sessions, report.rows) == (4, 12)
        assert str(report.faults[OLD[1]]).startswith(f"{archive_key(OLD[1])} cannot be read")
        assert "move it away" in str(report.faults[OLD[1]])
        assert {row["timestamp"] for row in await in_table(migrated)} == {OLD[1], YOUNG}
        assert store.peek(archive_key(OLD[1])) == b"not Parquet"
        store.take_away(archive_key(OLD[1]))
        assert (await retired(database, store)).faults == {}
    assert [*archived(store)] == [row for row in before if row["timestamp"] != YOUNG]


async def test_a_copy_that_reads_back_otherwise_deletes_nothing(migrated: DatabaseAddress) -> None:
    await filled(migrated)
    store = MemoryObjectStore()
    honest = store._write  # noqa: SLF001

    def corrupted(key: str, data: bytes, mode: Any) -> str:  # noqa: ANN401
        honest(key, data, mode)
        return store.lay(key, encode(decode(data, BRONZE, key).slice(1)))

    store._write = corrupted  # type: ignore[method-assign]  # noqa: SLF001
    async with opened(migrated) as database:
        with pytest.raises(UpstreamError, match="is not what was written: nothing is deleted"):
            await retired(database, store)
    assert len(await in_table(migrated)) == 18


async def test_a_run_cut_off_between_two_batches_is_finished_by_the_next(
    migrated: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(migrated)
    before = await in_table(migrated)
    store = MemoryObjectStore()
    honest = Database.delete_bars
    batches_to_come = [3]

    async def killed(self: Database, session: date, rows: Any) -> int:  # noqa: ANN401
        batches_to_come[0] -= 1
        if batches_to_come[0] < 0:
            raise KeyboardInterrupt
        return await honest(self, session, rows)

    monkeypatch.setattr(Database, "delete_bars", killed)
    async with opened(migrated) as database:
        with pytest.raises(KeyboardInterrupt):
            await retired(database, store)
        monkeypatch.setattr(Database, "delete_bars", honest)
        assert await database.stored_sessions(OLD[0], OLD[-1]) == set(OLD), "a session half gone is not fetched again"
        await retired(database, store)
    assert [*archived(store)] == [row for row in before if row["timestamp"] != YOUNG]
    assert {row["timestamp"] for row in await in_table(migrated)} == {YOUNG}


async def test_rows_loaded_later_join_those_of_their_session_and_the_last_write_wins(migrated: DatabaseAddress) -> None:
    await filled(migrated)
    store = MemoryObjectStore()
    late = [row("NEW", OLD[0]), row("AAPL", OLD[0], close=99, seconds=5), row("MSFT", OLD[0], close=1, seconds=-5)]
    async with opened(migrated) as database:
        await retired(database, store)
        await database.store(late)
        report = await retired(database, store)
    assert (report.sessions, report.rows) == (1, 3)
    closes = {stored["symbol"]: stored["close"] for stored in archived(store) if stored["timestamp"] == OLD[0]}
    assert closes == {"AAPL": 99, "BRK.B": 10, "MSFT": 10, "NEW": 10}


async def test_a_row_written_again_while_it_is_archived_stays_for_the_next_run(
    migrated: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(migrated)
    store = MemoryObjectStore()
    honest = Database.mark_archived

    async def restated(self: Database, session: date, now: datetime) -> None:
        await honest(self, session, now)
        if session == OLD[0]:
            await self.store([row("AAPL", session, close=99, seconds=5)])

    monkeypatch.setattr(Database, "mark_archived", restated)
    async with opened(migrated) as database:
        assert (await retired(database, store)).kept == 1
        monkeypatch.setattr(Database, "mark_archived", honest)
        assert (await retired(database, store)).rows == 1
    (archived_row,) = [
        stored for stored in archived(store) if (stored["symbol"], stored["timestamp"]) == ("AAPL", OLD[0])
    ]
    assert archived_row["close"] == 99


async def test_less_than_two_months_is_refused(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        with pytest.raises(ConfigurationError, match="59 days are below the floor of 60"):
            await find_due(database, TODAY, 59)

import asyncio
import threading
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fiblake.calendar import nyse
from services.fetcher.intake import Intake
from services.fetcher.ohlcv import Fetched, Fetcher, IncompleteError, Universe
from services.fetcher.settings import FetchEvent
from services.fetcher.validation import VendorBar
from shared.database import DatabaseAddress
from tests.fakes import LAKE, Clock, MemoryObjectStore
from tests.integration.databases import ask as query
from tests.integration.databases import know, opened

NOW = datetime(2025, 11, 21, 21, 5, tzinfo=UTC)
WEDNESDAY, THURSDAY, FRIDAY = date(2025, 11, 19), date(2025, 11, 20), date(2025, 11, 21)


class Vendor:
    """Three tickers in each session, one of them unusable, one reported twice, and one unknown."""

    def __init__(self) -> None:
        self.closes: dict[tuple[str, date], float] = {}

    async def grouped_daily(self, session: date) -> list[VendorBar]:
        good = [self._bar(symbol, session) for symbol in ("AAPL", "MSFT", "NOBODY")]
        return [*good, VendorBar("BAD", session, -1.0, 12.0, 9.0, 11.0, 1.0, None, None), good[0]]

    def _bar(self, symbol: str, session: date) -> VendorBar:
        return VendorBar(symbol, session, 10.0, 12.0, 9.0, self.closes.get((symbol, session), 11.0), 1000.5, None, None)


@pytest.fixture
def listed(migrated: DatabaseAddress) -> DatabaseAddress:
    asyncio.run(know(migrated, "AAPL", "MSFT", "BAD"))
    return migrated


def fetch(
    address: DatabaseAddress,
    store: MemoryObjectStore,
    vendor: Vendor | None = None,
    look_back: int = 0,
    **event: object,
) -> Fetched:
    async def fetched() -> Fetched:
        async with opened(address) as database:
            client: Any = vendor or Vendor()
            intake = Intake(client, store, LAKE, database, nyse(), 3.0, Clock(NOW))
            fetcher = Fetcher(intake, Universe(frozenset({"CS"})), WEDNESDAY, look_back)
            return await fetcher.fetch(FetchEvent.model_validate(event))

    return asyncio.run(fetched())


def ask(address: DatabaseAddress, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in asyncio.run(query(address, sql))]


def sessions(address: DatabaseAddress) -> list[tuple[Any, ...]]:
    return ask(address, 'SELECT symbol, "timestamp" FROM raw_ohlcv ORDER BY 2, 1')


def test_a_put_that_fails_leaves_the_session_for_the_next_run_and_those_after_it_are_stored(
    listed: DatabaseAddress,
) -> None:
    store = MemoryObjectStore()
    store.fail("put", of=lambda key: key == LAKE.date_key("MSFT", THURSDAY))
    with pytest.raises(IncompleteError, match=r"2025-11-20: 1 of 2 files .* \(MSFT\)"):
        fetch(listed, store)
    both = [(symbol, session) for session in (WEDNESDAY, FRIDAY) for symbol in ("AAPL", "MSFT")]
    assert sessions(listed) == both
    assert ask(listed, "SELECT last_session FROM data_ingestion_watermark") == [(WEDNESDAY,)]
    stored = fetch(listed, store).done
    # One of the two files was put before: its bars are stored, and it need not be written again.
    counts = [(s.what, s.stored, s.unchanged, s.quarantined, s.outside_universe) for s in stored]
    assert counts == [("2025-11-20", 1, 1, 2, 1)]
    assert len(sessions(listed)) == 6
    assert ask(listed, "SELECT last_session FROM data_ingestion_watermark") == [(FRIDAY,)]
    assert ask(listed, "SELECT session, bars, quarantined, outside_universe FROM ingested_sessions ORDER BY 1") == [
        (session, 2, 2, 1) for session in (WEDNESDAY, THURSDAY, FRIDAY)
    ]
    assert fetch(listed, store) == Fetched()


def test_a_session_whose_rows_were_deleted_is_missing_again(listed: DatabaseAddress) -> None:
    store = MemoryObjectStore()
    fetch(listed, store)
    ask(listed, "DELETE FROM raw_ohlcv WHERE \"timestamp\" = '2025-11-20'")
    assert [session.what for session in fetch(listed, store).done] == ["2025-11-20"]
    assert len(sessions(listed)) == 6


def test_looking_back_writes_a_restated_bar_and_nothing_else(listed: DatabaseAddress) -> None:
    store, vendor = MemoryObjectStore(), Vendor()
    fetch(listed, store, vendor)
    before = {key: store.etag(key) for key in store.keys("bronze/raw_ohlcv/")}
    vendor.closes["MSFT", THURSDAY] = 11.5
    again = fetch(listed, store, vendor, look_back=2).looked_at_again
    assert [(session.what, session.stored, session.unchanged) for session in again] == [
        ("2025-11-20", 1, 1),
        ("2025-11-21", 0, 2),
    ]
    after = {key: store.etag(key) for key in store.keys("bronze/raw_ohlcv/")}
    assert {key for key in after if after[key] != before.get(key)} == {LAKE.date_key("MSFT", THURSDAY)}
    assert ask(listed, "SELECT close FROM raw_ohlcv WHERE symbol = 'MSFT' ORDER BY \"timestamp\"") == [
        (11.0,), (11.5,), (11.0,),
    ]  # fmt: skip


def test_one_date_ahead_of_a_hole_does_not_move_the_watermark_over_it(listed: DatabaseAddress) -> None:
    store = MemoryObjectStore()
    fetch(listed, store, to="2025-11-19")
    fetch(listed, store, date="2025-11-21")
    assert ask(listed, "SELECT last_session FROM data_ingestion_watermark") == [(WEDNESDAY,)]
    assert [session.what for session in fetch(listed, store).done] == ["2025-11-20"]
    assert ask(listed, "SELECT last_session FROM data_ingestion_watermark") == [(FRIDAY,)]


class SlowStore(MemoryObjectStore):
    """Lets bars that closed at 11 wait for the other fetcher's bars, if they come within a second."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way, self.overtaken = threading.Event(), threading.Event()

    def put(self, key: str, data: bytes) -> str:
        if not LAKE.is_source(key):
            return super().put(key, data)
        if pq.read_table(pa.BufferReader(data))["close"][0].as_py() == 11.0:
            self.under_way.set()
            self.overtaken.wait(1)
            return super().put(key, data)
        etag = super().put(key, data)
        self.overtaken.set()
        return etag


def test_two_fetchers_of_one_session_leave_the_same_bar_in_bucket_and_database(listed: DatabaseAddress) -> None:
    store, started = SlowStore(), datetime.now(UTC)
    ask(listed, "DELETE FROM symbol_metadata WHERE symbol = 'MSFT'")

    async def fetched(close: float) -> None:
        vendor: Any = Vendor()
        vendor.closes["AAPL", FRIDAY] = close
        async with opened(listed) as database:
            intake = Intake(
                vendor, store, LAKE, database, nyse(), 3.0, lambda: NOW + (datetime.now(UTC) - started)
            )  # fmt: skip
            await Fetcher(intake, Universe(frozenset({"CS"})), FRIDAY, 0).fetch(FetchEvent(date=FRIDAY))

    async def both() -> None:
        first = asyncio.create_task(fetched(11.0))
        await asyncio.to_thread(store.under_way.wait)
        await fetched(11.5)
        await first

    asyncio.run(both())
    file = pq.read_table(pa.BufferReader(store.peek(LAKE.date_key("AAPL", FRIDAY))))
    assert file["close"].to_pylist() == [11.5]
    assert ask(listed, "SELECT symbol, close FROM raw_ohlcv") == [("AAPL", 11.5)]


def test_the_run_is_one_session_in_one_transaction(listed: DatabaseAddress) -> None:
    store = MemoryObjectStore()
    ask(listed, "ALTER TABLE ingested_sessions ADD CHECK (session < '2025-11-21')")
    with pytest.raises(IncompleteError, match="2025-11-21: the database failed: CheckViolationError"):
        fetch(listed, store)
    assert {session for _, session in sessions(listed)} == {WEDNESDAY, THURSDAY}
    assert ask(listed, "SELECT last_session FROM data_ingestion_watermark") == [(THURSDAY,)]

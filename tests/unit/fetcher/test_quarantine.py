import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fiblake.bars import ReportedBar, read_bars
from fiblake.calendar import nyse
from fiblake.errors import ConflictError, ContractError, FiblakeError, NotFoundError, UpstreamError
from fiblake.lake import QUARANTINE_PREFIX, QUARANTINE_RECORD_KEY
from services.fetcher.quarantine import find_quarantined, release
from shared.quarantine import QuarantinedBar, list_quarantined, quarantine, quarantine_of_sessions
from tests.fakes import LAKE, MemoryObjectStore, later
from tests.unit.fetcher.rows import FakeDatabase

NOW = datetime(2025, 11, 21, 21, 5, tzinfo=UTC)
DAY = date(2025, 11, 21)
BAD = ReportedBar("AAPL", DAY, -1.0, 12.0, 9.0, 11.0, 1000.5, None, 7)
REASON = "open -1.0 is not a positive number"


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore()


@pytest.fixture
def database(store: MemoryObjectStore) -> FakeDatabase:
    return FakeDatabase(store.journal)


async def release_bar(store: MemoryObjectStore, database: FakeDatabase, bar: QuarantinedBar, by: str = "jane") -> str:
    return await release(store, LAKE, database, nyse(), bar, by, later())


def test_held_bars_are_listed_as_reported_with_their_reasons(store: MemoryObjectStore) -> None:
    nameless, hollow = replace(BAD, symbol="A/B"), replace(BAD, symbol="MSFT", open=math.nan)
    quarantine(store, [(BAD, REASON), (nameless, "no key"), (hollow, "no open")], NOW)
    listed = list_quarantined(store)
    assert [(quarantined.bar.symbol, quarantined.reason, quarantined.row) for quarantined in listed] == [
        ("AAPL", REASON, 1), ("MSFT", "no open", 1), ("A/B", "no key", 1),
    ]  # fmt: skip
    assert (listed[0].bar, listed[0].held_since) == (BAD, NOW)
    assert math.isnan(listed[1].bar.open)


def test_one_symbols_bars_can_be_listed_alone(store: MemoryObjectStore) -> None:
    quarantine(store, [(BAD, REASON), (replace(BAD, symbol="AAPL.X"), REASON)], NOW)
    assert [quarantined.bar.symbol for quarantined in list_quarantined(store, "AAPL")] == ["AAPL"]
    assert list_quarantined(store, "IBM") == []


def test_an_object_that_no_service_reads_stops_no_list(store: MemoryObjectStore) -> None:
    quarantine(store, [(BAD, REASON)], NOW)
    for stray in ("x.parquet", "symbol=AAPL/part-0.parquet", "symbol=AAPL/old/date=2025-11-20.parquet"):
        store.lay(f"{QUARANTINE_PREFIX}/{stray}", b"junk")
    assert [held.bar for held in list_quarantined(store)] == [held.bar for held in list_quarantined(store, "AAPL")]


def test_a_quarantine_that_cannot_be_written_is_an_error(store: MemoryObjectStore) -> None:
    store.fail("write")
    with pytest.raises(UpstreamError):
        quarantine(store, [(BAD, REASON)], NOW)


def test_an_object_that_cannot_be_read_is_named_and_stops_no_list(
    store: MemoryObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    quarantine(store, [(BAD, REASON)], NOW)
    key = f"{QUARANTINE_PREFIX}/symbol=~/date=2025-11-20.parquet"
    store.lay(key, b"?")
    unreadable: dict[str, str] = {}
    assert [held.bar for held in list_quarantined(store, "AAPL", unreadable)] == [BAD]
    assert unreadable.keys() == {key}
    assert unreadable[key].startswith(f"{key} is not a quarantine file: ")
    assert "quarantine object not read" in caplog.text


async def test_a_released_bar_is_in_the_lake_as_given_on_record_and_no_longer_held(
    store: MemoryObjectStore, database: FakeDatabase
) -> None:
    quarantine(store, [(BAD, REASON)], NOW)
    key = await release_bar(store, database, list_quarantined(store)[0])
    data = store.peek(key) or b""
    [row] = read_bars(data, "AAPL", NOW).to_pylist()
    assert key == LAKE.date_key("AAPL", DAY)
    assert (row["open"], row["high"], row["volume"], row["trades"]) == (-1.0, 12.0, 1000.5, 7)
    assert row["ingested_at"] == later()
    assert pq.ParquetFile(pa.BufferReader(data)).metadata.metadata[b"fiblake.released"] == b"jane"
    assert database.rows["AAPL", DAY] == row
    [entry] = json.loads(store.peek(QUARANTINE_RECORD_KEY) or b"")["releases"]
    assert (entry["by"], entry["reason"], entry["key"], entry["bar"]["open"]) == ("jane", REASON, key, -1.0)
    assert list_quarantined(store) == []


async def test_the_order_is_file_row_record_and_only_then_the_end_of_the_quarantine(
    store: MemoryObjectStore, database: FakeDatabase
) -> None:
    quarantine(store, [(BAD, REASON)], NOW)
    bar = list_quarantined(store)[0]
    store.journal.clear()
    await release_bar(store, database, bar)
    assert [verb for verb, _ in store.journal if verb not in {"get", "list"}] == [
        "note", "put", "store", "write", "delete",
    ]  # fmt: skip


async def test_no_other_run_has_the_session_while_a_bar_of_it_is_released(
    store: MemoryObjectStore, database: FakeDatabase
) -> None:
    quarantine(store, [(BAD, REASON)], NOW)
    [bar] = list_quarantined(store)
    async with database.session_lock(DAY):
        with pytest.raises(AssertionError, match="waits"):
            await release_bar(store, database, bar)
    assert (database.rows, len(list_quarantined(store)), store.keys("bronze/raw_ohlcv/")) == ({}, 1, [])


async def test_a_release_that_is_cut_off_can_be_done_again(store: MemoryObjectStore, database: FakeDatabase) -> None:
    quarantine(store, [(BAD, REASON)], NOW)
    database.failures = 1
    with pytest.raises(UpstreamError):
        await release_bar(store, database, list_quarantined(store)[0])
    await release_bar(store, database, list_quarantined(store)[0])
    assert (list_quarantined(store), len(database.rows)) == ([], 1)


async def test_of_several_rows_of_a_file_one_is_released_and_the_others_stay(
    store: MemoryObjectStore, database: FakeDatabase
) -> None:
    quarantine(store, [(BAD, REASON), (replace(BAD, close=11.5), "twice")], NOW)
    await release_bar(store, database, find_quarantined(list_quarantined(store), "AAPL", DAY, 2))
    assert [quarantined.bar for quarantined in list_quarantined(store)] == [BAD]
    assert database.rows["AAPL", DAY]["close"] == 11.5


async def test_a_bar_of_a_flat_file_is_released_and_the_sessions_other_bars_stay(
    store: MemoryObjectStore, database: FakeDatabase
) -> None:
    other = replace(BAD, symbol="MSFT")
    quarantine_of_sessions(store, [(BAD, REASON, "2025-11-21.csv.gz"), (other, REASON, "2025-11-21.csv.gz")], NOW)
    await release_bar(store, database, find_quarantined(list_quarantined(store, "AAPL"), "AAPL", DAY, None))
    assert [held.bar for held in list_quarantined(store)] == [other]
    assert database.rows["AAPL", DAY]["close"] == 11.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"symbol": "A/B"}, "its symbol cannot be a key"),
        ({"session": date(2025, 11, 22)}, "2025-11-22 is not a session"),
        ({"open": math.nan}, "it has no open"),
        ({"volume": math.inf}, "it has no volume"),
    ],
)
async def test_what_cannot_be_a_bar_at_all_cannot_be_released(
    store: MemoryObjectStore, database: FakeDatabase, changes: dict[str, object], reason: str
) -> None:
    quarantine(store, [(replace(BAD, **changes), REASON)], NOW)  # type: ignore[arg-type]
    [bar] = list_quarantined(store)
    with pytest.raises(FiblakeError, match=reason):
        await release_bar(store, database, bar)
    assert (len(list_quarantined(store)), database.rows, store.keys("bronze/raw_ohlcv/")) == (1, {}, [])


async def test_a_bar_that_was_reported_again_meanwhile_stays_in_quarantine(
    store: MemoryObjectStore, database: FakeDatabase
) -> None:
    quarantine(store, [(BAD, REASON)], NOW)
    [bar] = list_quarantined(store)
    quarantine(store, [(replace(BAD, close=12.0), REASON)], later())
    with pytest.raises(ConflictError, match="changed since its bars were read"):
        await release_bar(store, database, bar)
    assert ([quarantined.bar.close for quarantined in list_quarantined(store)], database.rows) == ([12.0], {})


def test_the_one_bar_meant_is_found_or_it_is_said_why_not(store: MemoryObjectStore) -> None:
    quarantine(store, [(BAD, REASON), (replace(BAD, close=11.5), "twice")], NOW)
    bars = list_quarantined(store)
    assert find_quarantined(bars, "AAPL", DAY, 2).reason == "twice"
    with pytest.raises(ContractError, match=r"2 bars of AAPL .* name one \(--row 1, 2\)"):
        find_quarantined(bars, "AAPL", DAY, None)
    with pytest.raises(NotFoundError, match="fiblake quarantine list"):
        find_quarantined(bars, "AAPL", date(2025, 11, 20), None)

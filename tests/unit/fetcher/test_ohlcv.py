from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.fetcher.ohlcv import Fetched, Fetcher, Stored
from services.fetcher.settings import FetchEvent
from shared.bars import BRONZE, read_bars
from shared.calendar import nyse
from shared.errors import EntitlementError, UpstreamError
from tests.fakes import LAKE, Clock, Journal, MemoryObjectStore
from tests.unit.fetcher.rows import FakeDatabase
from tests.unit.fetcher.vendor import Vendor, client_of, grouped_row, page, range_row, refusal

NOW = datetime(2025, 11, 21, 21, 5, tzinfo=UTC)
"""16:05 in New York on a Friday."""
WEDNESDAY, THURSDAY, FRIDAY = date(2025, 11, 19), date(2025, 11, 20), date(2025, 11, 21)


@dataclass
class World:
    vendor: Vendor
    journal: Journal = field(default_factory=list)
    universe: frozenset[str] = frozenset()
    first_session: date | None = None

    def __post_init__(self) -> None:
        self.store = MemoryObjectStore(self.journal)
        self.database = FakeDatabase(self.journal, WEDNESDAY)

    @asynccontextmanager
    async def fetcher(self) -> AsyncIterator[Fetcher]:
        async with client_of(self.vendor) as client:
            yield Fetcher(
                client, self.store, LAKE, self.database, nyse(), self.universe, self.first_session, Clock(NOW)
            )

    async def fetch(self, **event: object) -> list[Stored]:
        """Fetch, where nothing is pending."""
        fetched = await self.fetched(**event)
        assert fetched.pending == []
        return fetched.done

    async def fetched(self, **event: object) -> Fetched:
        async with self.fetcher() as fetcher:
            return await fetcher.fetch(FetchEvent.model_validate(event))

    def bars(self, key: str, symbol: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = read_bars(self.store.peek(key) or b"", symbol, NOW).to_pylist()
        return found

    def quarantined(self, symbol: str, session: date) -> list[dict[str, Any]]:
        data = self.store.peek(f"bronze/quarantine/symbol={symbol}/date={session}.parquet")
        rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(data)).to_pylist()
        return rows


@pytest.fixture
def world(vendor: Vendor) -> World:
    return World(vendor)


def both_days(*rows: tuple[str, float]) -> list[Any]:
    return [page([grouped_row(symbol, day, close) for symbol, close in rows]) for day in (THURSDAY, FRIDAY)]


def done(session: date | str, stored: int, quarantined: int = 0, outside: int = 0) -> Stored:
    return Stored(str(session), stored, quarantined, outside, NOW)


# ------------------------------------------------------------------------------------------------- session by session


async def test_missing_sessions_are_fetched_oldest_first_one_date_file_a_symbol(world: World) -> None:
    world.vendor.answers = both_days(("AAPL", 268.5), ("BRK.B", 505.0))
    assert await world.fetch() == [done(THURSDAY, 2), done(FRIDAY, 2)]
    assert [path.rsplit("/", 1)[-1] for path in world.vendor.paths] == ["2025-11-20", "2025-11-21"]
    assert world.store.keys() == [
        f"bronze/raw_ohlcv/symbol={symbol}/date=2025-11-{day}.parquet"
        for symbol in ("AAPL", "BRK.B")
        for day in (20, 21)
    ]
    assert world.database.mark == FRIDAY


async def test_a_date_file_and_its_row_hold_the_bar_as_the_vendor_reported_it(world: World) -> None:
    world.database.mark = THURSDAY
    world.vendor.answers = [page([grouped_row("AAPL", FRIDAY, 268.5)])]
    await world.fetch()
    bar = {
        "symbol": "AAPL", "timestamp": FRIDAY, "open": 268.0, "high": 269.5, "low": 267.5, "close": 268.5,
        "volume": 25933.6, "vwap": 268.5, "trades": 917, "interval": "1d", "ingested_at": NOW,
    }  # fmt: skip
    assert world.bars(LAKE.date_key("AAPL", FRIDAY), "AAPL") == [bar]
    assert world.database.rows == {("AAPL", FRIDAY): bar}
    data = world.store.peek(LAKE.date_key("AAPL", FRIDAY))
    assert pq.read_schema(pa.BufferReader(data)).names == BRONZE.names


async def test_files_are_in_s3_before_rows_and_watermark_are_in_the_database(world: World) -> None:
    world.vendor.answers = both_days(("AAPL", 1.5), ("MSFT", 2.5))
    await world.fetch()
    assert [verb for verb, _ in world.journal] == ["put", "put", "store"] * 2
    assert [key for verb, key in world.journal if verb == "store"] == [str(THURSDAY), str(FRIDAY)]


async def test_a_put_that_fails_leaves_the_watermark_and_the_next_run_goes_on_from_there(world: World) -> None:
    world.vendor.answers = [*both_days(("AAPL", 1.5), ("MSFT", 2.5)), *both_days(("AAPL", 1.5), ("MSFT", 2.5))[1:]]
    world.store.fail("put", of=lambda key: key == LAKE.date_key("MSFT", FRIDAY))
    with pytest.raises(UpstreamError):
        await world.fetch()
    assert (world.database.mark, len(world.database.rows)) == (THURSDAY, 2)
    assert await world.fetch() == [done(FRIDAY, 2)]
    assert (world.database.mark, len(world.database.rows), len(world.store.keys())) == (FRIDAY, 4, 4)


async def test_a_database_that_fails_leaves_the_watermark_and_the_next_run_does_the_session_again(
    world: World,
) -> None:
    world.vendor.answers = both_days(("AAPL", 1.5))
    world.database.failures = 1
    with pytest.raises(UpstreamError):
        await world.fetch()
    assert (world.database.mark, world.store.keys()) == (WEDNESDAY, [LAKE.date_key("AAPL", THURSDAY)])
    world.vendor.answers = both_days(("AAPL", 1.5))
    assert await world.fetch() == [done(THURSDAY, 1), done(FRIDAY, 1)]


async def test_a_session_that_is_not_there_yet_stays_pending_and_those_before_it_are_kept(world: World) -> None:
    early = refusal(403, "Attempted to request today's data before end of day")
    world.vendor.answers = [both_days(("AAPL", 1.5))[0], early]
    assert await world.fetched() == Fetched([done(THURSDAY, 1)], [FRIDAY])
    assert world.database.mark == THURSDAY


async def test_a_row_that_is_garbled_is_quarantined_and_the_session_is_stored(world: World) -> None:
    garbled = [{"T": "GARB", "o": "1,5", "h": None, "l": 1, "c": 1, "v": 5}, {"T": "BARE"}, {"o": 1}]
    world.database.mark = THURSDAY
    world.vendor.answers = [page([grouped_row("AAPL", FRIDAY, 1.5), *garbled])]
    assert await world.fetch() == [done(FRIDAY, 1, quarantined=3)]
    assert world.database.mark == FRIDAY
    assert "open nan is not a positive number" in world.quarantined("GARB", FRIDAY)[0]["reason"]
    assert world.quarantined("BARE", FRIDAY)[0]["volume"] != world.quarantined("BARE", FRIDAY)[0]["volume"]
    assert world.quarantined("~", FRIDAY)[0]["symbol"] == ""


@pytest.mark.parametrize(
    ("answer", "kind"), [(refusal(401, "Unknown API Key"), EntitlementError), (page([]), UpstreamError)]
)
async def test_a_vendor_that_refuses_leaves_everything_as_it_was(
    world: World, answer: httpx.Response, kind: type[Exception]
) -> None:
    world.vendor.answers = [answer]
    with pytest.raises(kind):
        await world.fetch()
    assert (world.journal, world.database.mark) == ([], WEDNESDAY)


async def test_nothing_missing_asks_the_vendor_nothing(world: World) -> None:
    world.database.mark = FRIDAY
    assert await world.fetch() == []
    assert (world.vendor.requests, world.journal) == ([], [])


async def test_a_past_day_may_be_replayed(world: World) -> None:
    world.vendor.answers = both_days(("AAPL", 1.5))
    assert await world.fetch(as_of="2025-11-20") == [done(THURSDAY, 1)]


async def test_an_empty_database_begins_at_the_first_session_that_was_set(vendor: Vendor) -> None:
    world = World(vendor, first_session=THURSDAY)
    world.database.mark = None
    vendor.answers = both_days(("AAPL", 1.5))
    assert await world.fetch() == [done(THURSDAY, 1), done(FRIDAY, 1)]


async def test_tickers_outside_the_universe_are_counted_and_not_stored(vendor: Vendor) -> None:
    world = World(vendor, universe=frozenset({"AAPL", "KIMpL", "ZZZ"}))
    vendor.answers = both_days(("AAPL", 1.5), ("KIMPL", 2.5), ("KIMpL", 3.5), ("MSFT", 4.5))
    assert await world.fetch() == [done(THURSDAY, 2, outside=2), done(FRIDAY, 2, outside=2)]
    assert {symbol for symbol, _ in world.database.rows} == {"AAPL", "KIMpL"}


async def test_a_session_with_no_ticker_of_the_universe_is_stored_as_whole(vendor: Vendor) -> None:
    world = World(vendor, universe=frozenset({"ZZZ"}))
    vendor.answers = both_days(("AAPL", 1.5))
    assert await world.fetch() == [done(THURSDAY, 0, outside=1), done(FRIDAY, 0, outside=1)]
    assert (world.store.keys(), world.database.mark) == ([], FRIDAY)


# ---------------------------------------------------------------------------------------------------------- quarantine


async def test_a_bar_that_fails_validation_is_quarantined_as_reported_with_its_reasons(world: World) -> None:
    world.database.mark = THURSDAY
    world.vendor.answers = [page([grouped_row("BAD", FRIDAY, 5.0, o=-1.0, v=-2.0), grouped_row("AAPL", FRIDAY)])]
    assert await world.fetch() == [done(FRIDAY, 1, quarantined=1)]
    assert world.quarantined("BAD", FRIDAY) == [{
        "symbol": "BAD", "session": FRIDAY, "open": -1.0, "high": 6.0, "low": 4.0, "close": 5.0, "volume": -2.0,
        "vwap": 5.0, "trades": 917, "ingested_at": NOW,
        "reason": "open -1.0 is not a positive number; volume -2.0 is not a number of shares",
    }]  # fmt: skip
    assert world.store.keys("bronze/raw_ohlcv/") == [LAKE.date_key("AAPL", FRIDAY)]
    assert [symbol for symbol, _ in world.database.rows] == ["AAPL"]
    assert world.database.mark == FRIDAY


async def test_bars_that_cannot_be_named_share_one_quarantine_file(world: World) -> None:
    world.database.mark = THURSDAY
    nameless = grouped_row("", FRIDAY)
    del nameless["T"]
    rows = [grouped_row("../../x", FRIDAY), grouped_row("A/B", FRIDAY), grouped_row("..", FRIDAY), nameless]
    world.vendor.answers = [page([*rows, grouped_row("AAPL", FRIDAY)])]
    assert await world.fetch() == [done(FRIDAY, 1, quarantined=4)]
    held = world.quarantined("~", FRIDAY)
    assert sorted((row["symbol"], row["reason"]) for row in held) == [
        (symbol, f"symbol {symbol!r} cannot be a key") for symbol in ("", "..", "../../x", "A/B")
    ]
    assert len(world.store.keys()) == 2


async def test_a_second_bar_of_one_ticker_and_session_is_quarantined_and_the_session_is_stored(world: World) -> None:
    world.database.mark = THURSDAY
    rows = [grouped_row("AAPL", FRIDAY, 5.0), grouped_row("MSFT", FRIDAY), grouped_row("AAPL", FRIDAY, 6.0)]
    world.vendor.answers = [page(rows)]
    assert await world.fetch() == [done(FRIDAY, 2, quarantined=1)]
    [held] = world.quarantined("AAPL", FRIDAY)
    assert held["reason"] == "the vendor reported this session twice"
    [stored] = world.bars(LAKE.date_key("AAPL", FRIDAY), "AAPL")
    assert (stored["close"], held["close"]) == (5.0, 6.0)
    assert world.database.rows["AAPL", FRIDAY] == stored


async def test_a_quarantine_that_cannot_be_written_leaves_the_session_to_do(world: World) -> None:
    world.vendor.answers = [page([grouped_row("BAD", THURSDAY, -5.0), grouped_row("AAPL", THURSDAY)])]
    world.store.fail("put", of=lambda key: "quarantine" in key)
    with pytest.raises(UpstreamError):
        await world.fetch()
    assert world.database.mark == WEDNESDAY


# ------------------------------------------------------------------------------------------------------------ backfill


async def test_a_backfill_is_one_range_file_a_symbol_and_leaves_the_watermark(world: World) -> None:
    world.vendor.answers = [page([range_row(WEDNESDAY, 5.0), range_row(FRIDAY, 6.0)]), page([range_row(FRIDAY, 7.0)])]
    got = await world.fetch(backfill=["AAPL", "KIMpL"], backfill_from="2025-11-17")
    assert got == [done("AAPL", 2), done("KIMpL", 1)]
    assert [path.split("ticker/")[1] for path in world.vendor.paths] == [
        f"{symbol}/range/1/day/2025-11-17/2025-11-21" for symbol in ("AAPL", "KIMpL")
    ]
    assert world.store.keys() == [
        "bronze/raw_ohlcv/symbol=AAPL/range=2025-11-19_2025-11-21.parquet",
        "bronze/raw_ohlcv/symbol=KIMpL/range=2025-11-21_2025-11-21.parquet",
    ]
    bars = world.bars(LAKE.range_key("AAPL", WEDNESDAY, FRIDAY), "AAPL")
    assert [(bar["timestamp"], bar["close"]) for bar in bars] == [(WEDNESDAY, 5.0), (FRIDAY, 6.0)]
    assert (len(world.database.rows), world.database.mark) == (3, WEDNESDAY)
    assert [verb for verb, _ in world.journal] == ["put", "store", "put", "store"]


async def test_a_backfill_in_any_order_is_stored_by_session(world: World) -> None:
    world.vendor.answers = [page([range_row(FRIDAY), range_row(WEDNESDAY), range_row(THURSDAY)])]
    await world.fetch(backfill=["AAPL"])
    bars = world.bars(LAKE.range_key("AAPL", WEDNESDAY, FRIDAY), "AAPL")
    assert [bar["timestamp"] for bar in bars] == [WEDNESDAY, THURSDAY, FRIDAY]


async def test_a_backfill_ends_with_the_last_closed_session_as_of_the_day_asked_for(world: World) -> None:
    world.vendor.answers = [page([range_row(WEDNESDAY)])]
    await world.fetch(backfill=["AAPL"], as_of="2025-11-19")
    assert world.vendor.paths == ["/v2/aggs/ticker/AAPL/range/1/day/1962-01-02/2025-11-19"]


async def test_an_empty_backfill_stores_nothing_and_is_no_error(world: World) -> None:
    world.vendor.answers = [page(None)]
    assert await world.fetch(backfill=["NEWCO"]) == [done("NEWCO", 0)]
    assert (world.journal, world.database.rows) == ([], {})


async def test_a_backfilled_bar_of_no_session_is_quarantined_and_the_others_are_stored(world: World) -> None:
    saturday = date(2025, 11, 22)
    world.vendor.answers = [page([range_row(FRIDAY), range_row(saturday)])]
    assert await world.fetch(backfill=["AAPL"]) == [done("AAPL", 1, quarantined=1)]
    [held] = world.quarantined("AAPL", saturday)
    assert held["reason"] == "2025-11-22 is not a session of the NYSE"


async def test_a_backfill_is_not_cut_by_the_universe(vendor: Vendor) -> None:
    world = World(vendor, universe=frozenset({"MSFT"}))
    vendor.answers = [page([range_row(FRIDAY)])]
    assert await world.fetch(backfill=["AAPL"]) == [done("AAPL", 1)]

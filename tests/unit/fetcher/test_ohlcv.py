from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fiblake.bars import BRONZE, VALUE_COLUMNS, read_bars
from fiblake.calendar import nyse
from fiblake.errors import ConfigurationError, EntitlementError
from fiblake.reference import Split
from services.fetcher.intake import Intake, Stored
from services.fetcher.ohlcv import Fetched, Fetcher, IncompleteError, Universe
from services.fetcher.settings import FetchEvent
from shared.database import SessionCounts
from tests.fakes import BUCKET, LAKE, Clock, Journal, MemoryObjectStore
from tests.unit.fetcher.rows import FakeDatabase
from tests.unit.fetcher.vendor import Vendor, client_of, grouped_page, grouped_row, page, refusal

NOW = datetime(2025, 11, 21, 21, 5, tzinfo=UTC)
"""16:05 in New York on a Friday."""
WEDNESDAY, THURSDAY, FRIDAY = date(2025, 11, 19), date(2025, 11, 20), date(2025, 11, 21)
CS_AND_ETF = Universe(frozenset({"CS", "ETF"}))
COUNTS = SessionCounts(bars=1, quarantined=0, outside_universe=0, flagged=0)
STOCKS = {"AAPL", "MSFT", "BRK.B", "KIMpL", "BAD", "GARB", "BARE", "A/B", "..", "../../x"}


@dataclass
class World:
    vendor: Vendor
    journal: Journal = field(default_factory=list)
    universe: Universe = CS_AND_ETF
    first_session: date | None = None
    look_back: int = 0

    def __post_init__(self) -> None:
        self.store = MemoryObjectStore(self.journal)
        self.database = FakeDatabase(self.journal, known={"CS": set(STOCKS), "ETF": {"SPY"}, "WARRANT": {"AAPLW"}})
        self.store_up_to(WEDNESDAY)

    def store_up_to(self, *sessions: date) -> None:
        """Let exactly these sessions be stored whole."""
        self.database.ledger = dict.fromkeys(sessions, COUNTS)
        self.database.mark = max(sessions, default=None)

    @asynccontextmanager
    async def fetcher(self) -> AsyncIterator[Fetcher]:
        async with client_of(self.vendor) as client:
            intake = Intake(client, self.store, LAKE, self.database, nyse(), 3.0, Clock(NOW))
            yield Fetcher(intake, self.universe, self.first_session, self.look_back)

    async def fetch(self, **event: object) -> list[Stored]:
        """Fetch, where nothing is pending."""
        fetched = await self.fetched(**event)
        assert fetched.pending == []
        return fetched.done

    async def fetched(self, **event: object) -> Fetched:
        async with self.fetcher() as fetcher:
            return await fetcher.fetch(FetchEvent.model_validate(event))

    def bars(self, key: str, symbol: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = read_bars(self.store.peek(key) or b"", symbol, NOW).to_pylist()
        return rows

    def quarantined(self, symbol: str, session: date) -> list[dict[str, Any]]:
        data = self.store.peek(f"bronze/quarantine/symbol={symbol}/date={session}.parquet")
        rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(data)).to_pylist()
        return rows


@pytest.fixture
def world(vendor: Vendor) -> World:
    return World(vendor)


def both_days(*rows: tuple[str, float]) -> list[Any]:
    return [page([grouped_row(symbol, day, close) for symbol, close in rows]) for day in (THURSDAY, FRIDAY)]


def stored_session(session: date | str, stored: int, quarantined: int = 0, outside: int = 0) -> Stored:
    return Stored(str(session), stored, 0, quarantined, outside, (), NOW)


# ------------------------------------------------------------------------------------------------- session by session


async def test_missing_sessions_are_fetched_oldest_first_one_date_file_a_symbol(world: World) -> None:
    world.vendor.answers = both_days(("AAPL", 268.5), ("BRK.B", 505.0))
    assert await world.fetch() == [stored_session(THURSDAY, 2), stored_session(FRIDAY, 2)]
    assert [path.rsplit("/", 1)[-1] for path in world.vendor.paths] == ["2025-11-20", "2025-11-21"]
    assert world.store.keys() == [
        f"bronze/raw_ohlcv/symbol={symbol}/date=2025-11-{day}.parquet"
        for symbol in ("AAPL", "BRK.B")
        for day in (20, 21)
    ]
    assert world.database.mark == FRIDAY


async def test_a_date_file_and_its_row_hold_the_bar_as_the_vendor_reported_it(world: World) -> None:
    world.store_up_to(THURSDAY)
    world.vendor.answers = [page([grouped_row("AAPL", FRIDAY, 268.5)])]
    await world.fetch()
    bar = dict.fromkeys(BRONZE.names) | {
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
    assert [verb for verb, _ in world.journal] == ["note", "put", "put", "store"] * 2
    assert [key for verb, key in world.journal if verb == "store"] == [str(THURSDAY), str(FRIDAY)]


async def test_a_put_that_fails_leaves_the_watermark_and_the_next_run_continues_from_there(world: World) -> None:
    world.vendor.answers = [*both_days(("AAPL", 1.5), ("MSFT", 2.5)), *both_days(("AAPL", 1.5), ("MSFT", 2.5))[1:]]
    world.store.fail("put", of=lambda key: key == LAKE.date_key("MSFT", FRIDAY))
    with pytest.raises(IncompleteError, match=r"2025-11-21: 1 of 2 files of 2025-11-21 were not written \(MSFT\)"):
        await world.fetch()
    assert (world.database.mark, len(world.database.rows)) == (THURSDAY, 2)
    # AAPL's file was put: its bar is stored, and MSFT's bar is written.
    assert await world.fetch() == [replace(stored_session(FRIDAY, 1), unchanged=1)]
    assert (world.database.mark, len(world.database.rows), len(world.store.keys())) == (FRIDAY, 4, 4)


async def test_a_database_that_fails_leaves_the_watermark_and_the_next_run_does_the_session_again(
    world: World,
) -> None:
    world.vendor.answers = both_days(("AAPL", 1.5))
    world.database.failures = 2
    with pytest.raises(IncompleteError, match="2025-11-20: the database fails"):
        await world.fetch()
    assert (world.database.mark, world.store.keys("bronze")[0]) == (WEDNESDAY, LAKE.date_key("AAPL", THURSDAY))
    world.vendor.answers = both_days(("AAPL", 1.5))
    assert await world.fetch() == [replace(stored_session(day, 0), unchanged=1) for day in (THURSDAY, FRIDAY)]
    assert {day: row["close"] for (_, day), row in world.database.rows.items()} == {THURSDAY: 1.5, FRIDAY: 1.5}
    assert world.database.notes == {"session 2025-11-20": set(), "session 2025-11-21": set()}


# ------------------------------------------------------------------ what a run that died between S3 and Postgres left


def in_bronze(world: World) -> dict[tuple[str, date], float]:
    keys = [key for key in world.store.keys() if LAKE.is_source(key)]  # noqa: SIM118 (a method, not a mapping)
    sources = [LAKE.parse_source(key) for key in keys]
    return {(source.symbol, source.first): world.bars(source.key, source.symbol)[0]["close"] for source in sources}


def in_postgres(world: World) -> dict[tuple[str, date], float]:
    return {place: row["close"] for place, row in world.database.rows.items()}


@pytest.fixture
async def stored_friday(world: World) -> World:
    """Friday is stored: AAPL at 10, MSFT at 20."""
    world.store_up_to(WEDNESDAY, THURSDAY)
    world.vendor.answers = [page([grouped_row("AAPL", FRIDAY, 10.0), grouped_row("MSFT", FRIDAY, 20.0)])]
    await world.fetch()
    return world


async def die_after_the_puts(world: World, *rows: dict[str, Any]) -> None:
    world.vendor.answers = [page(rows)]
    world.database.failures = 1
    with pytest.raises(IncompleteError, match="the database fails"):
        await world.fetched(date="2025-11-21")


async def test_a_price_that_was_put_and_then_taken_back_is_written_as_the_vendor_has_it(stored_friday: World) -> None:
    world, before = stored_friday, page([grouped_row("AAPL", FRIDAY, 10.0), grouped_row("MSFT", FRIDAY, 20.0)])
    await die_after_the_puts(world, grouped_row("AAPL", FRIDAY, 11.0), grouped_row("MSFT", FRIDAY, 20.0))
    assert in_bronze(world)["AAPL", FRIDAY] == 11.0
    world.vendor.answers = [before]
    # A run without requested sessions, and without sessions to look back at, fetches this session anyway.
    assert [session.what for session in (await world.fetched()).looked_at_again] == ["2025-11-21"]
    assert in_bronze(world) == in_postgres(world) == {("AAPL", FRIDAY): 10.0, ("MSFT", FRIDAY): 20.0}


async def test_a_bar_that_was_put_and_then_withdrawn_is_in_both_as_if_the_run_had_not_died(
    stored_friday: World,
) -> None:
    world, rows = stored_friday, [grouped_row("AAPL", FRIDAY, 10.0), grouped_row("MSFT", FRIDAY, 20.0)]
    await die_after_the_puts(world, *rows, grouped_row("SPY", FRIDAY, 600.0))
    world.vendor.answers = [page(rows)]
    await world.fetched(date="2025-11-21")
    assert in_bronze(world) == in_postgres(world)
    assert in_postgres(world)["SPY", FRIDAY] == 600.0


@pytest.mark.parametrize("spoil", ["taken away", "overwritten"])
async def test_a_noted_file_that_cannot_be_read_is_compared_with_nothing_and_its_session_is_looked_at_again(
    stored_friday: World, spoil: str
) -> None:
    world, key = stored_friday, LAKE.date_key("AAPL", FRIDAY)
    await die_after_the_puts(world, grouped_row("AAPL", FRIDAY, 11.0), grouped_row("MSFT", FRIDAY, 20.0))
    world.store.take_away(key) if spoil == "taken away" else world.store.lay(key, b"not Parquet")
    world.vendor.answers = [page([grouped_row("AAPL", FRIDAY, 10.0), grouped_row("MSFT", FRIDAY, 20.0)])]
    [again] = (await world.fetched()).looked_at_again
    assert (again.what, again.stored, again.unchanged) == ("2025-11-21", 1, 1)
    assert in_bronze(world) == in_postgres(world) == {("AAPL", FRIDAY): 10.0, ("MSFT", FRIDAY): 20.0}
    assert await world.database.noted_scopes() == []


async def test_what_another_run_is_putting_right_now_is_left_to_it(stored_friday: World) -> None:
    world, scope = stored_friday, "history AAPL"
    world.database.notes[scope] = {LAKE.range_key("AAPL", THURSDAY, FRIDAY)}
    world.database.busy = {scope}
    assert (await world.fetched()).looked_at_again == []
    assert await world.database.noted_scopes() == [scope]
    world.database.busy = set()
    world.store.lay(LAKE.range_key("AAPL", THURSDAY, FRIDAY), world.store.peek(LAKE.date_key("AAPL", FRIDAY)) or b"")
    await world.fetched()
    assert await world.database.noted_scopes() == []


async def test_a_scope_whose_files_cannot_be_settled_stops_no_other_one_and_is_tried_again(
    stored_friday: World, caplog: pytest.LogCaptureFixture
) -> None:
    world, frozen = stored_friday, LAKE.range_key("AAPL", THURSDAY, FRIDAY)
    world.database.notes = {"history AAPL": {frozen}, "history MSFT": {LAKE.range_key("MSFT", THURSDAY, FRIDAY)}}
    for symbol in ("AAPL", "MSFT"):
        data = world.store.peek(LAKE.date_key(symbol, FRIDAY)) or b""
        world.store.lay(LAKE.range_key(symbol, THURSDAY, FRIDAY), data)
    world.store.fail("get", ConfigurationError("it lies in Glacier: restore it first"), of=lambda key: key == frozen)
    assert (await world.fetched()).failed == {}
    assert await world.database.noted_scopes() == ["history AAPL"]
    assert "noted files not settled" in caplog.text
    await world.fetched()
    assert await world.database.noted_scopes() == []


async def test_a_session_that_is_not_there_yet_stays_pending_and_those_before_it_are_kept(world: World) -> None:
    early = refusal(403, "Attempted to request today's data before end of day")
    world.vendor.answers = [both_days(("AAPL", 1.5))[0], early]
    assert await world.fetched() == Fetched([stored_session(THURSDAY, 1)], pending=[FRIDAY])
    assert world.database.mark == THURSDAY


async def test_a_row_that_is_garbled_is_quarantined_and_the_session_is_stored(world: World) -> None:
    garbled = [{"T": "GARB", "o": "1,5", "h": None, "l": 1, "c": 1, "v": 5}, {"T": "BARE"}, {"o": 1}]
    world.store_up_to(THURSDAY)
    world.vendor.answers = [page([grouped_row("AAPL", FRIDAY, 1.5), *garbled])]
    assert await world.fetch() == [stored_session(FRIDAY, 1, quarantined=3)]
    assert world.database.mark == FRIDAY
    assert "open nan is not a positive number" in world.quarantined("GARB", FRIDAY)[0]["reason"]
    assert world.quarantined("BARE", FRIDAY)[0]["volume"] != world.quarantined("BARE", FRIDAY)[0]["volume"]
    assert world.quarantined("~", FRIDAY)[0]["symbol"] == ""


@pytest.mark.parametrize(
    ("answer", "kind"), [(refusal(401, "Unknown API Key"), EntitlementError), (page([]), IncompleteError)]
)
async def test_a_vendor_that_refuses_leaves_everything_as_it_was(
    world: World, answer: httpx.Response, kind: type[Exception]
) -> None:
    world.vendor.answers = [answer]
    with pytest.raises(kind):
        await world.fetch()
    assert (world.journal, world.database.mark) == ([], WEDNESDAY)


async def test_nothing_missing_asks_the_vendor_nothing(world: World) -> None:
    world.store_up_to(FRIDAY)
    assert await world.fetch() == []
    assert (world.vendor.requests, world.journal) == ([], [])


async def test_a_past_day_may_be_replayed(world: World) -> None:
    world.vendor.answers = both_days(("AAPL", 1.5))
    assert await world.fetch(as_of="2025-11-20") == [stored_session(THURSDAY, 1)]


async def test_an_empty_database_begins_at_the_first_session_that_was_set(vendor: Vendor) -> None:
    world = World(vendor, first_session=THURSDAY)
    world.store_up_to()
    vendor.answers = both_days(("AAPL", 1.5))
    assert await world.fetch() == [stored_session(THURSDAY, 1), stored_session(FRIDAY, 1)]


# ------------------------------------------------------------------------------------------------------------ universe


async def test_tickers_outside_the_universe_are_counted_and_not_stored(world: World) -> None:
    world.vendor.answers = both_days(("AAPL", 1.5), ("KIMPL", 2.5), ("KIMpL", 3.5), ("AAPLW", 4.5), ("SPY", 600.0))
    assert await world.fetch() == [stored_session(THURSDAY, 3, outside=2), stored_session(FRIDAY, 3, outside=2)]
    assert {symbol for symbol, _ in world.database.rows} == {"AAPL", "KIMpL", "SPY"}


async def test_a_list_of_tickers_narrows_the_universe_and_does_not_widen_it(vendor: Vendor) -> None:
    world = World(vendor, universe=Universe(frozenset({"CS"}), frozenset({"AAPL", "SPY", "NOBODY"})))
    vendor.answers = both_days(("AAPL", 1.5), ("MSFT", 2.5), ("SPY", 600.0), ("NOBODY", 1.0))
    assert await world.fetch() == [stored_session(THURSDAY, 1, outside=3), stored_session(FRIDAY, 1, outside=3)]


async def test_an_empty_universe_is_an_error_that_says_what_to_run_and_not_a_session_without_bars(
    world: World,
) -> None:
    world.database.known = {"WARRANT": {"AAPLW"}}
    with pytest.raises(ConfigurationError, match="no symbol of type CS, ETF in 2025-11-20: run the metadata fetcher"):
        await world.fetch()
    assert (world.vendor.requests, world.journal, world.database.mark) == ([], [], WEDNESDAY)


async def test_a_session_with_no_ticker_of_the_universe_is_stored_as_whole(world: World) -> None:
    world.vendor.answers = both_days(("ZZZ", 1.5))
    assert await world.fetch() == [stored_session(THURSDAY, 0, outside=1), stored_session(FRIDAY, 0, outside=1)]
    assert (world.store.keys(), world.database.mark) == ([], FRIDAY)
    assert world.database.ledger[FRIDAY] == replace(COUNTS, bars=0, outside_universe=1)


# ----------------------------------------------------------------------------------------- what fails, and what goes on


async def test_a_session_that_fails_does_not_keep_those_after_it_from_being_stored(world: World) -> None:
    thursday, friday = both_days(("AAPL", 1.5))
    world.store_up_to(date(2025, 11, 18))
    broken = [httpx.Response(500)] * 5
    world.vendor.answers = [*broken, thursday, friday]
    with pytest.raises(
        IncompleteError, match=r"sessions left for the next run: 2025-11-19: .* \(stored in this one: 2025"
    ) as e:
        await world.fetch()
    assert "2025-11-20, 2025-11-21" in str(e.value)
    assert sorted(world.database.ledger) == [date(2025, 11, 18), THURSDAY, FRIDAY]
    world.vendor.answers = [page([grouped_row("AAPL", WEDNESDAY)])]
    world.first_session = date(2025, 11, 18)
    assert await world.fetch() == [stored_session(WEDNESDAY, 1)]


async def test_an_empty_lake_begins_with_the_first_session_or_with_none(vendor: Vendor) -> None:
    world = World(vendor, first_session=WEDNESDAY)
    world.store_up_to()
    vendor.answers = [*[httpx.Response(500)] * 5, *both_days(("AAPL", 1.5))]
    with pytest.raises(IncompleteError, match="2025-11-19"):
        await world.fetch()
    assert (world.database.mark, world.database.ledger) == (None, {})


async def test_when_time_is_over_nothing_is_looked_at_again_and_that_is_no_failure(vendor: Vendor) -> None:
    world = World(vendor, look_back=5)
    world.store_up_to(WEDNESDAY, THURSDAY, FRIDAY)
    async with world.fetcher() as fetcher:
        assert await replace(fetcher, deadline=NOW).fetch(FetchEvent()) == Fetched()
    assert vendor.requests == []


async def test_a_vendor_that_is_down_is_not_asked_for_every_session(vendor: Vendor) -> None:
    world = World(vendor, first_session=date(2025, 1, 2))
    vendor.answers = [httpx.ConnectError("refused")]
    with pytest.raises(IncompleteError):
        await world.fetch()
    assert {path.rsplit("/", 1)[-1] for path in vendor.paths} == {"2025-01-02", "2025-01-03", "2025-11-21"}


async def test_old_sessions_that_always_fail_do_not_keep_the_newest_one_out(vendor: Vendor) -> None:
    world = World(vendor, first_session=date(2025, 1, 2))
    vendor.answers = [*[httpx.Response(500)] * 10, page([grouped_row("AAPL", FRIDAY)])]
    with pytest.raises(IncompleteError, match=r"2025-01-02: .*; 2025-01-03: .* \(stored in this one: 2025-11-21\)"):
        await world.fetch()
    assert sorted(world.database.ledger) == [WEDNESDAY, FRIDAY]


@pytest.mark.parametrize(("came", "whole"), [(49, False), (50, True), (100, True)])
async def test_an_answer_with_fewer_than_half_of_the_symbols_that_traded_before_makes_no_session_whole(
    world: World, came: int, *, whole: bool
) -> None:
    names = [f"S{i:02d}" for i in range(100)]
    world.database.known = {"CS": {*names, "NEWCO"}}
    world.store_up_to(WEDNESDAY)
    others = [grouped_row(f"W{i}", FRIDAY) for i in range(100)]
    short = [*(grouped_row(name, FRIDAY) for name in names[:came]), *others]
    world.vendor.answers = [page([grouped_row(name, THURSDAY) for name in names]), page(short)]
    if whole:
        assert await world.fetch() == [stored_session(THURSDAY, 100), stored_session(FRIDAY, came, outside=100)]
        return
    with pytest.raises(IncompleteError, match=r"2025-11-21: the vendor has bars of 49 of the 100 symbols that traded"):
        await world.fetch()
    assert (sorted(world.database.ledger), len(world.store.keys())) == ([WEDNESDAY, THURSDAY], 100)


async def test_an_error_names_the_symbols_whose_files_were_not_written_up_to_twenty(world: World) -> None:
    names = {f"S{i:02d}" for i in range(30)}
    world.database.known = {"CS": names}
    world.store_up_to(THURSDAY)
    world.vendor.answers = [page([grouped_row(name, FRIDAY) for name in sorted(names)])]
    world.store.fail("put", times=25, of=lambda key: int(key.split("symbol=S")[1][:2]) < 25)
    with pytest.raises(IncompleteError, match=r"25 of 30 files .* \(S00, S01, .*, S19 and 5 more\)"):
        await world.fetch()
    assert len(world.store.keys()) == 5


async def test_a_bucket_that_is_not_there_is_one_sentence_and_no_list_of_symbols(world: World) -> None:
    world.vendor.answers = both_days(("AAPL", 1.5), ("MSFT", 2.5))
    gone = ConfigurationError(f"there is no bucket {BUCKET!r}: set S3_BUCKET right")
    world.store.fail("put", gone, times=2)
    with pytest.raises(ConfigurationError, match="there is no bucket"):
        await world.fetch()
    assert world.database.mark == WEDNESDAY


# ------------------------------------------------------------------------------------------------------- looking back


async def test_bars_restated_since_are_written_and_the_others_are_not(world: World) -> None:
    world.vendor.answers = both_days(("AAPL", 1.5), ("MSFT", 2.5))
    await world.fetch()
    world.look_back = 5
    world.journal.clear()
    restated = [page([grouped_row("AAPL", day, 1.5), grouped_row("MSFT", day, close)]) for day, close in
                ((WEDNESDAY, 2.25), (THURSDAY, 2.5), (FRIDAY, 2.75))]  # fmt: skip
    world.vendor.answers = restated
    fetched = await world.fetched()
    assert fetched.done == []
    assert [(session.what, session.stored, session.unchanged) for session in fetched.looked_at_again] == [
        ("2025-11-19", 2, 0), ("2025-11-20", 0, 2), ("2025-11-21", 1, 1),
    ]  # fmt: skip
    assert [key for verb, key in world.journal if verb == "put"][-1] == LAKE.date_key("MSFT", FRIDAY)
    assert world.database.rows["MSFT", FRIDAY]["close"] == 2.75
    assert world.database.ledger[FRIDAY].bars == 2


async def test_what_is_missing_comes_before_what_is_looked_at_again(vendor: Vendor) -> None:
    world = World(vendor, look_back=1)
    vendor.answers = [*both_days(("AAPL", 1.5)), page([grouped_row("AAPL", WEDNESDAY)])]
    fetched = await world.fetched()
    assert [session.what for session in fetched.done] == ["2025-11-20", "2025-11-21"]
    assert [session.what for session in fetched.looked_at_again] == ["2025-11-19"]


async def test_a_run_may_be_set_not_to_look_back(vendor: Vendor) -> None:
    world = World(vendor, look_back=5)
    world.store_up_to(WEDNESDAY, THURSDAY, FRIDAY)
    assert await world.fetched(look_back=False) == Fetched()
    assert vendor.requests == []


# ---------------------------------------------------------------------------------------------------- asked for by name


async def test_one_date_is_fetched_though_it_is_stored(world: World) -> None:
    world.store_up_to(WEDNESDAY, THURSDAY, FRIDAY)
    world.vendor.answers = [page([grouped_row("AAPL", THURSDAY)])]
    fetched = await world.fetched(date="2025-11-20")
    assert [session.what for session in fetched.looked_at_again] == ["2025-11-20"]
    assert [path.rsplit("/", 1)[-1] for path in world.vendor.paths] == ["2025-11-20"]


async def test_of_a_range_only_the_missing_sessions_are_fetched_unless_all_are_requested(world: World) -> None:
    world.store_up_to(WEDNESDAY, THURSDAY)
    world.vendor.answers = [grouped_page("AAPL")]
    days = {"from": "2025-11-18", "to": "2025-11-20"}
    assert [session.what for session in (await world.fetched(**days)).done] == ["2025-11-18"]
    again = await world.fetched(**days, again=True)
    assert [session.what for session in again.looked_at_again] == ["2025-11-18", "2025-11-19", "2025-11-20"]


# --------------------------------------------------------------------------------------------------------------- jumps


async def test_a_jump_against_the_last_close_is_flagged_and_stored(world: World) -> None:
    world.vendor.answers = both_days(("AAPL", 10.0), ("MSFT", 100.0))
    world.vendor.answers[1] = page([grouped_row("AAPL", FRIDAY, 100.0), grouped_row("MSFT", FRIDAY, 101.0)])
    thursday, friday = await world.fetch()
    assert (thursday.flagged, friday.flagged, friday.stored) == ((), ("AAPL",), 2)
    assert world.database.ledger[FRIDAY].flagged == 1


async def test_a_jump_that_a_recorded_split_explains_is_not_flagged(world: World) -> None:
    world.database.recorded_splits = [Split("AAPL", FRIDAY, 1.0, 10.0, "forward_split", 0.1, "E1")]
    world.vendor.answers = both_days(("AAPL", 100.0))
    world.vendor.answers[1] = page([grouped_row("AAPL", FRIDAY, 10.0)])
    assert [session.flagged for session in await world.fetch()] == [(), ()]


# ---------------------------------------------------------------------------------------------------------- quarantine


async def test_a_bar_that_fails_validation_is_quarantined_as_reported_with_its_reasons(world: World) -> None:
    world.store_up_to(THURSDAY)
    world.vendor.answers = [page([grouped_row("BAD", FRIDAY, 5.0, o=-1.0, v=-2.0), grouped_row("AAPL", FRIDAY)])]
    assert await world.fetch() == [stored_session(FRIDAY, 1, quarantined=1)]
    assert world.quarantined("BAD", FRIDAY) == [dict.fromkeys(VALUE_COLUMNS) | {
        "symbol": "BAD", "session": FRIDAY, "open": -1.0, "high": 6.0, "low": 4.0, "close": 5.0, "volume": -2.0,
        "vwap": 5.0, "trades": 917, "ingested_at": NOW, "source": None,
        "reason": "open -1.0 is not a positive number; volume -2.0 is not a number of shares",
    }]  # fmt: skip
    assert world.store.keys("bronze/raw_ohlcv/") == [LAKE.date_key("AAPL", FRIDAY)]
    assert [symbol for symbol, _ in world.database.rows] == ["AAPL"]
    assert world.database.mark == FRIDAY


async def test_bars_that_cannot_be_named_share_one_quarantine_file(world: World) -> None:
    world.store_up_to(THURSDAY)
    nameless = grouped_row("", FRIDAY)
    del nameless["T"]
    rows = [grouped_row("../../x", FRIDAY), grouped_row("A/B", FRIDAY), grouped_row("..", FRIDAY), nameless]
    world.vendor.answers = [page([*rows, grouped_row("AAPL", FRIDAY)])]
    assert await world.fetch() == [stored_session(FRIDAY, 1, quarantined=4)]
    held = world.quarantined("~", FRIDAY)
    assert sorted((row["symbol"], row["reason"]) for row in held) == [
        (symbol, f"symbol {symbol!r} cannot be a key") for symbol in ("", "..", "../../x", "A/B")
    ]
    assert len(world.store.keys()) == 2


async def test_a_second_bar_of_one_ticker_and_session_is_quarantined_and_the_session_is_stored(world: World) -> None:
    world.store_up_to(THURSDAY)
    rows = [grouped_row("AAPL", FRIDAY, 5.0), grouped_row("MSFT", FRIDAY), grouped_row("AAPL", FRIDAY, 6.0)]
    world.vendor.answers = [page(rows)]
    assert await world.fetch() == [stored_session(FRIDAY, 2, quarantined=1)]
    [held] = world.quarantined("AAPL", FRIDAY)
    assert held["reason"] == "the vendor reported this session twice"
    [stored] = world.bars(LAKE.date_key("AAPL", FRIDAY), "AAPL")
    assert (stored["close"], held["close"]) == (5.0, 6.0)
    assert world.database.rows["AAPL", FRIDAY] == stored


async def test_a_quarantine_that_cannot_be_written_leaves_the_session_to_do(world: World) -> None:
    world.vendor.answers = [page([grouped_row("BAD", THURSDAY, -5.0), grouped_row("AAPL", THURSDAY)])]
    world.store.fail("write", times=2, of=lambda key: "quarantine" in key)
    with pytest.raises(IncompleteError, match="2025-11-20"):
        await world.fetch()
    assert world.database.mark == WEDNESDAY

"""The companies of the past in scripted markets: the vendor's list of each day, and the resulting records."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiblake.calendar import nyse
from fiblake.errors import ConfigurationError, UpstreamError
from fiblake.lake import UNIVERSE_KEY, identities_key
from fiblake.reference import read_identities
from fiblake.symbols import BEGINNING
from fiblake.universe import Universe, read_universe
from local.market_data.query import RefusedError
from local.market_data.reference import BLANK
from local.market_data.replay import Replay, folder
from local.market_data.shown import Shown
from services.fetcher.companies import CompaniesLoader, CompaniesReport, list_days
from services.fetcher.company_periods import History
from services.fetcher.identities import record_of
from services.fetcher.massive import MassiveClient
from tests.fakes import Clock, MemoryObjectStore
from tests.unit.fetcher.reference import ReferenceDatabase, ticker
from tests.unit.fetcher.vendor import BASE, Vendor, client_of

FIRST, LAST = date(2011, 3, 1), date(2013, 2, 27)
NOW = datetime(2013, 2, 28, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SESSIONS = nyse().between(FIRST, LAST)
COLUMNS = ("ticker", "name", "list_date", "delisted_date", "composite_figi", "share_class_figi", "type", "is_test")


@dataclass(frozen=True)
class Listing:
    """A company has a ticker from a day to a day of the script; the vendor's fields may be blank."""

    ticker: str
    name: str
    begins: date
    ends: date | None = None
    figi: str = ""
    share_class: str = ""
    type: str = "CS"
    is_test: bool = False

    def row(self) -> str:
        values = (
            self.ticker, self.name, str(self.begins), str(self.ends or ""), self.figi or BLANK,
            self.share_class or BLANK, self.type or BLANK, "true" if self.is_test else "",
        )  # fmt: skip
        return ",".join(values)

    def trades(self, day: date) -> bool:
        return self.begins <= day and (self.ends is None or day <= self.ends)


MARKET = (
    Listing("AAPL", "Apple", date(1980, 12, 12), figi="F-AAPL"),
    Listing("AAP", "Advance Auto Parts", date(2001, 11, 29), figi="F-AAP"),
    Listing("AAp", "Alcoa preferred", date(2011, 9, 7), figi="F-AAp", type="PFD"),
    # Renamed on 2012-06-08; the ticker goes to another company half a year later.
    Listing("RENA", "Renamed", date(2005, 1, 3), date(2012, 6, 7), figi="F-REN"),
    Listing("NEWN", "Renamed", date(2012, 6, 8), figi="F-REN"),
    Listing("RENA", "Heir of a name", date(2012, 12, 3), figi="F-HEIR"),
    # Changes from one company to the next overnight; the composite FIGI is missing.
    Listing("HAND", "First owner", date(2000, 1, 3), date(2011, 10, 14), share_class="S-1"),
    Listing("HAND", "Second owner", date(2011, 10, 17), share_class="S-2"),
    # No identifier at all, and years between the two.
    Listing("GONE", "Gone", date(1999, 5, 3), date(2011, 4, 19), type=""),
    Listing("GONE", "Much later", date(2012, 9, 4), type=""),
    # Existed between two of the vendor's lists only.
    Listing("MAYF", "Mayfly", date(2012, 3, 14), date(2012, 3, 22), figi="F-MAY"),
    Listing("LATE", "Listed on the last day", LAST, figi="F-LATE"),
    Listing("ZVZZT", "A test", date(2000, 1, 3), figi="F-TEST", is_test=True),
)
TEN_DAYS = (
    FIRST, date(2011, 4, 19), date(2011, 4, 20), date(2011, 10, 14), date(2011, 10, 17), date(2012, 3, 19),
    date(2012, 6, 7), date(2012, 6, 8), date(2012, 12, 3), LAST,
)  # fmt: skip


@dataclass
class World:
    """A vendor with a scripted market, and the lake that loads it."""

    folder: Path
    market: Sequence[Listing]
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    database: ReferenceDatabase = field(default_factory=ReferenceDatabase)
    clock: Clock = field(default_factory=lambda: Clock(NOW))
    fails: Callable[[str], bool] = lambda _target: False
    requests: int = 0

    @asynccontextmanager
    async def vendor(self) -> AsyncIterator[MassiveClient]:
        lines = [",".join(COLUMNS), *(listing.row() for listing in self.market)]
        (self.folder / "tickers.csv").write_text("\n".join(lines))
        (self.folder / "bars.csv").write_text(f"symbol,session,open,high,low,close,volume\nAAPL,{FIRST},1,1,1,1,1\n")
        replay = Replay(Shown(*folder(self.folder), as_of=LAST))

        def answer(request: httpx.Request) -> httpx.Response:
            self.requests += 1
            if self.fails(str(request.url)):
                return httpx.Response(500, json={"status": "ERROR"})
            try:
                return httpx.Response(200, json=replay.answer(request.url.path, request.url.query.decode(), BASE))
            except RefusedError as refused:
                return httpx.Response(refused.code, json=refused.body)

        async with client_of(Vendor([answer])) as client:
            yield client

    async def load(self, first: date = FIRST) -> CompaniesReport:
        async with self.vendor() as vendor:
            loader = CompaniesLoader(vendor, self.store, self.database, nyse(), self.clock)
            return await loader.load(first, lambda *_: None)

    def universe(self) -> Universe:
        return read_universe(self.store.peek(UNIVERSE_KEY) or b"")

    def names(self, day: date) -> list[tuple[str, str]]:
        return [(row["symbol"], row["name"]) for row in self.universe().listed_on(day).to_pylist()]


def script(market: Sequence[Listing], day: date) -> list[tuple[str, str]]:
    return sorted((company.ticker, company.name) for company in market if company.trades(day) and not company.is_test)


async def test_the_universe_of_ten_days_is_what_the_script_says(tmp_path: Path) -> None:
    world = World(tmp_path, MARKET)
    report = await world.load()
    assert {day: world.names(day) for day in TEN_DAYS} == {day: script(MARKET, day) for day in TEN_DAYS}
    assert world.universe().known_since == FIRST
    assert (report.companies, report.delisted, report.without_type) == (12, 4, 2)
    assert (report.new, report.contradicted, report.inexact) == (12, 0, 0)


async def test_every_session_has_the_universe_of_the_script_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, MARKET)
    await world.load()
    for day in SESSIONS:
        assert world.names(day) == script(MARKET, day), day
    before = dict(world.database.records)
    world.store.journal.clear()
    report = await world.load()
    assert world.store.done("put", "write") == []
    assert (report.new, report.moved) == (0, 0)
    assert {key: replace(record, last_seen=NOW) for key, record in world.database.records.items()} == {
        key: replace(record, last_seen=NOW) for key, record in before.items()
    }


async def test_a_reused_ticker_is_a_handover_and_a_renamed_company_has_two_symbols(tmp_path: Path) -> None:
    world = World(tmp_path, MARKET)
    await world.load()
    files = {symbol: world.store.peek(identities_key(symbol)) or b"" for symbol in ("RENA", "HAND", "GONE")}
    companies = {symbol: read_identities(data, symbol) for symbol, data in files.items()}
    assert {symbol: [(period.valid_from, period.valid_to) for period in of] for symbol, of in companies.items()} == {
        "RENA": [(BEGINNING, date(2012, 6, 7)), (date(2012, 12, 3), None)],
        "HAND": [(BEGINNING, date(2011, 10, 14)), (date(2011, 10, 17), None)],
        "GONE": [(BEGINNING, date(2011, 4, 19)), (date(2012, 9, 4), None)],
    }
    assert world.database.records["NEWN", date(2012, 6, 8)].composite_figi == "F-REN"


async def test_a_day_that_the_vendor_does_not_answer_is_taken_from_the_lists(tmp_path: Path) -> None:
    world = World(tmp_path, MARKET, fails=lambda target: "ticker=NEWN" in target)
    report = await world.load()
    assert report.inexact == 1
    days = list_days(nyse(), FIRST, LAST)
    [begins] = [begins for symbol, begins in world.database.records if symbol == "NEWN"]
    assert begins == min(day for day in days if day >= date(2012, 6, 8))


async def test_a_run_whose_lists_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, MARKET, fails=lambda target: "active=false" in target)
    with pytest.raises(UpstreamError):
        await world.load()
    assert (world.database.records, world.store.keys()) == ({}, [])


async def test_without_two_sessions_there_is_nothing_to_ask(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name an earlier first day"):
        await World(tmp_path, MARKET).load(LAST)


async def test_a_stored_record_gets_its_first_day_and_keeps_its_other_fields(tmp_path: Path) -> None:
    world = World(tmp_path, MARKET)
    for symbol, figi in (("NEWN", "F-REN"), ("HAND", None), ("RENA", "F-HEIR"), ("AAPL", "F-AAPL"), ("ODD", "F-ODD")):
        record = record_of(ticker(symbol, figi), BEGINNING, NOW - timedelta(days=30))
        world.database.records[symbol, BEGINNING] = replace(record, sector="kept", history_from=date(2012, 1, 3))
    report = await world.load()
    assert (report.moved, report.new, report.contradicted) == (3, 8, 0)
    periods = {
        symbol: [key[1] for key in sorted(world.database.records) if key[0] == symbol]
        for symbol in ("NEWN", "HAND", "RENA", "AAPL", "ODD")
    }
    assert periods == {
        "NEWN": [date(2012, 6, 8)], "HAND": [BEGINNING, date(2011, 10, 17)],
        "RENA": [BEGINNING, date(2012, 12, 3)], "AAPL": [BEGINNING], "ODD": [BEGINNING],
    }  # fmt: skip
    heir = world.database.records["RENA", date(2012, 12, 3)]
    assert (heir.sector, heir.history_from, heir.valid_to) == ("kept", date(2012, 1, 3), None)
    symbols = [symbol for symbol, _ in world.names(date(2012, 6, 7))]
    assert symbols == sorted(["ODD", *(symbol for symbol, _ in script(MARKET, date(2012, 6, 7)))])


async def test_a_company_that_contradicts_what_is_known_is_left_out_and_counted(tmp_path: Path) -> None:
    world = World(tmp_path, [Listing("META", "Metaverse", date(2011, 6, 30), date(2012, 1, 27), "F-BALL"), MARKET[0]])
    stored = record_of(ticker("META", "F-META"), date(2011, 9, 1), NOW)
    world.database.records["META", stored.valid_from] = stored
    report = await world.load()
    assert (report.contradicted, world.database.records["META", stored.valid_from]) == (1, stored)


@st.composite
def markets(draw: st.DrawFn) -> list[Listing]:
    """Companies that follow one another under few tickers, with and without time between them."""
    market = [Listing("BASE", "Always there", date(2000, 1, 3), figi="F-BASE")]
    for ticker_ in ("A", "B", "C"):
        place = draw(st.integers(-40, 60))
        while place < len(SESSIONS) and draw(st.integers(0, 4)):
            length, gap = draw(st.integers(1, 200)), draw(st.integers(1, 90))
            number = len(market)
            begins = SESSIONS[place] if place >= 0 else date(2001, 1, 2)
            place = max(place, 0) + length
            ends = SESSIONS[place - 1] if place - 1 < len(SESSIONS) - 1 else None
            identifier = draw(st.sampled_from(("figi", "share_class")))
            listing = Listing(ticker_, f"Company {number}", begins, ends, type=draw(st.sampled_from(("CS", ""))))
            market.append(replace(listing, **{identifier: f"ID-{number}", "figi": f"F-{number}"}))
            place += gap - 1
    return market


@settings(max_examples=settings().max_examples // 4)
@given(market=markets())
def test_every_session_of_any_market_has_the_universe_of_the_script(
    tmp_path_factory: pytest.TempPathFactory, market: list[Listing]
) -> None:
    world = World(tmp_path_factory.mktemp("market"), market)
    asyncio.run(world.load())
    edges = [
        day
        for company in market
        for edge in (company.begins, company.ends or LAST)
        for day in (edge, edge + DAY, edge - DAY)
    ]
    for day in {FIRST, LAST, *(day for day in edges if FIRST <= day <= LAST)}:
        assert world.names(day) == script(market, day), day


def test_a_delisting_right_after_the_session_of_the_first_list_is_left_to_the_next_list() -> None:
    """A delisting on Saturday has Friday as its last session, which is the first list's."""
    friday, saturday, july = date(2012, 6, 1), date(2012, 6, 2), date(2012, 7, 2)
    history = History()
    for day in (friday, july):
        history.add_list(day, [ticker("AAA", "F1")])
    history.add_delisted([replace(ticker("GONE", "F2"), active=False, delisted=saturday)], nyse())
    assert [period.company.symbol for period in history.periods] == ["AAA"]

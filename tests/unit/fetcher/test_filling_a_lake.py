"""A new lake filled from a vendor's flat files, with all of their known faults; flat files together with the API's
bars.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiblake.adjustment import Reference
from fiblake.bars import Consolidated, ReportedBar, decode, encode
from fiblake.calendar import close_of, nyse
from fiblake.errors import UpstreamError
from fiblake.lake import UNCLAIMED_PREFIX
from fiblake.symbols import BEGINNING
from local.market_data.flat_files import day_file, key_of, publish
from services.consolidator.consolidate import Consolidator, Task
from services.fetcher.flat_files import before_listing, stored
from services.fetcher.flat_files.assembly import claims_of, take_bars_before_listing
from services.fetcher.flat_files.chunk import UNCLAIMED_ROWS
from services.fetcher.flat_files.load import FlatFileLoader, LoadReport
from services.fetcher.flat_files.sources import BucketSource
from services.fetcher.flat_files.stored import without_poorer
from services.fetcher.identities import record_of
from services.fetcher.settings import FlatFileSettings
from shared.objects import StoredObject
from tests.fakes import LAKE, NOON, MemoryObjectStore, bar, later, table
from tests.unit.fetcher.reference import ReferenceDatabase, ticker
from tests.unit.fetcher.test_companies import DAY, FIRST, LAST, MARKET, NOW, SESSIONS, World

WRONG_WINDOW, MISSING, REFUSED, REPLACED = date(2011, 8, 12), date(2011, 11, 23), date(2012, 2, 1), date(2012, 6, 8)
TYPES = frozenset({"CS", "PFD"})
MIB = 1 << 20


def close(name: str, session: date) -> float:
    """Return a company's close in a session: different for each company."""
    return 10.0 + len(name) + (session - FIRST).days / 100


def reported(session: date, more: float = 0.0) -> list[ReportedBar]:
    """Return the bars of all companies that trade in a session; `more`: AAPL's close is restated by this difference."""
    bars = []
    for company in MARKET:
        if company.trades(session):
            price = close(company.name, session) + (more if company.ticker == "AAPL" else 0)
            bars.append(ReportedBar(company.ticker, session, price, price + 1, price - 1, price, 25933.6, None, 7))
    return bars


def load(vendor: MemoryObjectStore, world: World) -> LoadReport:
    claims = claims_of(world.database.records.values(), TYPES, frozenset())
    loader = FlatFileLoader(BucketSource(vendor), world.store, LAKE, nyse(), claims, MIB, MIB, lambda: NOW)
    return loader.load(FIRST, LAST, lambda *_: None)


def lay(vendor: MemoryObjectStore, sessions: Iterable[date], **faults: Sequence[date]) -> None:
    def put(key: str, data: bytes) -> None:
        vendor.lay(key, data, close_of(date.fromisoformat(key[-17:-7])) + timedelta(hours=19))

    publish(put, reported, sessions, **faults)


def consolidated(store: MemoryObjectStore) -> dict[str, Consolidated]:
    """Consolidate every symbol that has files, and return what its data.parquet holds."""
    consolidator = Consolidator(store, LAKE, nyse())
    symbols = sorted({LAKE.symbol_of(key) for key in store.keys(f"{LAKE.prefix}/")})
    lake = {}
    for symbol in symbols:
        consolidator.consolidate(Task(symbol, reference_changed=True), NOW)
        lake[symbol] = Consolidated.decode(store.peek(LAKE.data_key(symbol)) or b"", symbol, NOW)
    return lake


async def test_a_lake_filled_from_flat_files_with_all_their_faults_is_what_the_market_was(tmp_path: Path) -> None:
    world, vendor = World(tmp_path, MARKET), MemoryObjectStore()
    await world.load()
    lay(vendor, SESSIONS, missing=[MISSING], next_days_window=[WRONG_WINDOW])
    vendor.fail("get", UpstreamError("S3 refuses it: AccessDenied"), of=lambda key: key == key_of(REFUSED))
    first = load(vendor, world)
    assert (first.missing_sessions, list(first.failed)) == ([MISSING], [key_of(REFUSED)])
    lay(vendor, [MISSING])
    restated = day_file(REPLACED, reported(REPLACED, more=0.5))
    vendor.lay(key_of(REPLACED), restated, NOW - DAY)
    second = load(vendor, world)
    assert (second.files, second.failed, second.missing_sessions) == (3, {}, [])
    third = load(vendor, world)
    assert (third.files, third.unchanged) == (0, len(SESSIONS))
    lake = consolidated(world.store)
    closes = {
        (symbol, row["timestamp"]): row["close"] for symbol, stored in lake.items() for row in stored.bars.to_pylist()
    }  # fmt: skip
    wanted = {
        (company.ticker, day): close(company.name, day)
        for company in MARKET for day in SESSIONS if company.trades(day) and not company.is_test
    }  # fmt: skip
    assert closes == {**wanted, ("AAPL", REPLACED): close("Apple", REPLACED) + 0.5}
    handovers = {
        symbol: stored.reference.handovers for symbol, stored in lake.items() if stored.reference != Reference()
    }
    assert handovers == {
        "RENA": (date(2012, 12, 3),), "HAND": (date(2011, 10, 17),), "GONE": (date(2012, 9, 4),),
    }  # fmt: skip
    assert first.unclaimed_tickers.keys() | second.unclaimed_tickers.keys() == {"ZVZZT"}
    assert all(LAKE.remedy_for_stray(key) is None for key in world.store.keys(f"{UNCLAIMED_PREFIX}/"))


# ------------------------------------------------------------------------------------- bars from before a listing

LISTED = date(2012, 6, 29)


def lay_files(symbol_bars: dict[str, dict[date, float]], vendor: MemoryObjectStore) -> None:
    days = sorted({day for bars in symbol_bars.values() for day in bars})
    for day in days:
        bars = [
            ReportedBar(symbol, day, price, price + 1, price - 1, price, 100.0, None, 7)
            for symbol, of_symbol in symbol_bars.items() if (price := of_symbol.get(day))
        ]  # fmt: skip
        vendor.lay(key_of(day), day_file(day, bars), NOON)


async def test_bars_before_a_listing_that_is_too_late_are_the_companys_and_others_are_not() -> None:
    """The small forms: a label that is late, a gap, a jump in price, and another company's time."""
    days = nyse().between(date(2012, 1, 3), date(2012, 7, 31))
    before = [day for day in days if day < LISTED]
    bars = {symbol: dict.fromkeys(days, 50.0) for symbol in ("LATE", "GAP", "JUMP", "OTHER", "FUND")}
    bars["GAP"] = {day: 50.0 for day in days if not date(2012, 3, 1) <= day <= date(2012, 4, 30)}
    bars["JUMP"] |= dict.fromkeys(before, 5.0)
    bars["NONE"] = dict.fromkeys(before, 50.0)
    store, vendor, database = MemoryObjectStore(), MemoryObjectStore(), ReferenceDatabase()
    lay_files(bars, vendor)
    for symbol in bars:
        database.records[symbol, LISTED] = record_of(ticker(symbol, f"F-{symbol}"), LISTED, NOON)
    ended = replace(record_of(ticker("OTHER", "F-OLD"), BEGINNING, NOON), valid_to=date(2012, 6, 15), active=False)
    database.records["OTHER", BEGINNING] = ended
    database.records["FUND", BEGINNING] = replace(ended, symbol="FUND", composite_figi="F-CLOSED", type="FUND")
    load(vendor, World(Path(), (), store, database))
    chosen = FlatFileSettings.model_construct(universe_types=TYPES, universe=frozenset(), price_jump_limit=3.0)
    decided = await take_bars_before_listing(store, LAKE, database, chosen, nyse())
    assert decided.keys() == {"LATE", "GAP", "OTHER", "FUND"}
    assert "listed on 2012-06-29 by the vendor, and its bars begin on 2012-01-03" in decided["LATE"]
    begins = {symbol: begins for symbol, begins in database.records if begins > BEGINNING}
    assert begins == {
        "LATE": days[0], "GAP": date(2012, 5, 1), "JUMP": LISTED, "OTHER": date(2012, 6, 18), "NONE": LISTED,
        "FUND": date(2012, 6, 18),  # a company of a type that the lake leaves out had the ticker before
    }  # fmt: skip
    lake = consolidated(store)
    sessions = {symbol: stored.bars["timestamp"].to_pylist() for symbol, stored in lake.items()}
    assert sessions == {
        "LATE": days, "GAP": [day for day in days if day >= date(2012, 5, 1)],
        "JUMP": [day for day in days if day >= LISTED], "OTHER": days,
        "FUND": [day for day in days if day >= date(2012, 6, 18)],
    }  # fmt: skip
    assert lake["OTHER"].reference.handovers == (date(2012, 6, 18),)
    # Bars that belong to the lake now are no longer unclaimed, and a second check finds no more.
    [key] = store.keys(f"{UNCLAIMED_PREFIX}/")
    unclaimed = decode(store.peek(key) or b"", UNCLAIMED_ROWS, key)
    assert sorted(set(unclaimed["ticker"].to_pylist())) == ["FUND", "GAP", "JUMP", "NONE"]
    assert await take_bars_before_listing(store, LAKE, database, chosen, nyse()) == {}


async def test_unclaimed_rows_of_many_companies_are_judged_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So memory holds few of them; a company with bars in several files is decided by all of them."""
    monkeypatch.setattr(before_listing, "MOST_ROWS", 5)
    days = nyse().between(date(2012, 6, 25), date(2012, 7, 3))
    store, database = MemoryObjectStore(), ReferenceDatabase()
    symbols = ["AAA", "BBB", "CCC"]
    for part in (days[:2], days[2:]):
        vendor = MemoryObjectStore()
        lay_files({symbol: dict.fromkeys(part, 50.0) for symbol in symbols}, vendor)
        for symbol in symbols:
            database.records[symbol, LISTED] = record_of(ticker(symbol, f"F-{symbol}"), LISTED, NOON)
        load(vendor, World(Path(), (), store, database))
    judged: list[int] = []
    read = before_listing.UnclaimedRows.read

    def counted(unclaimed: before_listing.UnclaimedRows, tickers: Sequence[str]) -> dict[str, list[before_listing.Row]]:
        rows = read(unclaimed, tickers)
        judged.append(sum(map(len, rows.values())))
        return rows

    monkeypatch.setattr(before_listing.UnclaimedRows, "read", counted)
    chosen = FlatFileSettings.model_construct(universe_types=TYPES, universe=frozenset(), price_jump_limit=3.0)
    decided = await take_bars_before_listing(store, LAKE, database, chosen, nyse())
    assert (decided.keys(), judged) == (set(symbols), [4, 4, 4])
    assert {begins for _, begins in database.records} == {days[0]}
    lake = consolidated(store)
    assert {symbol: stored.bars["timestamp"].to_pylist() for symbol, stored in lake.items()} == dict.fromkeys(
        symbols, days
    )
    rows = [decode(store.peek(key) or b"", UNCLAIMED_ROWS, key) for key in store.keys(f"{UNCLAIMED_PREFIX}/")]
    assert [table.num_rows for table in rows] == [0, 0]


async def test_an_object_that_no_service_reads_among_the_unclaimed_rows_stops_no_load() -> None:
    store, database, vendor = MemoryObjectStore(), ReferenceDatabase(), MemoryObjectStore()
    days = nyse().between(date(2012, 6, 25), date(2012, 7, 3))
    lay_files({"LATE": dict.fromkeys(days, 50.0)}, vendor)
    database.records["LATE", LISTED] = record_of(ticker("LATE", "F-LATE"), LISTED, NOON)
    load(vendor, World(Path(), (), store, database))
    for stray in ("README.txt", "range=2012-06-25_2012-07-03/rows.csv"):
        store.lay(f"{UNCLAIMED_PREFIX}/{stray}", b"somebody else's")
    chosen = FlatFileSettings.model_construct(universe_types=TYPES, universe=frozenset(), price_jump_limit=3.0)
    assert (await take_bars_before_listing(store, LAKE, database, chosen, nyse())).keys() == {"LATE"}


# ------------------------------------------------------------------------------------------------ beside the API's bars

DAYS = nyse().between(date(2012, 6, 4), date(2012, 6, 15))


@st.composite
def bars_of_days(draw: st.DrawFn) -> dict[date, float]:
    return {day: float(draw(st.integers(5, 9))) for day in DAYS if draw(st.booleans())}


def api_file(closes: dict[date, float], minute: float) -> bytes:
    rows = [bar(day, price, later(minute), vwap=price + 0.25, trades=7, volume=100.0) for day, price in closes.items()]
    return encode(table(*rows))


def flat(store: MemoryObjectStore, closes: dict[date, float], changed_at: datetime) -> LoadReport:
    vendor = MemoryObjectStore()
    for day, price in closes.items():
        row = bar(day, price)
        numbers = {name: row[name] for name in ("open", "high", "low", "close")}
        reported_bar = ReportedBar("AAPL", day, **numbers, volume=100.0, vwap=None, trades=7)  # type: ignore[arg-type]
        vendor.lay(key_of(day), day_file(day, [reported_bar]), changed_at)
    loader = FlatFileLoader(BucketSource(vendor), store, LAKE, nyse(), None, MIB, MIB, lambda: later(100))
    return loader.load(DAYS[0], DAYS[-1], lambda *_: None, again=True)  # each vendor counts its ETags from 0


@settings(max_examples=settings().max_examples // 4)
@given(closes=bars_of_days(), flat_days=st.sets(st.sampled_from(DAYS), min_size=1), data=st.data())
def test_flat_files_and_the_apis_bars_of_the_same_sessions_make_the_same_lake_in_either_order(
    closes: dict[date, float], flat_days: set[date], data: st.DataObject
) -> None:
    closes = {DAYS[0]: 5.0, **closes}
    flat_closes = {day: closes.get(day, 6.0) for day in flat_days | {DAYS[0]}}
    key = LAKE.range_key("AAPL", min(closes), max(closes))
    published = later(data.draw(st.integers(1, 50)))
    after, before = MemoryObjectStore(), MemoryObjectStore()
    # The API's bars arrive after the flat files, or before them: merged, or not merged yet.
    flat(after, flat_closes, published)
    consolidated(after)
    after.lay(key, api_file(closes, 60))
    before.lay(key, api_file(closes, data.draw(st.integers(0, 59))))
    if data.draw(st.booleans()):
        consolidated(before)
    flat(before, flat_closes, published)
    lakes = [consolidated(store)["AAPL"].bars.drop_columns(["ingested_at"]) for store in (after, before)]
    assert lakes[0].equals(lakes[1])
    rows = {row["timestamp"]: (row["close"], row["vwap"]) for row in lakes[0].to_pylist()}
    only_flat = {day: (price, None) for day, price in flat_closes.items()}
    assert rows == only_flat | {day: (price, price + 0.25) for day, price in closes.items()}


def test_a_flat_row_of_other_prices_is_news_and_the_later_one_wins() -> None:
    store = MemoryObjectStore()
    store.lay(LAKE.range_key("AAPL", DAYS[0], DAYS[1]), api_file({DAYS[0]: 5.0, DAYS[1]: 5.0}, 10))
    report = flat(store, {DAYS[0]: 6.0, DAYS[1]: 5.0}, later(20))
    assert report.stored == 1
    rows = consolidated(store)["AAPL"].bars.to_pylist()
    assert [(row["close"], row["vwap"]) for row in rows] == [(6.0, None), (5.0, 5.25)]


def test_only_the_bar_that_was_ingested_last_makes_a_flat_row_no_news() -> None:
    day = str(DAYS[0])
    first = table(bar(day, 5, later(1), vwap=5.5, volume=100.0))
    second = table(bar(day, 6, later(2), vwap=6.5, volume=100.0))
    row = table(bar(day, 5, later(3), volume=100.0))
    assert without_poorer(row, [first]).num_rows == 0
    assert without_poorer(row, [first, second]).equals(row)
    assert without_poorer(row, [table(bar(day, 5, later(1), volume=100.0))]).equals(row)
    assert without_poorer(row, [table(bar(day, 5, later(1), vwap=5.5, volume=101.0))]).equals(row)


def test_a_file_of_the_same_first_and_last_session_that_waits_to_be_merged_loses_nothing() -> None:
    store = MemoryObjectStore()
    flat(store, {DAYS[0]: 5.0, DAYS[1]: 6.0, DAYS[3]: 7.0}, later(1))
    flat(store, {DAYS[0]: 5.5, DAYS[3]: 7.5}, later(2))
    assert len(store.keys(f"{LAKE.prefix}/")) == 1
    rows = consolidated(store)["AAPL"].bars.to_pylist()
    assert [(row["timestamp"], row["close"]) for row in rows] == [(DAYS[0], 5.5), (DAYS[1], 6.0), (DAYS[3], 7.5)]


def test_a_stored_file_that_cannot_be_read_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryObjectStore()
    store.lay(LAKE.range_key("AAPL", DAYS[0], DAYS[0]), b"no Parquet")
    assert flat(store, {DAYS[0]: 5.0}, later(1)).stored == 1
    assert "stored file not read" in caplog.text


def test_of_many_stored_files_few_are_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lake whose date files are never deleted has thousands of them a symbol."""
    monkeypatch.setattr(stored, "FILES_AT_ONCE", 4)
    store, days = MemoryObjectStore(), nyse().between(date(2012, 6, 4), date(2012, 6, 29))
    for number, day in enumerate(days):
        row = bar(day, 5.0, later(number), vwap=5.25, trades=7, volume=100.0)
        store.lay(LAKE.date_key("AAPL", day), encode(table(row)))
    sizes: list[int] = []
    get_many = store.get_many

    def counted(keys: Sequence[str]) -> list[StoredObject | None]:
        sizes.append(len(keys))
        return get_many(keys)

    monkeypatch.setattr(store, "get_many", counted)
    tables = stored.StoredFiles.list_all(store, LAKE).read({"AAPL": (days[0], days[-1])})["AAPL"]
    assert sizes == [4, 4, 4, 4, 4, 1], "data.parquet comes last"
    assert len(tables) == 5, "a table a batch, not one a file"
    assert sorted(day for rows in tables for day in rows["timestamp"].to_pylist()) == days

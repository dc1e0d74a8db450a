import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pyarrow as pa
import pytest

from fiblake.bars import BRONZE, ReportedBar, encode, read_bars
from fiblake.calendar import nyse
from fiblake.errors import ContractError, EntitlementError, FiblakeError, NotFoundError, UpstreamError
from fiblake.reference import Split
from fiblake.symbols import BEGINNING
from services.fetcher.doubts import settle_bars
from services.fetcher.gaps import Asked
from services.fetcher.history import HistoryFetcher, load_requested
from services.fetcher.intake import Intake, Stored
from services.fetcher.listing import GAP_SESSIONS
from shared.database import SymbolRecord, history_scope
from shared.events import HistoryRequest
from shared.queues import ReceivedMessage
from tests.fakes import LAKE, Clock, Journal, MemoryObjectStore
from tests.unit.fetcher.rows import FakeDatabase
from tests.unit.fetcher.vendor import Vendor, client_of, page, range_row, refusal

NOW = datetime(2025, 11, 21, 21, 5, tzinfo=UTC)
WEDNESDAY, THURSDAY, FRIDAY = date(2025, 11, 19), date(2025, 11, 20), date(2025, 11, 21)


def record(symbol: str, valid_from: date = date(1990, 1, 2), list_date: date | None = None) -> SymbolRecord:
    return SymbolRecord(
        symbol=symbol, valid_from=valid_from, valid_to=None, composite_figi="BBG1", share_class_figi=None, name=symbol,
        industry=None, sector=None, sic_code=None, exchange="XNAS", type="CS", currency="usd", list_date=list_date,
        delisted_date=None, active=True, first_seen=NOW, last_seen=NOW,
    )  # fmt: skip


@dataclass
class World:
    vendor: Vendor
    journal: Journal = field(default_factory=list)
    earliest: date | None = None
    types: frozenset[str] | None = None

    def __post_init__(self) -> None:
        self.store = MemoryObjectStore(self.journal)
        self.database = FakeDatabase(self.journal, records={"AAPL": record("AAPL"), "NEWCO": record("NEWCO")})

    @asynccontextmanager
    async def fetcher(self) -> AsyncIterator[HistoryFetcher]:
        async with client_of(self.vendor) as client:
            intake = Intake(client, self.store, LAKE, self.database, nyse(), 3.0, Clock(NOW))
            yield HistoryFetcher(intake, self.earliest, self.types)

    async def load(self, symbol: str, first: date | None = None, last: date | None = None) -> Stored:
        async with self.fetcher() as fetcher:
            return await fetcher.load(symbol, Asked(first, last), FRIDAY)

    def requested_ranges(self) -> list[str]:
        return [path.split("ticker/")[1].replace("/range/1/day/", " ") for path in self.vendor.paths]


@pytest.fixture
def world(vendor: Vendor) -> World:
    return World(vendor)


def stored(symbol: str, bars: int, quarantined: int = 0, flagged: tuple[str, ...] = ()) -> Stored:
    return Stored(symbol, bars, 0, quarantined, 0, flagged, NOW)


def bar(session: date) -> ReportedBar:
    return ReportedBar("AAPL", session, 9.0, 9.0, 9.0, 9.0, 1.0, None, None)


async def test_a_history_is_one_range_file_with_its_rows_and_is_noted_as_loaded(world: World) -> None:
    world.vendor.answers = [page([range_row(WEDNESDAY, 5.0), range_row(FRIDAY, 6.0)])]
    assert await world.load("AAPL") == stored("AAPL", 2)
    assert world.requested_ranges() == ["AAPL 1990-01-02/2025-11-21"]
    assert world.store.keys() == ["bronze/raw_ohlcv/symbol=AAPL/range=2025-11-19_2025-11-21.parquet"]
    bars = read_bars(world.store.peek(world.store.keys()[0]) or b"", "AAPL", NOW).to_pylist()
    assert [(bar["timestamp"], bar["close"]) for bar in bars] == [(WEDNESDAY, 5.0), (FRIDAY, 6.0)]
    assert list(world.database.rows) == [("AAPL", WEDNESDAY), ("AAPL", FRIDAY)]
    assert (world.database.loaded, world.database.mark) == ({"AAPL": WEDNESDAY}, None)
    assert [verb for verb, _ in world.journal] == ["note", "write", "store"]


async def test_a_range_file_of_that_name_that_waits_to_be_merged_keeps_its_other_sessions(world: World) -> None:
    key = LAKE.range_key("AAPL", WEDNESDAY, FRIDAY)
    earlier = NOW - timedelta(hours=1)
    bars = [bar(day).row(earlier) for day in (WEDNESDAY, THURSDAY, FRIDAY)]
    world.store.lay(key, encode(pa.Table.from_pylist(bars, schema=BRONZE)))
    world.vendor.answers = [page([range_row(WEDNESDAY, 5.0), range_row(FRIDAY, 6.0)])]
    assert await world.load("AAPL") == stored("AAPL", 2)
    rows = read_bars(world.store.peek(key) or b"", "AAPL", NOW).to_pylist()
    assert [(row["timestamp"], row["close"]) for row in rows] == [(WEDNESDAY, 5.0), (THURSDAY, 9.0), (FRIDAY, 6.0)]


async def test_an_older_bar_does_not_take_the_place_of_a_later_one_in_a_range_file(world: World) -> None:
    key = LAKE.range_key("AAPL", WEDNESDAY, FRIDAY)
    bars = [bar(day).row(NOW + timedelta(hours=1)) for day in (WEDNESDAY, FRIDAY)]
    world.store.lay(key, encode(pa.Table.from_pylist(bars, schema=BRONZE)))
    world.vendor.answers = [page([range_row(WEDNESDAY, 5.0), range_row(FRIDAY, 6.0)])]
    await world.load("AAPL")
    assert [row["close"] for row in read_bars(world.store.peek(key) or b"", "AAPL", NOW).to_pylist()] == [9.0, 9.0]


async def test_bars_of_another_program_that_do_not_say_when_they_were_ingested_are_as_old_as_their_file(
    world: World,
) -> None:
    key = LAKE.range_key("AAPL", WEDNESDAY, FRIDAY)
    bars = pa.Table.from_pylist([bar(day).row(NOW) for day in (WEDNESDAY, FRIDAY)], schema=BRONZE)
    world.store.lay(key, encode(bars.drop_columns(["ingested_at"])), at=NOW - timedelta(days=1))
    world.vendor.answers = [page([range_row(WEDNESDAY, 5.0), range_row(FRIDAY, 6.0)])]
    await world.load("AAPL")
    rows = read_bars(world.store.peek(key) or b"", "AAPL", NOW).to_pylist()
    assert [(row["close"], row["ingested_at"]) for row in rows] == [(5.0, NOW), (6.0, NOW)]


async def test_a_noted_file_with_two_rows_of_a_session_stops_no_run(world: World) -> None:
    key = LAKE.range_key("AAPL", WEDNESDAY, FRIDAY)
    rows = [replace(bar(day), close=close).row(NOW) for close in (9.0, 8.9) for day in (WEDNESDAY, FRIDAY)]
    rows = [{**row, "low": 8.0} for row in rows]
    world.store.lay(key, encode(pa.Table.from_pylist(rows, schema=BRONZE)), at=NOW)
    intake = Intake(None, world.store, LAKE, world.database, nyse(), 3.0, Clock(NOW))  # type: ignore[arg-type]
    async with world.database.session_lock(history_scope("AAPL")):
        await world.database.note(history_scope("AAPL"), [key])
        await settle_bars(intake, history_scope("AAPL"))
    assert {day: row["close"] for (_, day), row in world.database.rows.items()} == {WEDNESDAY: 9.0, FRIDAY: 9.0}


async def test_a_history_of_many_pages_is_still_one_file(world: World) -> None:
    following = "https://api.massive.test/v2/aggs/ticker/AAPL/range/1/day/1763600000000/2025-11-21?cursor=x"
    world.vendor.answers = [page([range_row(WEDNESDAY)], next_url=following), page([range_row(FRIDAY)])]
    assert await world.load("AAPL") == stored("AAPL", 2)
    assert len(world.store.keys()) == 1


def changes(*events: tuple[str, str]) -> httpx.Response:
    """The vendor's answer about a company's tickers: (day, ticker from then on)."""
    rows = [{"type": "ticker_change", "date": day, "ticker_change": {"ticker": ticker}} for day, ticker in events]
    return httpx.Response(200, json={"results": {"name": "A Company", "events": rows}, "status": "OK"})


async def test_bars_from_before_the_symbol_was_this_companys_are_not_requested(world: World) -> None:
    world.database.records["META"] = record("META", valid_from=date(2022, 6, 9))
    world.vendor.answers = [page([range_row(FRIDAY)])]
    await world.load("META")
    assert world.requested_ranges() == ["META 2022-06-09/2025-11-21"]


@pytest.mark.parametrize(
    ("events", "list_date", "first"),
    [
        ([("2012-05-18", "FB"), ("2022-06-09", "META")], date(2012, 5, 18), "2022-06-09"),
        ([("2003-09-10", "META")], date(2001, 3, 1), "1962-01-02"),
        ([("2003-09-10", "META")], None, "1962-01-02"),
        ([], date(2012, 5, 18), "1962-01-02"),
        ([], None, "1962-01-02"),
    ],
    ids=["renamed", "never renamed", "never renamed, listed nobody knows when", "listed", "nobody knows"],
)
async def test_if_the_first_day_of_a_symbol_is_unknown_the_vendor_is_asked_since_when_its_company_has_it(
    world: World, events: list[tuple[str, str]], list_date: date | None, first: str
) -> None:
    world.database.records["META"] = record("META", BEGINNING, list_date)
    world.vendor.answers = [changes(*events), page([range_row(FRIDAY)])]
    await world.load("META")
    assert world.vendor.paths[0] == "/vX/reference/tickers/META/events"
    assert world.vendor.paths[1] == f"/v2/aggs/ticker/META/range/1/day/{first}/2025-11-21"


LISTED = date(2025, 9, 2)
BEFORE = [day for day in nyse().between(date(2025, 6, 2), LISTED) if day < LISTED]


@pytest.fixture
def listed_late(world: World) -> World:
    world.database.records["SOX"] = record("SOX", BEGINNING, LISTED)
    return world


async def load_of(world: World, *rows: dict[str, Any]) -> Stored:
    world.vendor.answers = [changes(), page(rows)]
    return await world.load("SOX")


async def test_bars_from_before_a_listing_date_that_is_too_late_are_the_companys_and_that_is_said(
    listed_late: World,
) -> None:
    loaded = await load_of(listed_late, *(range_row(day) for day in [*BEFORE, LISTED, FRIDAY]))
    assert (loaded.stored, loaded.decided) == (
        len(BEFORE) + 2, "listed on 2025-09-02 by the vendor, and its bars begin on 2025-06-02"
    )  # fmt: skip
    assert listed_late.database.loaded == {"SOX": BEFORE[0]}


async def test_bars_from_before_a_long_gap_are_another_companys_and_that_is_said(listed_late: World) -> None:
    gap = [*BEFORE[:5], *BEFORE[-3:]]
    assert len(BEFORE) - 8 > GAP_SESSIONS
    loaded = await load_of(listed_late, *(range_row(day) for day in [*gap, LISTED]))
    assert (loaded.stored, loaded.decided) == (
        4, (f"listed on 2025-09-02 by the vendor, and its bars begin on {BEFORE[-3]}; 5 bars up to {BEFORE[4]} are "
        "another company's or unexplained, and left out")
    )  # fmt: skip


@pytest.mark.parametrize("split", [False, True])
async def test_a_jump_at_the_listing_date_is_another_company_unless_a_split_explains_it(
    listed_late: World, *, split: bool
) -> None:
    if split:
        listed_late.database.recorded_splits = [Split("SOX", LISTED, 1.0, 10.0, "forward_split", 0.1, "E1")]
    loaded = await load_of(listed_late, *(range_row(day, 100.0) for day in BEFORE), range_row(LISTED, 10.0))
    assert loaded.stored == (len(BEFORE) + 1 if split else 1)
    assert ("left out" in loaded.decided) is not split


async def test_where_there_is_no_bar_before_the_listing_date_nothing_is_decided(listed_late: World) -> None:
    assert (await load_of(listed_late, range_row(LISTED))).decided == ""


async def test_of_bars_that_all_lie_before_the_listing_date_the_last_run_is_the_companys(listed_late: World) -> None:
    loaded = await load_of(listed_late, *(range_row(day) for day in [BEFORE[0], *BEFORE[-3:]]))
    assert (loaded.stored, "1 bars up to 2025-06-02" in loaded.decided) == (3, True)


async def test_a_plan_that_does_not_reach_before_the_listing_date_is_asked_from_there(listed_late: World) -> None:
    too_old = refusal(403, "Your plan doesn't include this data timeframe")
    listed_late.vendor.answers = [changes(), too_old, page([range_row(LISTED)])]
    assert (await listed_late.load("SOX")).stored == 1
    assert listed_late.vendor.paths[1:] == [
        f"/v2/aggs/ticker/SOX/range/1/day/{first}/2025-11-21" for first in ("1962-01-02", "2025-09-02")
    ]


@pytest.mark.parametrize("answer", [refusal(403, "You are not entitled to this data"), refusal(400, "what")])
async def test_a_plan_without_ticker_changes_keeps_no_history_out(listed_late: World, answer: httpx.Response) -> None:
    listed_late.vendor.answers = [answer, page([range_row(FRIDAY)])]
    assert (await listed_late.load("SOX")).stored == 1


async def test_sessions_that_the_plan_does_not_give_are_not_requested(vendor: Vendor) -> None:
    world = World(vendor, earliest=date(2023, 11, 21))
    vendor.answers = [page([range_row(FRIDAY)])]
    await world.load("AAPL")
    await world.load("AAPL", first=date(2025, 1, 2))
    assert world.requested_ranges() == ["AAPL 2023-11-21/2025-11-21", "AAPL 2025-01-02/2025-11-21"]


async def test_an_unknown_symbol_is_an_error_unless_a_first_session_is_given(world: World) -> None:
    world.vendor.answers = [page([range_row(FRIDAY)])]
    with pytest.raises(NotFoundError, match=r"symbol_metadata does not know NOBODY: run .* \(--from\)"):
        await world.load("NOBODY")
    assert await world.load("NOBODY", first=FRIDAY) == stored("NOBODY", 1)


async def test_a_history_without_bars_does_not_count_as_loaded_and_is_requested_again(world: World) -> None:
    world.vendor.answers = [page(None)]
    assert await world.load("NEWCO") == stored("NEWCO", 0)
    assert (world.store.keys(), world.database.rows, world.database.loaded) == ([], {}, {})


@pytest.mark.parametrize("part", [{"first": THURSDAY}, {"last": FRIDAY}, {"first": WEDNESDAY, "last": THURSDAY}])
async def test_a_part_of_a_history_is_stored_and_does_not_count_as_loaded(world: World, part: dict[str, date]) -> None:
    world.vendor.answers = [page([range_row(THURSDAY)])]
    assert await world.load("AAPL", **part) == stored("AAPL", 1)
    assert (len(world.store.keys()), world.database.loaded) == (1, {})


async def test_a_history_comes_without_the_day_that_the_vendor_does_not_give_out_before_it_is_over(
    world: World,
) -> None:
    early = refusal(403, "Attempted to request today's data before end of day")
    world.vendor.answers = [early, page([range_row(THURSDAY)])]
    assert await world.load("AAPL") == stored("AAPL", 1)
    assert world.requested_ranges() == ["AAPL 1990-01-02/2025-11-21", "AAPL 1990-01-02/2025-11-20"]
    assert world.database.loaded == {"AAPL": THURSDAY}


async def test_a_symbol_that_began_on_a_day_that_is_not_over_has_no_history_yet(world: World) -> None:
    world.database.records["SOON"] = record("SOON", valid_from=FRIDAY)
    world.vendor.answers = [refusal(403, "Attempted to request today's data before end of day")]
    assert await world.load("SOON") == stored("SOON", 0)
    assert (len(world.vendor.requests), world.database.loaded) == (1, {})


async def test_a_symbol_whose_first_session_is_yet_to_close_asks_the_vendor_nothing(world: World) -> None:
    world.database.records["SOON"] = record("SOON", valid_from=date(2025, 11, 24))
    assert await world.load("SOON") == stored("SOON", 0)
    assert (world.vendor.requests, world.database.loaded) == ([], {})


async def test_bars_that_cannot_be_are_quarantined_and_the_others_are_stored(world: World) -> None:
    world.vendor.answers = [page([range_row(FRIDAY), range_row(date(2025, 11, 16)), range_row(THURSDAY, -5.0)])]
    assert await world.load("AAPL") == stored("AAPL", 1, quarantined=2)
    assert [key.rsplit("date=", 1)[1] for key in world.store.keys("bronze/quarantine/")] == [
        "2025-11-16.parquet", "2025-11-20.parquet",
    ]  # fmt: skip


async def test_a_jump_is_flagged_unless_a_split_explains_it(world: World) -> None:
    rows = [range_row(WEDNESDAY, 100.0), range_row(FRIDAY, 10.0)]
    world.vendor.answers = [page(rows)]
    assert await world.load("AAPL") == stored("AAPL", 2, flagged=("AAPL",))
    # A split on a day without a bar takes effect with the next bar.
    world.database.recorded_splits = [Split("AAPL", THURSDAY, 1.0, 10.0, "forward_split", 0.1, "E1")]
    assert await world.load("AAPL") == stored("AAPL", 2)


async def test_bars_that_a_dead_load_put_and_the_vendor_has_withdrawn_since_stand_in_both(world: World) -> None:
    world.vendor.answers = [page([range_row(WEDNESDAY, 5.0), range_row(FRIDAY, 6.0)])]
    world.database.failures = 1
    with pytest.raises(UpstreamError):
        await world.load("AAPL")
    world.vendor.answers = [page([range_row(WEDNESDAY, 5.5)])]
    await world.load("AAPL")
    assert {day: row["close"] for (_, day), row in world.database.rows.items()} == {WEDNESDAY: 5.5, FRIDAY: 6.0}
    assert await world.database.noted_scopes() == []


@pytest.mark.parametrize("fails", ["write", "database"])
async def test_a_load_that_is_cut_off_is_not_noted_and_the_next_one_completes_it(world: World, fails: str) -> None:
    world.vendor.answers = [page([range_row(WEDNESDAY), range_row(FRIDAY)])]
    if fails == "write":
        world.store.fail("write")
    else:
        world.database.failures = 1
    with pytest.raises(UpstreamError):
        await world.load("AAPL")
    assert world.database.loaded == {}
    assert await world.load("AAPL") == stored("AAPL", 2)
    assert (len(world.store.keys()), len(world.database.rows)) == (1, 2)


# ------------------------------------------------------------------------------------------------------------ messages


def message(number: int, body: str) -> ReceivedMessage:
    return ReceivedMessage(f"m{number}", f"r{number}", body, 1)


def history_request(number: int, symbol: str) -> ReceivedMessage:
    return message(number, HistoryRequest(symbol=symbol).model_dump_json())


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def load_all(world: World, runner: asyncio.Runner, *messages: ReceivedMessage) -> dict[str, FiblakeError]:
    opened = world.fetcher()
    fetcher = runner.run(opened.__aenter__())
    try:
        return load_requested(runner, fetcher, messages, FRIDAY)[1]
    finally:
        runner.run(opened.__aexit__(None, None, None))


def test_each_message_ends_by_itself(world: World, runner: asyncio.Runner) -> None:
    world.vendor.answers = [page([range_row(FRIDAY)]), refusal(403, "not entitled"), page([range_row(FRIDAY)])]
    messages = [
        history_request(1, "AAPL"),
        message(2, "no JSON"),
        history_request(3, "NOBODY"),
        history_request(4, "NEWCO"),
        history_request(5, "AAPL"),
    ]
    errors = load_all(world, runner, *messages)
    kinds = {i: type(error) for i, error in errors.items()}
    assert kinds == {"m2": ContractError, "m3": NotFoundError, "m4": EntitlementError}
    assert world.database.loaded == {"AAPL": FRIDAY}


def test_a_history_that_was_requested_twice_is_loaded_once(world: World, runner: asyncio.Runner) -> None:
    world.vendor.answers = [page([range_row(FRIDAY)])]
    assert load_all(world, runner, history_request(1, "AAPL"), history_request(2, "AAPL")) == {}
    assert (world.requested_ranges(), len(world.store.keys())) == (["AAPL 1990-01-02/2025-11-21"], 1)


def test_a_request_may_say_where_to_begin(world: World, runner: asyncio.Runner) -> None:
    world.vendor.answers = [httpx.Response(200, json={"status": "OK", "resultsCount": 0})]
    request = HistoryRequest(symbol="AAPL", first=date(2024, 1, 2)).model_dump_json()
    assert load_all(world, runner, message(1, request)) == {}
    assert world.requested_ranges() == ["AAPL 2024-01-02/2025-11-21"]


# ---------------------------------------------------------------------------------------------- companies that are gone


def gone(symbol: str, valid_from: date, valid_to: date) -> SymbolRecord:
    return replace(record(symbol, valid_from), valid_to=valid_to, delisted_date=valid_to, active=False)


async def test_the_history_of_a_company_that_is_gone_ends_with_its_last_day(world: World) -> None:
    world.database.gone = [gone("SUNW", date(1990, 1, 2), WEDNESDAY)]
    world.vendor.answers = [page([range_row(WEDNESDAY, 5.0)])]
    assert await world.load("SUNW") == stored("SUNW", 1)
    assert world.requested_ranges() == [f"SUNW 1990-01-02/{WEDNESDAY}"]
    assert world.database.gone[0].history_from == WEDNESDAY


async def test_a_reused_symbol_gets_only_the_bars_of_its_own_companies(world: World) -> None:
    world.database.gone = [gone("AAPL", date(2025, 11, 3), date(2025, 11, 4))]
    world.database.records["AAPL"] = record("AAPL", THURSDAY)
    days = [date(2025, 11, 4), date(2025, 11, 5), WEDNESDAY, THURSDAY, FRIDAY]
    world.vendor.answers = [page([range_row(day, 5.0) for day in days])]
    assert (await world.load("AAPL")).stored == 3
    assert world.requested_ranges() == ["AAPL 2025-11-03/2025-11-21"]
    assert [company.history_from for company in await world.database.companies("AAPL")] == [days[0], THURSDAY]


async def test_a_company_whose_history_is_loaded_is_not_requested_again_with_the_one_before_it(world: World) -> None:
    world.database.gone = [gone("AAPL", date(2025, 11, 3), date(2025, 11, 4))]
    world.database.records["AAPL"] = replace(record("AAPL", THURSDAY), history_loaded_at=NOW)
    world.vendor.answers = [page([range_row(date(2025, 11, 3), 5.0)])]
    assert (await world.load("AAPL")).stored == 1
    assert world.requested_ranges() == ["AAPL 2025-11-03/2025-11-04"]
    async with world.fetcher() as fetcher:
        assert await fetcher.load_unless_there(HistoryRequest(symbol="AAPL"), FRIDAY) is None


async def test_the_bars_of_a_company_of_a_kind_that_the_universe_leaves_out_are_not_loaded(world: World) -> None:
    tuesday = date(2025, 11, 18)
    first = replace(record("AAPL"), valid_to=tuesday, active=False)
    fund = replace(record("AAPL", WEDNESDAY), type="FUND", valid_to=WEDNESDAY, active=False)
    world.database.gone = [first, fund]
    world.database.records["AAPL"] = record("AAPL", THURSDAY)
    world.vendor.answers = [page([range_row(day, 5.0) for day in (tuesday, WEDNESDAY, THURSDAY, FRIDAY)])]
    world.types = frozenset({"CS"})
    assert (await world.load("AAPL")).stored == 3
    assert list(world.database.rows) == [("AAPL", tuesday), ("AAPL", THURSDAY), ("AAPL", FRIDAY)]


async def test_a_symbol_of_such_a_kind_that_a_person_names_is_loaded(world: World) -> None:
    world.database.records["AAPL"] = replace(record("AAPL", THURSDAY), type="FUND")
    world.vendor.answers = [page([range_row(THURSDAY, 6.0), range_row(FRIDAY, 6.0)])]
    world.types = frozenset({"CS"})
    assert (await world.load("AAPL")).stored == 2

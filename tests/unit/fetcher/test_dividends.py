"""Loading dividends: the requests, the writes, and a vendor that fails (nothing else stops)."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest

from fiblake.errors import EntitlementError, FiblakeError, UpstreamError
from fiblake.lake import dividends_key
from fiblake.reference import Dividend, read_dividends
from services.fetcher import dividends as module
from services.fetcher.dividends import Answer, DividendCounts, DividendFetcher
from services.fetcher.vendor import OutOfPlanError
from tests.fakes import MemoryObjectStore, dividend
from tests.unit.fetcher.reference import Fate, KilledError, ReferenceDatabase, ReferenceVendor

NOW = datetime(2025, 11, 21, 11, tzinfo=UTC)
TODAY = date(2025, 11, 21)
APPLE = [dividend("2025-08-11", 0.26, historical_adjustment_factor=0.999), dividend("2025-11-10", 0.26)]
IBM = dividend("2025-11-07", 1.68, "IBM")
NEWS = " since 2025-11-11"


@dataclass
class World:
    vendor: ReferenceVendor = field(default_factory=lambda: ReferenceVendor(paid=[*APPLE, IBM]))
    database: ReferenceDatabase = field(default_factory=ReferenceDatabase)
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    symbols: set[str] = field(default_factory=lambda: {"AAPL", "IBM", "GOOG"})
    days: int = 30
    per_run: int = 1000
    now: datetime = NOW
    late_after: int | None = None
    """Questions that are answered in time."""

    async def refresh(self) -> DividendCounts:
        vendor: Any = self.vendor
        fetcher = DividendFetcher(vendor, self.store, self.database, self.days, self.per_run)
        self.vendor.asked.clear()
        return await fetcher.refresh(self.symbols, self.now, self.now.date(), self.in_time)

    async def in_time(self, answer: Coroutine[Any, Any, Answer]) -> Answer | None:
        if self.late_after is not None and len(self.vendor.asked) >= self.late_after:
            answer.close()
            return None
        return await answer

    def file(self, symbol: str) -> list[Dividend] | None:
        data = self.store.peek(dividends_key(symbol))
        return None if data is None else list(read_dividends(data, symbol))

    @property
    def questions(self) -> list[str]:
        return self.vendor.questions("dividends")


@pytest.fixture
def world() -> World:
    return World()


async def test_a_first_run_requests_every_symbol_whole_and_writes_file_and_rows(world: World) -> None:
    assert await world.refresh() == DividendCounts(changed=2)
    assert world.questions == [NEWS, "AAPL,GOOG,IBM since None"]
    assert (world.file("AAPL"), world.file("IBM"), world.file("GOOG")) == (APPLE, [IBM], None)
    assert world.database.dividend_rows == {"AAPL": APPLE, "IBM": [IBM]}
    assert world.database.dividend_checks == dict.fromkeys(["AAPL", "GOOG", "IBM"], NOW)
    assert world.database.notes == set()


async def test_the_next_day_only_new_dividends_are_requested_and_nothing_is_written(world: World) -> None:
    await world.refresh()
    world.store.journal.clear()
    world.now += timedelta(days=1)
    assert await world.refresh() == DividendCounts()
    assert world.questions == [" since 2025-11-12"]
    assert world.store.journal == []


async def test_a_symbol_with_a_new_dividend_is_requested_whole_because_all_its_factors_change(world: World) -> None:
    await world.refresh()
    changed = [replace(d, historical_adjustment_factor=0.99) for d in APPLE]
    world.vendor.paid = [*changed, dividend("2025-11-24", 1.0), IBM]
    assert (await world.refresh()).changed == 1
    assert world.questions == [NEWS, "AAPL since None"]
    assert world.file("AAPL") == [*changed, dividend("2025-11-24", 1.0)]


async def test_each_symbol_is_requested_again_after_some_days_and_one_run_requests_a_limited_number(
    world: World,
) -> None:
    await world.refresh()
    world.now += timedelta(days=31)
    world.per_run = 2
    assert (await world.refresh()).left == 1
    assert world.questions[1:] == ["AAPL,GOOG since None"]
    assert (await world.refresh()).left == 0
    assert world.questions[1:] == ["IBM since None"]


async def test_a_run_whose_time_is_over_stops_and_the_next_one_continues(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SYMBOLS_AT_ONCE", 1)
    world.late_after = 2
    assert await world.refresh() == DividendCounts(changed=1, left=2)
    world.late_after = 0
    assert await world.refresh() == DividendCounts(left=2)
    world.late_after = None
    assert await world.refresh() == DividendCounts(changed=1)
    assert world.questions == [NEWS, "GOOG since None", "IBM since None"]


@pytest.mark.parametrize("error", [EntitlementError("not in your plan"), UpstreamError("it ails")])
async def test_a_vendor_that_gives_no_dividends_fails_nothing(
    world: World, error: FiblakeError, caplog: pytest.LogCaptureFixture
) -> None:
    world.vendor.error["dividends"] = error
    assert await world.refresh() == DividendCounts(left=3, failed=1)
    assert world.questions == [NEWS]
    assert [(record.levelname, record.message) for record in caplog.records] == [("ERROR", "no dividends")]
    assert world.store.keys() == []


async def test_after_two_batches_that_failed_no_further_one_is_requested(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SYMBOLS_AT_ONCE", 1)
    answers = AsyncMock(side_effect=[[], UpstreamError("a"), UpstreamError("b"), []])
    monkeypatch.setattr(world.vendor, "dividends", answers)
    assert await world.refresh() == DividendCounts(left=3, failed=2)
    answers.side_effect = [[], UpstreamError("a"), [], UpstreamError("b")]
    assert await world.refresh() == DividendCounts(left=2, failed=2)


async def test_a_plan_that_refuses_the_whole_past_gets_a_request_for_its_two_years(world: World) -> None:
    answer_of_vendor = world.vendor.dividends

    async def limited(symbols: list[str], since: date | None = None) -> list[Dividend]:
        if since is None:
            raise OutOfPlanError("your plan doesn't include this data timeframe")
        return await answer_of_vendor(symbols, since)

    vendor: Any = world.vendor
    vendor.dividends = limited
    assert await world.refresh() == DividendCounts(changed=2)
    assert world.questions == [NEWS, "AAPL,GOOG,IBM since 2023-11-23"]


async def test_an_answer_that_is_not_trusted_is_counted_and_withdraws_nothing(world: World) -> None:
    await world.refresh()
    world.vendor.paid = [replace(APPLE[0], cash_amount=0.25)]
    world.symbols = {"AAPL"}
    world.vendor.paid.append(dividend("2025-11-20", 1.0))
    await world.refresh()
    many = [dividend(f"2025-0{month}-03", 1.0) for month in range(1, 10)]
    world.vendor.paid = many
    await world.refresh()
    world.vendor.paid = [many[0], dividend("2025-11-19", 1.0)]
    assert await world.refresh() == DividendCounts(left=1, failed=1)
    assert world.file("AAPL") == many


async def test_a_dividend_that_cannot_be_costs_itself_and_is_counted(world: World) -> None:
    world.vendor.paid.append(dividend("2025-11-12", 0.0))
    assert await world.refresh() == DividendCounts(changed=2, refused=1)
    assert world.file("AAPL") == APPLE


async def test_a_file_that_was_put_before_its_rows_failed_is_written_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(world.database, "replace_dividends", AsyncMock(side_effect=UpstreamError("the database fails")))
        with pytest.raises(UpstreamError, match="the database fails"):
            await world.refresh()
    assert world.file("AAPL") == APPLE
    world.vendor.paid, world.symbols = [IBM], {"IBM"}
    assert (await world.refresh()).changed == 2
    assert (world.file("AAPL"), world.database.notes) == ([], set())


async def test_wherever_a_run_is_cut_off_the_next_one_ends_with_the_same_files_and_rows() -> None:
    whole = World()
    await whole.refresh()
    for end in range(1, 9):
        world = World(database=ReferenceDatabase(fate=Fate(end=end)))
        try:
            await world.refresh()
        except KilledError:
            world.database.fate = Fate()
            await world.refresh()
        for symbol in whole.symbols:
            assert world.file(symbol) == whole.file(symbol)
        assert world.database.dividend_rows == whole.database.dividend_rows
        assert world.database.notes == set()


async def test_two_runs_do_not_work_on_dividends_at_once(world: World) -> None:
    await asyncio.gather(world.refresh())
    assert world.database.locked == set()

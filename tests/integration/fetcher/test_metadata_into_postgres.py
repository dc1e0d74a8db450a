import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from fiblake.calendar import nyse
from fiblake.errors import UpstreamError
from fiblake.reference import Split
from fiblake.symbols import BEGINNING
from services.fetcher import metadata
from services.fetcher.metadata import MetadataFetcher, Refreshed, Rules
from services.fetcher.settings import MetadataEvent
from services.fetcher.tickers import Details, TickerChange
from shared.database import DatabaseAddress
from tests.fakes import Clock, FakeQueue, MemoryObjectStore, dividend
from tests.integration.databases import ask, opened
from tests.unit.fetcher.reference import Fate, KilledError, ReferenceVendor, ticker

NOW = datetime(2025, 11, 20, 11, tzinfo=UTC)
TODAY = NOW + timedelta(days=1)
THU = date(2025, 11, 20)
WRITES = ("save_metadata", "note", "replace_splits", "replace_dividends", "history_requested")


def split(symbol: str, day: date = date(2020, 8, 31), factor: float = 0.25) -> Split:
    return Split(symbol, day, 1.0, 1 / factor, "forward_split", factor, f"{symbol}-{day}")


AAPL_SPLITS = [replace(split("AAPL"), historical_adjustment_factor=0.125), split("AAPL", THU, 0.5)]

DIVIDENDS = [dividend("2025-08-11", 0.26), dividend("2025-11-13", 1.68, "IBM"), dividend("2025-08-14", 0.83, "MSFT")]


def yesterday() -> ReferenceVendor:
    listed = [ticker(symbol, f"F-{symbol}") for symbol in ("AAPL", "FB", "IBM", "META", "MSFT", "SPY")]
    return ReferenceVendor(
        [*listed, ticker("A B")], reported=[split("AAPL"), split("MSFT"), split("OTC")], paid=DIVIDENDS
    )  # fmt: skip


def today() -> ReferenceVendor:
    """IBM vanishes, FB becomes META, SPY is another's, NEWCO is new, AAPL splits, MSFT's split is withdrawn.

    AAPL pays a dividend, and the one before is corrected.
    """
    listed = [
        ticker("AAPL", "F-AAPL", name="Apple"), ticker("META", "F-FB"), ticker("MSFT", "F-MSFT"), ticker("NEWCO"),
        ticker("SPY", "F-OTHER"),
    ]  # fmt: skip
    return ReferenceVendor(
        listed,
        gone={"IBM": ticker("IBM", "F-IBM", active=False, delisted=date(2025, 11, 18))},
        changes={"META": [TickerChange(THU, "META")], "SPY": [TickerChange(date(2025, 11, 21), "SPY")]},
        known={"NEWCO": Details("NEWCO", THU, "7372", "SERVICES-PREPACKAGED SOFTWARE")},
        reported=[*AAPL_SPLITS, split("NEWCO")],
        paid=[replace(DIVIDENDS[0], cash_amount=0.2), dividend("2025-11-20", 0.25), DIVIDENDS[1], DIVIDENDS[2]],
    )


@dataclass
class World:
    """A bucket, a queue and a database of the test's own; `fate` ends a run at one of its writes."""

    address: DatabaseAddress
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    queue: FakeQueue = field(default_factory=lambda: FakeQueue("test-history"))

    async def refresh(self, vendor: ReferenceVendor, now: datetime, fate: Fate | None = None) -> Refreshed:
        fate = fate or Fate()
        self.store.fail("put", KilledError(), times=1_000, of=lambda _key: fate.ends())
        client: Any = vendor
        async with opened(self.address) as database:
            for name in WRITES:
                setattr(database, name, mortal(fate, getattr(database, name)))
            fetcher = MetadataFetcher(
                client, self.store, database, nyse(), self.queue, Rules(frozenset({"CS"})), Clock(now)
            )  # fmt: skip
            return await fetcher.refresh(MetadataEvent())

    async def outcome(self) -> tuple[object, ...]:
        async with opened(self.address) as database:
            dividends = await database.dividends_since(date.min), await database.dividends_checked()
            tables = await database.metadata(), await database.splits(), dividends
        objects = {key: self.store.peek(key) for key in self.store.keys()}  # noqa: SIM118 (a method, not a mapping)
        return *tables, objects, sorted({body.partition('"symbol"')[2] for body in self.queue.sent})


def mortal(fate: Fate, write: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Let a process end before or after a transaction."""

    @functools.wraps(write)
    async def maybe(*arguments: object) -> None:
        fate.step()
        await write(*arguments)
        fate.step()

    return maybe


async def played(address: DatabaseAddress, fate: Fate) -> World:
    """Run yesterday to the end, and today until `fate` ends it."""
    await ask(address, "TRUNCATE symbol_metadata, splits, dividends, dividend_checks, runs, files_in_doubt")
    world = World(address)
    await world.refresh(yesterday(), NOW)
    await world.refresh(today(), TODAY, fate)
    return world


async def test_two_days_leave_symbols_splits_and_requests_as_the_vendor_has_them(migrated: DatabaseAddress) -> None:
    world = await played(migrated, Fate())
    rows = await ask(migrated, "SELECT symbol, valid_from, valid_to, active, name, sector FROM symbol_metadata")
    beginning, wed = BEGINNING, date(2025, 11, 19)
    assert sorted(tuple(row.values()) for row in rows) == [
        ("AAPL", beginning, None, True, "Apple", None),
        ("FB", beginning, wed, False, "FB Inc.", None),
        ("IBM", beginning, date(2025, 11, 18), False, "IBM Inc.", None),
        ("META", beginning, wed, False, "META Inc.", None),
        ("META", THU, None, True, "META Inc.", None),
        ("MSFT", beginning, None, True, "MSFT Inc.", None),
        ("NEWCO", beginning, None, True, "NEWCO Inc.", "Services"),
        ("SPY", beginning, THU, False, "SPY Inc.", None),
        ("SPY", date(2025, 11, 21), None, True, "SPY Inc.", None),
    ]
    async with opened(migrated) as database:
        assert await database.splits() == {"AAPL": AAPL_SPLITS, "NEWCO": [split("NEWCO")]}
        assert await database.universe({"CS"}, wed) == {"AAPL", "FB", "META", "MSFT", "NEWCO", "SPY"}
        assert await database.universe({"CS"}, THU) == {"AAPL", "META", "MSFT", "NEWCO", "SPY"}
        paid = {
            symbol: [(d.id, d.cash_amount) for d in rows]
            for symbol, rows in (await database.dividends_since(BEGINNING)).items()
        }
    assert paid == {
        "AAPL": [("AAPL-2025-08-11", 0.2), ("AAPL-2025-11-20", 0.25)],
        "IBM": [("IBM-2025-11-13", 1.68)], "MSFT": [("MSFT-2025-08-14", 0.83)],
    }  # fmt: skip
    assert world.store.keys() == [
        *(f"bronze/dividends/symbol={symbol}.parquet" for symbol in ("AAPL", "IBM", "MSFT")),
        "bronze/identities/symbol=META.parquet", "bronze/identities/symbol=SPY.parquet",
        "bronze/splits/symbol=AAPL.parquet", "bronze/splits/symbol=MSFT.parquet", "bronze/splits/symbol=NEWCO.parquet",
        "bronze/universe.parquet",
    ]  # fmt: skip
    runs = await ask(migrated, "SELECT kind, status, result::jsonb ->> 'new' AS new FROM runs ORDER BY started_at")
    assert runs == [
        {"kind": "metadata", "status": "done", "new": "6"}, {"kind": "metadata", "status": "done", "new": "1"},
    ]  # fmt: skip


def test_a_run_that_is_cut_off_at_any_write_is_completed_by_the_next_and_nothing_is_doubled(
    migrated: DatabaseAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in ("SPLITS_AT_ONCE", "ASKED_AT_ONCE", "REQUESTS_AT_ONCE"):
        monkeypatch.setattr(metadata, batch, 2)

    async def compare() -> None:
        counted = Fate()
        expected = await (await played(migrated, counted)).outcome()
        assert counted.steps > 12
        for end in range(1, counted.steps + 1):
            await ask(migrated, "TRUNCATE symbol_metadata, splits, dividends, dividend_checks, runs, files_in_doubt")
            world = World(migrated)
            await world.refresh(yesterday(), NOW)
            fate = Fate(end)
            with pytest.raises(KilledError):
                await world.refresh(today(), TODAY, fate)
            fate.end = 0
            await world.refresh(today(), TODAY)
            assert await world.outcome() == expected, f"cut off before step {end}"

    asyncio.run(compare())


async def test_a_put_that_fails_leaves_the_table_as_it_was_and_the_next_run_completes_it(
    migrated: DatabaseAddress,
) -> None:
    world = World(migrated)
    await world.refresh(yesterday(), NOW)
    periods = "SELECT symbol, valid_from, valid_to, name FROM symbol_metadata ORDER BY 1, 2"
    before = await ask(migrated, periods)
    world.store.fail("put", UpstreamError("S3 fails, as arranged"), of=lambda key: "identities/symbol=SPY" in key)
    with pytest.raises(UpstreamError, match="as arranged"):
        await world.refresh(today(), TODAY)
    assert await ask(migrated, periods) == before
    [_, failed] = await ask(migrated, "SELECT status, result::jsonb ->> 'error' AS error FROM runs ORDER BY started_at")
    assert failed == {"status": "failed", "error": "S3 fails, as arranged"}
    await world.refresh(today(), TODAY)
    assert len((await world.outcome())[0]) == 9  # type: ignore[arg-type]


async def test_details_of_a_run_do_not_undo_a_history_loaded_meanwhile(migrated: DatabaseAddress) -> None:
    world, vendor = World(migrated), yesterday()
    ask_details = vendor.details

    async def loading(symbol: str) -> Details | None:
        async with opened(migrated) as database:
            await database.history_loaded(
                symbol, NOW, {record.valid_from: THU for record in await database.companies(symbol)}
            )
        return await ask_details(symbol)

    vendor.details = loading  # type: ignore[method-assign]
    report = await world.refresh(vendor, NOW)
    assert (report.details, report.histories_requested) == (6, 0)
    async with opened(migrated) as database:
        loaded = await database.metadata()
    assert {(record.history_from, record.details_at) for record in loaded} == {(THU, NOW)}

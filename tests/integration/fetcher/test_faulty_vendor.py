"""A vendor that fails 30 % of the requests: in the end the lake is equal to that of a vendor without faults."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from fiblake.bars import read_bars
from fiblake.calendar import nyse
from fiblake.errors import TransientError
from fiblake.lake import Bronze
from fiblake.reference import read_splits
from local.sample_bars import read_sample_bars
from services.fetcher import massive as client
from services.fetcher.gaps import Asked
from services.fetcher.history import HistoryFetcher
from services.fetcher.intake import Intake
from services.fetcher.metadata import MetadataFetcher, Rules
from services.fetcher.ohlcv import Fetcher, Universe
from services.fetcher.settings import FetchEvent, MetadataEvent
from shared.database import DatabaseAddress
from tests.fakes import LAKE, Clock, FakeQueue, MemoryObjectStore
from tests.integration.databases import ask, opened
from tests.integration.market import KEY, Market, replaying

NOW = datetime(2013, 3, 1, 21, 5, tzinfo=UTC)
FIRST = date(2013, 2, 20)
SESSIONS = nyse().between(FIRST, date(2013, 3, 1))
TRANSIENT = ["drop", "cut", "truncated", "short", "empty", "circle", "429", "500", "502", "503", "504"]
RUNS = 40
"""A run in which every attempt of a request fails is rare; this many in a row do not happen."""

Lake = Mapping[str, Any]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with replaying(tmp_path_factory.mktemp("market") / "port") as market:
        market.control.as_of(SESSIONS[-1])
        yield market


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_pause", lambda _state: 0.0)


@dataclass(frozen=True)
class Lot:
    """A lake of its own, filled from the market."""

    market: Market
    address: DatabaseAddress
    store: MemoryObjectStore

    def fill(self) -> int:
        """Run all three fetchers until each ends well; return how many of their runs failed."""
        steps = (self._metadata, self._histories, self._sessions)
        return sum(asyncio.run(self._until_well(step)) for step in steps)

    async def _until_well(self, run: Any) -> int:  # noqa: ANN401 (a coroutine function)
        for failed in range(RUNS):
            try:
                await run()
            except TransientError:
                continue
            return failed
        raise AssertionError(f"not one of {RUNS} runs ended well")

    async def _metadata(self) -> None:
        async with client.massive(self.market.url, SecretStr(KEY)) as vendor, opened(self.address) as database:
            queue, rules = FakeQueue(), Rules(frozenset({"CS"}))
            fetcher = MetadataFetcher(vendor, self.store, database, nyse(), queue, rules, Clock(NOW))
            await fetcher.refresh(MetadataEvent())

    async def _histories(self) -> None:
        async with client.massive(self.market.url, SecretStr(KEY)) as vendor, opened(self.address) as database:
            fetcher = HistoryFetcher(Intake(vendor, self.store, LAKE, database, nyse(), 3.0, Clock(NOW)), None)
            while due := await database.history_due({"CS"}, NOW):
                for symbol in due:
                    await fetcher.load(symbol, Asked(), SESSIONS[-1])

    async def _sessions(self) -> None:
        async with client.massive(self.market.url, SecretStr(KEY)) as vendor, opened(self.address) as database:
            intake = Intake(vendor, self.store, LAKE, database, nyse(), 3.0, Clock(NOW))
            await Fetcher(intake, Universe(frozenset({"CS"})), FIRST, 3).fetch(FetchEvent())

    def contents(self) -> Lake:
        """Return the contents of bucket and database without the instants of writing."""
        bars: dict[tuple[str, date], Any] = {}
        for key in self.store.keys("bronze/raw_ohlcv/"):
            table = read_bars(self.store.peek(key) or b"", Bronze().parse_source(key).symbol, NOW)
            for row in table.drop_columns(["ingested_at"]).to_pylist():
                assert bars.setdefault((row["symbol"], row["timestamp"]), row) == row
        splits = {key: read_splits(self.store.peek(key) or b"", key.split("=")[1][:-8])
                  for key in self.store.keys("bronze/splits/")}  # fmt: skip
        return {"bars": bars, "splits": splits, **asyncio.run(self._tables())}

    async def _tables(self) -> Lake:
        wanted = {
            "rows": 'SELECT * FROM raw_ohlcv ORDER BY symbol, "timestamp"',
            "ledger": "SELECT session, bars, quarantined, outside_universe, flagged FROM ingested_sessions ORDER BY 1",
            "watermark": "SELECT dataset, last_session FROM data_ingestion_watermark",
            "symbols": "SELECT symbol, valid_from, name, sector, list_date, active FROM symbol_metadata ORDER BY 1, 2",
            "splits of": "SELECT * FROM splits ORDER BY symbol, execution_date",
        }
        tables = {name: await ask(self.address, sql) for name, sql in wanted.items()}
        for row in tables["rows"]:
            del row["ingested_at"]
        return tables


def filled(market: Market, address: DatabaseAddress) -> tuple[Lake, int]:
    lot = Lot(market, address, MemoryObjectStore())
    failed = lot.fill()
    return lot.contents(), failed


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, date], float]:
    bars = read_sample_bars()
    return {(b.symbol, b.session): b.close for series in bars.values() for b in series if b.session in SESSIONS}


@pytest.mark.parametrize("seed", range(6))
def test_a_run_under_random_faults_ends_with_exactly_the_bars_of_a_faultless_one(
    market: Market, migrated: DatabaseAddress, expected: dict[tuple[str, date], float], seed: int
) -> None:
    market.control.faults({"kind": TRANSIENT, "rate": 0.3, "seed": seed})
    faulty, _ = filled(market, migrated)
    market.control.faults()
    asyncio.run(_emptied(migrated))
    faultless, failed = filled(market, migrated)

    assert failed == 0
    assert faulty == faultless
    closes = {(row["symbol"], row["timestamp"]): row["close"] for row in faultless["rows"]}
    assert expected.items() <= closes.items()
    assert [row["session"] for row in faultless["ledger"]] == SESSIONS
    assert {row["symbol"] for row in faultless["symbols"]} == {"AAPL", "FB", "GOOG", "IBM", "MSFT"}


DIVIDENDS = ("dividends", "dividend_checks")


async def _emptied(address: DatabaseAddress) -> None:
    for table in (
        "raw_ohlcv",
        "ingested_sessions",
        "data_ingestion_watermark",
        "symbol_metadata",
        "splits",
        "runs",
        *DIVIDENDS,
    ):
        await ask(address, f"TRUNCATE {table}")


def test_faults_that_never_end_leave_what_is_there_as_it_is_and_say_which_sessions_are_left(
    market: Market, migrated: DatabaseAddress
) -> None:
    lot = Lot(market, migrated, MemoryObjectStore())
    lot.fill()
    before = lot.contents()
    asyncio.run(ask(migrated, "DELETE FROM ingested_sessions WHERE session >= '2013-02-28'"))
    market.control.faults({"kind": "truncated", "path": "/v2/aggs/grouped/*"})
    with pytest.raises(TransientError, match=r"sessions left for the next run: 2013-02-28: .*2013-03-01: "):
        asyncio.run(lot._sessions())  # noqa: SLF001 (one step of our own)
    market.control.faults()
    assert lot.contents()["rows"] == before["rows"]
    lot.fill()
    assert lot.contents() == before

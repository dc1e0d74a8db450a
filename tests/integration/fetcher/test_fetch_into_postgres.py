import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import asyncpg
import pytest

from local.postgres import postgres
from migrations.schema import upgrade
from services.fetcher.ohlcv import Fetcher, Stored
from services.fetcher.settings import FetchEvent
from services.fetcher.validation import VendorBar
from shared.calendar import nyse
from shared.database import DatabaseAddress, Tls, connected
from shared.errors import UpstreamError
from tests.fakes import LAKE, Clock, MemoryObjectStore

NOW = datetime(2025, 11, 21, 21, 5, tzinfo=UTC)
WEDNESDAY, THURSDAY, FRIDAY = date(2025, 11, 19), date(2025, 11, 20), date(2025, 11, 21)


class Vendor:
    """Three tickers each session, one of them unusable, one of them reported twice."""

    async def grouped_daily(self, session: date) -> list[VendorBar]:
        good = [VendorBar(symbol, session, 10.0, 12.0, 9.0, 11.0, 1000.5, None, None) for symbol in ("AAPL", "MSFT")]
        return [*good, VendorBar("BAD", session, -1.0, 12.0, 9.0, 11.0, 1.0, None, None), good[0]]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[DatabaseAddress]:
    with postgres(tmp_path / "data") as secret:
        found = DatabaseAddress.of_secret(json.dumps(secret))
        upgrade(found, Tls(verify=False))
        yield found


async def fetch(address: DatabaseAddress, store: MemoryObjectStore) -> list[Stored]:
    async with connected(address, Tls(verify=False)) as database:
        fetcher = Fetcher(
            Vendor(),  # type: ignore[arg-type]
            store,
            LAKE,
            database,
            nyse(),
            frozenset(),
            WEDNESDAY,
            Clock(NOW),
        )
        return (await fetcher.fetch(FetchEvent())).done


async def sessions(address: DatabaseAddress) -> list[tuple[str, date]]:
    connection = await asyncpg.connect(**address.arguments())
    try:
        return [tuple(r) for r in await connection.fetch('SELECT symbol, "timestamp" FROM raw_ohlcv ORDER BY 2, 1')]
    finally:
        await connection.close()


def test_a_put_that_fails_leaves_watermark_and_rows_at_the_session_before_and_the_next_run_catches_up(
    address: DatabaseAddress,
) -> None:
    store = MemoryObjectStore()
    store.fail("put", of=lambda key: key == LAKE.date_key("MSFT", THURSDAY))
    with pytest.raises(UpstreamError):
        asyncio.run(fetch(address, store))
    assert asyncio.run(sessions(address)) == [("AAPL", WEDNESDAY), ("MSFT", WEDNESDAY)]
    done = asyncio.run(fetch(address, store))
    assert [(one.what, one.stored, one.quarantined) for one in done] == [("2025-11-20", 2, 2), ("2025-11-21", 2, 2)]
    assert asyncio.run(sessions(address)) == [
        (symbol, session) for session in (WEDNESDAY, THURSDAY, FRIDAY) for symbol in ("AAPL", "MSFT")
    ]
    assert asyncio.run(fetch(address, store)) == []

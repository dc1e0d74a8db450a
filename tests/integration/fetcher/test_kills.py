"""A fetcher that is killed at any point: the next run completes its work, and no bar is missing or stored twice."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

import pytest

from fiblake.bars import read_bars
from fiblake.lake import Bronze
from local.emulator import REPOSITORY
from local.environment import isolated_environment
from local.sample_bars import read_sample_bars
from local.stack import API_KEY
from shared.database import DatabaseAddress
from tests.integration.conftest import Chain
from tests.integration.databases import ask, know

SYMBOLS: Final = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
SESSIONS: Final = (date(2013, 2, 27), date(2013, 2, 28), date(2013, 3, 1))
PROGRAM: Final = """
import asyncio, json, os, signal
from services.fetcher.assembly import fetch
from services.fetcher.settings import FetcherSettings, FetchEvent
from shared.database import Database
from shared.objects import ObjectStore
from shared.settings import load

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

async def die_later(*_, **__):
    die()
{death}
event = {{"as_of": "2013-03-01", **{event!r}}}
print(json.dumps(asyncio.run(fetch(load(FetcherSettings), FetchEvent.of(event)))))
"""
BEFORE_THE_NTH_PUT: Final = """
left, put = {n}, ObjectStore.put
def dying(self, key, data):
    global left
    left -= 1
    return put(self, key, data) if left else die()
ObjectStore.put = dying
"""
BEFORE_THE_TRANSACTION: Final = "Database.store_session = die_later"
WITHIN_THE_TRANSACTION: Final = """
upsert = Database._upsert_bars
async def dying(self, rows):
    await upsert(self, rows)
    die()
Database._upsert_bars = dying
"""
AFTER_THE_TRANSACTION: Final = """
store_session = Database.store_session
async def dying(self, *arguments):
    await store_session(self, *arguments)
    die()
Database.store_session = dying
"""
RESTATED: Final = """
from dataclasses import replace
from services.fetcher.massive import MassiveClient
grouped_daily = MassiveClient.grouped_daily
async def restated(self, session):
    bars = await grouped_daily(self, session)
    return [replace(bar, close=bar.high, volume=bar.volume + 1) if bar.symbol == "AAPL" else bar for bar in bars]
MassiveClient.grouped_daily = restated
"""
DEATHS: Final = {
    "before the first put": BEFORE_THE_NTH_PUT.format(n=1),
    "after some puts": BEFORE_THE_NTH_PUT.format(n=4),
    "in the second session's puts": BEFORE_THE_NTH_PUT.format(n=8),
    "between the puts and the transaction": BEFORE_THE_TRANSACTION,
    "within the transaction": WITHIN_THE_TRANSACTION,
    "after the transaction": AFTER_THE_TRANSACTION,
}


@dataclass(frozen=True)
class Fetching:
    """A fetcher with its own folder of the bucket and its own database."""

    chain: Chain
    address: DatabaseAddress
    prefix: str

    def run(self, death: str = "", **event: str) -> "subprocess.CompletedProcess[str]":
        """Run a fetcher process, which may be made to die."""
        return subprocess.run(
            [sys.executable, "-c", PROGRAM.format(death=death, event=event)], cwd=REPOSITORY, env=self._environment(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        stack = self.chain.stack
        names = {"host": "host", "port": "port", "username": "user", "dbname": "database", "password": "password"}
        arguments = self.address.arguments()
        secret = json.dumps({field: arguments[name] for field, name in names.items()})
        arn = stack.client("secretsmanager").create_secret(Name=uuid.uuid4().hex, SecretString=secret)["ARN"]
        inherited = isolated_environment(os.environ)
        return {
            **inherited, **stack.environment(), "S3_BUCKET": stack.bucket, "S3_PREFIX": self.prefix,
            "RDS_SECRET_ARN": arn, "DATABASE_TLS": "disable", "MASSIVE_API_KEY": API_KEY,
            "MARKET_DATA_URL": stack.market_data_url, "FIRST_SESSION": SESSIONS[0].isoformat(),
            "LOOK_BACK_SESSIONS": "0",
        }  # fmt: skip

    def files(self) -> dict[tuple[str, date], tuple[float, float]]:
        """Return close and volume of each bar in the folder's date files, which hold one bar each."""
        values: dict[tuple[str, date], tuple[float, float]] = {}
        for key in self.chain.objects(f"{self.prefix}/"):
            source = Bronze(self.prefix).parse_source(key)
            (row,) = read_bars(self.chain.watcher.read(key) or b"", source.symbol, datetime.now(UTC)).to_pylist()
            values[source.symbol, row["timestamp"]] = (row["close"], row["volume"])
        return values

    def rows(self) -> list[tuple[str, date, float, float]]:
        sql = 'SELECT symbol, "timestamp", close, volume FROM raw_ohlcv ORDER BY 2, 1'
        return [tuple(row) for row in self._ask(sql)]

    def ledger(self) -> list[date]:
        return [session for (session,) in self._ask("SELECT session FROM ingested_sessions ORDER BY 1")]

    def watermark(self) -> date | None:
        return next((mark for (mark,) in self._ask("SELECT last_session FROM data_ingestion_watermark")), None)

    def _ask(self, sql: str) -> list[list[Any]]:
        return [list(row.values()) for row in asyncio.run(ask(self.address, sql))]


@pytest.fixture
def fetching(chain: Chain, migrated: DatabaseAddress) -> Fetching:
    asyncio.run(know(migrated, *SYMBOLS))
    return Fetching(chain, migrated, f"other/{uuid.uuid4().hex}")


def expected() -> dict[tuple[str, date], tuple[float, float]]:
    bars = [bar for series in read_sample_bars().values() for bar in series if bar.session in SESSIONS]
    return {(bar.symbol, bar.session): (bar.close, bar.volume) for bar in bars}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
def test_the_run_after_a_kill_completes_and_no_bar_is_missing_or_doubled(fetching: Fetching, death: str) -> None:
    killed = fetching.run(death)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    whole = fetching.ledger()
    assert whole == list(SESSIONS[: len(whole)])
    assert {(symbol, session) for symbol, session, *_ in fetching.rows()} == {
        (symbol, session) for symbol in SYMBOLS for session in whole
    }
    assert fetching.watermark() == (whole[-1] if whole else None)

    healed = fetching.run()

    assert healed.returncode == 0, healed.stderr
    bars = expected()
    assert len(bars) == 15
    assert fetching.files() == bars
    assert fetching.rows() == [(*place, *bars[place]) for place in sorted(bars, key=lambda p: (p[1], p[0]))]
    assert (fetching.ledger(), fetching.watermark()) == (list(SESSIONS), SESSIONS[-1])
    sessions = json.loads(healed.stdout.splitlines()[-1])["done"]
    assert [session_json["what"] for session_json in sessions] == [
        session.isoformat() for session in SESSIONS[len(whole) :]
    ]


@pytest.mark.parametrize(
    "death", [BEFORE_THE_TRANSACTION, WITHIN_THE_TRANSACTION], ids=["before the transaction", "within it"]
)
def test_a_restated_bar_that_a_killed_run_put_and_the_vendor_takes_back_is_taken_back_in_bronze(
    fetching: Fetching, death: str
) -> None:
    assert fetching.run().returncode == 0
    assert fetching.files() == expected()

    killed = fetching.run(RESTATED + death, date="2013-02-28")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    changed = {place for place, bar in fetching.files().items() if bar != expected()[place]}
    assert changed == {("AAPL", date(2013, 2, 28))}

    healed = fetching.run()
    assert healed.returncode == 0, healed.stderr
    assert fetching.files() == expected()
    assert {(symbol, session): bar for symbol, session, *rest in fetching.rows() for bar in [tuple(rest)]} == expected()

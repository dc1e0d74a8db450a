"""The fetcher functions' surroundings: bucket, vendor, database, secrets."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import pytest
from moto import mock_aws

from services.fetcher import connections
from shared.database import Database, DatabaseAddress, SessionCounts, Tls
from shared.objects import ObjectStore
from tests.fakes import BUCKET, MemoryObjectStore
from tests.unit.fetcher.rows import FakeDatabase
from tests.unit.fetcher.vendor import KEY, Vendor, grouped_page

if TYPE_CHECKING:
    from fiblake.errors import FiblakeError

PASSWORD = "s3cret-passw0rd"  # noqa: S105 (nobody's)
DAY = date(2025, 11, 20)
RDS = {"engine": "postgres", "host": "db.test", "port": 5433, "username": "me", "password": PASSWORD, "dbname": "lake"}
OTHERS = (
    "MASSIVE_API_KEY", "POLYGON_API_KEY", "UNIVERSE", "UNIVERSE_TYPES", "FIRST_SESSION", "HISTORY_FROM",
    "MARKET_DATA_VENDOR", "MARKET_DATA_URL", "DATABASE_TLS", "LOOK_BACK_SESSIONS", "PRICE_JUMP_LIMIT",
    "REQUESTS_PER_MINUTE",
)  # fmt: skip


@dataclass
class Context:
    """What Lambda says of an invocation."""

    function_name: str = "fetcher"
    memory_limit_in_mb: int = 1024
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:fetcher"
    aws_request_id: str = "request-1"
    left: timedelta = timedelta(minutes=15)

    def get_remaining_time_in_millis(self) -> int:
        return self.left // timedelta(milliseconds=1)


class Deployed:
    """A function's surroundings, where the session before DAY is stored; `down` is the error of the database."""

    def __init__(self) -> None:
        self.store = MemoryObjectStore()
        self.vendor = Vendor([grouped_page("AAPL")])
        self.database = FakeDatabase(self.store.journal, date(2025, 11, 19), known={"CS": {"AAPL", "BAD"}})
        self.database.ledger[date(2025, 11, 19)] = SessionCounts(0, 0, 0, 0)
        self.addresses: list[DatabaseAddress] = []
        self.down: FiblakeError | None = None

    def connect(self, bucket: str) -> MemoryObjectStore:
        assert bucket == BUCKET
        return self.store

    @asynccontextmanager
    async def connected(self, address: DatabaseAddress, tls: Tls) -> AsyncIterator[Database]:
        assert tls == Tls(verify=True)
        self.addresses.append(address)
        if self.down:
            raise self.down
        yield self.database


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    deployed = Deployed()
    real = httpx.AsyncClient

    def over_the_mock(**arguments: Any) -> httpx.AsyncClient:  # noqa: ANN401 (httpx's own arguments)
        return real(transport=httpx.MockTransport(deployed.vendor), **arguments)

    monkeypatch.setattr(httpx, "AsyncClient", over_the_mock)
    monkeypatch.setattr(ObjectStore, "connect", deployed.connect)
    monkeypatch.setattr(connections, "connected", deployed.connected)
    for name in OTHERS:
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        secrets = boto3.client("secretsmanager")
        monkeypatch.setenv("S3_BUCKET", BUCKET)
        database = secrets.create_secret(Name="database", SecretString=json.dumps(RDS))
        monkeypatch.setenv("RDS_SECRET_ARN", database["ARN"])
        key = secrets.create_secret(Name="key", SecretString=json.dumps({"POLYGON_API_KEY": KEY}))
        monkeypatch.setenv("POLYGON_API_KEY_SECRET_ARN", key["ARN"])
        yield deployed

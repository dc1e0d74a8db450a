import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import boto3
import httpx
import pytest
from moto import mock_aws

from services.fetcher import handler as entry
from shared.database import Database, DatabaseAddress, Tls
from shared.errors import ConfigurationError, EntitlementError
from shared.objects import ObjectStore
from tests.fakes import BUCKET, LAKE, MemoryObjectStore
from tests.unit.fetcher.rows import FakeDatabase
from tests.unit.fetcher.vendor import KEY, Vendor, grouped_row, page

PASSWORD = "s3cret-passw0rd"  # noqa: S105 (nobody's)
DAY = date(2025, 11, 20)
RDS = {"engine": "postgres", "host": "db.test", "port": 5433, "username": "me", "password": PASSWORD, "dbname": "lake"}


@dataclass
class Context:
    """What Lambda says of an invocation."""

    function_name: str = "fetcher"
    memory_limit_in_mb: int = 1024
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:fetcher"
    aws_request_id: str = "request-1"


class Stack:
    """The function's surroundings: bucket, vendor, database, secrets."""

    def __init__(self) -> None:
        self.store = MemoryObjectStore()
        self.vendor = Vendor([page([grouped_row("AAPL", DAY)])])
        self.database = FakeDatabase(self.store.journal, date(2025, 11, 19))
        self.addresses: list[DatabaseAddress] = []

    def connect(self, bucket: str) -> MemoryObjectStore:
        assert bucket == BUCKET
        return self.store

    @asynccontextmanager
    async def connected(self, address: DatabaseAddress, tls: Tls) -> AsyncIterator[Database]:
        assert tls == Tls(verify=True)
        self.addresses.append(address)
        yield self.database

    def invoke(self, **event: object) -> Any:  # noqa: ANN401 (JSON)
        context: Any = Context()
        return json.loads(json.dumps(entry.handler(event, context)))


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    stack = Stack()
    real = httpx.AsyncClient

    def over_the_mock(**arguments: Any) -> httpx.AsyncClient:  # noqa: ANN401 (httpx's own arguments)
        return real(transport=httpx.MockTransport(stack.vendor), **arguments)

    monkeypatch.setattr(httpx, "AsyncClient", over_the_mock)
    monkeypatch.setattr(ObjectStore, "connect", stack.connect)
    monkeypatch.setattr(entry, "connected", stack.connected)
    for name in ("MASSIVE_API_KEY", "POLYGON_API_KEY", "UNIVERSE", "FIRST_SESSION", "MARKET_DATA_URL", "DATABASE_TLS"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        secrets = boto3.client("secretsmanager")
        monkeypatch.setenv("S3_BUCKET", BUCKET)
        database = secrets.create_secret(Name="database", SecretString=json.dumps(RDS))
        monkeypatch.setenv("RDS_SECRET_ARN", database["ARN"])
        key = secrets.create_secret(Name="key", SecretString=json.dumps({"POLYGON_API_KEY": KEY}))
        monkeypatch.setenv("POLYGON_API_KEY_SECRET_ARN", key["ARN"])
        yield stack


def test_an_invocation_says_what_was_stored_and_where_the_watermark_is(stack: Stack) -> None:
    answer = stack.invoke(as_of="2025-11-20")
    [session] = answer["done"]
    assert session.pop("written_at")
    assert session == {"what": "2025-11-20", "stored": 1, "quarantined": 0, "outside_universe": 0}
    assert answer["watermark"] == "2025-11-20"
    assert stack.store.keys() == [LAKE.date_key("AAPL", DAY)]


def test_key_and_password_come_from_secrets_manager_and_are_not_logged(
    stack: Stack, capfd: pytest.CaptureFixture[str]
) -> None:
    stack.invoke(as_of="2025-11-20")
    assert stack.vendor.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    [address] = stack.addresses
    assert (address.host, address.port, address.arguments()["password"]) == ("db.test", 5433, PASSWORD)
    told = "".join(capfd.readouterr())
    assert KEY not in told
    assert PASSWORD not in told


def test_a_database_without_any_session_has_no_watermark(stack: Stack) -> None:
    stack.database.mark = None
    stack.vendor.answers = [page([])]
    assert stack.invoke(as_of="2025-11-20", backfill=["AAPL"])["watermark"] is None


@pytest.mark.parametrize("name", ["S3_BUCKET", "RDS_SECRET_ARN"])
def test_a_missing_variable_fails_the_invocation_and_is_named(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match=name):
        stack.invoke()


def test_a_secret_that_does_not_exist_fails_the_invocation_and_is_named(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RDS_SECRET_ARN", "arn:aws:secretsmanager:us-east-1:123456789012:secret:nobody")
    with pytest.raises(EntitlementError, match="secret:nobody: ResourceNotFoundException"):
        stack.invoke()

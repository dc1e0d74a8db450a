"""The parts that are started once for all tests (PostgreSQL, vendor, embedded stack), and a view of the stack."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fiblake.aggregate import SILVER
from fiblake.bars import BRONZE, ReportedBar, encode
from fiblake.lake import INTERVALS, Bronze, splits_key
from fiblake.reference import Split, splits_file
from local.emulator import REPOSITORY
from local.postgres import postgres
from local.recompute import SampleSplit, differences, expected_tables
from local.stack import Stack, run_stack
from local.watch import Watcher
from migrations import schema
from migrations.fetcher_user import set_up_fetcher_user
from shared.database import DatabaseAddress, Tls
from tests.integration.databases import ask, fetcher_of
from tests.integration.market import Market, replaying

FIRST_SESSION = date(2013, 2, 27)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseAddress]:
    with postgres(tmp_path_factory.mktemp("postgres") / "data", durable=False) as secret:
        owner = DatabaseAddress.of_secret(json.dumps(secret))
        asyncio.run(ask(owner, f"CREATE ROLE {fetcher_of(owner).user} LOGIN"))
        yield owner


@pytest.fixture
def address(server: DatabaseAddress) -> Iterator[DatabaseAddress]:
    """A database of a test's own, without any table."""
    name = f"test_{datetime.now(UTC):%H%M%S%f}"
    asyncio.run(ask(server, f"CREATE DATABASE {name}"))
    yield replace(server, database=name)
    asyncio.run(ask(server, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def migrated(address: DatabaseAddress) -> DatabaseAddress:
    schema.upgrade(address, Tls(verify=False))
    set_up_fetcher_user(address, fetcher_of(address), Tls(verify=False))
    return address


@pytest.fixture(scope="session")
def running_market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with replaying(tmp_path_factory.mktemp("market") / "port") as market:
        yield market


@pytest.fixture
def market(running_market: Market) -> Market:
    """The whole built-in sample, without faults."""
    running_market.reset()
    return running_market


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    (REPOSITORY / ".local").mkdir(exist_ok=True)
    folder = Path(mkdtemp(prefix="test-", dir=REPOSITORY / ".local"))
    with run_stack(folder, first_session=FIRST_SESSION) as started:
        yield started
    subprocess.run(["rm", "-r", str(folder)], check=True)


@pytest.fixture(scope="session")
def chain(stack: Stack) -> "Chain":
    return Chain(stack, Watcher(stack), stack.client("s3"), stack.client("sqs"))


def bar(symbol: str, session: date, price: float) -> ReportedBar:
    """A bar whose fields all follow from one price."""
    return ReportedBar(symbol, session, price, price + 2, price - 1, price + 1, int(price * 1000))


def parquet(bars: Sequence[ReportedBar], ingested_at: datetime | None = None) -> bytes:
    at = ingested_at or datetime.now(UTC)
    return encode(pa.Table.from_pylist([bar.row(at) for bar in bars], schema=BRONZE))


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"after {seconds} s it still does not hold that {what}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Chain:
    stack: Stack
    watcher: Watcher
    s3: Any
    sqs: Any

    def put(self, bars: Sequence[ReportedBar], ingested_at: datetime | None = None) -> str:
        """Put one date file (or a range file, for more bars) as any S3 client would; return its key."""
        first, last = bars[0], bars[-1]
        names = Bronze()
        is_single = len(bars) == 1
        key = (
            names.date_key(first.symbol, first.session)
            if is_single
            else names.range_key(first.symbol, first.session, last.session)
        )
        self.s3.put_object(Bucket=self.stack.bucket, Key=key, Body=parquet(bars, ingested_at))
        return key

    def put_splits(self, split: SampleSplit) -> None:
        """Put the file of a symbol's only split as any S3 client would."""
        ratio = split.split_from / split.split_to
        row = Split(split.symbol, split.execution_date, split.split_from, split.split_to, "forward_split", ratio, "one")
        self.s3.put_object(Bucket=self.stack.bucket, Key=splits_key(split.symbol), Body=splits_file([row]))

    def silver_of(self, symbol: str, interval: int) -> pd.DataFrame:
        """Return a symbol's rows of one table."""
        table = self.watcher.silver(interval)
        whole = SILVER.empty_table() if table is None else table
        return whole.filter(pc.equal(whole["symbol"], symbol)).to_pandas()

    def wait_for_silver(
        self, bars: Sequence[ReportedBar], seconds: float = 90, splits: Sequence[SampleSplit] = ()
    ) -> None:
        """Wait until all tables hold exactly the buckets of one symbol's bars and splits."""
        symbol = bars[0].symbol
        expected = expected_tables(bars, INTERVALS, splits)

        def equal(interval: int) -> bool:
            return differences(self.silver_of(symbol, interval), expected[interval]) == 0

        for interval in INTERVALS:
            wait_until(lambda i=interval: equal(i), f"silver_{interval}d holds {symbol} as recomputed", seconds)  # type: ignore[misc]

    def send(self, queue: str, *bodies: str) -> None:
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.stack.queue_urls[queue], MessageBody=body)

    def dead_letter(self, queue: str, body: str, seconds: float = 90) -> dict[str, str]:
        """Wait for the dead letter with this body, take it out, and return its attributes."""
        return self._dead_letter(queue, lambda candidate: candidate == body, seconds)

    def dead_letter_about(self, queue: str, symbol: str, seconds: float = 90) -> dict[str, str]:
        """Wait for a dead letter that names this symbol, take it out, and return its attributes."""
        return self._dead_letter(queue, lambda candidate: f'"symbol":"{symbol}"' in candidate, seconds)

    def _dead_letter(self, queue: str, wanted: Callable[[str], bool], seconds: float) -> dict[str, str]:
        url = self.sqs.get_queue_url(QueueName=self.stack.queue_urls[queue].rsplit("/", 1)[-1] + "-dlq")["QueueUrl"]
        matching: list[dict[str, Any]] = []

        def arrived() -> bool:
            answer = self.sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"], VisibilityTimeout=1)
            matching.extend(m for m in answer.get("Messages", []) if wanted(m["Body"]))
            return bool(matching)

        wait_until(arrived, f"{queue}'s dead-letter queue holds the message", seconds)
        self.sqs.delete_message(QueueUrl=url, ReceiptHandle=matching[0]["ReceiptHandle"])
        return {name: value["StringValue"] for name, value in matching[0]["MessageAttributes"].items()}

    def new_queue(self, name: str, visibility_seconds: int) -> str:
        """Make a queue with its dead-letter queue in addition to the stack's; return its URL."""
        self.sqs.create_queue(QueueName=f"{name}-dlq")
        attributes = {"VisibilityTimeout": str(visibility_seconds)}
        url: str = self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url

    def worker(self, *arguments: str, program: str | None = None, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a worker process on this stack; `program` is Python to run instead of the module."""
        start = ["-c", program] if program else ["-m", "services.consolidator"]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        settings: Mapping[str, str] = {
            "S3_BUCKET": self.stack.bucket,
            "CONSOLIDATION_COMPLETE_TOPIC_ARN": self.stack.outputs["ConsolidationCompleteTopicArn"],
            "POWERTOOLS_SERVICE_NAME": "consolidator",
            "IDLE_SECONDS": "2",
        }
        env = {**inherited, **self.stack.environment(), **settings, **environment}
        return subprocess.Popen([sys.executable, *start, *arguments], cwd=REPOSITORY, env=env, stdin=subprocess.DEVNULL)

    def invoke_fetcher(self, **event: str) -> dict[str, Any]:
        name = self.stack.outputs["OhlcvFetcherFunctionName"]
        answer = self.stack.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event))
        payload: dict[str, Any] = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer, payload
        return payload

    def objects(self, prefix: str) -> dict[str, str]:
        """Return the ETag of each object below a prefix."""
        return self.watcher.objects(prefix)

    def drained(self) -> None:
        """Wait until no work is left, except other tests' dead letters."""
        for _ in range(2):
            wait_until(lambda: self.watcher.look().quiet, "the chain is quiet")
            with suppress(TimeoutError):
                time.sleep(0.5)

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws

from fiblake.aggregate import Bars
from fiblake.errors import ConfigurationError
from services.resampler import handler as entry
from shared.events import ConsolidationComplete
from shared.objects import ObjectStore
from shared.queues import queue_of_arn
from tests.fakes import BUCKET, LAKE, MemoryObjectStore
from tests.unit.resampler.daily import ORDINAL, SESSIONS, Facts, numbered, slow_silver
from tests.unit.resampler.silver_lake import lay, silver, whole_silver

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

START = ORDINAL[date(2025, 10, 1)]
DAYS = SESSIONS[START : START + 20]
HISTORY = numbered(DAYS)


@dataclass
class Context:
    """What Lambda says of an invocation."""

    function_name: str = "resampler"
    memory_limit_in_mb: int = 1024
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:resampler"
    aws_request_id: str = "request-1"


@dataclass
class Stack:
    store: MemoryObjectStore
    sqs: "SQSClient"
    urls: dict[str, str] = field(default_factory=dict)

    def invoke(self, bodies: Sequence[str], queue: str = "dev-resample-5d", receives: int = 1) -> list[str]:
        """Pass one batch to the function, with messages in Lambda's format; return the ids that failed."""
        records = [record(f"m{i}", body, queue, receives) for i, body in enumerate(bodies)]
        context: Any = Context()
        answer = entry.handler({"Records": records}, context)
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    def messages(self, queue: str) -> list[Any]:
        received: list[Any] = []
        while more := self.sqs.receive_message(
            QueueUrl=self.urls[queue], MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages"):
            received += more
        return received


def record(name: str, body: str, queue: str, receives: int) -> dict[str, Any]:
    return {
        "messageId": name,
        "receiptHandle": f"receipt-{name}",
        "body": body,
        "attributes": {"ApproximateReceiveCount": str(receives), "SentTimestamp": "1763596800000"},
        "messageAttributes": {
            "intervals": {"stringValue": "[5]", "stringListValues": [], "binaryListValues": [], "dataType": "String"}
        },
        "md5OfBody": "0" * 32,
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{queue}",
        "awsRegion": "us-east-1",
    }


def complete(symbol: str, since: date = DAYS[0]) -> str:
    return ConsolidationComplete(symbol=symbol, changed_from=since, last_session=DAYS[-1]).model_dump_json()


def forget() -> None:
    for cached in (entry._settings, entry._resampler, queue_of_arn):  # noqa: SLF001 (a process serves one stack only)
        cached.cache_clear()


@pytest.fixture
def stack(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    def connect(bucket: str) -> MemoryObjectStore:
        assert bucket == BUCKET
        return store

    monkeypatch.setattr(ObjectStore, "connect", connect)
    forget()
    with mock_aws():
        sqs, sns = boto3.client("sqs"), boto3.client("sns")
        stack = Stack(store, sqs)
        for queue in ("dev-resample-5d", "dev-resample-5d-dlq", "dev-resample-3d", "dev-resample-4d", "listener"):
            stack.urls[queue] = sqs.create_queue(QueueName=queue)["QueueUrl"]
        topic = sns.create_topic(Name="dev-silver-updated")["TopicArn"]
        sns.subscribe(
            TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:us-east-1:123456789012:listener",
            Attributes={"RawMessageDelivery": "true"},
        )  # fmt: skip
        monkeypatch.setenv("S3_BUCKET", BUCKET)
        monkeypatch.setenv("SILVER_UPDATED_TOPIC_ARN", topic)
        yield stack
    forget()


def test_a_thousand_records_are_one_recomputation_with_a_truthful_partial_response(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = Bars.since

    def faulty(bars: Bars, ordinal: int) -> Bars:
        if bars.symbol == "BUG":
            raise ZeroDivisionError("a fault of our own")
        return since(bars, ordinal)

    monkeypatch.setattr(Bars, "since", faulty)
    symbols = [f"S{i:02d}" for i in range(20)]
    for symbol in [*symbols, "BUG"]:
        lay(stack.store, symbol, HISTORY)
    bodies = [complete(symbol, day) for day in DAYS for symbol in symbols for _ in range(2)]
    bodies += [complete(symbol) for symbol in symbols for _ in range(9)]
    bodies += ["poison"] * 5 + [complete("NONE")] * 5 + [complete("BUG")] * 10
    assert len(bodies) == 1_000
    # A message that may succeed later is returned; one that never can is in the dead-letter queue, and deleted here.
    assert stack.invoke(bodies) == [f"m{i}" for i in range(990, 1_000)]
    reads = Counter(key for key in stack.store.done("get") if key.startswith("bronze/"))
    assert reads == Counter(LAKE.data_key(symbol) for symbol in [*symbols, "BUG", "NONE"])
    assert silver(stack.store, 5) == whole_silver(dict.fromkeys(symbols, HISTORY), 5)
    dead = stack.messages("dev-resample-5d-dlq")
    assert Counter(message["Body"] for message in dead) == {"poison": 5, complete("NONE"): 5}
    [event] = [json.loads(message["Body"]) for message in stack.messages("listener")]
    assert (event["interval"], event["symbols"]) == (5, symbols)


def test_a_dead_letter_carries_its_reason_and_what_it_came_with(stack: Stack) -> None:
    assert stack.invoke([complete("NONE")]) == []
    [letter] = stack.messages("dev-resample-5d-dlq")
    attributes = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
    assert attributes == {
        "reason": "NONE has no data.parquet: consolidate it first",
        "error": "NotFoundError",
        "source_queue": "dev-resample-5d",
        "receive_count": "1",
        "intervals": "[5]",
    }


def test_a_failure_that_outlives_its_receives_is_a_dead_letter(stack: Stack) -> None:
    lay(stack.store, "AAPL", HISTORY)
    stack.store.fail("list", times=2)
    assert stack.invoke([complete("AAPL")], receives=5) == ["m0"]
    assert stack.messages("dev-resample-5d-dlq") == []
    assert stack.invoke([complete("AAPL")], receives=6) == []
    [letter] = stack.messages("dev-resample-5d-dlq")
    assert "gave up after 6 receives" in letter["MessageAttributes"]["reason"]["StringValue"]


def test_a_message_that_cannot_be_dead_lettered_stays_where_it_is(stack: Stack) -> None:
    lay(stack.store, "AAPL", HISTORY)
    assert stack.invoke(["poison", complete("AAPL")], queue="dev-resample-3d") == ["m0"]


def test_each_queue_updates_its_own_table(stack: Stack) -> None:
    lay(stack.store, "AAPL", HISTORY)
    for interval in (3, 5):
        assert stack.invoke([complete("AAPL")], queue=f"dev-resample-{interval}d") == []
    for interval in (3, 5):
        assert silver(stack.store, interval) == whole_silver({"AAPL": HISTORY}, interval)
    assert {key.split("/")[1] for key in stack.store.keys("silver/")} == {"silver_3d", "silver_5d"}


def test_a_queue_that_is_for_no_interval_fails_the_invocation(stack: Stack) -> None:
    with pytest.raises(ConfigurationError, match="dev-resample-4d"):
        stack.invoke([complete("AAPL")], queue="dev-resample-4d")


def test_an_error_that_is_not_ours_gives_the_batch_back_and_loses_nothing(stack: Stack) -> None:
    lay(stack.store, "AAPL", HISTORY)
    stack.store.fail("list", ZeroDivisionError("a fault of our own"))
    assert stack.invoke([complete("AAPL"), "poison"]) == ["m0"]
    assert [letter["Body"] for letter in stack.messages("dev-resample-5d-dlq")] == ["poison"]
    assert stack.invoke([complete("AAPL")]) == []


def test_the_longest_history_window_is_two_hundred_years(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESAMPLING_RETENTION_YEARS", "200")
    lay(stack.store, "AAPL", HISTORY)
    assert stack.invoke([complete("AAPL")]) == []
    assert silver(stack.store, 5) == whole_silver({"AAPL": HISTORY}, 5)


@pytest.mark.parametrize(("setting", "adjusted"), [("true", True), ("false", False), ("", True)])
def test_the_setting_says_whether_splits_are_applied(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, setting: str, adjusted: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    monkeypatch.setenv("RESAMPLING_ADJUSTED", setting)
    split = Facts(splits=((DAYS[10], 1, 2),))
    lay(stack.store, "AAPL", HISTORY, split)
    assert stack.invoke([complete("AAPL")]) == []
    assert silver(stack.store, 5) == slow_silver("AAPL", HISTORY, 5, split, adjusted=adjusted)


@pytest.mark.parametrize("variable", ["S3_BUCKET", "SILVER_UPDATED_TOPIC_ARN"])
def test_a_missing_variable_fails_the_invocation_and_is_named(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv(variable)
    with pytest.raises(ConfigurationError, match=variable):
        stack.invoke([complete("AAPL")])


def test_settings_that_were_set_are_used(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_PREFIX", "mine")
    monkeypatch.setenv("RESAMPLING_RETENTION_YEARS", "")
    stack.store.lay("mine/symbol=AAPL/data.parquet", b"not parquet")
    assert stack.invoke([complete("AAPL")]) == []
    [letter] = stack.messages("dev-resample-5d-dlq")
    assert letter["MessageAttributes"]["error"]["StringValue"] == "ContractError"


@pytest.mark.parametrize("value", ["-1", "two", "201", "2026"])
def test_a_history_window_that_is_none_is_refused(stack: Stack, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RESAMPLING_RETENTION_YEARS", value)
    with pytest.raises(ConfigurationError, match="RESAMPLING_RETENTION_YEARS"):
        stack.invoke([complete("AAPL")])

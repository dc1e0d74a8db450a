import copy
import json
from collections.abc import Iterator
from datetime import date
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from fiblake.errors import ConfigurationError, UpstreamError
from services.consolidator import handler as entry
from shared.events import ConsolidationRequest, parse
from shared.jobs import JobQueue
from shared.queues import Queue, queue_of_arn
from tests.fakes import LAKE, FakeJobs, sample

BUCKET = "dev-condvest-datalake"
CONTEXT = SimpleNamespace(
    function_name="router", memory_limit_in_mb=256, aws_request_id="1",
    invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:router",
)  # fmt: skip


class Deployed:
    """The router's queues, in moto, and its jobs."""

    def __init__(self) -> None:
        self.client = boto3.client("sqs")
        names = ("dev-bronze-arrivals", "dev-bronze-arrivals-dlq", "dev-consolidation")
        urls = {name: self.client.create_queue(QueueName=name)["QueueUrl"] for name in names}
        self.dead, self.consolidation = (Queue(self.client, urls[name]) for name in names[1:])
        self.jobs = FakeJobs()
        self.opened: list[tuple[str, ...]] = []

    def connect(self, *what: str) -> FakeJobs:
        self.opened.append(what)
        return self.jobs

    def requests(self) -> list[ConsolidationRequest]:
        bodies = []
        while messages := self.consolidation.receive():
            bodies += [parse(ConsolidationRequest, message.body) for message in messages]
        return bodies


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    with mock_aws():
        deployed = Deployed()
        monkeypatch.setattr(JobQueue, "connect", deployed.connect)
        for name, value in {
            "S3_BUCKET": BUCKET, "CONSOLIDATION_QUEUE_URL": deployed.consolidation.url, "BATCH_JOB_QUEUE": "q",
            "BATCH_JOB_DEFINITION": "d", "SYMBOLS_PER_CHILD": "100",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        entry._build_router.cache_clear()  # noqa: SLF001 (a new process)
        queue_of_arn.cache_clear()
        yield deployed
        entry._build_router.cache_clear()  # noqa: SLF001
        queue_of_arn.cache_clear()


def invoke(event: dict[str, Any]) -> list[str]:
    """Invoke the function; return the ids of the messages that SQS must keep."""
    response = entry.handler(event, CONTEXT)  # type: ignore[arg-type]
    return [failure["itemIdentifier"] for failure in response["batchItemFailures"]]


def together(*events: dict[str, Any]) -> dict[str, Any]:
    """Return one event with the records of all events, each with its own id."""
    records = [copy.deepcopy(record) for event in events for record in event["Records"]]
    return {"Records": [{**record, "messageId": f"m{n}"} for n, record in enumerate(records)]}


@pytest.mark.parametrize(("name", "symbol"), [("s3-put-via-eventbridge", "AAPL"), ("s3-put-direct-to-sqs", "BRK.B")])
def test_a_put_is_requested_and_a_job_submitted(deployed: Deployed, name: str, symbol: str) -> None:
    assert invoke(sample(name)) == []
    assert [request.symbol for request in deployed.requests()] == [symbol]
    assert [size for _, size in deployed.jobs.submitted] == [1]


def test_its_jobs_are_those_that_drain_and_no_others_of_the_definition(deployed: Deployed) -> None:
    invoke(sample("s3-put-via-eventbridge"))
    assert deployed.opened == [("q", "d", "drain-")]


def test_s3s_test_event_is_taken_and_forgotten(deployed: Deployed) -> None:
    assert invoke(sample("s3-test-event")) == []
    assert (deployed.requests(), deployed.jobs.submitted, deployed.dead.receive()) == ([], [], [])


def test_a_foreign_key_becomes_a_dead_letter_with_its_reason_while_the_others_continue(deployed: Deployed) -> None:
    assert invoke(together(sample("not-our-key"), sample("s3-put-via-eventbridge"))) == []
    (letter,) = deployed.dead.receive()
    assert letter.body == sample("not-our-key")["Records"][0]["body"]
    assert "symbol=../../date=2025-11-19.parquet" in letter.attributes["reason"]["StringValue"]
    assert letter.attributes["source_queue"]["StringValue"] == "dev-bronze-arrivals"
    assert [request.symbol for request in deployed.requests()] == ["AAPL"]


def test_without_batch_the_messages_that_sent_requests_are_kept(deployed: Deployed) -> None:
    deployed.jobs.error = UpstreamError("Batch is away")
    assert invoke(together(sample("s3-test-event"), sample("s3-put-via-eventbridge"))) == ["m1"]


def test_a_thousand_records_in_one_event_are_one_round_of_requests_and_one_job(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS passes thousands of records if a batching window is set; the emulator passes ten at most."""
    monkeypatch.setenv("SYMBOLS_PER_CHILD", "20")
    body = json.loads(sample("s3-put-via-eventbridge")["Records"][0]["body"])
    events = []
    for n in range(1_000):
        body["detail"]["object"]["key"] = LAKE.date_key(f"S{n % 50}", date(2025, 11, 17 + n // 500))
        event = sample("s3-put-via-eventbridge")
        event["Records"][0]["body"] = json.dumps(body) if n != 500 else "poison"
        events.append(event)
    assert invoke(together(*events)) == []
    requests = deployed.requests()
    assert sorted(request.symbol for request in requests) == sorted(f"S{n}" for n in range(50))
    assert {request.changed_from for request in requests} == {date(2025, 11, 17)}
    assert [size for _, size in deployed.jobs.submitted] == [3]
    assert [letter.body for letter in deployed.dead.receive()] == ["poison"]


def test_a_missing_setting_is_named(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCH_JOB_QUEUE")
    with pytest.raises(ConfigurationError, match="BATCH_JOB_QUEUE: field required"):
        invoke(sample("s3-put-via-eventbridge"))
    assert deployed.requests() == []

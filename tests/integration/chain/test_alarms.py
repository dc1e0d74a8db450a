"""From a cause to the mail about it: each kind of failure is caused, measured, and reported by the deployed alarms.

No number is invented here. The thresholds of two alarms are lowered (age: a test cannot wait for two hours). Some
alarms cannot be caused: the emulator does not model an EventBridge that cannot reach the topic of the alarms, and
missing measurements.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config

from fiblake.bars import MANIFEST, encode
from fiblake.buckets import bucket_start
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS, MANIFEST_KEY, Month, silver_key
from local.emulator import REGION
from local.market_data.control import Control
from local.stack import API_KEY
from shared.metrics import oldest_ages
from tests.integration.conftest import Chain, bar, wait_until

DEAD_LETTERS, AGE = "ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"
NOT_BROUGHT_ABOUT = {"local-failed-jobs-dlq-not-empty"}
SILENCE = {"local-freshness-silent", "local-audit-silent"}
"""The emulator does not evaluate missing values."""
VERSION_9 = '{"schema_version": "9.0", "about": "alarms"}'
NO_PLACE = {"bucket": {"name": "nobody"}, "object": {"key": "bronze/raw_ohlcv/symbol=A/B/date=2011-01-04.parquet"}}
POISON = {
    "bronze-arrivals": json.dumps({"detail-type": "Object Created", "id": "x", "source": "aws.s3", "detail": NO_PLACE}),
    "consolidation": VERSION_9,
    "history": VERSION_9,
    **{f"resample-{interval}d": VERSION_9 for interval in INTERVALS},
}
"""A message for each queue that its consumer cannot process."""
SENSELESS = {
    "local-metadata-fetcher": {"splits_only": "perhaps"},
    "local-ohlcv-fetcher": {"from": "some day"},
    "local-reconcile": {"fix": "perhaps"},
    "local-freshness": {},  # it takes no input, so the objects that it reads must be broken
}
"""What each schedule's function fails on."""
Alarm = Mapping[str, Any]


@dataclass
class Mailbox:
    """The messages that the subscriber of the alarms has received since `since`."""

    chain: Chain
    url: str
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    _mails: list[str] = field(default_factory=list)

    @property
    def mails(self) -> list[str]:
        sqs = self.chain.sqs
        while messages := sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages", []):
            self._mails += [message["Body"] for message in messages]
            for message in messages:
                sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return self._mails

    def was_mailed(self, alarm: Alarm) -> bool:
        """Whether the alarm went on because of a measurement since then, and was mailed."""
        mails = [json.loads(mail) for mail in self.mails if mail.startswith("{")]
        ours = [mail for mail in mails if mail["AlarmName"] == alarm["AlarmName"] and mail["NewStateValue"] == "ALARM"]
        return bool(ours) and exceeded(self.chain, alarm, self.since)

    def wait_for(self, wanted: Mapping[str, Alarm]) -> None:
        remaining = dict(wanted)

        def all_mailed() -> bool:
            for name in [name for name, alarm in remaining.items() if self.was_mailed(alarm)]:
                del remaining[name]
            return not remaining

        with suppress(AssertionError):
            wait_until(all_mailed, "all are mailed")
        assert remaining.keys() == set(), "these were not mailed"


@pytest.fixture(scope="module")
def subscribed(chain: Chain) -> str:
    url: str = chain.sqs.create_queue(QueueName="mailbox")["QueueUrl"]
    arn = chain.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = chain.stack.outputs["AlarmsTopicArn"]
    chain.stack.client("sns").subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"}
    )
    return url


@pytest.fixture
def mailbox(chain: Chain, subscribed: str) -> Mailbox:
    # An alarm that is already on because of another test would not go on again. It may go on for that test's failures,
    # so the mail alone proves nothing.
    chain.sqs.purge_queue(QueueUrl=subscribed)
    for name in alarms(chain):
        chain.stack.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="OK", StateReason="a test begins")
    return Mailbox(chain, subscribed)


def alarms(chain: Chain, metric: str = "") -> dict[str, Alarm]:
    """Return the deployed alarms by their names: all, or those on one metric."""
    pages = chain.stack.client("cloudwatch").get_paginator("describe_alarms").paginate()
    by_name = {alarm["AlarmName"]: alarm for page in pages for alarm in page["MetricAlarms"]}
    return {name: alarm for name, alarm in by_name.items() if metric in ("", alarm["MetricName"])}


def exceeded(chain: Chain, alarm: Alarm, since: datetime) -> bool:
    """Whether the metric of an alarm, with the alarm's own dimensions, has been beyond its threshold since then."""
    metric = {name: alarm[name] for name in ("Namespace", "MetricName", "Dimensions")}
    query = {"Id": "q", "MetricStat": {"Metric": metric, "Period": 60, "Stat": alarm["Statistic"]}}
    end = datetime.now(UTC) + timedelta(minutes=1)
    answer = chain.stack.client("cloudwatch").get_metric_data(MetricDataQueries=[query], StartTime=since, EndTime=end)
    worst, threshold = max(answer["MetricDataResults"][0]["Values"], default=-1.0), alarm["Threshold"]
    beyond = {"GreaterThanThreshold": worst > threshold, "GreaterThanOrEqualToThreshold": worst >= threshold}
    return beyond[alarm["ComparisonOperator"]]


def test_every_alarm_is_of_a_kind_that_is_caused_here(chain: Chain) -> None:
    kinds = {alarm["MetricName"] for alarm in alarms(chain).values()}
    freshness = {"SessionsNotConsolidated", "SymbolsNotConsolidated", "SymbolsNotResampled"}
    ours = {*freshness, "SymbolsLagging", "SymbolsAudited", "BarsQuarantinedPercent"}
    assert kinds == {DEAD_LETTERS, AGE, "Errors", "Throttles", *ours}
    assert {name for name, alarm in alarms(chain).items() if alarm["Statistic"] == "SampleCount"} == SILENCE
    queues = {name.removeprefix("local-") for name in SENSELESS} | POISON.keys()
    brought = {f"local-{queue}-dlq-not-empty" for queue in queues}
    assert alarms(chain, DEAD_LETTERS).keys() == brought | NOT_BROUGHT_ABOUT
    assert alarms(chain, AGE).keys() == {f"local-{queue}-too-old" for queue in POISON}


def test_a_lake_that_is_not_fresh_is_mailed_and_the_audit_mails_what_it_heals(chain: Chain, mailbox: Mailbox) -> None:
    # One symbol's rows are missing in silver, and another symbol has a file without a notification.
    closed = nyse().last_closed(datetime.now(UTC))
    bars = [bar("STALE", closed, 50)]
    chain.put(bars)
    chain.wait_for_silver(bars)
    month = Month.of(nyse().session(bucket_start(nyse().ordinal(closed), 3)))
    chain.s3.delete_object(Bucket=chain.stack.bucket, Key=silver_key(3, month))
    with nobody_is_told_of_arrivals(chain):
        chain.put([bar("UNTOLD", date(2012, 6, 1), 50)])

    name = chain.stack.outputs["FreshnessFunctionName"]
    answer = json.loads(chain.stack.client("lambda").invoke(FunctionName=name, Payload="{}")["Payload"].read())

    assert (answer["not_consolidated"], answer["symbols_not_consolidated"]) == (0, 1)
    assert answer["symbols_not_resampled"]["3d"] > 0, "the month file had rows of other tests' symbols too"
    metrics = ("SymbolsNotConsolidated", "SymbolsNotResampled")
    mailbox.wait_for({name: alarm for metric in metrics for name, alarm in alarms(chain, metric).items()})
    mails = [json.loads(mail) for mail in mailbox.mails if '"local-symbols-not-consolidated"' in mail]
    assert {mail["AlarmDescription"].rpartition("What to do: ")[2] for mail in mails} == {"docs/alarms.md#stale-lake"}

    audit = chain.stack.client("lambda").invoke(
        FunctionName=chain.stack.outputs["ReconcileFunctionName"], Payload='{"fix": true}'
    )
    assert json.loads(audit["Payload"].read())["causes"].keys() >= {"never_consolidated", "silver"}
    mailbox.wait_for(alarms(chain, "SymbolsLagging"))
    chain.wait_for_silver(bars)
    chain.wait_for_silver([bar("UNTOLD", date(2012, 6, 1), 50)])


def test_a_lake_without_any_bars_of_the_last_session_is_mailed(chain: Chain, mailbox: Mailbox) -> None:
    about = {name: alarm for name, alarm in alarms(chain, "SessionsNotConsolidated").items() if name not in SILENCE}
    with torn_manifest(chain, encode(MANIFEST.empty_table())):
        name = chain.stack.outputs["FreshnessFunctionName"]
        answer = json.loads(chain.stack.client("lambda").invoke(FunctionName=name, Payload="{}")["Payload"].read())
    assert answer["not_consolidated"] > 10_000, "never"
    assert len(about) == 1
    mailbox.wait_for(about)


def test_messages_that_wait_too_long_and_messages_that_fail_are_mailed(chain: Chain, mailbox: Mailbox) -> None:
    old, dead = alarms(chain, AGE), alarms(chain, DEAD_LETTERS)
    with nobody_takes_messages(chain), lowered(chain, old, 1) as soon_old:
        for queue, body in POISON.items():
            chain.send(queue, body)
        mailbox.wait_for(soon_old)
        ages = oldest_ages([f"local-{queue}" for queue in POISON], chain.stack.client("cloudwatch"))
        assert [age for age in ages.values() if age > 1] == list(ages.values())
        assert len(ages) == len(POISON)

    assert chain.worker(CONSOLIDATION_QUEUE_URL=chain.stack.queue_urls["consolidation"]).wait(60) == 3

    mailbox.since = datetime.now(UTC)  # messages that waited in the queues themselves are no dead letters
    mailbox.wait_for({name: dead[name] for name in (f"local-{queue}-dlq-not-empty" for queue in POISON)})
    assert all(chain.dead_letter(queue, body)["reason"] for queue, body in POISON.items())
    chain.drained()


def test_a_failed_invocation_of_a_schedule_is_mailed_with_its_dead_letter(chain: Chain, mailbox: Mailbox) -> None:
    dead = alarms(chain, DEAD_LETTERS)
    with torn_manifest(chain):
        for name, event in SENSELESS.items():
            chain.stack.client("lambda").invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event))
        mailbox.wait_for(alarms(chain, "Errors"))
        mailbox.wait_for({name: dead[name] for name in (f"{function}-dlq-not-empty" for function in SENSELESS)})
    for name in SENSELESS:
        chain.sqs.purge_queue(QueueUrl=chain.sqs.get_queue_url(QueueName=f"{name}-dlq")["QueueUrl"])


@pytest.mark.parametrize("output", ["RouterFunctionName", "ResamplerFunctionName", "HistoryFetcherFunctionName"])
def test_a_function_that_fails_on_the_messages_of_a_queue_is_mailed(
    chain: Chain, mailbox: Mailbox, output: str
) -> None:
    name = chain.stack.outputs[output]
    answer = chain.stack.client("lambda").invoke(FunctionName=name, Payload='{"Records": "none"}')
    assert answer["FunctionError"]
    mailbox.wait_for(alarms(chain, "Errors"))


def test_a_function_that_is_throttled_is_mailed(chain: Chain, mailbox: Mailbox) -> None:
    throttled_name = chain.stack.outputs["ReconcileFunctionName"]
    with throttled(chain, throttled_name) as client, pytest.raises(client.exceptions.TooManyRequestsException):
        client.invoke(FunctionName=throttled_name, Payload="{}")
    mailbox.wait_for(alarms(chain, "Throttles"))


def test_a_batch_job_that_fails_for_good_is_mailed_with_its_reason(chain: Chain, mailbox: Mailbox) -> None:
    outputs = chain.stack.outputs
    job = chain.stack.client("batch").submit_job(
        jobName="job-without-settings",
        jobQueue=outputs["BatchJobQueueName"],
        jobDefinition=outputs["BatchJobDefinitionName"],
        containerOverrides={"environment": [{"name": "MAX_WORKERS", "value": "some"}]},
        retryStrategy={"attempts": 1},
    )["jobId"]
    reason = "Essential container in task exited"
    mail = f'"Batch job job-without-settings ({job}) failed: {reason}. What to do: docs/alarms.md#failed-jobs"'
    wait_until(lambda: mail in mailbox.mails, f"the mail says {mail}")


def test_bars_that_cannot_be_are_mailed(chain: Chain, mailbox: Mailbox) -> None:
    market = Control(chain.stack.market_data_url, API_KEY)
    market.faults({"kind": "nonsense"})
    name, day = chain.stack.outputs["OhlcvFetcherFunctionName"], "2012-06-01"
    event = {"symbols": ["MSFT"], "from": day, "to": day}
    answer = json.loads(
        chain.stack.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event))["Payload"].read()
    )
    market.faults()
    [stored] = answer["done"]
    assert (stored["stored"], stored["quarantined"]) == (0, 1)
    mailbox.wait_for(alarms(chain, "BarsQuarantinedPercent"))
    for key in chain.objects("bronze/quarantine/symbol=MSFT/"):
        chain.s3.delete_object(Bucket=chain.stack.bucket, Key=key)


@contextmanager
def nobody_takes_messages(chain: Chain) -> Iterator[None]:
    client = chain.stack.client("lambda")
    chain.drained()
    ids = [mapping["UUID"] for mapping in client.list_event_source_mappings()["EventSourceMappings"]]
    assert len(ids) == len(POISON) - 1  # no function takes those of consolidation
    try:
        for mapping_id in ids:
            client.update_event_source_mapping(UUID=mapping_id, Enabled=False)
        yield
    finally:
        for mapping_id in ids:
            client.update_event_source_mapping(UUID=mapping_id, Enabled=True)


@contextmanager
def lowered(chain: Chain, about: Mapping[str, Alarm], threshold: float) -> Iterator[dict[str, Alarm]]:
    """Lower the alarms' threshold, which is a parameter of the template; everything else stays as deployed."""
    client = chain.stack.client("cloudwatch")
    accepted = client.meta.service_model.operation_model("PutMetricAlarm").input_shape.members
    deployed = {name: {key: value for key, value in alarm.items() if key in accepted} for name, alarm in about.items()}
    low = {name: {**alarm, "Threshold": float(threshold)} for name, alarm in deployed.items()}
    try:
        for alarm in low.values():
            client.put_metric_alarm(**alarm)
        yield low
    finally:
        for alarm in deployed.values():
            client.put_metric_alarm(**alarm)


@contextmanager
def nobody_is_told_of_arrivals(chain: Chain) -> Iterator[None]:
    """Disable EventBridge's rule about bronze for the block, as if its events were lost."""
    events = chain.stack.client("events")
    [rule] = [
        listed_rule["Name"]
        for listed_rule in events.list_rules()["Rules"]
        if "BronzeArrivalsRule" in listed_rule["Name"]
    ]
    events.disable_rule(Name=rule)
    try:
        yield
    finally:
        events.enable_rule(Name=rule)


@contextmanager
def torn_manifest(chain: Chain, data: bytes = b"no Parquet") -> Iterator[None]:
    chain.drained()
    manifest = chain.watcher.read(MANIFEST_KEY)
    place = {"Bucket": chain.stack.bucket, "Key": MANIFEST_KEY}
    try:
        chain.s3.put_object(**place, Body=data)
        yield
    finally:
        if manifest is None:
            chain.s3.delete_object(**place)
        else:
            chain.s3.put_object(**place, Body=manifest)


@contextmanager
def throttled(chain: Chain, function: str) -> Iterator[Any]:
    """Set a function's concurrency to 0; return a client that does not retry."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
    once = Config(retries={"max_attempts": 0})
    client = boto3.client("lambda", endpoint_url=chain.stack.endpoint_url, config=once, **keys)
    client.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
    try:
        yield client
    finally:
        client.delete_function_concurrency(FunctionName=function)
        client.close()

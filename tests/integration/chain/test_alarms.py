"""From a cause to the mail about it: what the code writes as metrics, and what the deployed alarms make of it."""

import json
from datetime import date
from typing import Any

import pytest

from shared.lake import INTERVALS
from tests.integration.chain.test_trace import logged
from tests.integration.conftest import Chain, bar, wait_until


@pytest.fixture(scope="module")
def mailbox(chain: Chain) -> str:
    """A queue that gets what the alarms' subscriber gets."""
    url: str = chain.sqs.create_queue(QueueName="mailbox")["QueueUrl"]
    arn = chain.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = chain.stack.outputs["AlarmsTopicArn"]
    chain.stack.client("sns").subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"}
    )
    return url


def alarms(chain: Chain) -> dict[str, Any]:
    pages = chain.stack.client("cloudwatch").get_paginator("describe_alarms").paginate()
    return {alarm["AlarmName"]: alarm for page in pages for alarm in page["MetricAlarms"]}


def publish(chain: Chain, namespace: str, metric: str, value: float, dimensions: dict[str, str]) -> None:
    named = [{"Name": name, "Value": value} for name, value in dimensions.items()]
    datum = {"MetricName": metric, "Value": value, "Dimensions": named}
    chain.stack.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=[datum])


def mails(chain: Chain, url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while messages := chain.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
        found += [json.loads(message["Body"]) for message in messages]
        for message in messages:
            chain.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return found


def test_a_lake_that_is_not_fresh_is_measured_by_the_function_and_mailed(chain: Chain, mailbox: str) -> None:
    bars = [bar("STALE", date(2012, 6, 1), 50)]
    chain.put(bars)
    chain.wait_for_silver(bars)

    name = chain.stack.outputs["FreshnessFunctionName"]
    answer = json.loads(chain.stack.client("lambda").invoke(FunctionName=name, Payload="{}")["Payload"].read())
    assert answer["not_consolidated"] > 1_000
    wait_until(lambda: len(measured(chain)) >= 1 + len(INTERVALS), "the function has written its metrics")

    # What CloudWatch does with such a line, the emulator does not: every metric with the dimensions it declares.
    for namespace, metric, value, dimensions in measured(chain):
        publish(chain, namespace, metric, value, dimensions)

    about = {name: alarm for name, alarm in alarms(chain).items() if alarm["MetricName"].startswith("SessionsNot")}
    assert len(about) == 1 + len(INTERVALS)
    for alarm in about.values():
        dimensions = {one["Name"]: one["Value"] for one in alarm["Dimensions"]}
        assert (alarm["Namespace"], alarm["MetricName"], dimensions) in [
            (namespace, metric, found) for namespace, metric, _, found in measured(chain)
        ]
    wait_until(lambda: states(chain, about) == {"ALARM"}, "the alarms are on")
    told = {mail["AlarmName"]: mail for mail in mails(chain, mailbox)}
    assert told.keys() >= about.keys()
    assert told["local-not-consolidated"]["AlarmDescription"].endswith("What to do: docs/alarms.md#stale-lake")


def test_every_other_alarm_goes_on_and_is_mailed_when_its_metric_passes_its_threshold(
    chain: Chain, mailbox: str
) -> None:
    others = {name: alarm for name, alarm in alarms(chain).items() if not alarm["MetricName"].startswith("SessionsNot")}
    assert len(others) > 30

    for alarm in others.values():
        dimensions = {one["Name"]: one["Value"] for one in alarm["Dimensions"]}
        assert dimensions
        publish(chain, alarm["Namespace"], alarm["MetricName"], alarm["Threshold"] + 1, dimensions)

    wait_until(lambda: states(chain, others) == {"ALARM"}, "all alarms are on")
    told = {mail["AlarmName"] for mail in mails(chain, mailbox) if mail["NewStateValue"] == "ALARM"}
    assert told >= others.keys()


def states(chain: Chain, names: dict[str, Any]) -> set[str]:
    known = alarms(chain)
    return {known[name]["StateValue"] for name in names}


def measured(chain: Chain) -> list[tuple[str, str, float, dict[str, str]]]:
    """Give what the freshness function has written: namespace, metric, value, dimensions."""
    found = []
    for line in logged(chain):
        if "_aws" in line and line.get("service") == "freshness":
            [declared] = line["_aws"]["CloudWatchMetrics"]
            dimensions = {name: line[name] for name in declared["Dimensions"][0]}
            found += [
                (declared["Namespace"], metric["Name"], max(line[metric["Name"]]), dimensions)
                for metric in declared["Metrics"]
            ]
    return found

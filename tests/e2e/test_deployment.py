"""The real template on the emulator: a deployment that fails, one that succeeds, updates, invocations, a deletion."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from local.deploy import STACK, DeployError, build, deploy
from local.emulator import REGION, client_environment, emulator
from local.packages import handlers
from tests.fakes import REPOSITORY, sample

FIRST = {"Environment": "life", "MarketDataUrl": "http://127.0.0.1:9", "DatabaseTls": "disable"}
# Every condition for which the emulator has resources: it creates neither a network nor AWS Batch.
REFUSED = """
Resources:
  Refused:
    Type: AWS::SSM::Parameter
    DependsOn: [DataLakeBucket, ConsolidationQueue, AlarmsTopic, FreshnessFunction]
    Properties: {Name: taken, Type: String, Value: ours}
"""
"""A resource that cannot be created, because its name is in use: the deployment fails after many resources exist."""
SWITCHES = {
    "LogLevel": "DEBUG", "MonthlyVacuum": "true", "Versioning": "true", "CustomerKey": "true",
    "AlarmEmail": "me@example.com", "AgeAlarmSeconds": "60", "NoncurrentDays": "7", "QuarantineDays": "90",
    "SplitAdjusted": "false", "ResamplingRetentionYears": "10",
}  # fmt: skip
DATABASE = {"host": "127.0.0.1", "port": 9, "username": "u", "password": "hidden", "dbname": "d"}

ANSWERS: dict[str, Any] = {
    "life-consolidation-router": {"batchItemFailures": []},
    "life-resampler": {"batchItemFailures": []},
    "life-history-fetcher": {"batchItemFailures": [{"itemIdentifier": "00000000-0000-4000-8000-000000000001"}]},
}
"""Invalid messages become dead letters, unless the missing database is the cause."""


class Account:
    """The emulator's account, through ordinary clients."""

    def __init__(self, url: str) -> None:
        keys = client_environment(url)
        self.url = url
        self._session = boto3.Session(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], region_name=REGION)

    def client(self, service: str) -> Any:  # noqa: ANN401 (boto's clients share no type)
        return self._session.client(service, endpoint_url=self.url)  # type: ignore[call-overload]

    def status(self) -> str:
        [stack] = self.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        return str(stack["StackStatus"])

    def statuses(self, resource: str) -> list[str]:
        """Return the states of a resource, oldest first, without those in progress."""
        pages = self.client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=STACK)
        events = [event for page in pages for event in page["StackEvents"]]
        ours = [event["ResourceStatus"] for event in events if event["LogicalResourceId"] == resource]
        return [status for status in reversed(ours) if not status.endswith("IN_PROGRESS")]

    def delete(self) -> None:
        """Delete the stack, and wait until it does not exist."""
        formation = self.client("cloudformation")
        formation.delete_stack(StackName=STACK)
        formation.get_waiter("stack_delete_complete").wait(
            StackName=STACK, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )

    def bucket_ids(self) -> set[tuple[str, str]]:
        """Return a value for each of the stack's buckets that differs for another bucket of the same name."""
        buckets = self.client("s3").list_buckets()["Buckets"]
        return {(bucket["Name"], str(bucket["CreationDate"])) for bucket in buckets if "life-" in bucket["Name"]}

    def names(self) -> dict[str, set[str]]:
        """Return the existing resources of the stack's environment, by kind."""
        queues = self.client("sqs").list_queues(QueueNamePrefix="life-").get("QueueUrls", [])
        alarms = self.client("cloudwatch").describe_alarms(AlarmNamePrefix="life-")["MetricAlarms"]
        topics = self.client("sns").list_topics()["Topics"]
        names_by_kind = {
            "functions": [function["FunctionName"] for function in self.client("lambda").list_functions()["Functions"]],
            "queues": [url.rsplit("/", 1)[-1] for url in queues],
            "alarms": [alarm["AlarmName"] for alarm in alarms],
            "topics": [topic["TopicArn"].rsplit(":", 1)[-1] for topic in topics],
            "buckets": [name for name, _ in self.bucket_ids()],
            "rules": [rule["Name"] for rule in self.client("events").list_rules()["Rules"]],
        }
        return {kind: set(names) for kind, names in names_by_kind.items()}

    def invoke(self, function: str, event: dict[str, Any]) -> tuple[Any, bool]:
        """Return a function's answer, or its error, and whether it is an error."""
        answer = self.client("lambda").invoke(FunctionName=function, Payload=json.dumps(event))
        return json.loads(answer["Payload"].read()), "FunctionError" in answer


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with emulator(tmp_path / "aws") as url:
        yield Account(url)


def with_refused_resource(built: Path, target: Path) -> Path:
    """Return a copy of a build whose template also has REFUSED."""
    shutil.copytree(built, target, copy_function=os.link)
    text = (built / "template.yaml").read_text(encoding="utf-8")
    assert text.count("\nResources:\n") == 1
    (target / "template.yaml").unlink()
    (target / "template.yaml").write_text(text.replace("\nResources:\n", REFUSED), encoding="utf-8")
    return target


def message(body: str, queue: str) -> dict[str, Any]:
    event = sample("consolidation-complete-3d")
    event["Records"][0] |= {"body": body, "eventSourceARN": f"arn:aws:sqs:{REGION}:000000000000:{queue}"}
    return event


@pytest.mark.timeout(1_200)
def test_a_stack_is_deployed_at_the_second_try_updated_invoked_and_deleted(account: Account, tmp_path: Path) -> None:
    """One long test, because each step needs the one before it."""
    create = account.client("secretsmanager").create_secret
    secrets = {
        "RdsSecretArn": create(Name="rds", SecretString=json.dumps(DATABASE))["ARN"],
        "ApiKeySecretArn": create(Name="key", SecretString="k")["ARN"],
    }

    account.client("ssm").put_parameter(Name="taken", Type="String", Value="somebody else's")
    with pytest.raises(DeployError, match="ROLLBACK_COMPLETE"):
        deploy(with_refused_resource(build(), tmp_path / "refused"), account.url, FIRST | secrets)

    # The resources are deleted, with the bucket, so nothing blocks the second deployment.
    assert account.statuses("DataLakeBucket") == ["CREATE_COMPLETE", "DELETE_COMPLETE"]
    assert account.names() == {kind: set() for kind in account.names()}
    account.delete()

    outputs = deploy(build(), account.url, FIRST | secrets)

    assert account.status() == "CREATE_COMPLETE"
    place = {"Bucket": outputs["BucketName"], "Key": "bronze/raw_ohlcv/symbol=KEPT/notes.txt"}
    account.client("s3").put_object(**place, Body=b"kept")
    first = account.names()
    assert "life-vacuum" not in first["functions"]
    assert first["topics"] >= {"life-consolidation-complete", "life-silver-updated", "life-alarms"}
    assert first["alarms"] >= {"life-consolidation-dlq-not-empty", "life-function-errors", "life-not-consolidated"}

    made = account.bucket_ids()
    names = list(SWITCHES)
    for count in (4, 8, len(names)):
        switched = {name: SWITCHES[name] for name in names[:count]}
        assert deploy(build(), account.url, FIRST | switched | secrets).keys() == outputs.keys()
        assert (count, account.status(), account.bucket_ids()) == (count, "UPDATE_COMPLETE", made)
    assert account.client("s3").get_object(**place)["Body"].read() == b"kept"

    second = account.names()
    assert {kind: first[kind] - second[kind] for kind in first} == {kind: set() for kind in first}
    assert second["functions"] - first["functions"] == {"life-vacuum"}
    [alarm] = account.client("cloudwatch").describe_alarms(AlarmNames=["life-consolidation-too-old"])["MetricAlarms"]
    assert alarm["Threshold"] == 60
    versioning = account.client("s3").get_bucket_versioning(Bucket=outputs["BucketName"])
    assert versioning["Status"] == "Enabled"

    invoked = invoke_each(account)

    assert invoked == second["functions"]
    assert len(invoked) == len(handlers((REPOSITORY / "template.yaml").read_text(encoding="utf-8")))

    account.delete()

    remaining = account.names()
    assert remaining == {kind: set() for kind in first} | {"buckets": {outputs["BucketName"]}}, (
        "the lake outlives its stack"
    )


def invoke_each(account: Account) -> set[str]:
    """Invoke every function with an event that it can answer here, and return their names."""
    arrivals = message("no notification", "life-bronze-arrivals")
    unread = message('{"symbol": "../x"}', "life-resample-3d")
    history = message('{"symbol": "AAPL"}', "life-history")
    for function, event in {
        "life-consolidation-router": arrivals, "life-resampler": unread, "life-history-fetcher": history,
    }.items():  # fmt: skip
        assert account.invoke(function, event) == (ANSWERS[function], False)
    answer, failed = account.invoke("life-freshness", {})
    assert (answer["not_consolidated"] > 10_000, failed) == (True, False), "never is as many sessions as there were"
    for housekeeping in ("life-vacuum", "life-reconcile"):
        answer, failed = account.invoke(housekeeping, {})
        assert not failed, answer
    for fetcher in ("life-ohlcv-fetcher", "life-metadata-fetcher"):
        error, failed = account.invoke(fetcher, {})
        assert failed
        assert "127.0.0.1:9" in error["errorMessage"], error
        assert "hidden" not in json.dumps(error)
    return {*ANSWERS, "life-freshness", "life-vacuum", "life-reconcile", "life-ohlcv-fetcher", "life-metadata-fetcher"}

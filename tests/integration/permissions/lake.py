"""A lake whose calls are all recorded: the template's functions and jobs, each with its own role.

Functions and jobs run from the source, with the environment that the template gives them.
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.emulator import client
from local.environment import isolated_environment
from tests.integration.permissions.calls import REGION, arn
from tests.integration.permissions.concrete import Concrete, environment
from tests.integration.permissions.recorder import Recording

OURS = {
    "DATABASE_TLS": "disable", "AWS_USE_DUALSTACK_ENDPOINT": "false", "IDLE_SECONDS": "2", "LOG_LEVEL": "WARNING",
    "POWERTOOLS_TRACE_DISABLED": "true",
}  # fmt: skip
"""The differences to the template, because everything is on this machine."""


class PathError(Exception):
    """A function or job ended differently from what its path says: the recording cannot be trusted."""


@dataclass(frozen=True)
class RecordedLake:
    """Functions and jobs of the template, and the emulator behind the proxy, with access that is not recorded."""

    template: Concrete
    recording: Recording
    url: str
    emulator_url: str
    batch_url: str
    overrides: Mapping[str, str]
    warm: Path
    """The socket of `warm`."""
    database: Mapping[str, str]
    """RDS's secret of the database's owner."""

    @property
    def bucket(self) -> str:
        return self.template.named("DataLakeBucket")

    def modules(self) -> list[str]:
        """Return the environment of the functions and jobs."""
        functions = self.template.of_type("AWS::Lambda::Function").values()
        jobs = self.template.of_type("AWS::Batch::JobDefinition").values()
        handlers = {function["Handler"].rpartition(".")[0] for function in functions}
        return sorted(handlers | {f"{job['ContainerProperties']['Command'][2]}.__main__" for job in jobs})

    def create(self) -> None:
        """Make the bucket, the queues and the topics that the template names."""
        self.client("s3").create_bucket(Bucket=self.bucket)
        for queue in self.template.of_type("AWS::SQS::Queue").values():
            self.client("sqs").create_queue(QueueName=queue["QueueName"])
        for topic in self.template.of_type("AWS::SNS::Topic").values():
            self.client("sns").create_topic(Name=topic["TopicName"])
        for job in self.template.of_type("AWS::Batch::JobDefinition").values():
            self.client("batch").register_job_definition(
                jobDefinitionName=job["JobDefinitionName"], type="container",
                containerProperties={"image": "none", "command": ["true"]},
            )  # fmt: skip

    def client(self, service: str) -> Any:  # noqa: ANN401 (boto's clients share no type)
        """Return a client whose calls are not recorded."""
        return client(service, self.batch_url if service == "batch" else self.emulator_url)

    def invoke(self, function: str, *events: object, **changes: str) -> list[Any]:
        """Invoke a function with these events in one process; raise PathError if an invocation fails."""
        answers = self.answers(function, *events, **changes)
        failed = [answer["failed"] for answer in answers if isinstance(answer, dict) and "failed" in answer]
        if failed:
            raise PathError(f"{function}: {failed}")
        return answers

    def answers(self, function: str, *events: object, **changes: str) -> list[Any]:
        """Invoke a function and return its answers, also those of failed invocations."""
        inside = self.template.of_type("AWS::Lambda::Function")[function]
        variables = {**environment(inside["Environment"]["Variables"]), **changes}
        result = self._run(self.template.role_of(inside["Role"]), variables, handler=inside["Handler"], events=events)
        if result["code"] or len(result["answers"]) != len(events):
            raise PathError(f"{function} ended with {result['code']}:\n{result['output'][-3000:]}")
        answers: list[Any] = result["answers"]
        return answers

    def run(self, job: str, *arguments: str, code: int = 0, **changes: str) -> None:
        """Run a job of the template to its end; raise PathError if its exit code is not the expected one."""
        inside = self.template.of_type("AWS::Batch::JobDefinition")[job]["ContainerProperties"]
        assert inside["Command"][:2] == ["python", "-m"]
        module, *words = inside["Command"][2:]
        variables = {**environment(inside["Environment"]), **changes}
        result = self._run(self.template.role_of(inside["JobRoleArn"]), variables, module=module,
                         arguments=[*words, *arguments])  # fmt: skip
        if result["code"] != code:
            raise PathError(f"{job} ended with {result['code']}, not {code}:\n{result['output'][-3000:]}")

    def _run(self, role: str, variables: Mapping[str, str], **what: object) -> dict[str, Any]:
        inherited = isolated_environment(os.environ)
        signed = {
            "AWS_ACCESS_KEY_ID": role, "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": self.url, "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        request = {**what, "environment": {**inherited, **variables, **OURS, **self.overrides, **signed}}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(120)
            connection.connect(str(self.warm))
            with connection.makefile("rwb") as stream:
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                answer: dict[str, Any] = json.loads(stream.readline())
        return answer

    # What others do, unrecorded.

    def put(self, key: str, data: bytes) -> None:
        self.client("s3").put_object(Bucket=self.bucket, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        data: bytes = self.client("s3").get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return data

    def delete(self, key: str) -> None:
        self.client("s3").delete_object(Bucket=self.bucket, Key=key)

    def keys(self, prefix: str = "") -> list[str]:
        answer = self.client("s3").list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        assert not answer["IsTruncated"]
        return [entry["Key"] for entry in answer.get("Contents", [])]

    def etag(self, key: str) -> str:
        return str(self.client("s3").head_object(Bucket=self.bucket, Key=key)["ETag"])

    def send(self, queue: str, *bodies: str) -> None:
        for body in bodies:
            self.client("sqs").send_message(QueueUrl=self._url(queue), MessageBody=body)

    def batch_event(self, queue: str) -> dict[str, Any]:
        """Receive a queue's messages, as Lambda's event source mapping passes them to a function."""
        sqs, taken = self.client("sqs"), []
        end = time.monotonic() + 20
        while more := sqs.receive_message(
            QueueUrl=self._url(queue), MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"], WaitTimeSeconds=0,
        ).get("Messages", []):  # fmt: skip
            taken += more
            assert time.monotonic() < end
        return {"Records": [self._record(queue, message) for message in taken]}

    def poison_event(self, queue: str, *bodies: str) -> dict[str, Any]:
        """Return an event with messages that were sent to this queue just now."""
        self.send(queue, *bodies)
        return self.batch_event(queue)

    def count(self, queue: str) -> int:
        """Count a queue's messages, visible or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.client("sqs").get_queue_attributes(QueueUrl=self._url(queue), AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)

    def end_jobs(self) -> None:
        """End every job that waits, so that the next one is submitted."""
        batch, queue = self.client("batch"), self.template.of_type("AWS::Batch::JobQueue")["WorkerJobQueue"]
        for status in ("SUBMITTED", "PENDING", "RUNNABLE"):
            for job in batch.list_jobs(jobQueue=queue["JobQueueName"], jobStatus=status)["jobSummaryList"]:
                batch.terminate_job(jobId=job["jobId"], reason="the next path")
        end = time.monotonic() + 20
        while self.waiting_jobs():
            assert time.monotonic() < end
            time.sleep(0.05)

    def waiting_jobs(self) -> int:
        batch, queue = self.client("batch"), self.template.of_type("AWS::Batch::JobQueue")["WorkerJobQueue"]
        listed: Iterable[Any] = (
            batch.list_jobs(jobQueue=queue["JobQueueName"], jobStatus=status)["jobSummaryList"]
            for status in ("SUBMITTED", "PENDING", "RUNNABLE")
        )
        return sum(map(len, listed))

    def _url(self, queue: str) -> str:
        name = self.template.attribute(queue, "QueueName")
        return str(self.client("sqs").get_queue_url(QueueName=name)["QueueUrl"])

    def _record(self, queue: str, message: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "messageId": message["MessageId"], "receiptHandle": message["ReceiptHandle"], "body": message["Body"],
            "attributes": message["Attributes"], "messageAttributes": {}, "md5OfBody": "", "eventSource": "aws:sqs",
            "eventSourceARN": arn("sqs", self.template.attribute(queue, "QueueName")), "awsRegion": REGION,
        }  # fmt: skip

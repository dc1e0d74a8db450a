"""Our additions to the emulator: queues, and with AUTH=true only the rights that IAM has."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from local.emulator import REGION, client, emulator

ENTRY = [{"Id": "1", "MessageBody": "x"}]
TRUST = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
ONLY_OVER_TLS = {
    "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": "*",
    "Condition": {"Bool": {"aws:SecureTransport": False}},
}  # fmt: skip
Clients = Callable[[str], Any]


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with emulator(tmp_path_factory.mktemp("emulator"), {"AUTH": "true"}) as endpoint_url:
        yield endpoint_url


@pytest.fixture(scope="module")
def role(url: str) -> Clients:
    """Clients of a role that may send to one of two queues, which refuses requests without TLS."""
    sqs, iam = client("sqs", url), client("iam", url)
    for name in ("open", "closed"):
        sqs.create_queue(QueueName=name, Attributes={"Policy": policy(ONLY_OVER_TLS)})
    arn = iam.create_role(RoleName="sender", AssumeRolePolicyDocument=policy(TRUST))["Role"]["Arn"]
    queue = f"arn:aws:sqs:{REGION}:000000000000:open"
    allowed = {"Effect": "Allow", "Action": ["sqs:GetQueueUrl", "sqs:SendMessage"], "Resource": queue}
    iam.put_role_policy(RoleName="sender", PolicyName="send", PolicyDocument=policy(allowed))
    keys = client("sts", url).assume_role(RoleArn=arn, RoleSessionName="session")["Credentials"]
    session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], REGION)
    return lambda service: session.client(service, endpoint_url=url)  # type: ignore[call-overload]


def test_a_batch_of_messages_needs_the_right_of_one(role: Clients) -> None:
    sqs = role("sqs")
    url = sqs.get_queue_url(QueueName="open")["QueueUrl"]
    assert len(sqs.send_message_batch(QueueUrl=url, Entries=ENTRY)["Successful"]) == 1


def test_what_the_role_does_not_allow_is_refused(role: Clients) -> None:
    sqs = role("sqs")
    url = sqs.get_queue_url(QueueName="open")["QueueUrl"]
    with pytest.raises(ClientError, match="not authorized to perform: sqs:ReceiveMessage"):
        sqs.receive_message(QueueUrl=url)
    with pytest.raises(ClientError, match="not authorized to perform: sqs:SendMessage because"):
        sqs.send_message_batch(QueueUrl=url.replace("open", "closed"), Entries=ENTRY)


def test_a_message_is_received_hidden_returned_and_deleted_as_sqs_does_it(url: str) -> None:
    sqs = client("sqs", url)
    queue = sqs.create_queue(QueueName="worked-on")["QueueUrl"]
    for first in (0, 6):
        entries = [{"Id": str(n), "MessageBody": f"body {n}"} for n in range(first, first + 6)]
        sqs.send_message_batch(QueueUrl=queue, Entries=entries)

    def receive(hidden_seconds: int = 60) -> list[dict[str, Any]]:
        names = ["ApproximateReceiveCount"]
        answer = sqs.receive_message(
            QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=hidden_seconds, MessageSystemAttributeNames=names
        )
        return list(answer.get("Messages", []))

    taken = receive() + receive()
    assert sorted(message["Body"] for message in taken) == sorted(f"body {n}" for n in range(12))
    assert receive() == []
    receipts = [*(message["ReceiptHandle"] for message in taken[:9]), "of nobody"]
    entries = [{"Id": str(n), "ReceiptHandle": receipt} for n, receipt in enumerate(receipts)]
    answer = sqs.delete_message_batch(QueueUrl=queue, Entries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == [str(n) for n in range(9)]
    assert [(entry["Id"], entry["Code"]) for entry in answer["Failed"]] == [("9", "ReceiptHandleIsInvalid")]
    for message in taken[9:]:
        sqs.change_message_visibility(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0)
    again = receive()
    assert {message["Body"] for message in again} == {message["Body"] for message in taken[9:]}
    assert {message["Attributes"]["ApproximateReceiveCount"] for message in again} == {"2"}


def test_messages_of_one_fifo_group_wait_for_the_one_in_flight(url: str) -> None:
    sqs = client("sqs", url)
    queue = sqs.create_queue(QueueName="groups.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    for n, group in enumerate(("a", "a", "b")):
        sqs.send_message(
            QueueUrl=queue, MessageBody=f"body {n}", MessageGroupId=group, MessageDeduplicationId=f"message {n}"
        )
    for most, bodies in ((1, ["body 0"]), (10, ["body 2"])):
        answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=most)
        assert [message["Body"] for message in answer["Messages"]] == bodies

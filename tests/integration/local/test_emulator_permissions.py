"""The emulator with AUTH=true: a role may do what its policy says, with the actions that IAM has, and nothing else."""

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
def role(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Clients of a role that may send to one of two queues, which takes nothing without TLS."""
    with emulator(tmp_path_factory.mktemp("emulator"), {"AUTH": "true"}) as url:
        sqs, iam = client("sqs", url), client("iam", url)
        for name in ("open", "closed"):
            sqs.create_queue(QueueName=name, Attributes={"Policy": policy(ONLY_OVER_TLS)})
        arn = iam.create_role(RoleName="sender", AssumeRolePolicyDocument=policy(TRUST))["Role"]["Arn"]
        queue = f"arn:aws:sqs:{REGION}:000000000000:open"
        allowed = {"Effect": "Allow", "Action": ["sqs:GetQueueUrl", "sqs:SendMessage"], "Resource": queue}
        iam.put_role_policy(RoleName="sender", PolicyName="send", PolicyDocument=policy(allowed))
        keys = client("sts", url).assume_role(RoleArn=arn, RoleSessionName="session")["Credentials"]
        session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], REGION)
        yield lambda service: session.client(service, endpoint_url=url)  # type: ignore[call-overload]


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

"""Send and receive messages: SQS queues and SNS topics, in the one place that talks to them.

A message ends in exactly one of three ways: done and deleted, retried after a growing delay, or in the dead-letter
queue with its reason. The name of a dead-letter queue is that of its queue, followed by `-dlq`.
"""

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from fiblake.errors import FiblakeError, UpstreamError
from shared.batching import chunks
from shared.events import ConsolidationComplete, Message
from shared.telemetry import TRACE, logger

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

BATCH: Final = 10
"""Most entries of one SQS or SNS batch request."""
BATCH_BYTES: Final = 240 * 1024
"""Most bytes of one batch request: SQS and SNS take 256 KiB, attributes included."""
ATTEMPTS_AT_SENDING: Final = 4
FIRST_PAUSE_SECONDS: Final = 0.2
FIRST_RETRY_SECONDS: Final = 10
LONGEST_RETRY_SECONDS: Final = 900
LONGEST_REASON: Final = 1_000
"""Characters of a dead letter's reason."""
ATTRIBUTES_PER_MESSAGE: Final = 10
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LONG: Final = 200
_ESCAPES: Final = {char: code for char in map(chr, (*b"%+", *range(128))) if (code := quote_plus(char)) != char}
"""The escapes of a form's text. The signs that occur in escapes are replaced first."""
_UNESCAPED: Final = bytes(code for code in range(128) if chr(code) not in _ESCAPES)
Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message that was received: it must be deleted, retried, or dead-lettered."""

    id: str
    receipt: str
    body: str
    receive_count: int
    attributes: Attributes = field(default_factory=dict)
    sent_at: datetime | None = None
    """When it was put into this queue, if known."""
    trace: str | None = None
    """Its sender's X-Ray header, if the sender was traced."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages a queue holds (SQS: approximate)."""

    visible: int
    in_flight: int
    delayed: int

    @property
    def empty(self) -> bool:
        """Whether no message is visible, in flight, or delayed."""
        return not (self.visible or self.in_flight or self.delayed)


class Queue:
    """One SQS queue. Methods raise UpstreamError if SQS fails."""

    def __init__(self, client: "SQSClient", url: str) -> None:
        self._client = client
        self.url = url

    @classmethod
    def connect(cls, url: str) -> "Queue":
        """Open the queue at `url` with the credentials, region and endpoint of the environment."""
        return cls(boto3.client("sqs"), url)

    @classmethod
    def of_name(cls, client: "SQSClient", name: str) -> "Queue":
        """Open the queue called `name` in the caller's account and region."""
        try:
            return cls(client, client.get_queue_url(QueueName=name)["QueueUrl"])
        except (ClientError, BotoCoreError) as error:
            raise UpstreamError(f"SQS has no answer to where queue {name} is: {error}") from error

    @cached_property
    def dead_letters(self) -> "Queue":
        """The dead-letter queue of this queue."""
        return Queue.of_name(self._client, f"{self.url.rsplit('/', 1)[-1]}-dlq")

    def send(self, bodies: Sequence[str], attributes: Sequence[Attributes] = ()) -> list[int]:
        """Send messages in batches of 10; failed entries are tried 4 times. Returns the indices of those never sent.

        `attributes` are each message's own, in the order of `bodies`; none: no message has any.
        """
        entries: list[dict[str, Any]] = [{"Id": str(i), "MessageBody": body} for i, body in enumerate(bodies)]
        for entry, own in zip(entries, attributes, strict=bool(attributes)):
            entry["MessageAttributes"] = own
        return _send_all(entries, lambda batch: self._client.send_message_batch(QueueUrl=self.url, Entries=batch))

    def receive(
        self, most: int = BATCH, wait_seconds: int = 0, hidden_seconds: int | None = None
    ) -> list[ReceivedMessage]:
        """Receive up to `most` (10 at the most) messages; others do not see them for `hidden_seconds`.

        None: for as long as the queue itself says.
        """
        hidden: dict[str, Any] = {} if hidden_seconds is None else {"VisibilityTimeout": hidden_seconds}
        try:
            answer = self._client.receive_message(
                QueueUrl=self.url, MaxNumberOfMessages=most, WaitTimeSeconds=wait_seconds, **hidden,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "AWSTraceHeader", "SentTimestamp"],
                MessageAttributeNames=["All"],
            )  # fmt: skip
        except (ClientError, BotoCoreError) as error:
            raise UpstreamError(f"SQS gives no messages from {self.url}: {error}") from error
        return [_received(message) for message in answer.get("Messages", [])]

    def delete(self, messages: Sequence[ReceivedMessage]) -> None:
        """Delete messages; one that SQS does not delete comes again, which is harmless."""
        entries = [{"Id": str(i), "ReceiptHandle": m.receipt} for i, m in enumerate(messages)]
        _send_all(entries, lambda batch: self._client.delete_message_batch(QueueUrl=self.url, Entries=batch))

    def hide(self, messages: Sequence[ReceivedMessage], seconds: int) -> None:
        """Keep messages invisible for `seconds` from now (0: make them visible at once).

        A message whose receipt is no longer valid is visible to others already; that is ignored.
        """
        entries = [
            {"Id": str(i), "ReceiptHandle": m.receipt, "VisibilityTimeout": seconds} for i, m in enumerate(messages)
        ]
        _send_all(entries, lambda batch: self._client.change_message_visibility_batch(QueueUrl=self.url, Entries=batch))

    def retry_later(self, message: ReceivedMessage) -> None:
        """Make a message visible again after a delay that doubles with each receive: 10 s, 20 s, ... 15 min at most."""
        self.hide([message], retry_seconds(message.receive_count))

    def dead_letter(self, message: ReceivedMessage, error: FiblakeError) -> None:
        """Put a message into the dead-letter queue with its reason; the caller then deletes it from this queue."""
        reason: dict[str, Any] = {
            "reason": _text(str(error)[:LONGEST_REASON]),
            "error": _text(type(error).__name__),
            "source_queue": _text(self.url.rsplit("/", 1)[-1]),
            "receive_count": {"DataType": "Number", "StringValue": str(message.receive_count)},
        }
        attributes = dict(list(message.attributes.items())[: ATTRIBUTES_PER_MESSAGE - len(reason)])
        try:
            self._client.send_message(
                QueueUrl=self.dead_letters.url, MessageBody=message.body, MessageAttributes={**attributes, **reason}
            )
        except (ClientError, BotoCoreError) as fault:
            raise UpstreamError(f"SQS does not take the dead letter: {fault}") from fault

    def depth(self) -> Depth:
        """Count the messages visible, in flight, and delayed."""
        names = ("", "NotVisible", "Delayed")
        keys = [f"ApproximateNumberOfMessages{name}" for name in names]
        try:
            answer = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=keys)  # type: ignore[arg-type]
        except (ClientError, BotoCoreError) as error:
            raise UpstreamError(f"SQS does not say how deep {self.url} is: {error}") from error
        return Depth(*(int(answer["Attributes"][key]) for key in keys))  # type: ignore[index]


class Topic:
    """One SNS topic."""

    def __init__(self, client: "SNSClient", arn: str) -> None:
        self._client = client
        self.arn = arn

    @classmethod
    def connect(cls, arn: str) -> "Topic":
        """Open the topic with the credentials, region and endpoint of the environment."""
        client = boto3.client("sns")
        client.meta.events.register("before-call.sns.PublishBatch", _with_trace)
        client.meta.events.register("before-call.sns.PublishBatch", _encode_body)
        return cls(client, arn)

    def publish(self, events: Sequence[Message]) -> list[int]:
        """Publish events in batches of 10; failed entries are tried 4 times. Returns the indices never published."""
        entries = [
            {"Id": str(i), "Message": event.model_dump_json(), "MessageAttributes": _filterable(event)}
            for i, event in enumerate(events)
        ]
        return _send_all(
            entries, lambda batch: self._client.publish_batch(TopicArn=self.arn, PublishBatchRequestEntries=batch)
        )


@cache
def queue_of_arn(arn: str) -> Queue:
    """Open the queue that a Lambda event's `eventSourceARN` names, once a process."""
    return Queue.of_name(boto3.client("sqs"), name_of(arn))


def retry_seconds(receive_count: int) -> int:
    """Return the delay before a message that was received this often comes again."""
    return min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS << (receive_count - 1))


def name_of(arn: str) -> str:
    """Return a queue's name from its ARN."""
    return arn.rsplit(":", 1)[-1]


def _with_trace(params: dict[str, Any], **_: object) -> None:
    """Add the environment's trace to requests to SNS, which hands it to the queues; in a function boto3 does this."""
    if trace := os.environ.get(TRACE):
        params["headers"].setdefault("X-Amzn-Trace-Id", trace)


def _encode_body(params: dict[str, Any], **_: object) -> None:
    """Encode the body of a request to SNS once: boto3 encodes a form twice, and events with tails are long."""
    params["body"] = "&".join(f"{name}={_quote(str(value))}" for name, value in params["body"].items()).encode()


def _quote(text: str) -> str:
    """Return what `quote_plus` returns, which takes long for long texts because it looks at each byte in Python."""
    if len(text) < _LONG or not text.isascii():
        return quote_plus(text)
    present = set(text.encode().translate(None, _UNESCAPED).decode())
    for char, escape in _ESCAPES.items():
        if char in present:
            text = text.replace(char, escape)
    return text


def _filterable(event: Message) -> dict[str, Any]:
    if not isinstance(event, ConsolidationComplete):
        return {}
    return {"intervals": {"DataType": "String.Array", "StringValue": json.dumps(event.intervals)}}


def _send_all(entries: list[dict[str, Any]], request: Any) -> list[int]:  # noqa: ANN401 (any of boto's four batch calls)
    """Send all entries in batches, the failed ones again after a delay; return the indices never sent."""
    unsent = entries
    for attempt in range(ATTEMPTS_AT_SENDING):
        batches = chunks(unsent, BATCH, BATCH_BYTES, _bytes_of)
        unsent = [entry for batch in batches for entry in _send_batch(batch, request)]
        if not unsent or attempt == ATTEMPTS_AT_SENDING - 1:
            break
        time.sleep(FIRST_PAUSE_SECONDS * 2**attempt)
    return [int(entry["Id"]) for entry in unsent]


def _bytes_of(entry: dict[str, Any]) -> int:
    return len(json.dumps(entry, ensure_ascii=False, default=repr).encode())


def _send_batch(batch: list[dict[str, Any]], request: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Send one batch and return the entries that failed.

    A batch that is refused as a whole (too many bytes, or one invalid entry) is sent entry by entry, so that only the
    entry at fault fails.
    """
    try:
        failures = request(batch).get("Failed", [])
    except (ClientError, BotoCoreError) as error:
        if len(batch) > 1 and _is_refusal(error):
            return [entry for single in batch for entry in _send_batch([single], request)]
        # No entry is known to be sent. All are sent again: sending twice is harmless.
        logger.warning("batch request failed", extra={"error": str(error), "entries": len(batch)})
        return batch
    if failures:
        logger.warning("batch entries failed", extra={"first": failures[0].get("Message"), "entries": len(failures)})
    failed = {failure["Id"] for failure in failures}
    return [entry for entry in batch if entry["Id"] in failed]


def _is_refusal(error: ClientError | BotoCoreError) -> bool:
    """Return whether the service rejected the request itself: the same request would be refused again."""
    if not isinstance(error, ClientError) or "hrottl" in error.response["Error"].get("Code", ""):
        return False
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status in {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}


def from_lambda(record: "SQSRecord") -> ReceivedMessage:
    """Return a message from a record of Lambda's event source mapping (its attribute names begin in lower case)."""
    attributes = {
        name: {
            key[0].upper() + key[1:]: value for key, value in attribute.items() if key in {"stringValue", "dataType"}
        }
        for name, attribute in record["messageAttributes"].items()
        if "stringValue" in attribute
    }
    count = int(record.attributes.approximate_receive_count)
    return ReceivedMessage(record.message_id, record.receipt_handle, record.body, count, attributes)


def _received(message: Any) -> ReceivedMessage:  # noqa: ANN401 (boto's own shape)
    system = message.get("Attributes", {})
    count = int(system.get("ApproximateReceiveCount", 1))
    sent = datetime.fromtimestamp(int(system["SentTimestamp"]) / 1000, UTC) if "SentTimestamp" in system else None
    body, attributes = message["Body"], message.get("MessageAttributes", {})
    trace = system.get("AWSTraceHeader")
    return ReceivedMessage(message["MessageId"], message["ReceiptHandle"], body, count, attributes, sent, trace)


def _text(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": _NOT_XML.sub("?", value) or "-"}

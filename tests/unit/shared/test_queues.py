from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

import boto3
import pytest
from aws_lambda_powertools.utilities.data_classes import SQSEvent
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from fiblake.errors import ContractError, UpstreamError
from shared import queues
from shared.events import ConsolidationComplete, SilverUpdated
from shared.queues import (
    ATTEMPTS_AT_SENDING,
    LONGEST_REASON,
    LONGEST_RETRY_SECONDS,
    Depth,
    Queue,
    ReceivedMessage,
    Topic,
    from_lambda,
    name_of,
    queue_of_arn,
    retry_seconds,
)
from tests.fakes import sample

DAY = date(2025, 11, 19)


@pytest.fixture
def queue() -> Iterator[Queue]:
    """Return a queue with its dead-letter queue."""
    with mock_aws():
        client = boto3.client("sqs")
        client.create_queue(QueueName="dev-consolidation-dlq")
        yield Queue(client, client.create_queue(QueueName="dev-consolidation")["QueueUrl"])


class SomeFail:
    """A client whose batch calls fail as arranged: for some entries, or as a whole."""

    def __init__(self, *answers: Any) -> None:  # noqa: ANN401 (lists of bodies that fail, or an error)
        self.answers = list(answers)
        self.batches: list[list[str]] = []

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        assert QueueUrl == "url"
        self.batches.append([entry["MessageBody"] for entry in Entries])
        answer = self.answers.pop(0) if self.answers else []
        if isinstance(answer, Exception):
            raise answer
        failed = [{"Id": e["Id"], "Message": "throttled"} for e in Entries if e["MessageBody"] in answer]
        return {"Failed": failed} if failed else {}


class AlwaysFails:
    """A client every call of which fails."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        def call(**_: object) -> None:
            raise ClientError({"Error": {"Code": "InternalError", "Message": "away"}}, name)

        return call


def test_what_is_sent_is_received_and_gone_when_deleted(queue: Queue) -> None:
    assert queue.send([f"body {n}" for n in range(25)]) == []
    assert queue.depth() == Depth(25, 0, 0)
    taken = [message for _ in range(3) for message in queue.receive()]
    assert sorted(message.body for message in taken) == sorted(f"body {n}" for n in range(25))
    assert {message.receive_count for message in taken} == {1}
    assert queue.depth() == Depth(0, 25, 0)
    assert not queue.depth().empty
    queue.delete(taken)
    assert queue.depth().empty
    assert queue.receive() == []


def test_nothing_to_send_or_delete_is_no_request() -> None:
    queue = Queue(AlwaysFails(), "url")  # type: ignore[arg-type]
    assert queue.send([]) == []
    queue.delete([])


def test_a_returned_message_comes_again_with_a_higher_count(queue: Queue) -> None:
    queue.send(["body"])
    for count in (1, 2, 3):
        (message,) = queue.receive()
        assert message.receive_count == count
        queue.hide([message], 0)


def test_only_the_entries_that_failed_are_sent_again() -> None:
    client = SomeFail(["b", "c"], ["c"])
    assert Queue(client, "url").send(["a", "b", "c"]) == []  # type: ignore[arg-type]
    assert client.batches == [["a", "b", "c"], ["b", "c"], ["c"]]


def test_entries_that_always_fail_are_reported_by_their_index(naps: list[float]) -> None:
    bodies = [str(n) for n in range(23)]
    client = SomeFail(*[["3", "21"]] * 99)
    assert Queue(client, "url").send(bodies) == [3, 21]  # type: ignore[arg-type]
    assert [len(batch) for batch in client.batches] == [10, 10, 3] + [2] * (ATTEMPTS_AT_SENDING - 1)
    assert naps == [0.2, 0.4, 0.8]


class TooLargeTogether:
    """SQS's real behaviour: a batch of more than this many bytes is refused as a whole, and so is a larger message."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sent: list[str] = []

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        bodies = [entry["MessageBody"] for entry in Entries]
        if sum(map(len, bodies)) > self.limit:
            answer = {"Error": {"Code": "BatchRequestTooLong"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
            raise ClientError(answer, QueueUrl)  # type: ignore[arg-type]
        self.sent += bodies
        return {}


def test_large_messages_go_in_batches_that_sqs_takes_at_once() -> None:
    client = SomeFail()
    bodies = [str(n) * 60_000 for n in range(9)]
    assert Queue(client, "url").send(bodies) == []  # type: ignore[arg-type]
    assert [sum(map(len, batch)) for batch in client.batches] == [240_000, 240_000, 60_000]


def test_an_entry_that_makes_its_batch_too_large_blocks_no_other() -> None:
    client = TooLargeTogether(limit=100)
    bodies = ["a" * 20, "b" * 90, "c" * 101, "d" * 20]
    assert Queue(client, "url").send(bodies) == [2]  # type: ignore[arg-type]
    assert sorted(client.sent) == sorted([bodies[0], bodies[1], bodies[3]])


def test_a_batch_that_is_throttled_or_fails_is_sent_again_as_it_is() -> None:
    throttled = {"Error": {"Code": "RequestThrottled"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    failed = {"Error": {"Code": "InternalError"}, "ResponseMetadata": {"HTTPStatusCode": 500}}
    for answer in (throttled, failed):
        client = SomeFail(ClientError(answer, "SendMessageBatch"))  # type: ignore[arg-type]
        assert Queue(client, "url").send(["a", "b"]) == []  # type: ignore[arg-type]
        assert client.batches == [["a", "b"], ["a", "b"]]


def test_a_request_that_failed_as_a_whole_is_made_again() -> None:
    client = SomeFail(EndpointConnectionError(endpoint_url="x"))
    assert Queue(client, "url").send(["a"]) == []  # type: ignore[arg-type]
    assert client.batches == [["a"], ["a"]]


@pytest.mark.parametrize(("receives", "pause"), [(1, 10), (2, 20), (3, 40), (7, 640), (8, 900), (50, 900)])
def test_the_pause_before_a_retry_doubles_up_to_a_quarter_of_an_hour(receives: int, pause: int) -> None:
    seen = []

    class Client:
        def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: ARG002, N803
            seen.extend(entry["VisibilityTimeout"] for entry in Entries)
            return {}

    Queue(Client(), "url").retry_later(ReceivedMessage("m", "r", "body", receives))  # type: ignore[arg-type]
    assert seen == [pause]
    assert retry_seconds(receives) == pause
    assert pause <= LONGEST_RETRY_SECONDS


def test_a_dead_letter_keeps_body_and_attributes_and_has_its_reason(queue: Queue) -> None:
    attributes = {"intervals": {"DataType": "String.Array", "StringValue": "[3]"}}
    queue.dead_letter(ReceivedMessage("m", "r", "body", 4, attributes), ContractError("what to do"))
    (letter,) = queue.dead_letters.receive()
    assert letter.body == "body"
    values = {name: value["StringValue"] for name, value in letter.attributes.items()}
    assert values == {
        "intervals": "[3]", "reason": "what to do", "error": "ContractError", "source_queue": "dev-consolidation",
        "receive_count": "4",
    }  # fmt: skip


def test_a_dead_letter_has_at_most_ten_attributes_its_reason_among_them(queue: Queue) -> None:
    many = {f"a{n}": {"DataType": "String", "StringValue": str(n)} for n in range(10)}
    queue.dead_letter(ReceivedMessage("m", "r", "body", 1, many), ContractError("why"))
    (letter,) = queue.dead_letters.receive()
    assert len(letter.attributes) == 10
    assert letter.attributes["reason"]["StringValue"] == "why"


@pytest.mark.parametrize(
    ("reason", "written"), [("a\x00b\x1bc", "a?b?c"), ("", "-"), ("x" * 5_000, "x" * LONGEST_REASON)]
)
def test_a_reason_is_made_fit_for_sqs(queue: Queue, reason: str, written: str) -> None:
    queue.dead_letter(ReceivedMessage("m", "r", "body", 1), ContractError(reason))
    assert queue.dead_letters.receive()[0].attributes["reason"]["StringValue"] == written


def test_a_dead_letter_dead_lettered_again_has_the_newer_reason(queue: Queue) -> None:
    queue.dead_letter(ReceivedMessage("m", "r", "body", 1), ContractError("first"))
    (letter,) = queue.dead_letters.receive()
    queue.dead_letter(letter, ContractError("second"))
    assert [again.attributes["reason"]["StringValue"] for again in queue.dead_letters.receive()] == ["second"]


def test_when_sqs_fails_it_is_an_upstream_error() -> None:
    queue = Queue(AlwaysFails(), "https://sqs/0/q")  # type: ignore[arg-type]
    message = ReceivedMessage("m", "r", "body", 1)
    for call in (queue.receive, queue.depth, lambda: queue.dead_letter(message, ContractError("why"))):
        with pytest.raises(UpstreamError):
            call()


def test_messages_that_cannot_be_deleted_or_hidden_are_no_error() -> None:
    queue = Queue(AlwaysFails(), "https://sqs/0/q")  # type: ignore[arg-type]
    queue.delete([ReceivedMessage("m", "r", "body", 1)])
    queue.hide([ReceivedMessage("m", "r", "body", 1)], 5)


def test_a_queue_without_a_dead_letter_queue_says_so() -> None:
    with mock_aws():
        client = boto3.client("sqs")
        queue = Queue(client, client.create_queue(QueueName="alone")["QueueUrl"])
        with pytest.raises(UpstreamError, match="alone-dlq"):
            queue.dead_letter(ReceivedMessage("m", "r", "body", 1), ContractError("why"))


def test_a_queue_is_found_by_the_arn_of_lambdas_event() -> None:
    queue_of_arn.cache_clear()
    with mock_aws():
        url = boto3.client("sqs").create_queue(QueueName="dev-resample-3d")["QueueUrl"]
        assert queue_of_arn("arn:aws:sqs:us-east-1:123456789012:dev-resample-3d").url == url
    queue_of_arn.cache_clear()
    assert name_of("arn:aws:sqs:us-east-1:123456789012:dev-resample-3d") == "dev-resample-3d"


def test_a_record_of_lambdas_event_is_a_message_with_its_attributes_in_sqss_own_spelling() -> None:
    (record,) = SQSEvent(sample("consolidation-complete-3d")).records
    message = from_lambda(record)
    assert (message.id, message.receipt, message.receive_count) == (record.message_id, "receipt-1", 1)
    assert message.attributes == {"intervals": {"StringValue": "[3, 5, 8, 13, 21, 34]", "DataType": "String.Array"}}
    assert message.body == record.body


def test_an_attribute_from_lambda_survives_as_a_dead_letters(queue: Queue) -> None:
    (record,) = SQSEvent(sample("consolidation-complete-3d")).records
    queue.dead_letter(from_lambda(record), ContractError("why"))
    (letter,) = queue.dead_letters.receive()
    assert letter.attributes["intervals"] == {"StringValue": "[3, 5, 8, 13, 21, 34]", "DataType": "String.Array"}


def test_a_binary_attribute_from_lambda_is_dropped_so_that_the_dead_letter_is_accepted(queue: Queue) -> None:
    event = sample("consolidation-complete-3d")
    event["Records"][0]["messageAttributes"]["signature"] = {
        "binaryValue": "AAEC", "stringListValues": [], "binaryListValues": [], "dataType": "Binary",
    }  # fmt: skip
    (record,) = SQSEvent(event).records
    message = from_lambda(record)
    assert list(message.attributes) == ["intervals"]
    queue.dead_letter(message, ContractError("why"))
    (letter,) = queue.dead_letters.receive()
    assert letter.body == record.body
    assert set(letter.attributes) == {"intervals", "reason", "error", "source_queue", "receive_count"}


def completion(symbol: str) -> ConsolidationComplete:
    return ConsolidationComplete(symbol=symbol, changed_from=DAY, last_session=DAY, correlation_id="c")


def subscribed(filter_policy: str | None = None) -> tuple[Topic, Queue]:
    """Return a topic and a queue that is subscribed to it with raw delivery, as in the template."""
    sns, sqs = boto3.client("sns"), boto3.client("sqs")
    arn = sns.create_topic(Name="dev-consolidation-complete")["TopicArn"]
    url = sqs.create_queue(QueueName="dev-resample-8d")["QueueUrl"]
    attributes = {"RawMessageDelivery": "true"} | ({"FilterPolicy": filter_policy} if filter_policy else {})
    endpoint = "arn:aws:sqs:us-east-1:123456789012:dev-resample-8d"
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=endpoint, Attributes=attributes)
    return Topic.connect(arn), Queue(sqs, url)


def test_events_are_published_raw_in_batches_with_what_subscriptions_filter_on() -> None:
    with mock_aws():
        topic, queue = subscribed('{"intervals": [8]}')
        assert topic.publish([completion(f"S{n}") for n in range(12)]) == []
        taken = queue.receive() + queue.receive()
        bodies = {ConsolidationComplete.model_validate_json(message.body).symbol for message in taken}
        assert bodies == {f"S{n}" for n in range(12)}


def test_boto3_does_not_encode_the_form_of_a_request_to_sns_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    forms: list[object] = []
    with mock_aws():
        topic, queue = subscribed()
        monkeypatch.setattr("botocore.awsrequest.urlencode", lambda form, **_: forms.append(form))
        text = "A tail: [1.5, 2] & 50 % of é+=~"
        topic.publish([completion("AAPL").model_copy(update={"correlation_id": text})])
        monkeypatch.undo()
        (message,) = queue.receive()
    assert forms == []
    assert ConsolidationComplete.model_validate_json(message.body).correlation_id == text


@given(st.text() | st.text(st.characters(max_codepoint=127)), st.sampled_from([1, 200]))
def test_the_text_of_a_form_is_encoded_as_the_standard_library_does(text: str, times: int) -> None:
    assert queues._quote(text * times) == quote_plus(text * times)  # noqa: SLF001


def test_an_interval_that_an_event_does_not_name_does_not_hear_of_it() -> None:
    with mock_aws():
        topic, queue = subscribed('{"intervals": [8]}')
        topic.publish([completion("AAPL").model_copy(update={"intervals": (3, 5)})])
        assert queue.receive() == []


def test_other_events_carry_no_attributes() -> None:
    with mock_aws():
        topic, queue = subscribed()
        topic.publish([SilverUpdated(interval=3, changed_from=DAY, symbols=("AAPL",))])
        (message,) = queue.receive()
        assert message.attributes == {}


def test_events_that_sns_never_takes_are_reported_by_their_index() -> None:
    assert Topic(AlwaysFails(), "arn").publish([completion("AAPL"), completion("MSFT")]) == [0, 1]  # type: ignore[arg-type]


def test_messages_may_carry_attributes_of_their_own_and_say_when_they_were_sent(queue: Queue) -> None:
    attributes = [{"replays": {"DataType": "Number", "StringValue": str(n)}} for n in range(12)]
    assert queue.send([str(n) for n in range(12)], attributes) == []
    received = queue.receive() + queue.receive()
    assert {m.body: m.attributes["replays"]["StringValue"] for m in received} == {str(n): str(n) for n in range(12)}
    assert all(m.sent_at and abs(datetime.now(UTC) - m.sent_at) < timedelta(minutes=1) for m in received)


def test_a_receiver_may_say_how_long_others_shall_not_see_what_it_got(queue: Queue) -> None:
    queue.send(["a"])
    assert [m.body for m in queue.receive(hidden_seconds=0)] == ["a"]
    assert [m.body for m in queue.receive()] == ["a"]
    assert queue.receive() == []


def test_a_message_brings_its_senders_trace_if_that_was_traced(queue: Queue) -> None:
    header = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-6924f3a0-0123456789abcdef01234567"}}
    boto3.client("sqs").send_message(QueueUrl=queue.url, MessageBody="traced", MessageSystemAttributes=header)  # type: ignore[arg-type]
    queue.send(["untraced"])
    traces = {message.body: message.trace for message in [*queue.receive(), *queue.receive()]}
    assert traces == {"traced": "Root=1-6924f3a0-0123456789abcdef01234567", "untraced": None}

import json
import logging
from collections.abc import Sequence

import pytest

from fiblake.errors import ConflictError, ContractError, FiblakeError, UpstreamError
from shared.outcomes import (
    ExhaustedError,
    UnexpectedError,
    batch_response,
    catch_errors,
    finish_messages,
    process_messages,
)
from shared.queues import ReceivedMessage
from tests.fakes import FakeQueue

MOST = 6


def received(queue: FakeQueue, *receives: int) -> list[ReceivedMessage]:
    """Return messages that were received this often."""
    for n, count in enumerate(receives):
        queue.put(f"body {n}", receives=count - 1)
    return queue.receive()


def test_done_messages_end_others_are_retried_and_hopeless_ones_become_dead_letters() -> None:
    queue = FakeQueue()
    good, retried, hopeless = received(queue, 1, 2, 1)
    errors: dict[str, FiblakeError] = {retried.id: UpstreamError("later"), hopeless.id: ContractError("never")}
    assert finish_messages(queue, [good, retried, hopeless], errors, MOST) == [good, hopeless]
    assert queue.hidden == [(retried.id, 20)]
    assert [(letter.body, letter.reason) for letter in queue.dead] == [(hopeless.body, "never")]


@pytest.mark.parametrize(("receives", "dead"), [(MOST - 1, False), (MOST, True), (MOST + 1, True)])
def test_a_transient_failure_is_given_up_after_the_last_receive(receives: int, dead: bool) -> None:  # noqa: FBT001
    queue = FakeQueue()
    (message,) = received(queue, receives)
    ended = finish_messages(queue, [message], {message.id: ConflictError("met another")}, MOST)
    assert ended == ([message] if dead else [])
    if dead:
        assert isinstance(queue.dead[0].error, ExhaustedError)
        assert queue.dead[0].reason == f"gave up after {receives} receives: met another"


def test_a_message_whose_dead_letter_is_refused_goes_back() -> None:
    queue = FakeQueue(refuse_dead_letters=True)
    (message,) = received(queue, 3)
    assert finish_messages(queue, [message], {message.id: ContractError("never")}, MOST) == []
    assert queue.hidden == [(message.id, 40)]


ARN = "arn:aws:sqs:us-east-1:123456789012:test-consolidation"


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    """Let ARN be a queue's."""
    queue = FakeQueue()
    monkeypatch.setattr("shared.outcomes.queue_of_arn", {ARN: queue}.__getitem__)
    return queue


def test_the_batch_response_names_the_messages_that_shall_come_again(source: FakeQueue) -> None:
    good, retried, hopeless = received(source, 1, 2, 1)
    errors: dict[str, FiblakeError] = {retried.id: UpstreamError("later"), hopeless.id: ContractError("never")}
    response = batch_response(ARN, [good, retried, hopeless], errors, MOST)
    assert response == {"batchItemFailures": [{"itemIdentifier": retried.id}]}
    assert source.hidden == [(retried.id, 20)]
    assert [letter.body for letter in source.dead] == [hopeless.body]


def test_a_batch_gives_a_transient_failure_up_after_the_last_receive(source: FakeQueue) -> None:
    first, last = received(source, MOST - 1, MOST)
    errors: dict[str, FiblakeError] = {m.id: UpstreamError("later") for m in (first, last)}
    assert batch_response(ARN, [first, last], errors, MOST) == {"batchItemFailures": [{"itemIdentifier": first.id}]}
    assert [letter.reason for letter in source.dead] == [f"gave up after {MOST} receives: later"]


def test_if_the_queue_cannot_be_found_only_the_messages_that_failed_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arns: list[str] = []

    def away(arn: str) -> FakeQueue:
        arns.append(arn)
        raise UpstreamError(f"SQS has no answer to where {arn} is")

    monkeypatch.setattr("shared.outcomes.queue_of_arn", away)
    messages = received(FakeQueue(), 1, 1, MOST)
    assert batch_response(ARN, messages, {}, MOST) == {"batchItemFailures": []}
    assert arns == []
    errors: dict[str, FiblakeError] = {messages[0].id: UpstreamError("later")}
    assert batch_response(ARN, messages, errors, MOST) == {"batchItemFailures": [{"itemIdentifier": messages[0].id}]}
    assert process_messages(ARN, messages, lambda _group: errors, MOST) == {
        "batchItemFailures": [{"itemIdentifier": messages[0].id}]
    }


class Killed(BaseException):
    """The process was killed: out of memory, or out of time."""


def test_a_message_that_kills_the_process_takes_no_other_along(source: FakeQueue) -> None:
    """Each time it kills the process that works on it; in the end it is alone in the queue."""
    mates = [source.put(f"mate {n}", receives=n % 4) for n in range(6)]
    source.put("killer, which is larger than the others")
    finished: list[str] = []

    def work(group: Sequence[ReceivedMessage]) -> dict[str, FiblakeError]:
        if any(message.body.startswith("killer") for message in group):
            raise Killed
        finished.extend(message.id for message in group)
        return {}

    for _ in range(MOST):
        with pytest.raises(Killed):
            process_messages(ARN, source.receive(), work, MOST)
        source.now += source.visibility_timeout
    assert source.bodies() == ["killer, which is larger than the others"]
    assert sorted(finished) == sorted(mates)


@pytest.mark.usefixtures("source")
def test_messages_that_came_often_before_are_worked_on_alone_and_last() -> None:
    messages = [
        ReceivedMessage("large", "r", "x" * 100, 3),
        ReceivedMessage("new", "r", "x", 1),
        ReceivedMessage("small", "r", "x", 5),
        ReceivedMessage("again", "r", "x", 2),
    ]
    groups: list[list[str]] = []

    def work(group: Sequence[ReceivedMessage]) -> dict[str, FiblakeError]:
        groups.append([message.id for message in group])
        return {"again": UpstreamError("later"), "small": UpstreamError("later")}

    response = process_messages(ARN, messages, work, MOST)
    assert groups == [["new", "again"], ["small"], ["large"]]
    assert response == {"batchItemFailures": [{"itemIdentifier": "again"}, {"itemIdentifier": "small"}]}


def logged(caplog: pytest.LogCaptureFixture, body: str, error: FiblakeError) -> dict[str, object]:
    """Finish a message with this error; return the log line that states the outcome."""
    queue = FakeQueue()
    queue.put(body)
    (message,) = queue.receive()
    caplog.clear()
    finish_messages(queue, [message], {message.id: error}, MOST)
    (line,) = [record for record in caplog.records if record.getMessage() in {"retry", "dead letter"}]
    assert vars(line)["reason"] == str(error)
    return vars(line)


@pytest.mark.parametrize(
    ("error", "level"), [(UpstreamError("later"), logging.WARNING), (ContractError("never"), logging.ERROR)]
)
def test_the_log_line_of_a_retry_and_of_a_dead_letter_names_symbol_and_correlation(
    caplog: pytest.LogCaptureFixture, error: FiblakeError, level: int
) -> None:
    body = json.dumps({"symbol": "AAPL", "correlation_id": "from the put", "changed_from": "2025-11-19"})
    line = logged(caplog, body, error)
    assert (line["symbol"], line["correlation_id"], line["levelno"]) == ("AAPL", "from the put", level)
    assert "changed_from" not in line


@pytest.mark.parametrize(
    "body", ["", "no JSON", "[]", '"symbol"', "null", "{}", '{"symbol": 5, "correlation_id": null}']
)
def test_a_body_that_names_neither_is_logged_without(caplog: pytest.LogCaptureFixture, body: str) -> None:
    for error in (UpstreamError("later"), ContractError("never")):
        assert {"symbol", "correlation_id"}.isdisjoint(logged(caplog, body, error))


def test_a_body_that_names_one_of_them_is_logged_with_it(caplog: pytest.LogCaptureFixture) -> None:
    line = logged(caplog, '{"symbol": "AAPL", "correlation_id": 7}', UpstreamError("later"))
    assert line["symbol"] == "AAPL"
    assert "correlation_id" not in line


def test_an_attempt_gives_the_result_or_our_error() -> None:
    error = ContractError("never")

    def fails() -> None:
        raise error

    assert catch_errors(lambda: 5) == 5
    assert catch_errors(fails) is error


def test_an_attempt_turns_another_error_into_one_that_is_retried_and_keeps_it() -> None:
    outcome = catch_errors(lambda: 1 // 0)
    assert isinstance(outcome, UnexpectedError)
    assert str(outcome) == "ZeroDivisionError: integer division or modulo by zero"
    assert isinstance(outcome.__cause__, ZeroDivisionError)


def test_an_attempt_does_not_hold_up_the_end_of_the_process() -> None:
    def exits() -> None:
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        catch_errors(exits)


def test_a_body_that_is_nested_too_deeply_to_be_read_is_settled_all_the_same() -> None:
    queue = FakeQueue()
    queue.put("[" * 100_000)
    [message] = queue.receive()
    assert finish_messages(queue, [message], {message.id: ContractError("no request")}, 6) == [message]
    assert [dead.reason for dead in queue.dead] == ["no request"]

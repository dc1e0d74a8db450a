import pytest

from shared.errors import ConflictError, ContractError, FiblakeError, UpstreamError
from shared.outcomes import ExhaustedError, UnexpectedError, attempt, batch_response, settle
from shared.queues import Received
from tests.fakes import FakeQueue

MOST = 6


def received(queue: FakeQueue, *receives: int) -> list[Received]:
    """Give messages that were received so often."""
    for n, count in enumerate(receives):
        queue.put(f"body {n}", receives=count - 1)
    return queue.receive()


def test_done_messages_end_others_are_retried_and_hopeless_ones_become_dead_letters() -> None:
    queue = FakeQueue()
    done, retried, hopeless = received(queue, 1, 2, 1)
    errors: dict[str, FiblakeError] = {retried.id: UpstreamError("later"), hopeless.id: ContractError("never")}
    assert settle(queue, [done, retried, hopeless], errors, MOST) == [done, hopeless]
    assert queue.hidden == [(retried.id, 20)]
    assert [(letter.body, letter.reason) for letter in queue.dead] == [(hopeless.body, "never")]


@pytest.mark.parametrize(("receives", "dead"), [(MOST - 1, False), (MOST, True), (MOST + 1, True)])
def test_a_transient_failure_is_given_up_after_the_last_receive(receives: int, dead: bool) -> None:  # noqa: FBT001
    queue = FakeQueue()
    (message,) = received(queue, receives)
    ended = settle(queue, [message], {message.id: ConflictError("met another")}, MOST)
    assert ended == ([message] if dead else [])
    if dead:
        assert isinstance(queue.dead[0].error, ExhaustedError)
        assert queue.dead[0].reason == f"gave up after {receives} receives: met another"


def test_a_message_whose_dead_letter_is_refused_goes_back() -> None:
    queue = FakeQueue(refuse_dead_letters=True)
    (message,) = received(queue, 3)
    assert settle(queue, [message], {message.id: ContractError("never")}, MOST) == []
    assert queue.hidden == [(message.id, 40)]


def test_the_batch_response_names_the_messages_that_did_not_end() -> None:
    one, two = received(FakeQueue(), 1, 1)
    assert batch_response([one, two], [one]) == {"batchItemFailures": [{"itemIdentifier": two.id}]}
    assert batch_response([one, two], [one, two]) == {"batchItemFailures": []}


def test_an_attempt_gives_the_result_or_our_error() -> None:
    error = ContractError("never")

    def fails() -> None:
        raise error

    assert attempt(lambda: 5) == 5
    assert attempt(fails) is error


def test_an_attempt_turns_another_error_into_one_that_is_retried_and_keeps_it() -> None:
    outcome = attempt(lambda: 1 // 0)
    assert isinstance(outcome, UnexpectedError)
    assert str(outcome) == "ZeroDivisionError: integer division or modulo by zero"
    assert isinstance(outcome.__cause__, ZeroDivisionError)


def test_an_attempt_does_not_hold_up_the_end_of_the_process() -> None:
    def exits() -> None:
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        attempt(exits)

import io
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fiblake.errors import ContractError, FiblakeError, NotFoundError, UpstreamError
from shared.dead_letters import (
    HIDDEN_SECONDS,
    DeadLetter,
    DeadLetters,
    Filter,
    redrive_to_function,
    redrive_to_queue,
)
from shared.events import ConsolidationRequest
from shared.queues import Queue, ReceivedMessage
from tests.fakes import NOON, FakeQueue, sample

SYMBOLS = ("AAPL", "MSFT", "IBM")


def now() -> datetime:
    return NOON


class Source(FakeQueue):
    """A queue with a dead-letter queue; letters get the same attributes as from a real queue."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dead_letters = FakeQueue(f"{self.name}-dlq")
        self._client = self  # type: ignore[assignment]

    def dead_letter(self, message: ReceivedMessage, error: FiblakeError) -> None:
        Queue.dead_letter(self, message, error)

    def send_message(self, *, QueueUrl: str, MessageBody: str, MessageAttributes: dict[str, Any]) -> None:  # noqa: N803
        assert QueueUrl == self.dead_letters.url
        self.dead_letters.put(MessageBody, attributes=MessageAttributes)


@pytest.fixture
def source() -> Source:
    return Source()


def letters_of(source: Source) -> DeadLetters:
    return DeadLetters("consolidation", source.dead_letters, redrive_to_queue(source))


def bury(source: Source, *bodies: str, error: ContractError | UpstreamError | NotFoundError | None = None) -> None:
    for body in bodies:
        message = ReceivedMessage("m", "r", body, 3, {"origin": {"DataType": "String", "StringValue": "test"}})
        source.dead_letter(message, error or ContractError("broken"))


def everything(queue: Queue) -> list[ReceivedMessage]:
    received = []
    while messages := queue.receive():
        received += messages
    queue.hide(received, 0)
    return received


def bodies(queue: Queue) -> list[str]:
    return [message.body for message in everything(queue)]


def request(symbol: str, n: int = 0) -> str:
    return ConsolidationRequest(symbol=symbol, correlation_id=str(n)).model_dump_json()


def letter(body: str = "", sent_at: datetime | None = NOON, **attributes: str) -> DeadLetter:
    typed = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
    return DeadLetter("q", ReceivedMessage("m", "r", body, 1, typed, sent_at))


def test_a_letter_says_what_it_died_of_and_what_it_is_about(source: Source) -> None:
    bury(source, request("AAPL"), error=NotFoundError("AAPL has no bars"))
    (dead_letter,) = letters_of(source).find(Filter(), now())
    assert (dead_letter.error, dead_letter.reason, dead_letter.receives) == ("NotFoundError", "AAPL has no bars", 3)
    assert (dead_letter.symbols, dead_letter.replays) == (("AAPL",), 0)
    assert dead_letter.facts()["attributes"]["origin"] == "test"
    assert dead_letter.facts()["died_at"] == NOON.isoformat()


def test_what_was_looked_at_is_there_for_others_at_once(source: Source) -> None:
    bury(source, *(request("AAPL", n) for n in range(25)))
    assert len(letters_of(source).find(Filter(), now())) == 25
    assert len(letters_of(source).find(Filter(), now(), most=7)) == 7
    assert len(everything(source.dead_letters)) == 25


@pytest.mark.parametrize(
    ("body", "symbols"),
    [
        (sample("s3-put-via-eventbridge")["Records"][0]["body"], ("AAPL",)),
        (sample("s3-put-direct-to-sqs")["Records"][0]["body"], ("BRK.B",)),
        ("no JSON", ()),
        ("[1]", ()),
        ("[" * 100_000, ()),
        ('{"symbol": 3}', ()),
        (request("IBM"), ("IBM",)),
        (sample("s3-put-splits")["Records"][0]["body"], ("AAPL",)),
        ('{"key": "bronze/dividends/symbol%3DBRK.B.parquet", "arn": "a/b"}', ("BRK.B",)),
    ],
)
def test_the_symbol_is_found_in_every_kind_of_message(body: str, symbols: tuple[str, ...]) -> None:
    assert letter(body).symbols == symbols


@pytest.mark.parametrize("count", ["9" * 5_000, "-1", "1e3", "\u00b2", ""])
def test_a_count_that_is_none_is_unknown(count: str) -> None:
    odd = letter(receive_count=count, replays=count)
    assert (odd.receives, odd.replays) == (0, 0)


def test_a_letter_without_attributes_says_so() -> None:
    assert letter().error == "Unanswered"
    assert "received as often as allowed" in letter().reason
    assert letter(ERROR_CODE="NO_PERMISSIONS", ERROR_MESSAGE="may not send").reason == "may not send"


def test_lambdas_record_of_a_failed_function_is_read() -> None:
    record = {
        "requestContext": {"functionArn": "arn:f", "condition": "RetriesExhausted"},
        "requestPayload": {"as_of": "2025-11-19"},
        "responsePayload": {"errorType": "EntitlementError", "errorMessage": "the key is refused"},
    }
    dead_letter = letter(json.dumps(record))
    assert (dead_letter.error, dead_letter.reason) == ("EntitlementError", "the key is refused")
    assert dead_letter.function == ("arn:f", '{"as_of": "2025-11-19"}')
    called: list[tuple[str, str]] = []
    assert redrive_to_function(lambda *call: called.append(call))([dead_letter, letter("no record")]) == [1]
    assert called == [dead_letter.function]


def test_a_function_that_takes_no_event_leaves_the_letter_where_it_is() -> None:
    def refuses(_name: str, _event: str) -> None:
        raise UpstreamError("away")

    record = {"requestContext": {"functionArn": "arn:f"}, "requestPayload": {}}
    assert redrive_to_function(refuses)([letter(json.dumps(record))]) == [0]


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (Filter(), True),
        (Filter(symbols=("AAPL", "X")), True),
        (Filter(symbols=("X",)), False),
        (Filter(reason="NO BARS"), True),
        (Filter(reason="notfounderror"), True),
        (Filter(reason="other"), False),
        (Filter(older_than=timedelta(hours=2)), True),
        (Filter(older_than=timedelta(hours=3)), False),
        (Filter(newer_than=timedelta(hours=2)), True),
        (Filter(newer_than=timedelta(hours=1)), False),
        (Filter(symbols=("AAPL",), reason="other"), False),
    ],
)
def test_a_filter_takes_what_all_its_parts_take(wanted: Filter, taken: bool) -> None:  # noqa: FBT001
    dead_letter = letter(request("AAPL"), NOON - timedelta(hours=2), error="NotFoundError", reason="AAPL has no bars")
    assert wanted.matches(dead_letter, NOON) is taken


def test_a_letter_of_unknown_age_is_neither_old_nor_new() -> None:
    dead_letter = letter(request("AAPL"), None)
    assert not Filter(older_than=timedelta(0)).matches(dead_letter, NOON)
    assert not Filter(newer_than=timedelta(days=9)).matches(dead_letter, NOON)


def test_replaying_one_kind_of_a_thousand_moves_exactly_those(source: Source) -> None:
    kinds = {
        "AAPL": ContractError("not a ConsolidationRequest: changed_from"),
        "MSFT": NotFoundError("MSFT has no bars"),
        "IBM": UpstreamError("S3 failed"),
    }
    wanted = [request("MSFT", n) for n in range(1, 1_000, 3)]
    for n in range(1_000):
        symbol = SYMBOLS[n % 3]
        bury(source, request(symbol, n), error=kinds[symbol])
    outcome = letters_of(source).replay(Filter(reason="no bars"), now(), most_replays=3)
    assert (outcome.done, outcome.exhausted, outcome.unsent) == (333, 0, 0)
    assert sorted(bodies(source)) == sorted(wanted)
    remaining = bodies(source.dead_letters)
    assert sorted(remaining) == sorted(request(SYMBOLS[n % 3], n) for n in range(1_000) if n % 3 != 1)


def test_a_replayed_message_keeps_its_attributes_but_those_of_its_death_and_is_counted(source: Source) -> None:
    bury(source, request("AAPL"))
    letters_of(source).replay(Filter(), now(), most_replays=3)
    (message,) = source.receive()
    assert {name: value["StringValue"] for name, value in message.attributes.items()} == {
        "origin": "test", "replays": "1",
    }  # fmt: skip


def test_a_message_that_dies_again_after_n_replays_is_stopped(source: Source) -> None:
    bury(source, request("AAPL"))
    for _ in range(3):
        assert letters_of(source).replay(Filter(), now(), most_replays=3).done == 1
        (message,) = source.receive()
        source.dead_letter(message, ContractError("again"))
        source.delete([message])
    outcome = letters_of(source).replay(Filter(), now(), most_replays=3)
    assert (outcome.done, outcome.exhausted) == (0, 1)
    (remaining,) = letters_of(source).find(Filter(), now())
    assert (remaining.replays, remaining.reason) == (3, "again")


def test_a_message_that_dies_again_at_once_is_not_replayed_twice_in_one_run(source: Source) -> None:
    def dies_at_once(letters: Sequence[DeadLetter]) -> list[int]:
        for dead_letter in letters:
            source.dead_letter(
                ReceivedMessage("m", "r", dead_letter.message.body, 1, dead_letter.attributes_to_send()),
                ContractError("again"),
            )
        return []

    bury(source, request("AAPL"), request("MSFT"))
    letters = DeadLetters("consolidation", source.dead_letters, dies_at_once)
    assert letters.replay(Filter(), now(), most_replays=99).done == 2
    assert [dead_letter.replays for dead_letter in letters.find(Filter(), now())] == [1, 1]


def test_what_the_queue_does_not_take_stays_a_dead_letter(source: Source) -> None:
    bury(source, request("AAPL"), request("MSFT"))
    refusing = DeadLetters("consolidation", source.dead_letters, lambda some: list(range(len(some))))
    outcome = refusing.replay(Filter(), now(), most_replays=3)
    assert (outcome.done, outcome.unsent) == (0, 2)
    assert len(everything(source.dead_letters)) == 2


@pytest.mark.parametrize("step", range(12))
def test_a_replay_cut_off_anywhere_loses_nothing(source: Source, step: int) -> None:
    """The process ends before its n-th request: no later step happens, not even in `finally`."""
    sent = [request("AAPL", n) for n in range(35)]
    bury(source, *sent)
    gone = _Killer(step)
    letters = DeadLetters("q", _Mortal(source.dead_letters, gone), redrive_to_queue(_Mortal(source, gone)))
    with pytest.raises(_KilledError):
        letters.replay(Filter(), now(), most_replays=3)
    assert set(source.bodies()) | set(source.dead_letters.bodies()) == set(sent)
    source.dead_letters.now += HIDDEN_SECONDS
    letters_of(source).replay(Filter(), now(), most_replays=3)
    assert set(source.bodies()) == set(sent)
    assert source.dead_letters.bodies() == []


class _KilledError(BaseException):
    """As good as SIGKILL."""


class _Killer:
    """Passes this many requests, and none after them."""

    def __init__(self, calls_to_come: int) -> None:
        self.left = calls_to_come

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _KilledError


class _Mortal(Queue):
    """A queue of a process that dies."""

    def __init__(self, queue: Queue, request: _Killer) -> None:
        self._queue, self._request = queue, request

    def send(self, *arguments: Any) -> list[int]:  # noqa: ANN401
        self._request()
        return self._queue.send(*arguments)

    def receive(self, *arguments: Any) -> list[ReceivedMessage]:  # noqa: ANN401
        self._request()
        return self._queue.receive(*arguments)

    def delete(self, *arguments: Any) -> None:  # noqa: ANN401
        self._request()
        self._queue.delete(*arguments)

    def hide(self, *arguments: Any) -> None:  # noqa: ANN401
        self._request()
        self._queue.hide(*arguments)


def test_a_rate_is_kept(source: Source, naps: list[float]) -> None:
    bury(source, *(request("AAPL", n) for n in range(20)))
    letters_of(source).replay(Filter(), now(), most_replays=3, per_second=5)
    assert len(naps) >= 4
    assert sum(naps) == pytest.approx(4, abs=1)


def test_what_is_discarded_is_in_the_file_and_nowhere_else(source: Source, tmp_path: Path) -> None:
    bury(source, *(request("AAPL", n) for n in range(12)), error=NotFoundError("gone"))
    bury(source, request("MSFT"))
    with (tmp_path / "dropped.jsonl").open("a+", encoding="utf-8") as file:
        assert letters_of(source).discard(Filter(reason="gone"), now(), file).done == 12
    lines = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert sorted(line["body"] for line in lines) == sorted(request("AAPL", n) for n in range(12))
    assert {line["reason"] for line in lines} == {"gone"}
    assert bodies(source.dead_letters) == [request("MSFT")]


def test_if_the_file_cannot_be_written_nothing_is_discarded(source: Source) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError("no space left on device")

    bury(source, request("AAPL"))
    with pytest.raises(OSError, match="no space left"):
        letters_of(source).discard(Filter(), now(), Full())
    assert bodies(source.dead_letters) == [request("AAPL")]

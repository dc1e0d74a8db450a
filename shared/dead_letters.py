"""Read, replay and discard dead letters.

An interruption loses no message: a letter is deleted only after it was sent back, or written to the file. In the worst
case it exists twice, and every message may come twice.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TextIO
from urllib.parse import unquote_plus

from fiblake.errors import FiblakeError
from shared.batching import chunks
from shared.outcomes import catch_errors
from shared.queues import BATCH, Attributes, Queue, ReceivedMessage

HIDDEN_SECONDS: Final = 120
"""How long a letter that was read stays invisible if the reader is killed."""
WAIT_SECONDS: Final = 1
EMPTY_LOOKS: Final = 2
"""SQS may return no message although there are some, but rarely twice in a row."""
MAX_RECEIVES_WITHOUT_NEW: Final = 20
"""After this many receives in a row without a new letter, all letters have been read."""
REPLAYS: Final = "replays"
_OF_THE_DEATH: Final = ("reason", "error", "source_queue", "receive_count")
_SYMBOL_OF_KEY: Final = re.compile(r'symbol=([^/"]+?)(?:/|\.parquet")')
"""The symbol in a key: of a folder (bars), or of a file (splits, identities, dividends), whose key ends with a quote.
"""
_LONGEST_COUNT: Final = 9
"""Digits. Python refuses to parse thousands of them."""

Send = Callable[[Sequence["DeadLetter"]], list[int]]
"""Sends letters back to their origin; returns the indices of those that were not sent."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in a dead-letter queue, with the facts in its attributes and its body."""

    queue: str
    message: ReceivedMessage

    @property
    def reason(self) -> str:
        """Why it failed; a message that SQS itself moved there carries no reason."""
        response = self._body.get("responsePayload")  # Lambda's record of a failed function
        failure = response.get("errorMessage") if isinstance(response, dict) else None
        reason = self._text("reason") or failure or self._text("ERROR_MESSAGE") or self._text("ERROR_CODE")
        return reason or "no reason given: received as often as allowed, without a result"

    @property
    def error(self) -> str:
        """The kind of the error."""
        response = self._body.get("responsePayload")
        failure = response.get("errorType") if isinstance(response, dict) else None
        return self._text("error") or failure or self._text("ERROR_CODE") or "Unanswered"

    @property
    def receives(self) -> int:
        """How often it was received before it was dead-lettered; 0 if unknown."""
        return self._number("receive_count")

    @property
    def replays(self) -> int:
        """How often it was replayed before."""
        return self._number(REPLAYS)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols in its body: that of one of our messages, or of an S3 notification."""
        own = self._body.get("symbol")
        if isinstance(own, str):
            return (own,)
        return tuple(dict.fromkeys(_SYMBOL_OF_KEY.findall(unquote_plus(self.message.body))))

    def attributes_to_send(self) -> dict[str, Any]:
        """Return the attributes for sending it back: its own, without those of the failure, with one more replay."""
        attributes = {name: value for name, value in self.message.attributes.items() if name not in _OF_THE_DEATH}
        return {**attributes, REPLAYS: {"DataType": "Number", "StringValue": str(self.replays + 1)}}

    def facts(self) -> dict[str, Any]:
        """Return all facts, for a person, a program, or a file."""
        return {
            "queue": self.queue,
            "id": self.message.id,
            "died_at": self.message.sent_at.isoformat() if self.message.sent_at else None,
            "error": self.error,
            "reason": self.reason,
            "receive_count": self.receives,
            "replays": self.replays,
            "symbols": list(self.symbols),
            "body": self.message.body,
            "attributes": {name: _plain(value) for name, value in self.message.attributes.items()},
        }

    @property
    def function(self) -> tuple[str, str] | None:
        """The function (its ARN) and the event it failed on, if the letter is Lambda's record of a failure."""
        context = self._body.get("requestContext")
        arn = context.get("functionArn") if isinstance(context, dict) else None
        return (arn, json.dumps(self._body.get("requestPayload"))) if isinstance(arn, str) else None

    @property
    def _body(self) -> dict[str, Any]:
        try:
            body = json.loads(self.message.body)
        except (ValueError, RecursionError):
            return {}
        return body if isinstance(body, dict) else {}

    def _text(self, name: str) -> str:
        return str(self.message.attributes.get(name, {}).get("StringValue", ""))

    def _number(self, name: str) -> int:
        text = self._text(name)
        return int(text) if text.isdecimal() and len(text) <= _LONGEST_COUNT else 0


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are selected; a field that is not set selects all."""

    symbols: tuple[str, ...] = ()
    reason: str = ""
    """Part of the reason or of the error's kind, in upper or lower case."""
    older_than: timedelta | None = None
    newer_than: timedelta | None = None
    ids: frozenset[str] | None = None
    """Only letters with these message ids."""

    def matches(self, letter: DeadLetter, now: datetime) -> bool:
        """Return whether `letter` is selected; one without an age is neither old nor new."""
        sent = letter.message.sent_at
        return (
            (self.ids is None or letter.message.id in self.ids)
            and (not self.symbols or not set(self.symbols).isdisjoint(letter.symbols))
            and self.reason.casefold() in f"{letter.error}: {letter.reason}".casefold()
            and (self.older_than is None or (sent is not None and now - sent >= self.older_than))
            and (self.newer_than is None or (sent is not None and now - sent <= self.newer_than))
        )


@dataclass(slots=True)
class Outcome:
    """The counts of the selected letters."""

    done: int = 0
    exhausted: int = 0
    """Letters that stay, because they failed again after the allowed number of replays."""
    unsent: int = 0
    """Letters that stay, because the queue refused them."""


@dataclass(slots=True)
class Reading:
    """One pass over a dead-letter queue: every letter once."""

    name: str
    queue: Queue
    held: dict[str, ReceivedMessage] = field(default_factory=dict)
    """Letters that were read and stay in the queue; others do not see them while this pass lasts."""
    _known: set[str] = field(default_factory=set)

    def batches(self, most: int | None = None) -> Iterator[list[DeadLetter]]:
        """Return the letters in batches of up to 10, `most` in all."""
        empty = stale = yielded = 0
        while empty < EMPTY_LOOKS and stale < MAX_RECEIVES_WITHOUT_NEW and (most is None or yielded < most):
            messages = self.queue.receive(BATCH, WAIT_SECONDS, HIDDEN_SECONDS)
            self.held |= {message.id: message for message in messages}
            new = [message for message in messages if message.id not in self._known]
            self._known |= {message.id for message in new}
            empty = 0 if messages else empty + 1
            stale = 0 if new else stale + 1
            batch = new if most is None else new[: most - yielded]
            yielded += len(batch)
            if batch:
                yield [DeadLetter(self.name, message) for message in batch]

    def delete(self, letters: Sequence[DeadLetter]) -> None:
        """Delete letters."""
        self.queue.delete([letter.message for letter in letters])
        for letter in letters:
            self.held.pop(letter.message.id, None)


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """One dead-letter queue, and how its letters are sent back."""

    name: str
    """The name of the queue whose messages failed, without the environment."""
    queue: Queue
    send: Send

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Read the queue; letters that were not deleted become visible to others after the block."""
        letters = Reading(self.name, self.queue)
        try:
            yield letters
        finally:
            self.queue.hide(list(letters.held.values()), 0)

    def find(self, filter_: Filter, now: datetime, most: int | None = None) -> list[DeadLetter]:
        """Return the selected letters among the first `most`; they stay in the queue."""
        with self.reading() as letters:
            return [letter for batch in letters.batches(most) for letter in batch if filter_.matches(letter, now)]

    def replay(self, filter_: Filter, now: datetime, most_replays: int, per_second: float | None = None) -> Outcome:
        """Send the selected letters back to their origin; delete those that were sent.

        A letter that fails again during this pass is not replayed a second time. One that was replayed `most_replays`
        times stays. `per_second` limits the rate.
        """
        outcome = Outcome()
        sent: set[tuple[str, int]] = set()
        with self.reading() as letters:
            for batch in letters.batches():
                matching = [
                    letter for letter in batch
                    if filter_.matches(letter, now) and (letter.message.body, letter.replays) not in sent
                ]  # fmt: skip
                fresh = [letter for letter in matching if letter.replays < most_replays]
                outcome.exhausted += len(matching) - len(fresh)
                for part in chunks(fresh, max(1, min(BATCH, int(per_second or BATCH)))):
                    started = time.monotonic()
                    replayed = self._send_back(letters, part)
                    sent |= {(letter.message.body, letter.replays + 1) for letter in replayed}
                    outcome.done += len(replayed)
                    outcome.unsent += len(part) - len(replayed)
                    _keep_pace(len(part), per_second, started)
        return outcome

    def discard(self, filter_: Filter, now: datetime, file: TextIO) -> Outcome:
        """Write the selected letters to `file`, one JSON line each, and only then delete them."""
        outcome = Outcome()
        with self.reading() as letters:
            for batch in letters.batches():
                matching = [letter for letter in batch if filter_.matches(letter, now)]
                file.writelines(json.dumps(letter.facts()) + "\n" for letter in matching)
                _to_disk(file)
                letters.delete(matching)
                outcome.done += len(matching)
        return outcome

    def _send_back(self, letters: Reading, part: Sequence[DeadLetter]) -> list[DeadLetter]:
        unsent = set(self.send(part))
        sent = [letter for i, letter in enumerate(part) if i not in unsent]
        letters.delete(sent)
        return sent


def redrive_to_queue(queue: Queue) -> Send:
    """Return a function that sends letters back into their queue, with their attributes and one more replay."""

    def send(letters: Sequence[DeadLetter]) -> list[int]:
        attributes: list[Attributes] = [letter.attributes_to_send() for letter in letters]
        return queue.send([letter.message.body for letter in letters], attributes)

    return send


def redrive_to_function(call: Callable[[str, str], None]) -> Send:
    """Return a function that invokes the functions of Lambda's records with their events; other letters stay.

    Lambda's record has no field for a replay count.
    """

    def send(letters: Sequence[DeadLetter]) -> list[int]:
        unsent = []
        for i, letter in enumerate(letters):
            if letter.function is None or isinstance(catch_errors(call, *letter.function), FiblakeError):
                unsent.append(i)
        return unsent

    return send


def _keep_pace(count: int, per_second: float | None, started: float) -> None:
    if per_second:
        time.sleep(max(0.0, count / per_second - (time.monotonic() - started)))


def _to_disk(file: TextIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _plain(value: Mapping[str, Any]) -> str:
    return str(value.get("StringValue", "(binary)"))

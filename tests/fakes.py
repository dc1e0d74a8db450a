"""Stand-ins for the clients of AWS, with the same behaviour: a bucket, a topic, a queue, jobs; and tables of bars.

A journal is a list of requests, in order; stand-ins that share a journal show the order across them.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
from obstore.store import MemoryStore

from fiblake.bars import BRONZE, Consolidated, ReportedBar, encode
from fiblake.errors import FiblakeError, UpstreamError
from fiblake.lake import Bronze
from fiblake.reference import Dividend, Identity, Split
from fiblake.source_log import SourceVersion
from shared.events import ConsolidationComplete, Message
from shared.objects import ObjectInfo, ObjectStore, StoredObject
from shared.queues import BATCH, Attributes, Depth, Queue, ReceivedMessage, Topic

REPOSITORY = Path(__file__).resolve().parents[1]
BUCKET = "test-condvest-datalake"
LAKE = Bronze()
NOON = datetime(2025, 11, 20, 12, tzinfo=UTC)
"""The common instant of tests: bars are ingested then, unless a test names another instant."""

Journal = list[tuple[str, str]]


# ---------------------------------------------------------------------------------------------------------------- bars


def bar(
    session: date | str, close: float = 10.0, ingested_at: datetime = NOON, symbol: str = "AAPL",
    *, volume: float = 1_000.0, vwap: float | None = None, trades: int | None = None,
) -> dict[str, object]:  # fmt: skip
    """Return one bar around `close` as a row of BRONZE."""
    day = date.fromisoformat(session) if isinstance(session, str) else session
    return ReportedBar(symbol, day, close - 0.5, close + 1, close - 0.75, close, volume, vwap, trades).row(ingested_at)


def table(*rows: dict[str, object]) -> pa.Table:
    """Return rows as a table of schema BRONZE, in the given order."""
    return pa.Table.from_pylist(list(rows), schema=BRONZE)


def parquet(*rows: dict[str, object]) -> bytes:
    """Return rows as the bytes of a source file."""
    return encode(table(*rows))


def consolidated(*rows: dict[str, object], log: dict[str, str] | None = None, at: datetime = NOON) -> bytes:
    """Return rows (in order, one a session) as the bytes of a data.parquet; `log`: the ETag merged of each source."""
    versions = {key: SourceVersion(etag, stamped=True) for key, etag in (log or {}).items()}
    return Consolidated(table(*rows), versions, at).encode()


def later(minutes: float = 1) -> datetime:
    """Return the instant this many minutes after NOON."""
    return NOON + timedelta(minutes=minutes)


# ----------------------------------------------------------------------------------------------- splits and identities


def splits(*ratios: tuple[str, int, int], symbol: str = "AAPL") -> list[Split]:
    """Return splits (day, shares before, shares after), oldest first, each with the vendor's cumulative factor."""
    factor, rows = 1.0, list[Split]()
    for day, before, after in sorted(ratios, reverse=True):
        factor *= before / after
        kind = "forward_split" if after > before else "reverse_split"
        name = f"{symbol}-{day}"
        rows.append(Split(symbol, date.fromisoformat(day), before, after, kind, factor, name))
    return rows[::-1]


def dividend(day: str, cash: float, symbol: str = "AAPL", **changed: object) -> Dividend:
    """Return a quarterly dividend in USD, without the vendor's factor unless it is given."""
    plain = Dividend(
        symbol, date.fromisoformat(day), cash, "USD", None, None, None, 4, "recurring", None, None, f"{symbol}-{day}"
    )
    return replace(plain, **changed)  # type: ignore[arg-type]


def companies(*first_sessions: str, symbol: str = "AAPL") -> list[Identity]:
    """Return companies that had the symbol one after the other, from these sessions on."""
    days = [date.fromisoformat(day) for day in first_sessions]
    ends = [day - timedelta(days=1) for day in days[1:]]
    return [
        Identity(symbol, day, end, f"BBG{number:09}", f"Company {number}")
        for number, (day, end) in enumerate(zip(days, [*ends, None], strict=True))
    ]


# -------------------------------------------------------------------------------------------------------------- bucket


@dataclass
class _Interference:
    """Another writer's action right before a conditional write: the `nth` one from now, of a key that `of` accepts."""

    nth: int
    act: Callable[[], object]
    of: Callable[[str], bool]


@dataclass
class _Failure:
    verb: str
    error: Exception
    times: int
    of: Callable[[str], bool]


def _any_key(_key: str) -> bool:
    return True


class MemoryObjectStore(ObjectStore):
    """A bucket in memory, with S3's conditions; it records the requests, and a test can let another writer interfere.

    `journal` holds (verb, key): "list", "get" and "head" (also of what is not there), "put" (unconditional), "write"
    (conditional, won), "conflict" (conditional, lost), "delete" (done).
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self.memory = MemoryStore()
        self.journal: Journal = [] if journal is None else journal
        self._interferences: list[_Interference] = []
        self._failures: list[_Failure] = []
        self._modified: dict[str, datetime] = {}
        self._lock = threading.RLock()
        self.deleter = MemoryDeleter(self)
        super().__init__(self.memory, BUCKET, self.deleter)

    # Methods by which a test arranges the bucket, without entries in the journal.

    def lay(self, key: str, data: bytes, at: datetime | None = None) -> str:
        """Put an object as another client would, at an instant (None: now); return its ETag."""
        self._modified.pop(key, None)
        if at:
            self._modified[key] = at
        return obstore.put(self.memory, key, data, use_multipart=False)["e_tag"] or ""

    def put_again(self, key: str, at: datetime) -> None:
        """Put an object's bytes again: the ETag stays the same, as in S3, because it follows from the bytes; the
        instant is new.
        """
        self._modified[key] = at

    def lay_marker(self, folder: str) -> None:
        """Put an empty object as S3's console does for a folder (its key ends in a slash, which obstore drops)."""
        self.lay(folder.rstrip("/"), b"")
        self.deleter.markers.add(folder.rstrip("/"))

    def take_away(self, key: str) -> None:
        """Delete an object as another client would."""
        obstore.delete(self.memory, key)

    def interfere(self, act: Callable[[], object], before_write: int = 1, of: Callable[[str], bool] = _any_key) -> None:
        """Let another writer act right before the n-th conditional write from now (of keys that `of` accepts)."""
        self._interferences.append(_Interference(before_write, act, of))

    def fail(
        self, verb: str, error: Exception | None = None, times: int = 1, of: Callable[[str], bool] = _any_key
    ) -> None:
        """Let the next `times` requests of a verb ("list", "get", "head", "put", "write", "delete") fail.

        Verb "answer": the conditional write is done, and then fails.
        """
        self._failures.append(_Failure(verb, error or UpstreamError(f"{verb} fails, as arranged"), times, of))

    # What a test looks at.

    def peek(self, key: str) -> bytes | None:
        """Return an object's bytes, without an entry in the journal."""
        try:
            return bytes(obstore.get(self.memory, key).bytes())
        except FileNotFoundError:
            return None

    def etag(self, key: str) -> str | None:
        """Return an object's ETag, without an entry in the journal."""
        try:
            return obstore.head(self.memory, key)["e_tag"]
        except FileNotFoundError:
            return None

    def keys(self, prefix: str = "") -> list[str]:
        """List keys, unseen by the journal."""
        return sorted(entry["path"] for page in obstore.list(self.memory, prefix) for entry in page)

    def done(self, *verbs: str) -> list[str]:
        """Return the keys of the journal's entries with one of these verbs, in order."""
        return [key for verb, key in self.journal if verb in verbs]

    # The bucket itself.

    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        self._enter("list", prefix)
        return [
            replace(info, last_modified=self._modified.get(info.key, info.last_modified))
            for info in super().list_objects(prefix)
        ]

    def _version(self, key: str) -> str | None:
        self._enter("head", key)
        return super()._version(key)

    def _read(self, key: str, if_match: str | None = None) -> StoredObject:
        self._enter("get", key)
        stored = super()._read(key, if_match)
        return replace(stored, last_modified=self._modified.get(key, stored.last_modified))

    def _write(self, key: str, data: bytes, mode: Any) -> str:  # noqa: ANN401 (obstore's PutMode)
        if mode == "overwrite":
            self._enter("put", key)
            return super()._write(key, data, mode)
        self._raise_if_arranged("write", key)
        for act in self._due(key):
            act()
        try:
            etag = super()._write(key, data, mode)
        except FiblakeError:
            self.journal.append(("conflict", key))
            raise
        self.journal.append(("write", key))
        self._raise_if_arranged("answer", key)
        return etag

    def _enter(self, verb: str, key: str) -> None:
        self._raise_if_arranged(verb, key)
        self.journal.append((verb, key))

    def _raise_if_arranged(self, verb: str, key: str) -> None:
        with self._lock:
            for failure in self._failures:
                if failure.verb == verb and failure.times > 0 and failure.of(key):
                    failure.times -= 1
                    raise failure.error

    def _due(self, key: str) -> list[Callable[[], object]]:
        with self._lock:
            due = []
            for interference in [interference for interference in self._interferences if interference.of(key)]:
                interference.nth -= 1
                if interference.nth == 0:
                    self._interferences.remove(interference)
                    due.append(interference.act)
            return due


class MemoryDeleter:
    """Boto's client: DeleteObjects as S3 answers it (an object with another ETag stays, and its entry is in Errors),
    and ListObjectsV2, which returns keys unchanged.
    """

    def __init__(self, store: MemoryObjectStore) -> None:
        self._store = store
        self.requests: list[list[dict[str, str]]] = []
        self.markers: set[str] = set()

    def get_paginator(self, operation_name: str) -> "MemoryDeleter":
        assert operation_name == "list_objects_v2"
        return self

    def paginate(self, *, Bucket: str, Prefix: str) -> Iterator[dict[str, Any]]:  # noqa: N803 (boto's own shape)
        assert Bucket == BUCKET
        entries = [entry for page in obstore.list(self._store.memory, Prefix) for entry in page]
        named = [(f"{e['path']}/" if e["path"] in self.markers else e["path"], e) for e in entries]
        yield {
            "Contents": [
                {"Key": key, "ETag": e["e_tag"], "Size": e["size"], "LastModified": e["last_modified"]}
                for key, e in sorted(named, key=lambda pair: pair[0])
            ]
        }

    def delete_objects(self, *, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:  # noqa: N803 (boto's own shape)
        assert Bucket == BUCKET
        self.requests.append(Delete["Objects"])
        answer: dict[str, Any] = {"Deleted": [], "Errors": []}
        for entry in Delete["Objects"]:
            self._store._raise_if_arranged("delete", entry["Key"])  # noqa: SLF001 (two halves of one stand-in)
            etag = self._store.etag(entry["Key"])
            if etag is None:
                answer["Errors"].append({"Key": entry["Key"], "Code": "NoSuchKey", "Message": "no such key"})
            elif entry.get("ETag", etag) != etag:
                answer["Errors"].append({"Key": entry["Key"], "Code": "PreconditionFailed", "Message": "not this one"})
            else:
                self._store.take_away(entry["Key"])
                self._store.journal.append(("delete", entry["Key"]))
                answer["Deleted"].append({"Key": entry["Key"]})
        return {part: entries for part, entries in answer.items() if entries}


# -------------------------------------------------------------------------------------------------------- topic, queue


class FakeTopic(Topic):
    """A topic that keeps the published events; `refuse` selects the events that it refuses."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.arn = "arn:aws:sns:us-east-1:000000000000:test-topic"
        self.published: list[Any] = []
        self.refuse: Callable[[Any], bool] = lambda _event: False
        self.journal: Journal = [] if journal is None else journal

    def publish(self, events: Sequence[Message]) -> list[int]:
        refused = [i for i, event in enumerate(events) if self.refuse(event)]
        for i, event in enumerate(events):
            if i not in refused:
                self.published.append(event)
                self.journal.append(("publish", event.symbol if isinstance(event, ConsolidationComplete) else ""))
        return refused


@dataclass
class DeadLetter:
    """What a FakeQueue's dead-letter queue holds."""

    body: str
    reason: str
    error: FiblakeError


@dataclass
class _StoredMessage:
    id: str
    body: str
    visible_at: float
    delayed: bool = False
    receives: int = 0
    receipt: str = ""
    attributes: Attributes = field(default_factory=dict)


@dataclass
class FakeQueue(Queue):
    """An SQS queue in memory with its own clock, which advances when a receiver waits and gets nothing.

    `refuse_sends` selects the bodies that it refuses, `refuse_receives` the receive (the first is 1) that fails,
    `refuse_dead_letters` makes its dead-letter queue fail. It never returns more than `most_at_once`, and may hide its
    messages (`looks_empty`): SQS counts approximately.
    """

    name: str = "test-consolidation"
    visibility_timeout: float = 300
    journal: Journal = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    hidden: list[tuple[str, int]] = field(default_factory=list)
    """(message id, seconds) of every change of visibility, in order."""
    refuse_sends: Callable[[str], bool] = lambda _body: False
    refuse_receives: Callable[[int], bool] = lambda _nth: False
    refuse_dead_letters: bool = False
    most_at_once: int = BATCH
    looks_empty: bool = False
    receives: int = 0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.url = f"https://sqs.us-east-1.amazonaws.com/000000000000/{self.name}"
        self._held: dict[str, _StoredMessage] = {}
        self._lock = threading.RLock()
        self._last_id = 0

    def put(self, body: str, delay: float = 0, receives: int = 0, attributes: Attributes | None = None) -> str:
        """Put a message into the queue, as if it had been received this often before; return its id."""
        with self._lock:
            self._last_id += 1
            held = _StoredMessage(f"m{self._last_id}", body, self.now + delay, delayed=delay > 0, receives=receives)
            held.attributes = attributes or {}
            self._held[held.id] = held
            return held.id

    def bodies(self) -> list[str]:
        """Return the bodies of all messages that are neither deleted nor dead-lettered and deleted."""
        return [held.body for held in self._held.values()]

    def send(self, bodies: Sequence[str], attributes: Sequence[Attributes] = ()) -> list[int]:
        refused = [i for i, body in enumerate(bodies) if self.refuse_sends(body)]
        for i, body in enumerate(bodies):
            if i not in refused:
                self.sent.append(body)
                self.put(body, attributes=attributes[i] if attributes else None)
        return refused

    def receive(
        self, most: int = BATCH, wait_seconds: int = 0, hidden_seconds: int | None = None
    ) -> list[ReceivedMessage]:
        assert 1 <= most <= BATCH
        with self._lock:
            self.receives += 1
            if self.refuse_receives(self.receives):
                raise UpstreamError("the queue gives no messages, as arranged")
            if not self._visible():
                self.now += wait_seconds
            hidden = self.visibility_timeout if hidden_seconds is None else hidden_seconds
            return [self._hand_out(held, hidden) for held in self._visible()[: min(most, self.most_at_once)]]

    def delete(self, messages: Sequence[ReceivedMessage]) -> None:
        with self._lock:
            for message in messages:
                if self._held.pop(message.id, None):
                    self.journal.append(("delete message", message.body))

    def hide(self, messages: Sequence[ReceivedMessage], seconds: int) -> None:
        with self._lock:
            for message in messages:
                self.hidden.append((message.id, seconds))
                held = self._held.get(message.id)
                if held and held.receipt == message.receipt:
                    held.visible_at = self.now + seconds

    def dead_letter(self, message: ReceivedMessage, error: FiblakeError) -> None:
        if self.refuse_dead_letters:
            raise UpstreamError("the dead-letter queue fails, as arranged")
        self.dead.append(DeadLetter(message.body, str(error), error))

    def depth(self) -> Depth:
        if self.looks_empty:
            return Depth(0, 0, 0)
        with self._lock:
            waiting = [held for held in self._held.values() if held.visible_at > self.now]
            delayed = sum(held.delayed and held.receives == 0 for held in waiting)
            return Depth(len(self._visible()), len(waiting) - delayed, delayed)

    def _visible(self) -> list[_StoredMessage]:
        return [held for held in self._held.values() if held.visible_at <= self.now]

    def _hand_out(self, held: _StoredMessage, hidden_seconds: float) -> ReceivedMessage:
        held.receives += 1
        held.receipt = f"{held.id}-{held.receives}"
        held.visible_at = self.now + hidden_seconds
        return ReceivedMessage(held.id, held.receipt, held.body, held.receives, held.attributes, NOON)


# ---------------------------------------------------------------------------------------------------------------- jobs


@dataclass
class FakeJobs:
    """A JobQueue that keeps the submitted jobs."""

    waiting: bool = False
    submitted: list[tuple[str, int]] = field(default_factory=list)
    """(what the job's name ends in, size)."""
    error: FiblakeError | None = None

    def ensure(self, suffix: str, size: int) -> str | None:
        return None if self.any_waiting() else self.submit(suffix, size)

    def any_waiting(self) -> bool:
        return self.waiting

    def submit(self, suffix: str, size: int) -> str:
        if self.error:
            raise self.error
        self.submitted.append((suffix, size))
        return f"job-{len(self.submitted)}"


# --------------------------------------------------------------------------------------------------------------- clock


@dataclass
class Clock:
    """A clock that stands still until it is set."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    @contextmanager
    def at(self, instant: datetime) -> Iterator[None]:
        """Show `instant` within the block."""
        before, self.now = self.now, instant
        try:
            yield
        finally:
            self.now = before


# ------------------------------------------------------------------------------------------------------- sample events


def sample(name: str) -> dict[str, Any]:
    """Return the sample event `events/NAME.json`."""
    event: dict[str, Any] = json.loads((REPOSITORY / "events" / f"{name}.json").read_text(encoding="utf-8"))
    return event

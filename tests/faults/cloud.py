"""A simulated AWS below the clients that fiblake uses: a bucket, queues, a topic, and jobs, with a clock of their own.

The product's own `ObjectStore`, `Queue`, `Topic` and `JobQueue` run unchanged on top, so their handling of an error, a
lost answer or a refused batch entry is tested, too. Unlike `tests/fakes.py`, which stands in for these classes
themselves: here an ETag is a hash of the bytes and LastModified is in whole seconds, as in S3, and every request goes
through `Cloud.request`, where a plan may fail it, kill the actor, or let a rival act first.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from botocore.exceptions import EndpointConnectionError
from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

ResultT = TypeVar("ResultT")

BUCKET = "faults-datalake"
START = datetime(2025, 11, 20, 12, 0, 0, 500_000, tzinfo=UTC)
"""Less than a second: an object that is written at an instant and put at once has another LastModified."""
TICK = timedelta(milliseconds=3)
"""How long a request takes."""
MOST_RECEIVES = 6
OUTAGE_LASTS = 3
"""Further requests: as many as are sent for one message, and fewer than a message is received before it is given up."""
ARRIVALS, CONSOLIDATION = "faults-bronze-arrivals", "faults-consolidation"
VISIBILITY = {ARRIVALS: 390, CONSOLIDATION: 300}
RESAMPLE_VISIBILITY = 1830
DEAD = "-dlq"


class Crash(BaseException):
    """The actor's process ends here; none of its code runs after this."""


class Fault(StrEnum):
    """What may befall a request."""

    REFUSED = "fails, nothing is done"
    UNANSWERED = "is done, the answer is lost"
    REPEATED = "is done, the answer is lost, and the client sends it again"
    OUTAGE = "fails, and so do the next ones of its kind"
    KILLED_BEFORE = "the actor dies before it"
    KILLED_AFTER = "the actor dies after it"


class Plan(Protocol):
    """Who acts next, and what fails."""

    def before(self, actor: "Caller", what: str) -> None:
        """Let others act before `actor` sends a request."""

    def fault(self, actor: "Caller", what: str) -> Fault | None:
        """Return what befalls the request."""

    def event(self, what: str) -> list[float]:
        """Return after how many seconds each copy of an event arrives; empty: it is lost."""


class NoFaults:
    """A plan without faults and rivals."""

    def before(self, actor: "Caller", what: str) -> None:
        pass

    def fault(self, _actor: "Caller", _what: str) -> Fault | None:
        return None

    def event(self, _what: str) -> list[float]:
        return [0.0]


@dataclass
class Caller:
    """Whose request it is."""

    name: str
    hasty: bool = False
    """Whether a queue hides from it the messages that others have received: SQS counts approximately."""
    dead: bool = False
    requests: int = 0
    outages: dict[str, int] = field(default_factory=dict)
    """How many more requests of a kind will fail."""


@dataclass(frozen=True)
class Stored:
    """An object in the bucket."""

    data: bytes
    etag: str
    last_modified: datetime

    def __deepcopy__(self, _memo: object) -> "Stored":
        return self


@dataclass
class Sent:
    """A message in a queue."""

    id: str
    body: str
    attributes: dict[str, Any]
    sent_at: datetime
    visible_at: datetime
    receives: int = 0
    receipt: str = ""
    holder: str = ""
    """Who received it last."""


@dataclass
class SimulatedQueue:
    """A queue's messages, by id."""

    name: str
    visibility: float
    messages: dict[str, Sent] = field(default_factory=dict)


@dataclass
class Job:
    """A Batch job: RUNNABLE, RUNNING, SUCCEEDED or FAILED."""

    id: str
    name: str
    status: str = "RUNNABLE"
    attempts: int = 0


@dataclass
class Cloud:
    """The whole state outside of the processes, which survives them."""

    intervals: tuple[int, ...]
    plan: Plan = field(default_factory=NoFaults)
    now: datetime = START
    objects: dict[str, Stored] = field(default_factory=dict)
    queues: dict[str, SimulatedQueue] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    history: list[tuple[str, str]] = field(default_factory=list)
    """(queue, body) of every message that was ever sent: what may come again, or be replayed."""
    guards: list[Callable[["Cloud", str, Stored | None, Stored | None], str | None]] = field(default_factory=list)
    """Called with each change of an object (key, before, after); each returns what is wrong with it."""
    last_id: int = 0

    def __post_init__(self) -> None:
        names = {**VISIBILITY, **{f"faults-resample-{n}d": RESAMPLE_VISIBILITY for n in self.intervals}}
        for name, seconds in names.items():
            self.queues[name] = SimulatedQueue(name, seconds)
            self.queues[name + DEAD] = SimulatedQueue(name + DEAD, 30)

    # What everything goes through.

    def request(
        self, actor: Caller, what: str, execute: Callable[[], ResultT], error: Callable[[str], Exception],
        *, quiet: bool = False,
    ) -> ResultT:  # fmt: skip
        """Execute an actor's request, unless the plan changes it."""
        if actor.dead:
            raise Crash
        actor.requests += 1
        self.plan.before(actor, what)
        if actor.dead:  # killed while it waited for its turn
            raise Crash
        self.now += TICK
        fault = self.plan.fault(actor, what) or _outage(actor, what)
        if fault is Fault.OUTAGE:
            actor.outages[_kind(what)] = OUTAGE_LASTS
        if fault in {Fault.REFUSED, Fault.OUTAGE, Fault.KILLED_BEFORE}:
            self.note(actor, what, fault)
            self._end(actor, fault, what, error)
        try:
            result = execute()
            if fault is Fault.REPEATED:
                self.note(actor, what, fault)
                result = execute()
        except Exception as refusal:
            self.note(actor, what, type(refusal).__name__)
            raise
        if fault or not quiet:
            self.note(actor, what, fault or _answer(result))
        if fault in {Fault.UNANSWERED, Fault.KILLED_AFTER}:
            self._end(actor, fault, what, error)
        return result

    def _end(self, actor: Caller, fault: Fault, what: str, error: Callable[[str], Exception]) -> None:
        if fault in {Fault.KILLED_BEFORE, Fault.KILLED_AFTER}:
            actor.dead = True
            raise Crash
        raise error(f"{what}: {fault}")

    def note(self, actor: Caller | None, what: str, outcome: str = "") -> None:
        """Write a line of the journal."""
        who = actor.name if actor else "somebody"
        self.journal.append(
            f"{self.now:%d %H:%M:%S.%f}"[:-3] + f"  {who:<14} {what}" + (f" -> {outcome}" * bool(outcome))
        )

    def new_id(self, kind: str) -> str:
        """Return an unused id."""
        self.last_id += 1
        return f"{kind}{self.last_id}"

    # The bucket.

    def put(self, key: str, data: bytes) -> Stored:
        """Store an object, and send the notification of S3's rule."""
        before = self.objects.get(key)
        after = Stored(
            data, f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"', self.now.replace(microsecond=0)
        )
        self.objects[key] = after
        self._guard(key, before, after)
        if _passes_the_rule(key):
            self._tell_of(key, after)
        return after

    def delete(self, key: str) -> None:
        """Delete an object."""
        before = self.objects.pop(key)
        self._guard(key, before, None)

    def _guard(self, key: str, before: Stored | None, after: Stored | None) -> None:
        faults = (guard(self, key, before, after) for guard in self.guards)
        for fault in filter(None, faults):
            self.violations.append(fault)
            self.journal.append(f"VIOLATION: {fault}")

    def _tell_of(self, key: str, stored: Stored) -> None:
        body = json.dumps({
            "version": "0", "id": self.new_id("put-"), "detail-type": "Object Created", "source": "aws.s3",
            "time": f"{stored.last_modified:%Y-%m-%dT%H:%M:%SZ}", "region": "us-east-1",
            "detail": {
                "version": "0", "bucket": {"name": BUCKET}, "reason": "PutObject",
                "object": {"key": key, "size": len(stored.data), "etag": stored.etag.strip('"')},
            },
        })  # fmt: skip
        self._deliver(ARRIVALS, body, {}, f"notification of {key}")

    # Queues, topic.

    def _deliver(self, queue: str, body: str, attributes: dict[str, Any], what: str) -> None:
        delays = self.plan.event(what)
        if delays != [0.0]:
            fate = "lost" if not delays else f"arrives after {', '.join(f'{d:.0f} s' for d in delays)}"
            self.note(None, what, fate)
        for delay in delays:
            self.send(queue, body, attributes, delay)

    def publish(self, body: str, attributes: dict[str, Any]) -> None:
        """Put an event into each interval's queue whose filter accepts it."""
        wanted = attributes.get("intervals", {}).get("StringValue")
        for n in self.intervals:
            if wanted is not None and n in json.loads(wanted):
                self._deliver(f"faults-resample-{n}d", body, {}, f"completion for {n}d")

    def send(self, queue: str, body: str, attributes: dict[str, Any], delay: float = 0) -> None:
        """Put a message into a queue."""
        message = Sent(self.new_id("m"), body, attributes, self.now, self.now + timedelta(seconds=delay))
        self.queues[queue].messages[message.id] = message
        if not queue.endswith(DEAD):
            self.history.append((queue, body))

    def receive(self, queue: str, most: int, hidden: float | None = None, holder: str = "") -> list[Sent]:
        """Deliver messages; one that was received too often goes to the dead-letter queue, as in SQS."""
        box, taken = self.queues[queue], list[Sent]()
        for message in [m for m in box.messages.values() if m.visible_at <= self.now]:
            if len(taken) == most:
                break
            if not queue.endswith(DEAD) and message.receives >= MOST_RECEIVES:
                del box.messages[message.id]
                self.queues[queue + DEAD].messages[message.id] = message
                message.visible_at = self.now
                continue
            message.receives += 1
            message.receipt, message.holder = f"{message.id}/{message.receives}", holder
            message.visible_at = self.now + timedelta(seconds=box.visibility if hidden is None else hidden)
            taken.append(message)
        return taken

    def by_receipt(self, queue: str, receipt: str) -> Sent | None:
        """Find the message for which this receipt is still valid."""
        message = self.queues[queue].messages.get(receipt.partition("/")[0])
        return message if message and message.receipt == receipt else None

    def next_visible(self) -> datetime | None:
        """Return when the next hidden message of a queue with work becomes visible."""
        hidden = [
            message.visible_at
            for name, box in self.queues.items()
            if not name.endswith(DEAD)
            for message in box.messages.values()
            if message.visible_at > self.now
        ]
        return min(hidden, default=None)

    def letters(self) -> list[tuple[str, Sent]]:
        """Return all dead letters, with the queue's name."""
        return [(n, m) for n, box in self.queues.items() if n.endswith(DEAD) for m in box.messages.values()]


def _outage(actor: Caller, what: str) -> Fault | None:
    refusals = actor.outages.get(_kind(what), 0)
    actor.outages[_kind(what)] = max(0, refusals - 1)
    return Fault.REFUSED if refusals else None


def _kind(what: str) -> str:
    return what.partition(" ")[0]


def _answer(result: object) -> str:
    if isinstance(result, list):
        return f"{len(result)} entries"
    return "done"


def _passes_the_rule(key: str) -> bool:
    folder, _, name = key.rpartition("/")
    if folder.startswith("bronze/raw_ohlcv/symbol="):
        return name.startswith(("date=", "range=")) and name.endswith(".parquet")
    kinds = ("splits", "dividends", "identities")
    return key.startswith(tuple(f"bronze/{kind}/symbol=" for kind in kinds)) and key.endswith(".parquet")


# ------------------------------------------------------------------------------------------------- the clients' shapes


class ObstoreOfCloud:
    """The stand-in for the module `obstore`: each backend answers its own requests."""

    @staticmethod
    def get(backend: "Backend", key: str, *, options: dict[str, Any] | None = None) -> Any:  # noqa: ANN401
        return backend.get(key, (options or {}).get("if_match"))

    @staticmethod
    def head(backend: "Backend", key: str) -> dict[str, Any]:
        return backend.head(key)

    @staticmethod
    def list_with_delimiter(backend: "Backend", prefix: str) -> dict[str, Any]:
        return {"common_prefixes": backend.folders(prefix)}

    @staticmethod
    def put(backend: "Backend", key: str, data: bytes, *, mode: Any, use_multipart: bool) -> dict[str, Any]:  # noqa: ANN401
        assert not use_multipart, "a multipart upload has another ETag"
        return {"e_tag": backend.put(key, data, mode)}

    @staticmethod
    def list(backend: "Backend", prefix: str) -> Iterator[list[dict[str, Any]]]:
        return iter([backend.page(prefix)])


@dataclass
class _GetResult:
    meta: dict[str, Any]
    data: bytes

    @property
    def range(self) -> tuple[int, int]:
        return 0, len(self.data)

    def bytes(self) -> bytes:
        return self.data


@dataclass
class Backend:
    """One actor's view of the bucket, in obstore's and boto's shapes."""

    cloud: Cloud
    actor: Caller

    def get(self, key: str, if_match: str | None) -> _GetResult:
        def execute() -> _GetResult:
            stored = self._stored(key)
            if if_match is not None and stored.etag != if_match:
                raise PreconditionError(f"{key} is not {if_match}")
            return _GetResult(_meta(key, stored), stored.data)

        return self.cloud.request(self.actor, f"GET {key}", execute, GenericError)

    def head(self, key: str) -> dict[str, Any]:
        return self.cloud.request(self.actor, f"HEAD {key}", lambda: _meta(key, self._stored(key)), GenericError)

    def page(self, prefix: str) -> list[dict[str, Any]]:
        def execute() -> list[dict[str, Any]]:
            return [_meta(key, stored) for key, stored in sorted(self.cloud.objects.items()) if key.startswith(prefix)]

        return self.cloud.request(self.actor, f"LIST {prefix}", execute, GenericError)

    def folders(self, prefix: str) -> list[str]:
        def execute() -> list[str]:
            rests = (key.removeprefix(prefix) for key in self.cloud.objects if key.startswith(prefix))
            return sorted({prefix + rest.partition("/")[0] for rest in rests if "/" in rest})

        return self.cloud.request(self.actor, f"LIST {prefix}*/", execute, GenericError)

    def put(self, key: str, data: bytes, mode: Any) -> str:  # noqa: ANN401 (obstore's PutMode)
        def execute() -> str:
            stored = self.cloud.objects.get(key)
            if mode == "create" and stored:
                raise AlreadyExistsError(f"{key} exists")
            if isinstance(mode, dict):
                if stored is None:
                    raise FileNotFoundError(f"{key}: NoSuchKey")
                if stored.etag != mode["e_tag"]:
                    raise PreconditionError(f"{key} is not {mode['e_tag']}")
            return self.cloud.put(key, bytes(data)).etag

        condition = "" if mode == "overwrite" else " if absent" if mode == "create" else " if unchanged"
        return self.cloud.request(self.actor, f"PUT {key}{condition}", execute, GenericError)

    def delete_objects(self, *, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:  # noqa: N803 (boto's own shape)
        def execute() -> dict[str, Any]:
            answer: dict[str, list[dict[str, str]]] = {"Deleted": [], "Errors": []}
            for entry in Delete["Objects"]:
                key, stored = entry["Key"], self.cloud.objects.get(entry["Key"])
                if stored is None:
                    answer["Errors"].append({"Key": key, "Code": "NoSuchKey", "Message": "none"})
                elif not _is_meant(stored, entry):
                    answer["Errors"].append({"Key": key, "Code": "PreconditionFailed", "Message": "another one"})
                else:
                    self.cloud.delete(key)
                    answer["Deleted"].append({"Key": key})
            return {part: entries for part, entries in answer.items() if entries}

        assert Bucket == BUCKET
        keys = ", ".join(entry["Key"].rpartition("symbol=")[2] for entry in Delete["Objects"])
        return self.cloud.request(self.actor, f"DELETE {keys}", execute, _unreachable)

    def get_paginator(self, operation: str) -> Any:  # noqa: ANN401
        raise AssertionError(f"{operation}: no key of this bucket needs boto's listing")

    def _stored(self, key: str) -> Stored:
        stored = self.cloud.objects.get(key)
        if stored is None:
            raise FileNotFoundError(key)
        return stored


def _is_meant(stored: Stored, entry: dict[str, Any]) -> bool:
    return (
        entry.get("ETag", stored.etag) == stored.etag
        and entry.get("LastModifiedTime", stored.last_modified) == stored.last_modified
        and entry.get("Size", len(stored.data)) == len(stored.data)
    )


def _meta(key: str, stored: Stored) -> dict[str, Any]:
    size = len(stored.data)
    return {"path": key, "e_tag": stored.etag, "size": size, "last_modified": stored.last_modified, "version": None}


@dataclass
class MessagingClient:
    """SQS and SNS as boto's clients answer, for one actor."""

    cloud: Cloud
    actor: Caller

    def get_queue_url(self, *, QueueName: str) -> dict[str, str]:  # noqa: N803
        return {"QueueUrl": url_of(QueueName)}

    def send_message(self, *, QueueUrl: str, MessageBody: str, MessageAttributes: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        name = name_of(QueueUrl)
        return self._ask(f"SEND {name}", lambda: self.cloud.send(name, MessageBody, MessageAttributes) or {})

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        name = name_of(QueueUrl)

        def execute() -> dict[str, Any]:
            for entry in Entries:
                self.cloud.send(name, entry["MessageBody"], entry.get("MessageAttributes", {}))
            return {}

        return self._ask(f"SEND {len(Entries)} to {name}", execute)

    def receive_message(self, *, QueueUrl: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401, N803
        name = name_of(QueueUrl)

        def execute() -> dict[str, Any]:
            most, hidden = options["MaxNumberOfMessages"], options.get("VisibilityTimeout")
            taken = self.cloud.receive(name, most, hidden, self.actor.name)
            if not taken:
                self.cloud.now += timedelta(seconds=options.get("WaitTimeSeconds", 0))
                return {}
            return {"Messages": [_received(message) for message in taken]}

        return self._ask(f"RECEIVE {name}", execute, quiet=not self._visible(name))

    def delete_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        name = name_of(QueueUrl)

        def execute() -> dict[str, Any]:
            for entry in Entries:
                if message := self.cloud.by_receipt(name, entry["ReceiptHandle"]):
                    del self.cloud.queues[name].messages[message.id]
            return {}

        return self._ask(f"DELETE {len(Entries)} messages of {name}", execute)

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        name = name_of(QueueUrl)

        def execute() -> dict[str, Any]:
            for entry in Entries:
                if message := self.cloud.by_receipt(name, entry["ReceiptHandle"]):
                    message.visible_at = self.cloud.now + timedelta(seconds=entry["VisibilityTimeout"])
            return {}

        return self._ask(f"HIDE {len(Entries)} messages of {name}", execute)

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: list[str]) -> dict[str, Any]:  # noqa: N803
        name = name_of(QueueUrl)

        def execute() -> dict[str, Any]:
            held = self.cloud.queues[name].messages.values()
            visible = sum(message.visible_at <= self.cloud.now for message in held)
            hidden = [message for message in held if message.visible_at > self.cloud.now]
            seen = [m for m in hidden if not self.actor.hasty or m.holder == self.actor.name]
            counts = dict.fromkeys(AttributeNames, "0")
            counts["ApproximateNumberOfMessages"] = str(visible)
            counts["ApproximateNumberOfMessagesNotVisible"] = str(len(seen))
            return {"Attributes": counts}

        return self._ask(f"DEPTH {name}", execute, quiet=True)

    def publish_batch(self, *, TopicArn: str, PublishBatchRequestEntries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        def execute() -> dict[str, Any]:
            for entry in PublishBatchRequestEntries:
                self.cloud.publish(entry["Message"], entry["MessageAttributes"])
            return {}

        topic = TopicArn.rpartition(":")[2]
        return self._ask(f"PUBLISH {len(PublishBatchRequestEntries)} to {topic}", execute)

    def _visible(self, name: str) -> bool:
        return any(message.visible_at <= self.cloud.now for message in self.cloud.queues[name].messages.values())

    def _ask(self, what: str, execute: Callable[[], dict[str, Any]], *, quiet: bool = False) -> dict[str, Any]:
        return self.cloud.request(self.actor, what, execute, _unreachable, quiet=quiet)


@dataclass
class BatchClient:
    """AWS Batch as boto's client answers, for one actor: jobs without children, each once RUNNABLE."""

    cloud: Cloud
    actor: Caller

    def submit_job(self, *, jobName: str, jobQueue: str, jobDefinition: str) -> dict[str, str]:  # noqa: N803
        def execute() -> dict[str, str]:
            job = Job(self.cloud.new_id("job-"), jobName)
            self.cloud.jobs.append(job)
            return {"jobId": job.id}

        assert (jobQueue, jobDefinition) == ("faults-queue", "faults-consolidator")
        return self.cloud.request(self.actor, "SUBMIT JOB", execute, _unreachable)

    def get_paginator(self, operation: str) -> "BatchClient":
        assert operation == "list_jobs"
        return self

    def paginate(self, *, jobQueue: str, jobStatus: str) -> list[dict[str, Any]]:  # noqa: N803
        def execute() -> list[dict[str, Any]]:
            jobs = [job for job in self.cloud.jobs if job.status == jobStatus]
            summaries = [{"jobId": j.id, "jobName": j.name, "jobDefinition": "faults-consolidator:1"} for j in jobs]
            return [{"jobSummaryList": summaries}]

        assert jobQueue == "faults-queue"
        return self.cloud.request(self.actor, f"LIST {jobStatus} JOBS", execute, _unreachable)


def url_of(name: str) -> str:
    """Return a queue's URL."""
    return f"https://sqs.us-east-1.amazonaws.com/000000000000/{name}"


def name_of(url: str) -> str:
    """Return a queue's name from its URL."""
    return url.rpartition("/")[2]


def _received(message: Sent) -> dict[str, Any]:
    sent = str(int(message.sent_at.timestamp() * 1000))
    system = {"ApproximateReceiveCount": str(message.receives), "SentTimestamp": sent}
    return {
        "MessageId": message.id, "ReceiptHandle": message.receipt, "Body": message.body, "Attributes": system,
        "MessageAttributes": message.attributes,
    }  # fmt: skip


def _unreachable(what: str) -> Exception:
    return EndpointConnectionError(endpoint_url=what)

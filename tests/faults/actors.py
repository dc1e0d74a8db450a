"""The product's own code as processes of the simulated world: each actor is one invocation, job or command.

Actors run in one thread at a time. A pool of threads processes its items in order, so that a plan that counts requests
counts the same ones each time.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Self

from aws_lambda_powertools.utilities.data_classes import SQSEvent

import fiblake.objects
from fiblake.calendar import nyse
from fiblake.errors import FiblakeError, UpstreamError
from fiblake.lake import Bronze
from services.consolidator.consolidate import Consolidator
from services.consolidator.router import Router
from services.consolidator.worker import Worker
from services.fetcher.quarantine import find_quarantined
from services.fetcher.quarantine import release as release_bar
from services.fetcher.validation import VendorBar
from services.reconcile import adopt
from services.reconcile.reconcile import Outlets, Reconciler, Report
from services.reconcile.silver import Grid
from services.resampler.full import FullResampler
from services.resampler.resample import Resampler, resample_batch
from services.vacuum import bronze as vacuum
from shared import cleanup, objects, outcomes
from shared.dead_letters import DeadLetters, Filter, redrive_to_queue
from shared.jobs import DRAINS, JobQueue
from shared.objects import ObjectStore
from shared.quarantine import list_quarantined, quarantine
from shared.queues import Queue, ReceivedMessage, Topic, from_lambda
from shared.telemetry import logger
from tests.faults.cloud import (
    ARRIVALS,
    BUCKET,
    CONSOLIDATION,
    DEAD,
    MOST_RECEIVES,
    Backend,
    BatchClient,
    Caller,
    Cloud,
    Crash,
    Job,
    MessagingClient,
    ObstoreOfCloud,
    Sent,
    url_of,
)

BRONZE = Bronze()
IDLE_SECONDS = 4
END_OF_INVOCATION, EXIT = "END OF INVOCATION", "END OF JOB"
"""These are no requests, but instants at which a process may die or others may act: the work is done, and no message is
finished.
"""
MESSAGES_AT_ONCE = 5
BUCKETS_BYTES = 1 << 24
Work = Callable[["Process"], object]


@dataclass
class Process(Caller):
    """One run of an actor, and its clients."""

    cloud: Cloud | None = None
    failure: BaseException | None = None
    clock_is_off_by: timedelta = timedelta()

    def now(self) -> datetime:
        """Return the time of this machine's clock."""
        return self.world.now + self.clock_is_off_by

    @property
    def world(self) -> Cloud:
        assert self.cloud is not None
        return self.cloud

    @property
    def store(self) -> ObjectStore:
        backend: Any = Backend(self.world, self)
        return ObjectStore(backend, BUCKET, backend)

    def queue(self, name: str) -> Queue:
        client: Any = MessagingClient(self.world, self)
        return Queue(client, url_of(name))

    def topic(self, name: str) -> Topic:
        client: Any = MessagingClient(self.world, self)
        return Topic(client, f"arn:aws:sns:us-east-1:000000000000:{name}")

    @property
    def jobs(self) -> JobQueue:
        client: Any = BatchClient(self.world, self)
        return JobQueue(client, "faults-queue", "faults-consolidator", DRAINS)

    def run(self, work: Work) -> None:
        """Run to the end: success, failure, or death."""
        try:
            work(self)
        except Crash:
            self.world.note(self, "is dead")
        except FiblakeError as error:
            self.failure = error
            self.world.note(self, f"fails: {error}")
        except Exception as error:  # noqa: BLE001 (a traceback is what we look for)
            self.failure = error
            self.dead = True
            self.world.violations.append(f"{self.name} ends with a traceback: {type(error).__name__}: {error}")

    @property
    def succeeded(self) -> bool:
        return not self.dead and self.failure is None


# ------------------------------------------------------------------------------------------------------- invocations


def route(messages: Sequence[Sent]) -> Work:
    """Invoke the router with messages of `bronze-arrivals`."""

    def work(process: Process) -> None:
        queue = process.queue(CONSOLIDATION)
        router = Router(BUCKET, BRONZE, queue, process.jobs, 100, 10, lambda: process.world.new_id("run-"))
        _invoke(process, ARRIVALS, messages, router.route)

    return work


def resample(interval: int, messages: Sequence[Sent]) -> Work:
    """Invoke the resampler with messages of its interval's queue."""

    def work(process: Process) -> None:
        resampler = Resampler(process.store, BRONZE, nyse(), process.topic("silver-updated"), interval, 0)
        now = process.now()
        _invoke(process, f"faults-resample-{interval}d", messages, lambda read: resample_batch(resampler, read, now))

    return work


_QUEUES: dict[str, Queue] = {}
"""The part of the ARN in its event that each invocation uses."""


def _invoke(
    process: Process, name: str, messages: Sequence[Sent],
    work: Callable[[Sequence[ReceivedMessage]], dict[str, FiblakeError]],
) -> None:  # fmt: skip
    """Do the same as Lambda's event source mapping: pass a batch on, and delete the messages that are not named as
    failed.
    """
    arn = f"arn:aws:sqs:us-east-1:{process.name}:{name}"
    _QUEUES[arn] = process.queue(name)
    event = {"Records": [_record(name, message) for message in messages]}
    received = [from_lambda(record) for record in SQSEvent(event).records]
    answer = outcomes.process_messages(arn, received, work, MOST_RECEIVES)
    del _QUEUES[arn]
    failed = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
    process.world.request(
        process, END_OF_INVOCATION, lambda: _forget(process.world, name, received, failed), AssertionError
    )


def _forget(cloud: Cloud, name: str, received: Sequence[ReceivedMessage], failed: set[str]) -> None:
    for message in received:
        if message.id not in failed and cloud.by_receipt(name, message.receipt):
            del cloud.queues[name].messages[message.id]


def _record(name: str, message: Sent) -> dict[str, Any]:
    own = {
        key: {"stringValue": value["StringValue"], "dataType": value["DataType"]}
        for key, value in message.attributes.items()
    }
    system = {"ApproximateReceiveCount": str(message.receives)}
    return {
        "messageId": message.id, "receiptHandle": message.receipt, "body": message.body, "attributes": system,
        "messageAttributes": own, "eventSource": "aws:sqs", "eventSourceARN": f"arn:aws:sqs:us-east-1:0:{name}",
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- jobs and commands


def drain(job: Job | None, retention_days: int | None) -> Work:
    """Run the worker as Batch does: again, if it is killed or fails."""

    def work(process: Process) -> None:
        topic = process.topic("consolidation-complete")
        consolidator = Consolidator(process.store, BRONZE, nyse())
        worker = Worker(consolidator, topic, process.name, process.now, 2, retention_days)
        worker.drain(process.queue(CONSOLIDATION), 10, MOST_RECEIVES, IDLE_SECONDS)

    def attempt(process: Process) -> None:
        if job is None:
            work(process)
            return
        job.status, job.attempts = "RUNNING", job.attempts + 1
        try:
            work(process)
            process.world.request(process, EXIT, lambda: None, AssertionError)
        except BaseException:
            job.status = "RUNNABLE"
            raise
        job.status = "SUCCEEDED"

    return attempt


def consolidate_all(retention_days: int | None) -> Work:
    """Run the worker without the queue, over all source files of every symbol (`--mode full`)."""

    def work(process: Process) -> None:
        topic = process.topic("consolidation-complete")
        consolidator = Consolidator(process.store, BRONZE, nyse())
        worker = Worker(consolidator, topic, process.name, process.now, 2, retention_days)
        symbols = BRONZE.symbols_in(process.store.folders(f"{BRONZE.prefix}/"))
        worker.consolidate(symbols, 10, full=True)

    return work


def resample_all(process: Process) -> None:
    """Run the job that computes all of silver."""
    updated = process.topic("silver-updated")
    FullResampler(process.store, BRONZE, nyse(), updated, 0, adjusted=True, most_bytes=BUCKETS_BYTES).run(process.now())


def vacuum_all(retention_days: int) -> Work:
    """Run the vacuum over all symbols."""

    def work(process: Process) -> None:
        run = vacuum.Vacuum(process.store, BRONZE, 2)
        vacuum.execute(run, vacuum.plan(run, (), retention_days, process.world.now), process.name)

    return work


def audit(process: Process) -> Report:
    """Run the audit, and enqueue the repairs of what lags."""
    reconciler = audit_of(process)
    report = reconciler.audit((), None, intervals=process.world.intervals)
    if report.lags:
        for lag in report.lags:
            interval = f" {lag.interval}d" if lag.interval else ""
            process.world.note(process, f"finds {lag.symbol}{interval} {lag.cause.name}: {lag.detail}")
        _outlets(process).enqueue(report.lags, process.world.new_id("audit-"))
    return report


def adopt_all(process: Process) -> None:
    """Adopt the files of another program's jobs, as `fiblake adopt --yes` does."""
    to_adopt = adopt.find_foreign(audit_of(process))
    adopt.move_away(process.store, to_adopt.unreadable)
    _outlets(process).enqueue(to_adopt.symbols, process.world.new_id("adopt-"))


def replay_letters(process: Process) -> None:
    """Send all dead letters back to their queues, as `fiblake dlq replay` does."""
    unsent = 0
    for name in [name for name in process.world.queues if name.endswith(DEAD)]:
        source = name.removesuffix(DEAD)
        letters = DeadLetters(source, process.queue(name), redrive_to_queue(process.queue(source)))
        outcome = letters.replay(Filter(), process.world.now, most_replays=3)
        unsent += outcome.unsent
        if source == CONSOLIDATION and (outcome.done or process.queue(source).depth().visible):
            process.jobs.ensure(process.world.new_id("run-"), 1)
    if unsent:
        raise UpstreamError(f"{unsent} letters were not sent: run it again")


def release(symbol: str, session: date) -> Work:
    """Release a bar from quarantine, as `fiblake quarantine release` does."""

    def work(process: Process) -> None:
        store, now, database = process.store, process.world.now, NoDatabase()
        bar = find_quarantined(list_quarantined(store, symbol), symbol, session, None)
        releasing: Any = release_bar(store, BRONZE, database, nyse(), bar, "somebody", now)  # type: ignore[arg-type]
        asyncio.run(releasing)

    return work


def release_any(symbol: str) -> Work:
    """Release the first bar of a symbol from quarantine, if there is one."""

    def work(process: Process) -> None:
        for bar in list_quarantined(process.store, symbol)[:1]:
            release(symbol, bar.bar.session)(process)

    return work


def hold(symbol: str, session: date, close: float) -> Work:
    """Put a bar whose high is below its close into quarantine, as the fetcher does."""

    def work(process: Process) -> None:
        bar = VendorBar(symbol, session, close, close - 1, close - 2, close, 1_000.0, None, None)
        quarantine(process.store, [(bar, "high is below close")], process.world.now)

    return work


class NoDatabase:
    """A Postgres without content: silver does not depend on it."""

    @asynccontextmanager
    async def session_lock(self, _work: str) -> Any:  # noqa: ANN401
        yield

    async def note(self, _scope: str, _keys: object) -> None:
        pass

    async def store(self, _rows: object, _settled: object) -> None:
        pass


def audit_of(process: Process) -> Reconciler:
    """Return the audit, which changes nothing."""
    return Reconciler(process.store, BRONZE, Grid(nyse(), adjusted=True), process.world.now.date())


def _outlets(process: Process) -> Outlets:
    topic = process.topic("consolidation-complete")
    return Outlets(process.queue(CONSOLIDATION), topic, process.jobs, 100)


# ----------------------------------------------------------------------------------------------- a process without luck


class InOrder:
    """A pool of threads that processes its items one after the other, in the caller's thread."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> "Future[Any]":  # noqa: ANN401
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:  # noqa: BLE001 (whoever asks for the result gets it)
            future.set_exception(error)
        return future

    def map(self, work: Callable[..., Any], *items: Any) -> Iterator[Any]:  # noqa: ANN401
        futures = [self.submit(work, *arguments) for arguments in zip(*items, strict=False)]
        return (future.result() for future in futures)

    def shutdown(self, *_: object, **__: object) -> None:
        pass


@contextmanager
def simulated(intervals: tuple[int, ...]) -> Iterator[None]:
    """Connect the product's code to simulated worlds, without threads, pauses, random numbers or output of its own."""
    replaced: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, value: Any) -> None:  # noqa: ANN401
        replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    for module in [m for name, m in sys.modules.items() if name.startswith(("fiblake.", "services.", "shared."))]:
        if hasattr(module, "ThreadPoolExecutor"):
            replace(module, "ThreadPoolExecutor", InOrder)
        if hasattr(module, "INTERVALS"):
            replace(module, "INTERVALS", intervals)
    for module in (fiblake.objects, objects):
        replace(module, "obstore", ObstoreOfCloud)
    replace(outcomes, "queue_of_arn", _QUEUES.__getitem__)
    replace(cleanup, "FILES_PER_LOT", 2)
    replace(objects, "random", random.Random(0))  # noqa: S311 (no secret)
    replace(time, "sleep", lambda _seconds: None)
    level = logger.log_level
    logger.setLevel("CRITICAL")
    for module in [m for name, m in sys.modules.items() if name.startswith(("fiblake.", "services.", "shared."))]:
        if hasattr(module, "emit_metrics") and getattr(module.emit_metrics, "__module__", "") == "shared.telemetry":
            replace(module, "emit_metrics", lambda **_: None)
    try:
        yield
    finally:
        logger.setLevel(level)
        for owner, name, value in reversed(replaced):
            setattr(owner, name, value)


def advance(cloud: Cloud, seconds: float) -> None:
    """Let time pass."""
    cloud.now += timedelta(seconds=seconds)

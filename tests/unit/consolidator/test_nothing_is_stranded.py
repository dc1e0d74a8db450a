"""Whatever fails, a request in the queue has a job that will receive it, or an arrival that starts one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st

from fiblake.errors import UpstreamError
from services.consolidator.router import Router
from shared.events import ConsolidationRequest, parse
from shared.outcomes import finish_messages
from shared.queues import ReceivedMessage
from tests.fakes import BUCKET, LAKE, FakeJobs, FakeQueue

MOST_RECEIVES = 6
VISIBILITY = 300
SYMBOLS = st.sampled_from(["AAPL", "MSFT", "BRK.B"])
# Short schedules and many failures: a longer one mostly ends with an arrival that repairs the earlier failures.
STEP = st.one_of(
    st.tuples(st.just("arrive"), SYMBOLS),
    st.tuples(st.sampled_from(["route", "start", "wait"]), st.none()),
    st.tuples(st.sampled_from(["route, and Batch fails", "route, and SQS fails"]), st.none()),
    # A job receives this many messages; it finishes them, or is killed before.
    st.tuples(
        st.sampled_from(["work", "is killed", "finds nothing and is about to leave", "leave"]), st.integers(1, 3)
    ),
)


@dataclass
class Job:
    """A running job; it does not receive again after the queue was empty."""

    leaving: bool = False


@dataclass
class Chain:
    """The router between its two queues, and the jobs that it submits, step by step."""

    arrivals: FakeQueue = field(default_factory=lambda: FakeQueue("test-bronze-arrivals", 390))
    consolidation: FakeQueue = field(default_factory=lambda: FakeQueue("test-consolidation", VISIBILITY))
    jobs: FakeJobs = field(default_factory=FakeJobs)
    running: list[Job] = field(default_factory=list)
    kills_are_final: bool = False
    """A killed job is not started again: it has no attempts left."""
    open: set[str] = field(default_factory=set)
    """Symbols that arrived and were not consolidated since."""

    def __post_init__(self) -> None:
        self.router = Router(BUCKET, LAKE, self.consolidation, self.jobs, 100, 10, lambda: "id")  # type: ignore[arg-type]

    def do(self, step: str, what: str | int | None) -> None:
        match step:
            case "arrive":
                self.arrive(str(what))
            case "start" if self.jobs.waiting:
                self.jobs.waiting = False
                self.running.append(Job())
            case "wait":
                self.arrivals.now += VISIBILITY
                self.consolidation.now += VISIBILITY
            case "work" if self.at_work:
                self.consolidation.delete(self.taken(int(what or 0)))
            case "is killed" if self.running:
                self.taken(int(what or 0), finished=False)
                self.running.pop()
                self.jobs.waiting |= not self.kills_are_final
            case "finds nothing and is about to leave" if self.at_work and self.consolidation.depth().empty:
                self.at_work[0].leaving = True
            case "leave" if any(job.leaving for job in self.running):
                self.running.remove(next(job for job in self.running if job.leaving))
            case _ if step.startswith("route"):
                self.route(batch_fails="Batch" in step, sqs_fails="SQS" in step)

    def arrive(self, symbol: str) -> None:
        key = LAKE.date_key(symbol, date(2025, 11, 19))
        record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": BUCKET}, "object": {"key": key}}}
        self.arrivals.put(json.dumps({"Records": [record]}))
        self.open.add(symbol)

    def route(self, *, batch_fails: bool = False, sqs_fails: bool = False) -> None:
        """Invoke the function with one batch, and finish its messages according to the answer."""
        self.jobs.error = UpstreamError("Batch is away") if batch_fails else None
        self.consolidation.refuse_sends = lambda body: sqs_fails and "MSFT" in body
        messages = self.arrivals.receive()
        before = len(self.jobs.submitted)
        errors = self.router.route(messages)
        self.jobs.waiting |= len(self.jobs.submitted) > before
        self.arrivals.delete(finish_messages(self.arrivals, messages, errors, MOST_RECEIVES))

    @property
    def at_work(self) -> list[Job]:
        return [job for job in self.running if not job.leaving]

    def taken(self, most: int, *, finished: bool = True) -> list[ReceivedMessage]:
        if not self.at_work:
            return []
        messages = self.consolidation.receive(most)
        if finished:
            self.open -= {parse(ConsolidationRequest, message.body).symbol for message in messages}
        return messages

    def finish_all_work(self) -> None:
        """Let time pass, without further faults, until no work is left."""
        for _ in range(3 * MOST_RECEIVES):
            if not (self.arrivals.bodies() or self.jobs.waiting or self.running):
                return
            for _ in range(3):
                self.do("wait", None)
            self.do("route", None)
            self.do("start", None)
            while self.at_work:
                self.do("work", 10)
                self.do("finds nothing and is about to leave", 1)
                if not self.at_work or self.consolidation.depth().visible == 0:
                    break
            for job in list(self.running):
                if job.leaving:
                    self.running.remove(job)


def after(steps: Sequence[tuple[str, str | int | None]], *, kills_are_final: bool = False) -> Chain:
    chain = Chain(kills_are_final=kills_are_final)
    for step, what in steps:
        chain.do(step, what)
    return chain


@settings(max_examples=4 * settings().max_examples)
@given(st.lists(STEP, max_size=10))
def test_no_schedule_of_failures_strands_a_message(steps: list[tuple[str, str | int | None]]) -> None:
    chain = after(steps)
    chain.finish_all_work()
    if not chain.arrivals.dead:
        assert (chain.open, chain.consolidation.bodies(), chain.arrivals.bodies()) == (set(), [], [])


@settings(max_examples=4 * settings().max_examples)
@given(st.lists(STEP, max_size=10))
def test_what_outlived_every_retry_is_done_with_the_next_arrival_or_is_a_dead_letter(
    steps: list[tuple[str, str | int | None]],
) -> None:
    chain = after(steps, kills_are_final=True)
    chain.finish_all_work()
    chain.arrive("NEXT")
    chain.finish_all_work()
    dead = {letter.body for letter in chain.arrivals.dead}
    assert chain.consolidation.bodies() == []
    assert all(any(symbol in body for body in dead) for symbol in chain.open)


def test_a_request_that_is_sent_while_a_job_is_about_to_leave_gets_a_job_of_its_own() -> None:
    steps: list[tuple[str, str | int | None]] = [
        ("arrive", "AAPL"), ("route", None), ("start", None), ("work", 1), ("finds nothing and is about to leave", 1),
        ("arrive", "MSFT"), ("route", None), ("leave", 1),
    ]  # fmt: skip
    chain = after(steps)
    assert (chain.running, chain.jobs.waiting, chain.open) == ([], True, {"MSFT"})
    chain.finish_all_work()
    assert chain.open == set()


def test_while_batch_takes_no_job_the_arrivals_stay_and_bring_one_later() -> None:
    steps: list[tuple[str, str | int | None]] = [("arrive", "AAPL"), ("route, and Batch fails", None)]
    chain = after(steps)
    assert (chain.jobs.submitted, len(chain.arrivals.bodies()), len(chain.consolidation.bodies())) == ([], 1, 1)
    chain.finish_all_work()
    assert (chain.open, chain.arrivals.dead) == (set(), [])

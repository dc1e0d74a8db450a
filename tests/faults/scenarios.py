"""Systematic scenarios: one actor, with an event at each of its requests.

Each scenario prepares a lake, starts one actor, and is run again for every request of that actor: the actor dies there,
the request fails in each possible way, or a rival does all its work there. Then the lake must heal.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.faults import actors
from tests.faults.actors import Work
from tests.faults.cloud import ARRIVALS, CONSOLIDATION, DEAD, VISIBILITY, Caller, Fault, Job
from tests.faults.turns import Turns
from tests.faults.world import BARS_PREFIX, PAUSE_SECONDS, World, session

WRITES = ("PUT", "DELETE", "SEND", "PUBLISH", "SUBMIT", "HIDE", "RECEIVE")
MESSAGES = ("SEND", "PUBLISH", "SUBMIT")
MOST_REQUESTS = 500
"""An actor with more would make a scenario without an end."""


@dataclass(frozen=True)
class Scenario:
    """The prepared lake, the actor, and its rivals."""

    name: str
    setup: Callable[[World], None]
    """Prepares a lake, runs all work on it, and then lets something arrive."""
    actor: Callable[[World], tuple[str, Work]]
    """The actor to which something happens at every request, made when it begins."""
    rivals: dict[str, Callable[[World], None]]
    run_again: bool = False
    """Whether the actor is run again until it succeeds, by a person or by Lambda."""
    retention_days: int | None = None


@dataclass
class AtRequest:
    """A plan in which one thing happens: at the n-th request of one actor, a fault or a rival."""

    nth: int = 0
    fault_there: Fault | None = None
    rival: Callable[[], None] | None = None
    watched: Caller | None = None
    turns: Turns = field(default_factory=Turns)
    met: str = ""
    """The request at which it happened."""
    requests: list[str] = field(default_factory=list)

    def before(self, actor: Caller, what: str) -> None:
        if actor is self.watched:
            self.requests.append(what)
            if actor.requests == self.nth and self.rival:
                self.met = what
                self.rival()
        self.turns.hand_over(actor, what)

    def fault(self, actor: Caller, what: str) -> Fault | None:
        if actor is self.watched and actor.requests == self.nth and self.fault_there:
            self.met = what
            return self.fault_there
        return None

    def event(self, _what: str) -> list[float]:
        return [0.0]


@dataclass(frozen=True)
class Point:
    """One run of a scenario: what happens, and at which request of the actor."""

    scenario: Scenario
    what: str
    nth: int
    plan: Callable[[World], AtRequest]

    def __str__(self) -> str:
        return f"{self.scenario.name}: {self.what} at request {self.nth}"


def points(scenario: Scenario, *, thorough: bool) -> Iterator[Point]:
    """Return all points: crashes, rivals, and messages that cannot be sent; if thorough all other faults too."""
    _, plan, _ = run(scenario, lambda _world: AtRequest())
    requests = plan.requests
    assert len(requests) < MOST_REQUESTS
    for nth, request in enumerate(requests, 1):
        for fault in _faults(request, nth, thorough=thorough):
            yield Point(scenario, f"{fault} ({request})", nth, lambda _w, n=nth, f=fault: AtRequest(n, f))
        for name, rival in scenario.rivals.items():
            there = lambda w, n=nth, r=rival: AtRequest(n, rival=lambda: r(w))  # noqa: E731
            yield Point(scenario, f"{name} ({request})", nth, there)


def _faults(request: str, nth: int, *, thorough: bool) -> list[Fault]:
    always = [*([Fault.KILLED_BEFORE] if nth == 1 else []), Fault.KILLED_AFTER]
    always += [Fault.OUTAGE] * request.startswith(MESSAGES)
    if not thorough or request.startswith("END"):
        return always
    # Letters in an answer that is lost stay hidden in their queue: a replay must receive them once more.
    if not request.startswith(WRITES) or (request.startswith("RECEIVE") and request.endswith(DEAD)):
        return [*always, Fault.REFUSED]
    return list(dict.fromkeys([*always, Fault.REFUSED, Fault.UNANSWERED, Fault.REPEATED, Fault.OUTAGE]))


_LAID: dict[str, World] = {}


def run(scenario: Scenario, plan_of: Callable[[World], AtRequest]) -> tuple[World, AtRequest, list[str]]:
    """Run a scenario once; return the world, the plan, and what is wrong in the end."""
    if scenario.name not in _LAID:
        _LAID[scenario.name] = World(retention_days=scenario.retention_days)
        scenario.setup(_LAID[scenario.name])
    world = _LAID[scenario.name].fork()
    plan = plan_of(world)
    world.cloud.plan = plan
    name, work = scenario.actor(world)
    process = world.process(name, hasty=True)
    plan.watched = process
    process.run(work)
    for turn in list(plan.turns.waiting):
        turn.finish()
    while scenario.run_again and not process.succeeded and world.processes < MOST_REQUESTS:
        actors.advance(world.cloud, PAUSE_SECONDS)
        name, work = scenario.actor(world)
        process = world.run(name, work)
    return world, plan, world.heal()


# ----------------------------------------------------------------------------------------------------------- the parts

BASE = {back: 100.0 + back for back in range(4, 14)}
ONE_SPLIT, TWO_SPLITS = {6: (1, 2)}, {6: (1, 2), 3: (4, 1)}
ONE_DIVIDEND, TWO_DIVIDENDS = {6: 0.5}, {6: 0.5, 3: 0.25}


def _base(world: World) -> None:
    """Lay ten bars of one symbol, consolidated and resampled."""
    world.put_bars("AAPL", BASE)
    world.settle()


def _route(world: World) -> None:
    """Let the router process the arrivals; no other actor runs."""
    while world.visible(ARRIVALS):
        world.run("router", actors.route(world.cloud.receive(ARRIVALS, 10)))


def _worker(world: World) -> tuple[str, Work]:
    """Start the job that the router has submitted."""
    [job] = [job for job in world.cloud.jobs if job.status == "RUNNABLE"]
    return "worker", actors.drain(job, world.retention_days)


def _resampler(world: World) -> tuple[str, Work]:
    interval = world.cloud.intervals[0]
    return f"resampler-{interval}d", actors.resample(interval, world.cloud.receive(f"faults-resample-{interval}d", 10))


def _others_work(world: World) -> None:
    """Let all others do their work; the actor's messages come again, as if it took too long."""
    actors.advance(world.cloud, VISIBILITY[CONSOLIDATION] + 1)
    world.run("worker", actors.drain(None, world.retention_days), hasty=True)
    world.work_off()


def _vacuum(world: World) -> None:
    world.run("vacuum", actors.vacuum_all(0))


def _full_resample(world: World) -> None:
    world.run("full-resample", actors.resample_all)


def _adopt(world: World) -> None:
    world.run("adopt", actors.adopt_all)
    world.work_off()


def _audit(world: World) -> None:
    world.run("audit", actors.audit)
    world.work_off()


def _then(*acts: Callable[[World], None]) -> Callable[[World], None]:
    def all_of_them(world: World) -> None:
        for act in acts:
            act(world)

    return all_of_them


def _put(back: int, close: float) -> Callable[[World], None]:
    return lambda world: world.put_bars("AAPL", {back: close})


def _worker_beside_a_paused_one(before: str) -> Callable[[World], tuple[str, Work]]:
    """Let a worker take the message and pause before a request; the actor takes the same message after its timeout."""

    def begin(world: World) -> tuple[str, Work]:
        _, work = _worker(world)
        paused = _plan(world).turns.start(world.process("paused-worker", hasty=True), work)
        paused.step_to(before)
        actors.advance(world.cloud, VISIBILITY[CONSOLIDATION] + 1)
        return _another_job(world)

    return begin


def _another_job(world: World) -> tuple[str, Work]:
    """Start a job that was submitted for another arrival."""
    world.cloud.jobs.append(Job(world.cloud.new_id("job-"), "drain-another"))
    return _worker(world)


def _paused_one_writes_and_dies(world: World) -> None:
    for turn in list(_plan(world).turns.waiting):
        turn.step()
        turn.kill()


def _paused_one_goes_on(world: World) -> None:
    for turn in list(_plan(world).turns.waiting):
        turn.finish()


def _plan(world: World) -> AtRequest:
    plan = world.cloud.plan
    assert isinstance(plan, AtRequest)
    return plan


# ------------------------------------------------------------------------------------------------------- the scenarios


def _splits_arrive(world: World) -> None:
    world.put_bars("AAPL", {back: 100.0 + back for back in range(14)})
    world.put_splits("AAPL", ONE_SPLIT)
    world.settle()
    world.put_splits("AAPL", TWO_SPLITS)
    _route(world)


SPLITS_PUT_BACK = Scenario(
    "splits are put, and put back",
    _splits_arrive,
    _worker,
    {
        "the file is put back and consolidated": lambda w: (w.put_splits("AAPL", ONE_SPLIT), w.work_off()),
        "the file is put back": lambda w: w.put_splits("AAPL", ONE_SPLIT),
        "others do it first": _others_work,
    },
)


def _dividends_arrive(world: World) -> None:
    world.put_bars("AAPL", {back: 100.0 + back for back in range(14)})
    world.put_dividends("AAPL", ONE_DIVIDEND)
    world.settle()
    world.put_dividends("AAPL", TWO_DIVIDENDS)
    _route(world)


DIVIDENDS_PUT_BACK = Scenario(
    "dividends are put, and put back",
    _dividends_arrive,
    _worker,
    {
        "the file is put back and consolidated": lambda w: (w.put_dividends("AAPL", ONE_DIVIDEND), w.work_off()),
        "the file is put back": lambda w: w.put_dividends("AAPL", ONE_DIVIDEND),
        "a split arrives beside them": lambda w: (w.put_splits("AAPL", ONE_SPLIT), w.work_off()),
        "a split is put that no worker has read": lambda w: w.put_splits("AAPL", ONE_SPLIT),
        "others do it first": _others_work,
    },
)


def _first_bar_arrives(world: World) -> None:
    world.put_bars("AAPL", {10: 100.0})
    _route(world)


FIRST_CONSOLIDATION = Scenario(
    "a first consolidation beside a clean-up",
    _first_bar_arrives,
    _worker,
    {
        "others do it first and clean up": _then(_others_work, _vacuum),
        "a second bar arrives": _then(_put(9, 90.0), _route),
    },
    retention_days=0,
)


def _splits_beside_the_first_consolidation(world: World) -> tuple[str, Work]:
    """Pause a worker that has read no splits before it writes; then splits arrive, and the actor has their message."""
    _, work = _worker(world)
    paused = _plan(world).turns.start(world.process("paused-worker", hasty=True), work)
    paused.step_to("PUT bronze/raw_ohlcv/symbol=AAPL/data.parquet")
    world.put_splits("AAPL", {10: (1, 2)})
    _route(world)
    return _worker(world)


def _first_bars_arrive(world: World) -> None:
    world.put_bars("AAPL", {11: 200.0, 10: 100.0})
    _route(world)


FIRST_SPLITS = Scenario(
    "splits arrive beside a first consolidation and a clean-up",
    _first_bars_arrive,
    _splits_beside_the_first_consolidation,
    {
        "the first one goes on": _paused_one_goes_on,
        "the first one goes on, and a vacuum follows": lambda w: (_paused_one_goes_on(w), _vacuum(w)),
    },
    retention_days=0,
)


def _bar_shows_a_split(world: World) -> None:
    """Let a bar arrive that is the first after a split; the log of data.parquet has only the bar before it."""
    world.put_bars("AAPL", dict.fromkeys(range(6, 14), 100.0))
    world.put_splits("AAPL", {3: (1, 2)})
    world.settle()
    for back in (5, 4):
        world.put_bars("AAPL", {back: 100.0})
        world.settle()
    world.put_bars("AAPL", {3: 50.0})
    _route(world)


MATE_DIES = Scenario(
    "a mate with the same message writes, dies, and is cleaned up behind",
    _bar_shows_a_split,
    _worker_beside_a_paused_one("PUT bronze/raw_ohlcv/symbol=AAPL/data.parquet"),
    {
        "the mate writes and dies, and a vacuum follows": _then(_paused_one_writes_and_dies, _vacuum),
        "the mate goes on": _paused_one_goes_on,
    },
    retention_days=0,
)


def _restated_there_and_back(world: World) -> None:
    world.put_bars("AAPL", BASE)
    world.put_bars("AAPL", {3: 50.0}, with_instants=False)
    first = world.cloud.objects[f"{BARS_PREFIX}AAPL/date={session(3)}.parquet"].data
    world.settle()
    world.put_bars("AAPL", {3: 60.0}, as_range=True)
    world.settle()
    actors.advance(world.cloud, 5)
    world.put(f"{BARS_PREFIX}AAPL/date={session(3)}.parquet", first)
    _route(world)


THERE_AND_BACK = Scenario(
    "a bar is restated there and back",
    _restated_there_and_back,
    _worker,
    {"others do it first": _others_work, "it is restated once more": _then(_put(3, 60.0), World.work_off)},
)

FULL_BESIDE_LIVE = Scenario(
    "a full resample beside live ones",
    _base,
    lambda _world: ("full-resample", actors.resample_all),
    {
        "a new bar arrives": _then(_put(3, 90.0), World.work_off),
        "a bar is restated": _then(_put(8, 50.0), World.work_off),
        "a split is shown": lambda w: (w.put_splits("AAPL", ONE_SPLIT), w.work_off()),
    },
)


def _restated(world: World) -> None:
    _base(world)
    world.put_bars("AAPL", {8: 50.0})
    _route(world)
    world.run("worker", _worker(world)[1])


LIVE_BESIDE_FULL = Scenario(
    "a live resampler beside full ones and others",
    _restated,
    _resampler,
    {
        "a full resample runs": _full_resample,
        "the bar is restated back": _then(_put(8, 108.0), World.work_off),
        "the bar is restated back, and a full resample runs": _then(_put(8, 108.0), World.work_off, _full_resample),
    },
)

VACUUM_BESIDE_RESTATEMENT = Scenario(
    "a vacuum beside a restatement",
    _then(_base, _put(3, 90.0), World.settle),
    lambda _world: ("vacuum", actors.vacuum_all(0)),
    {"a bar is restated": _put(3, 50.0), "a bar is restated and consolidated": _then(_put(3, 50.0), World.work_off)},
)


def _worker_that_is_about_to_publish(world: World) -> tuple[str, Work]:
    """Pause a worker right after it has merged a file; all of it is within one second of the file's put."""
    paused = _plan(world).turns.start(world.process("paused-worker", hasty=True), _worker(world)[1])
    paused.step_to("PUBLISH")
    return "vacuum", actors.vacuum_all(0)


def _restate_within_the_second(world: World) -> None:
    world.put_bars("AAPL", {3: 50.0}, at_once=True)


VACUUM_WITHIN_A_SECOND = Scenario(
    "a vacuum beside a restatement within a second",
    lambda world: (_base(world), _put(3, 90.0)(world), _route(world)),
    _worker_that_is_about_to_publish,
    {"a bar is restated": _restate_within_the_second},
)


def _merged_without_an_instant(world: World) -> None:
    _base(world)
    world.put_bars("AAPL", {3: 90.0}, with_instants=False)
    world.settle()


def _same_bytes_again(world: World) -> None:
    """Restate the bar in a range file, and put the first file's bytes again: it is put last, with the ETag it had."""
    key = f"{BARS_PREFIX}AAPL/date={session(3)}.parquet"
    first = world.cloud.objects.get(key)
    world.put_bars("AAPL", {3: 50.0}, as_range=True)
    world.work_off()
    actors.advance(world.cloud, 5)
    if first:
        world.put(key, first.data)


VACUUM_BESIDE_SAME_BYTES = Scenario(
    "a vacuum beside the same bytes put again",
    _merged_without_an_instant,
    lambda _world: ("vacuum", actors.vacuum_all(0)),
    {
        "the file is put again": _same_bytes_again,
        "it is put again and merged": _then(_same_bytes_again, World.work_off),
    },
)


def _new_bar(world: World) -> None:
    _base(world)
    world.put_bars("AAPL", {3: 90.0})
    _route(world)


CLEAN_UP_BESIDE_RESTATEMENT = Scenario(
    "a worker that cleans up beside a restatement",
    _new_bar,
    _worker,
    {"the bar is restated": _put(3, 50.0), "the bar is restated and consolidated": _then(_put(3, 50.0), _others_work)},
    retention_days=0,
)


def _old_events(world: World) -> None:
    """Replay all completion events of a bar that was restated and restored, at once."""
    _base(world)
    for close in (50.0, 112.0):
        world.put_bars("AAPL", {12: close})
        world.settle()
    queue = f"faults-resample-{world.cloud.intervals[0]}d"
    for old, body in list(world.cloud.history):
        if old == queue:
            world.cloud.send(queue, body, {})


REPLAYED_EVENTS = Scenario(
    "old completion events are replayed",
    _old_events,
    _resampler,
    {"a bar is restated": _then(_put(12, 70.0), World.work_off), "a full resample runs": _full_resample},
)


def _late_event(world: World) -> None:
    """Restate a bar and restore it, and let the event of the first restatement come last."""
    _base(world)
    queue = world.cloud.queues[f"faults-resample-{world.cloud.intervals[0]}d"]
    world.put_bars("AAPL", {12: 50.0})
    _route(world)
    world.run("worker", _worker(world)[1], hasty=True)
    late = dict(queue.messages)
    queue.messages.clear()
    world.put_bars("AAPL", {12: 112.0})
    world.work_off()
    queue.messages |= late


LATE_EVENT = Scenario(
    "an event comes after a later one that told the old values",
    _late_event,
    _resampler,
    {"a bar is restated": _then(_put(12, 70.0), World.work_off), "a full resample runs": _full_resample},
)


def _letters(world: World) -> None:
    """Prepare letters whose causes are mended: unreadable files that were put again or deleted since."""
    n = world.cloud.intervals[0]
    in_the_way = f"silver/silver_{n}d/year=2025/month=11/data_{n}d_202511.parquet"
    world.put(in_the_way, b"of another make")
    _base(world)
    world.cloud.delete(in_the_way)
    world.put(f"{BARS_PREFIX}AAPL/date={session(3)}.parquet", b"no Parquet")
    world.settle()
    assert len(world.cloud.letters()) > 1
    world.put_bars("AAPL", {3: 90.0})
    world.settle()


REPLAYED_LETTERS = Scenario(
    "dead letters are replayed",
    _letters,
    lambda _world: ("replay", actors.replay_letters),
    {"others work": World.work_off, "the bar is restated": _then(_put(3, 50.0), World.work_off)},
    run_again=True,
)


def _foreign(world: World) -> None:
    world.put_foreign_data("AAPL", BASE)
    world.put("silver/silver_3d/year=2025/month=10/data_3d_202510.parquet", b"of another make")


ADOPTION = Scenario(
    "a foreign data.parquet is adopted",
    _foreign,
    lambda _world: ("adopt", actors.adopt_all),
    {"a bar arrives": _then(_put(3, 90.0), World.work_off), "another person adopts it": _adopt},
    run_again=True,
)


def _to_be_adopted(world: World) -> None:
    world.put_foreign_data("AAPL", BASE)
    world.run("adopt", actors.adopt_all)


WORKER_ADOPTS = Scenario(
    "a worker merges a foreign data.parquet",
    _to_be_adopted,
    _worker,
    {"a bar arrives": _then(_put(3, 90.0), World.work_off), "another person adopts it": _adopt},
    retention_days=0,
)


def _arrives_at_a_foreign_one(world: World) -> None:
    world.put_foreign_data("AAPL", BASE)
    world.put_bars("AAPL", {3: 90.0})
    _route(world)


WORKER_ADOPTS_UNASKED = Scenario(
    "a bar arrives beside a foreign data.parquet",
    _arrives_at_a_foreign_one,
    _worker,
    {"others do it first and clean up": _then(_others_work, _vacuum), "a person adopts it": _adopt},
    retention_days=0,
)


def _quarantined(world: World) -> None:
    _base(world)
    world.run("fetcher", actors.hold("AAPL", session(3), close=90.0))


def _bad_bar(world: World) -> None:
    _base(world)
    world.put_bars("AAPL", {5: 100.0, 4: 90.0, 3: 80.0}, as_range=True, bad=[4])
    _route(world)


BAD_BAR = Scenario(
    "a file with one bad bar arrives",
    _bad_bar,
    _worker,
    {
        "others do it first and clean up": _then(_others_work, _vacuum),
        "the file is put again, mended": lambda w: (w.put_bars("AAPL", {5: 100.0, 4: 95.0, 3: 80.0}), w.work_off()),
    },
    retention_days=0,
)

QUARANTINE_RELEASE = Scenario(
    "a bar is released from quarantine",
    _quarantined,
    lambda _world: ("release", actors.release("AAPL", session(3))),
    {"the bar is fetched again": _then(_put(3, 50.0), World.work_off), "others work": World.work_off},
    run_again=True,
)


def _news(world: World) -> None:
    world.put_bars("AAPL", {3: 90.0})
    world.put_bars("BRK.B", {3: 90.0})


ROUTER = Scenario(
    "arrivals are routed",
    _then(_base, _news),
    lambda w: ("router", actors.route(w.cloud.receive(ARRIVALS, 10))),
    {"others route and work": lambda w: (actors.advance(w.cloud, VISIBILITY[ARRIVALS] + 1), w.work_off())},
)


def _lost_notification(world: World) -> None:
    _merged_without_an_instant(world)
    _same_bytes_again(world)
    world.put_bars("AAPL", {2: 90.0})
    world.put_splits("AAPL", ONE_SPLIT)
    world.cloud.queues[ARRIVALS].messages.clear()
    world.lost_events = True


AUDIT = Scenario(
    "an audit finds what was lost",
    _lost_notification,
    lambda _world: ("audit", actors.audit),
    {"a bar is restated": _then(_put(8, 50.0), World.work_off), "another audit runs": _audit},
    run_again=True,
)


CONSOLIDATE_ALL = Scenario(
    "all is consolidated again beside live work",
    _new_bar,
    lambda w: ("consolidate-all", actors.consolidate_all(w.retention_days)),
    {"others work": World.work_off, "the bar is restated": _then(_put(3, 50.0), World.work_off)},
    retention_days=0,
)

SCENARIOS = (
    SPLITS_PUT_BACK, DIVIDENDS_PUT_BACK,
    FIRST_CONSOLIDATION, FIRST_SPLITS, MATE_DIES, THERE_AND_BACK, FULL_BESIDE_LIVE, LIVE_BESIDE_FULL,
    VACUUM_BESIDE_RESTATEMENT, VACUUM_WITHIN_A_SECOND, VACUUM_BESIDE_SAME_BYTES, CLEAN_UP_BESIDE_RESTATEMENT,
    REPLAYED_EVENTS, LATE_EVENT, REPLAYED_LETTERS, ADOPTION, WORKER_ADOPTS, WORKER_ADOPTS_UNASKED, BAD_BAR,
    QUARANTINE_RELEASE, ROUTER, AUDIT, CONSOLIDATE_ALL,
)  # fmt: skip

"""When the children end, no message is left: the rule of `Worker.drain`, in a model of Batch and SQS where workers die.

The model's worker decides as `drain` does (tests/unit/consolidator/test_worker.py holds drain to it): it waits for
messages that it returned; the first child of each job also for messages that others have received.
"""

from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st

LOOK, QUICK, CAREFUL, HIDDEN, START, PAUSE = 2, 4, 60, 300, 20, 10
LATE = 60
"""For this long SQS may count no message in flight."""


@dataclass
class Message:
    visible_at: int
    taken_at: int = -1


@dataclass
class Child:
    first: bool
    starts_at: int
    holds: list[Message] = field(default_factory=list)
    busy_until: int = 0
    idle: int = 0
    due: int = 0
    gone: bool = False

    def started(self, now: int) -> bool:
        return now >= self.starts_at


@dataclass
class Model:
    random: Random
    deaths: int
    stay: bool = True
    now: int = 0
    messages: list[Message] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)

    def send(self, count: int, per_child: int) -> None:
        """Send requests, then submit a job unless one is waiting to start, as the router does."""
        self.messages += [Message(self.now) for _ in range(count)]
        if not any(not child.started(self.now) for child in self.children):
            size = -(-count // per_child)
            delays = [START * self.random.randint(1, 4) for _ in range(size)]
            self.children += [Child(i == 0, self.now + delay) for i, delay in enumerate(delays)]

    def tick(self) -> None:
        self.now += LOOK
        for child in self.children:
            if child.started(self.now) and not child.gone and self.now >= child.busy_until:
                self.step(child)

    def step(self, child: Child) -> None:
        if child.holds and self.deaths and self.random.random() < 0.3:
            self.deaths -= 1  # Batch starts it again, with the same index; its messages stay hidden
            child.holds, child.idle, child.due = [], 0, 0
            child.starts_at = self.now + START * self.random.randint(1, 4)
            return
        for message in child.holds:
            if self.random.random() < 0.2:
                message.visible_at = self.now + PAUSE
                child.due = max(child.due, self.now + PAUSE + LOOK)
            else:
                self.messages.remove(message)
        child.holds = [m for m in self.messages if m.visible_at <= self.now][:10]
        if child.holds:
            for message in child.holds:
                message.visible_at, message.taken_at = self.now + HIDDEN, self.now
            child.busy_until, child.idle = self.now + self.random.randint(1, 30), 0
            return
        waits = self.stay and child.first
        # The counts may be late: messages that were received within the last minute may not be counted yet.
        counted = any(m.taken_at < self.now - LATE for m in self.messages)
        child.idle = 0 if waits and counted else child.idle + LOOK
        child.gone = child.idle >= (CAREFUL if waits else QUICK) and self.now >= child.due


def run(model: Model, waves: list[tuple[int, int]], per_child: int) -> int:
    """Send waves of requests (how many, how long after the one before), let all jobs end; return the messages that are
    left.
    """
    for count, pause in waves:
        for _ in range(pause):
            model.tick()
        model.send(count, per_child)
    for _ in range(20_000):
        if all(child.gone for child in model.children):
            break
        model.tick()
    return len(model.messages)


WAVES = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 200)), min_size=1, max_size=6)


@given(WAVES, st.integers(1, 30), st.integers(0, 9), st.integers())
def test_no_request_stays_behind_however_late_they_come_and_whichever_workers_die(
    waves: list[tuple[int, int]], per_child: int, deaths: int, seed: int
) -> None:
    assert run(Model(Random(seed), deaths), waves, per_child) == 0  # noqa: S311 (a model's chance)


def test_if_no_child_stayed_for_the_others_a_dead_ones_requests_would_stay_behind() -> None:
    chances = [Random(seed) for seed in range(50)]  # noqa: S311 (a model's chance)
    assert any(run(Model(chance, 9, stay=False), [(40, 0)], 10) for chance in chances)

"""Random schedules: a seed determines the files, the order of the actors, and the faults.

At each request an actor stops, and the seed's random numbers select the actor that goes on. So a seed is the same
schedule each time, on any machine.
"""

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.faults import actors
from tests.faults.cloud import CONSOLIDATION, DEAD, Caller, Fault
from tests.faults.turns import Turns
from tests.faults.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

SYMBOLS = ("AAPL", "BRK.B")
MOST_AT_ONCE = 4
MOST_FAULTS = 4
"""With this number, no message is received so often that it could become a dead letter."""
MOST_STEPS = 20_000
BACKS = range(14)
DIVIDENDS: tuple[dict[int, float], ...] = ({}, {6: 1.5}, {9: 0.5, 3: 0.25})
SPLITS: tuple[dict[int, tuple[int, int]], ...] = ({}, {6: (1, 2)}, {6: (1, 2), 3: (4, 1)}, {9: (3, 2)}, {0: (1, 4)})
FAULTS = tuple(Fault)
FIRST_OF_BAD_FILES = 30
"""The first session, counted back, of a range that no other range shares."""


@dataclass
class Chance:
    """A random plan: which actor goes on at each request, which requests fail, how events travel."""

    dice: random.Random
    faults_left: int
    probability: float
    lossy: bool
    turns: Turns = field(default_factory=Turns)

    def before(self, actor: Caller, what: str) -> None:
        """Let the scheduler select the next actor, and wait for the next turn."""
        self.turns.hand_over(actor, what)

    def fault(self, _actor: Caller, what: str) -> Fault | None:
        """Let one of few requests fail."""
        if self.faults_left == 0 or self.dice.random() >= self.probability:
            return None
        fault = self.dice.choice(FAULTS)
        if what.startswith("END OF") and fault not in {Fault.KILLED_BEFORE, Fault.KILLED_AFTER}:
            return None
        self.faults_left -= 1
        return fault

    def event(self, _what: str) -> list[float]:
        """Let an event come twice, late, or not at all."""
        chance = self.dice.random()
        if chance < 0.06:
            return [0.0, self.dice.choice([0.0, 30.0, 600.0])]
        if chance < 0.12:
            return [self.dice.choice([5.0, 60.0, 900.0])]
        if self.lossy and chance < 0.24:
            return []
        return [0.0]


def run(seed: int) -> tuple[World, list[str]]:
    """Run the schedule of a seed; return the world, and what is wrong with it in the end."""
    dice = random.Random(seed)  # noqa: S311 (no secret)
    lossy = dice.random() < 0.25
    plan = Chance(dice, dice.randint(0, MOST_FAULTS), dice.choice([0.01, 0.03, 0.1]), lossy)
    world = World(retention_days=dice.choice([None, 0, 0, 12]), lost_events=lossy)
    world.cloud.plan = plan
    _begin(world, dice)
    events_to_come = dice.randint(4, 14)
    for _ in range(MOST_STEPS):
        choice = dice.random()
        if events_to_come and choice < 0.06:
            events_to_come -= 1
            _act(world, plan, dice)
        elif choice < 0.14 and len(plan.turns.waiting) < MOST_AT_ONCE:
            _start_what_waits(world, plan, dice)
        elif plan.turns.waiting:
            dice.choice(plan.turns.waiting).step()
        elif not events_to_come:
            break
    else:
        world.cloud.violations.append(f"the actors do not end within {MOST_STEPS} steps")
        for turn in list(plan.turns.waiting):
            turn.kill()
    return world, world.heal()


def _begin(world: World, dice: random.Random) -> None:
    """Prepare the lake: a whole history, or files of another program, or nothing."""
    for symbol in SYMBOLS:
        beginning = dice.random()
        if beginning < 0.45:
            world.put_bars(symbol, {back: 100.0 + back for back in range(14, 22)}, as_range=True)
        elif beginning < 0.6:
            world.put_foreign_data(symbol, {back: 100.0 + back for back in range(14, 22)})


def _start_what_waits(world: World, plan: Chance, dice: random.Random) -> None:
    waiting = world.work_available()
    if waiting:
        name, begin = dice.choice(waiting)
        plan.turns.start(world.process(name), begin())


def _act(world: World, plan: Chance, dice: random.Random) -> None:
    """Let something happen from outside."""
    acts: list[tuple[int, Callable[[], object]]] = [
        (8, lambda: _put_bars(world, dice)),
        (3, lambda: world.put_splits(dice.choice(SYMBOLS), dice.choice(SPLITS))),
        (2, lambda: world.put_dividends(dice.choice(SYMBOLS), dice.choice(DIVIDENDS))),
        (1, lambda: world.put_handovers(dice.choice(SYMBOLS), dice.choice([(), (5,), (8,)]))),
        (1, lambda: world.put_poison(dice.choice(SYMBOLS), dice.choice(BACKS))),
        (2, lambda: _send_again(world, dice)),
        (2, lambda: plan.turns.start(world.process("vacuum"), actors.vacuum_all(dice.choice([0, 12])))),
        (2, lambda: plan.turns.start(world.process("full-resample"), actors.resample_all)),
        (1, lambda: _consolidate_all(world, plan)),
        (1, lambda: plan.turns.start(world.process("audit"), world.command("audit", actors.audit))),
        (1, lambda: plan.turns.start(world.process("adopt"), world.command("adopt", actors.adopt_all))),
        (1, lambda: plan.turns.start(world.process("replay"), world.command("replay", actors.replay_letters))),
        (1, lambda: plan.turns.start(world.process("release"), actors.release_any(dice.choice(SYMBOLS)))),
        (1, lambda: actors.advance(world.cloud, dice.choice([20, 400]))),
    ]
    weights = [weight for weight, _ in acts]
    [(_, act)] = dice.choices(acts, weights)
    act()


def _consolidate_all(world: World, plan: Chance) -> None:
    """Consolidate without the queue: if that is killed, only a further run reports what it has merged."""
    work = actors.consolidate_all(world.retention_days)
    plan.turns.start(world.process("consolidate-all"), world.command("consolidate-all", work))


def _put_bars(world: World, dice: random.Random) -> None:
    symbol, with_instants = dice.choice(SYMBOLS), dice.random() < 0.7
    first = dice.choice(BACKS)
    backs = range(first, min(first + dice.choice([1, 1, 1, 3, 5]), 14))
    prices = {back: float(dice.choice([50, 60, 70, 80])) for back in backs}
    as_range, is_bad = dice.random() < 0.3, dice.random() < 0.1
    # It has its own name: if a file is overwritten before a worker has read it, its good bars are lost.
    since = FIRST_OF_BAD_FILES + len(world.truth.refused) if is_bad else None
    world.put_bars(
        symbol, prices, with_instants=with_instants, as_range=as_range, bad=[first] * is_bad, named_since=since
    )


def _send_again(world: World, dice: random.Random) -> None:
    """Deliver an old message once more: a duplicate by SQS, or a replay."""
    history = [sent for sent in world.cloud.history if not sent[0].endswith(DEAD) and sent[0] != CONSOLIDATION]
    requests = [sent for sent in world.cloud.history if sent[0] == CONSOLIDATION]
    some = requests if requests and dice.random() < 0.4 else history
    if some:
        queue, body = dice.choice(some)
        world.cloud.note(None, f"SENDS AGAIN to {queue}: {body}")
        world.sent_again |= {body} if queue == CONSOLIDATION else set()
        world.cloud.send(queue, body, {})

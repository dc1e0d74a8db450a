"""In any order of events, with any repetitions, with or without tails, silver ends as bronze requires.

`World` is bronze, its events, and the readers of one interval's queue. The expected silver is computed bar by bar
(`daily.slow_silver`), without the services' code.
"""

import threading
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fiblake.bars import OLDEST_VERSION
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS
from services.resampler.full import FullResampler
from services.resampler.resample import resample_batch
from shared.events import ConsolidationComplete, Tail
from shared.queues import ReceivedMessage
from tests.fakes import LAKE, FakeTopic, MemoryObjectStore
from tests.unit.resampler.daily import NOW, ORDINAL, SESSIONS, Daily, Facts, flat
from tests.unit.resampler.silver_lake import lay, resampler, silver, version_of, versioned_silver, whole_silver

START = ORDINAL[date(2025, 10, 1)]
NEARBY = SESSIONS[START : START + 45]
WINDOW = SESSIONS[ORDINAL[date(2025, 3, 3)] - 9 : ORDINAL[date(2025, 3, 3)] + 9 : 2]
"""Sessions around the beginning of a history window of one year."""
SYMBOLS = ["AAPL", "BRK.B", "a"]
ENOUGH = 1 << 30


@dataclass
class World:
    interval: int
    retention_years: int = 0
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    bronze: dict[str, dict[date, Daily]] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    events: list[ReceivedMessage] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    """Ids of the events that were not processed yet."""
    lock: Any = field(default_factory=threading.RLock)
    """Month files are written by several threads, so others may come in at once."""

    def arrive(self, symbol: str, session: date, price: int, *, tail: bool = True) -> ReceivedMessage:
        """Consolidate a bar, and then send its event."""
        with self.lock:
            days = self.bronze.setdefault(symbol, {})
            # A split counts from the first bar that shows it, and then for all before it.
            last = max(days, default=date.min)
            shown = any(last < day <= session for day, _, _ in self.facts.get(symbol, Facts()).splits)
            days[session] = flat(price)
            return self._consolidated(symbol, min(days) if shown else session, tail=tail and not shown)

    def learn(self, symbol: str, facts: Facts) -> ReceivedMessage | None:
        """Consolidate a symbol's splits and handovers, and then send the event."""
        with self.lock:
            self.facts[symbol] = facts
            days = self.bronze.get(symbol)
            return self._consolidated(symbol, min(days), tail=False) if days else None

    def _consolidated(self, symbol: str, changed_from: date, *, tail: bool) -> ReceivedMessage:
        days, facts = self.bronze[symbol], self.facts.get(symbol, Facts())
        lay(self.store, symbol, days, facts)
        event = ConsolidationComplete(
            symbol=symbol, changed_from=changed_from, last_session=max(days), version=version_of(self.store, symbol),
            tail=tail_of(days, facts, changed_from) if tail else None,
        )  # fmt: skip
        return self.send(event)

    def send(self, event: ConsolidationComplete) -> ReceivedMessage:
        name = str(len(self.events))
        self.events.append(ReceivedMessage(name, name, event.model_dump_json(), 1))
        self.open.add(name)
        return self.events[-1]

    def resample(self, events: list[ReceivedMessage]) -> None:
        reader = resampler(self.store, self.interval, retention_years=self.retention_years)
        assert resample_batch(reader, events, NOW) == {}
        self.open.difference_update(event.id for event in events)

    def resample_fully(self, most_bytes: int = ENOUGH) -> None:
        full = FullResampler(self.store, LAKE, nyse(), FakeTopic(), self.retention_years, True, most_bytes)  # noqa: FBT003
        assert full.run(NOW).failed == {}

    def end(self) -> None:
        """Process the remaining events, which are delivered at least once, and compare."""
        while self.open:
            self.resample([event for event in self.events if event.id in self.open])
        self.check()

    def check(self) -> None:
        begin = ORDINAL[date(2025, 3, 3)] // self.interval * self.interval if self.retention_years else 0
        expected = whole_silver(self.bronze, self.interval, self.facts)
        assert silver(self.store, self.interval) == [row for row in expected if ORDINAL[row["ts"]] >= begin]
        for row in versioned_silver(self.store, self.interval):
            assert OLDEST_VERSION < row["version"] <= (version_of(self.store, row["symbol"]) or NOW)


def tail_of(days: dict[date, Daily], facts: Facts, changed_from: date) -> Tail | None:
    """The bars that every interval needs for this change; None if splits or handovers touch them."""
    before = max((day for day in days if day < changed_from), default=None)
    reach = [SESSIONS[ORDINAL[before] // n * n] for n in INTERVALS] if before else [SESSIONS[0]]
    tail_from = min(reach)
    if any(day >= tail_from for day in facts.handovers):
        return None
    if any(tail_from < day <= max(days) for day, _, _ in facts.splits):
        return None
    sessions = tuple(sorted(day for day in days if day >= tail_from))
    columns = {
        name: tuple(getattr(days[s], name) for s in sessions) for name in ("open", "high", "low", "close", "volume")
    }
    return Tail(tail_from=tail_from, timestamp=sessions, **columns)


FACTS = st.builds(
    Facts,
    splits=st.sampled_from([(), *(((day, 1, 2),) for day in NEARBY[::7])]),
    handovers=st.sets(st.sampled_from([*NEARBY, SESSIONS[START + 60]]), max_size=2).map(lambda d: tuple(sorted(d))),
)
BAR = st.tuples(st.just("bar"), st.sampled_from(SYMBOLS), st.sampled_from(NEARBY), st.integers(1, 3), st.booleans())
REFERENCE = st.tuples(st.just("learn"), st.sampled_from(SYMBOLS), FACTS)
WORK = st.tuples(st.just("work"), st.lists(st.integers(0, 30), max_size=4))
FULL = st.tuples(st.just("full"), st.sampled_from([3_000, ENOUGH]))
MEANWHILE = st.tuples(st.just("meanwhile"), st.integers(1, 4))
"""The next step happens right before the n-th write from now."""
STEPS = st.lists(st.one_of(BAR, BAR, BAR, REFERENCE, WORK, WORK, FULL, MEANWHILE), min_size=2, max_size=14)


def take(world: World, step: tuple[Any, ...]) -> None:
    kind, *about = step
    if kind == "bar":
        symbol, session, price, tail = about
        world.arrive(symbol, session, price, tail=tail)
    elif kind == "learn":
        world.learn(*about)
    elif kind == "work" and world.events:
        world.resample([world.events[n % len(world.events)] for n in about[0]])
    elif kind == "full":
        world.resample_fully(about[0])


def in_silver(key: str) -> bool:
    return key.startswith("silver/")


@given(interval=st.sampled_from(INTERVALS), steps=STEPS, years=st.sampled_from([0, 0, 1]), data=st.data())
def test_silver_ends_as_bronze_requires_in_any_order_with_any_repetition(
    interval: int, steps: list[tuple[Any, ...]], years: int, data: st.DataObject
) -> None:
    world = World(interval, years)
    meanwhile = 0
    for step in steps:
        if step[0] == "meanwhile":
            meanwhile = step[1]
        elif meanwhile:
            world.store.interfere(lambda s=step: take(world, s), before_write=meanwhile, of=in_silver)  # type: ignore[misc]
            meanwhile = 0
        else:
            take(world, step)
    remaining = data.draw(st.permutations([event for event in world.events if event.id in world.open]))
    middle = data.draw(st.integers(0, len(remaining)))
    world.resample(remaining[middle:])
    world.resample(remaining[:middle])
    world.resample(data.draw(st.lists(st.sampled_from(world.events), max_size=3)) if world.events else [])
    world.end()

import threading
from datetime import date
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from services.resampler.batch import resample_batch
from shared.events import ConsolidationComplete
from shared.lake import INTERVALS
from shared.queues import Received
from tests.fakes import MemoryObjectStore
from tests.unit.resampler.daily import NOW, ORDINAL, SESSIONS, Daily, Facts, flat
from tests.unit.resampler.silver_lake import lay, resampler, silver, whole_silver

START = ORDINAL[date(2025, 10, 1)]
NEARBY = st.sampled_from(SESSIONS[START : START + 45])
ARRIVALS = st.lists(
    st.tuples(st.sampled_from(["AAPL", "BRK.B", "a"]), NEARBY, st.integers(1, 9)), min_size=1, max_size=8
)


class World:
    """Bronze that changes, events that were sent of it, and one interval's resampler."""

    def __init__(self, interval: int) -> None:
        self.store = MemoryObjectStore()
        self.interval = interval
        self.bronze: dict[str, dict[date, Daily]] = {}
        self.facts: dict[str, Facts] = {}
        self.events: list[Received] = []
        self.open: set[str] = set()
        """Ids of the events nobody has done yet."""
        self._one_consolidator = threading.Lock()  # month files are written by several threads, so others come in any

    def arrive(self, symbol: str, session: date, price: int) -> Received:
        """A bar is consolidated, and then the event of it sent."""
        with self._one_consolidator:
            days = self.bronze.setdefault(symbol, {})
            days[session] = flat(price)
            # A split counts from the first bar that shows it, and then for all before it.
            splits = self.facts.get(symbol, Facts()).splits
            return self._consolidated(symbol, min(days) if splits else session)

    def learn(self, symbol: str, facts: Facts) -> Received:
        """What is known of a symbol beside its bars is consolidated, and then the event of it sent."""
        with self._one_consolidator:
            self.facts[symbol] = facts
            return self._consolidated(symbol, min(self.bronze[symbol]))

    def _consolidated(self, symbol: str, changed_from: date) -> Received:
        days = self.bronze[symbol]
        lay(self.store, symbol, days, self.facts.get(symbol, Facts()))
        event = ConsolidationComplete(symbol=symbol, changed_from=changed_from, last_session=max(days))
        name = str(len(self.events))
        self.events.append(Received(name, name, event.model_dump_json(), 1))
        self.open.add(name)
        return self.events[-1]

    def resample(self, events: list[Received]) -> None:
        assert resample_batch(resampler(self.store, self.interval), events, NOW) == {}
        self.open.difference_update(event.id for event in events)

    def check(self) -> None:
        assert silver(self.store, self.interval) == whole_silver(self.bronze, self.interval, self.facts)


@given(interval=st.sampled_from(INTERVALS), arrivals=ARRIVALS, data=st.data())
def test_silver_follows_bronze_whatever_order_events_come_in_and_however_often(
    interval: int, arrivals: list[tuple[str, date, int]], data: st.DataObject
) -> None:
    world = World(interval)
    for arrival in arrivals:
        world.arrive(*arrival)
        world.resample(data.draw(st.lists(st.sampled_from(world.events), max_size=3)))
    left = data.draw(st.permutations([event for event in world.events if event.id in world.open]))
    middle = data.draw(st.integers(0, len(left)))
    world.resample(left[middle:])
    world.resample(left[:middle])
    world.check()


PLACES = st.lists(st.tuples(st.sampled_from(["AAPL", "BRK.B", "a"]), NEARBY), min_size=1, max_size=6)


@given(interval=st.sampled_from(INTERVALS), arrivals=PLACES, late=PLACES, data=st.data())
def test_silver_follows_bronze_when_others_write_in_between(
    interval: int, arrivals: list[tuple[str, date]], late: list[tuple[str, date]], data: st.DataObject
) -> None:
    world = World(interval)
    prices = count(1)  # no bar is ever restated to what it was before: see the test below
    for place in arrivals:
        world.arrive(*place, next(prices))
    first = list(world.events)

    def overtake(place: tuple[str, date]) -> None:
        world.resample([world.arrive(*place, next(prices))])

    for place in late:
        nth = data.draw(st.integers(1, 4))
        world.store.interfere(lambda p=place: overtake(p), before_write=nth)  # type: ignore[misc]
    world.resample(first)
    world.resample([event for event in world.events if event.id in world.open])
    world.check()


def test_a_bar_that_is_restated_and_restated_back_at_once_ends_as_it_was() -> None:
    world = World(3)
    day = SESSIONS[START]
    world.arrive("AAPL", day, 1)
    world.resample(world.events)
    world.arrive("AAPL", day, 2)

    def overtake() -> None:
        # Newer bronze gives what the month file holds: nothing is written, and the file's version stays.
        world.resample([world.arrive("AAPL", day, 1)])

    world.store.interfere(overtake)
    world.resample([world.events[1]])
    world.check()


MONTHS_END = SESSIONS[START + 16 : START + 30]
FACTS = st.builds(
    Facts,
    splits=st.sampled_from([(), *(((day, 1, 2),) for day in MONTHS_END[::4])]),
    handovers=st.sets(st.sampled_from(MONTHS_END), max_size=2).map(lambda days: tuple(sorted(days))),
)
Happening = tuple[date, int] | Facts
HAPPENINGS: st.SearchStrategy[Happening] = st.one_of(st.tuples(st.sampled_from(MONTHS_END), st.integers(1, 2)), FACTS)


@given(
    interval=st.sampled_from(INTERVALS), before=st.lists(HAPPENINGS, max_size=6),
    older=HAPPENINGS, newer=st.lists(HAPPENINGS, min_size=1, max_size=3), nth=st.integers(1, 2),
)  # fmt: skip
def test_whatever_becomes_known_while_an_older_reading_is_written_silver_follows_it(
    interval: int,
    before: list[Happening],
    older: Happening,
    newer: list[Happening],
    nth: int,
) -> None:
    """Bars that come, are restated and restated back, splits and handovers that are recorded and withdrawn."""
    world = World(interval)

    def happens(what: Happening) -> Received:
        return world.learn("AAPL", what) if isinstance(what, Facts) else world.arrive("AAPL", *what)

    world.arrive("AAPL", MONTHS_END[0], 1)
    for what in before:
        happens(what)
    world.resample(world.events)
    event = happens(older)
    # The event is worked on; right before it writes, what is newer is consolidated and resampled.
    world.store.interfere(lambda: [world.resample([happens(what)]) for what in newer], before_write=nth, of=in_silver)
    world.resample([event])
    world.resample([event for event in world.events if event.id in world.open])
    world.check()


def in_silver(key: str) -> bool:
    return key.startswith("silver/")


def test_a_handover_that_becomes_known_takes_a_bucket_back_that_has_grown_into_another_month() -> None:
    world = World(34)
    october, november, december = date(2025, 10, 30), date(2025, 11, 5), date(2025, 12, 1)
    for session in (october, december):
        world.arrive("AAPL", session, 1)
    world.resample(world.events)
    grown = world.arrive("AAPL", november, 2)  # late: its bucket is complete
    # The new company's bar is a row of November; October's, which holds the old company's alone, is found in place.
    world.store.interfere(lambda: world.resample([world.learn("AAPL", Facts(handovers=(november,)))]), of=in_silver)
    world.resample([grown])
    world.check()


def test_a_handover_that_is_withdrawn_takes_the_row_of_a_new_bar_back_that_lies_in_another_month() -> None:
    world = World(3)
    # October's bar completes its bucket; November's is in one that begins in October.
    october, november = date(2025, 10, 24), date(2025, 11, 3)
    world.arrive("AAPL", october, 1)
    world.learn("AAPL", Facts(handovers=(november,)))
    world.resample(world.events)
    begun = world.arrive("AAPL", november, 1)
    # Joined again, the bucket is a row of October; November, which has none, is found in place.
    world.store.interfere(lambda: world.resample([world.learn("AAPL", Facts())]), of=in_silver)
    world.resample([begun])
    world.check()


def test_a_bar_that_is_new_costs_no_look_at_bronze_after_it_was_written() -> None:
    world = World(34)  # a bucket that reaches from October into November
    for session in (date(2025, 10, 31), date(2025, 11, 3)):
        world.resample([world.arrive("AAPL", session, 1)])
    assert world.store.done("head") == []

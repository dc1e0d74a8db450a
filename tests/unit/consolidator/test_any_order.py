"""Any order, duplication and crash of messages: all bars arrive, versions grow, and each change is reported.

The resampler relies on this rule: if version V of data.parquet has other values for a session than the version before
it, an event is published that has V or a later version and begins at that session or before it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fiblake.bars import Consolidated
from fiblake.calendar import nyse
from fiblake.lake import splits_key
from fiblake.reference import read_splits, reference_of, splits_file
from services.consolidator.consolidate import Consolidator
from services.consolidator.worker import Worker
from shared.cleanup import Proof, clean_up
from shared.events import ConsolidationComplete, ConsolidationRequest, SourceObject
from tests.fakes import LAKE, NOON, FakeQueue, FakeTopic, MemoryObjectStore, bar, later, parquet, splits

DATA, SPLITS = LAKE.data_key("AAPL"), splits_key("AAPL")
SESSIONS = nyse().between(date(2025, 11, 11), date(2025, 11, 19))
MOST_RECEIVES = 1_000
"""No message of these schedules may become a dead letter."""


class Killed(BaseException):
    """The worker is killed here."""


class Bucket(MemoryObjectStore):
    """A bucket that keeps all versions of data.parquet, and kills the process that sends the n-th request from now."""

    def __init__(self) -> None:
        super().__init__()
        self.versions_stored: list[Consolidated] = []
        self.requests_left: int | None = None

    def _enter(self, verb: str, key: str) -> None:
        self.count_request()
        super()._enter(verb, key)

    def count_request(self) -> None:
        if self.requests_left is not None:
            self.requests_left -= 1
            if self.requests_left < 0:
                raise Killed

    def _write(self, key: str, data: bytes, mode: Any) -> str:  # noqa: ANN401
        self.count_request()
        etag = super()._write(key, data, mode)
        if key == DATA:
            self.versions_stored.append(Consolidated.decode(data, "AAPL", NOON))
        self.count_request()  # the answer may be lost, too
        return etag


@dataclass
class World:
    """One symbol: the files that were put, and the messages that were sent."""

    store: Bucket = field(default_factory=Bucket)
    queue: FakeQueue = field(default_factory=FakeQueue)
    topic: FakeTopic = field(default_factory=FakeTopic)
    puts: list[dict[str, Any]] = field(default_factory=list)
    announced: list[dict[str, Any]] = field(default_factory=list)
    """The puts that a message names."""
    minute: int = 0

    def now(self) -> datetime:
        return later(self.minute % 7)  # a clock that goes back

    def worker(self) -> Worker:
        return Worker(Consolidator(self.store, LAKE, nyse()), self.topic, "run", self.now, 1, None)

    def put(self, session: date, close: float, *, reported: bool, named: bool, copies: int) -> None:
        row = bar(session, close, NOON + timedelta(seconds=len(self.puts)))
        self.puts.append(row)
        key = LAKE.date_key("AAPL", session)
        etag = self.store.lay(key, parquet(row))
        files = (SourceObject(name=key.rpartition("/")[2], etag=etag),) if named else ()
        if reported:
            self.announced.append(row)
            request = ConsolidationRequest(symbol="AAPL", changed_from=session, files=files)
            for _ in range(copies):
                self.queue.put(request.model_dump_json())

    def split(self, day: date | None) -> None:
        self.store.lay(SPLITS, splits_file(splits((str(day), 1, 2)) if day else []))
        self.queue.put(ConsolidationRequest(symbol="AAPL", reference_changed=True).model_dump_json())

    def work(self, messages: int, killed_at: int | None = None, rival: Callable[[], object] | None = None) -> None:
        self.minute += 3
        if rival:
            self.store.interfere(rival, of=lambda key: key == DATA)
        self.store.requests_left = killed_at
        try:
            taken = self.queue.receive(messages)
            if taken:
                self.worker()._process_round(self.queue, taken, taken, MOST_RECEIVES)  # noqa: SLF001 (one round, as drain does)
        except Killed:
            pass
        self.store.requests_left = None

    def clean_up(self) -> None:
        """Delete all that is provably merged."""
        stored = self.store.find(DATA)
        if stored:
            log = Consolidated.decode(stored.data, "AAPL", NOON).log
            listing = [i for i in self.store.list_objects(LAKE.symbol_prefix("AAPL")) if LAKE.is_source(i.key)]
            clean_up(self.store, LAKE, [Proof("AAPL", stored.etag, log, listing)], "run", later(60 * 24 * 900), 0)

    def do(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("put", session, close, reported, named, copies):
                self.put(session, close, reported=reported, named=named, copies=copies)
            case ("split", day):
                self.split(day)
            case ("work", messages, killed_at, steps):
                rival = (lambda: [self.do(each) for each in steps]) if steps else None
                self.work(messages, killed_at, rival)
            case ("clean up",):
                self.clean_up()
            case ("wait",):
                self.queue.now += 1_000

    def finish_all_work(self) -> None:
        for _ in range(60):
            self.queue.now += 1_000
            self.work(10)
            if not self.queue.bodies():
                return
        raise AssertionError(self.queue.bodies())


put_steps = st.tuples(
    st.just("put"), st.sampled_from(SESSIONS), st.sampled_from([1.0, 2.0, 3.0]),
    st.sampled_from([True, True, True, False]), st.booleans(), st.integers(1, 2),
)  # fmt: skip
quiet_steps = st.one_of(
    put_steps,
    st.tuples(st.just("split"), st.sampled_from([None, SESSIONS[2], SESSIONS[5], date(2025, 12, 24)])),
    st.just(("clean up",)),
    st.just(("wait",)),
)
kills = st.one_of(st.none(), st.integers(0, 12))
rival_steps = st.lists(
    st.one_of(quiet_steps, st.tuples(st.just("work"), st.integers(1, 3), st.none(), st.just(()))), max_size=3
)
steps = st.lists(
    st.one_of(quiet_steps, st.tuples(st.just("work"), st.integers(1, 4), kills, rival_steps)), min_size=1, max_size=12
)


def first_difference(before: Consolidated | None, after: Consolidated) -> date | None:
    """Return the earliest session whose adjusted price or company is different in `after`."""
    old = _closes_and_volumes(before) if before else {}
    new = _closes_and_volumes(after)
    return min((day for day in new if new[day] != old.get(day)), default=None)


def _closes_and_volumes(stored: Consolidated) -> dict[date, tuple[float, float]]:
    sessions = stored.bars["timestamp"].to_numpy()
    factors = stored.reference.as_of(stored.last_session).factors(sessions)
    rows = stored.bars.to_pylist()
    return {row["timestamp"]: (row["close"], factor) for row, factor in zip(rows, factors.tolist(), strict=True)}


def check(world: World) -> None:
    versions = world.store.versions_stored
    if not versions:
        assert world.announced == []
        return
    assert [v.last_updated for v in versions] == sorted({v.last_updated for v in versions}), "versions grow"
    last = versions[-1]
    _check_bars(world, last)
    data = world.store.peek(SPLITS)
    assert last.reference == (reference_of(read_splits(data, "AAPL"), ()) if data else last.reference)
    _check_reports(versions, world.topic.published)


def _check_bars(world: World, last: Consolidated) -> None:
    merged = {row["timestamp"]: row for row in last.bars.to_pylist()}
    for row in world.announced:
        assert merged[row["timestamp"]]["ingested_at"] >= row["ingested_at"]
    assert all(row in world.puts for row in merged.values())


def _check_reports(versions: Sequence[Consolidated], events: Sequence[ConsolidationComplete]) -> None:
    for before, after in zip([None, *versions[:-1]], versions, strict=True):
        changed = first_difference(before, after)
        if changed:
            assert any(
                event.version and event.version >= after.last_updated and event.changed_from <= changed
                for event in events
            ), f"{changed} of {after.last_updated} is reported to nobody"
    by_version = {version.last_updated: version for version in versions}
    for event in events:
        assert event.version
        stored = by_version[event.version]
        assert event.last_session == stored.last_session
        if event.tail:
            rows = [row for row in stored.bars.to_pylist() if row["timestamp"] >= event.tail.tail_from]
            assert event.tail.timestamp == tuple(row["timestamp"] for row in rows)
            assert event.tail.close == tuple(row["close"] for row in rows)


# Few requests of one kind and few sessions, so that actors conflict; `HYPOTHESIS_PROFILE=thorough` runs a thousand.
@given(steps)
def test_in_any_order_with_any_crash_all_bars_arrive_and_each_change_is_reported(
    schedule: list[tuple[Any, ...]],
) -> None:
    world = World()
    for step in schedule:
        world.do(step)
    world.finish_all_work()
    check(world)

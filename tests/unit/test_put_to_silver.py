"""From puts in S3 through router, worker and resampler to silver, all of it in memory."""

import json
from collections.abc import Sequence
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from fiblake.adjustment import Payout
from fiblake.bars import BRONZE, Consolidated, ReportedBar, encode
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS, dividends_key, identities_key, splits_key
from fiblake.reference import dividends_file, identities_file, splits_file
from local.recompute import SampleSplit, differences, expected_tables
from services.consolidator.arrivals import read_notification, requests
from services.consolidator.consolidate import Consolidator
from services.consolidator.worker import Worker
from services.reconcile.lag import Lag
from services.reconcile.reconcile import Reconciler
from services.reconcile.silver import Grid
from services.resampler.resample import resample_batch
from shared.queues import ReceivedMessage
from tests.fakes import BUCKET, LAKE, FakeQueue, FakeTopic, MemoryObjectStore, companies, dividend, splits
from tests.unit.resampler.daily import NOW, ORDINAL, SESSIONS, Daily, Facts, flat, table
from tests.unit.resampler.silver_lake import resampler, silver, silver_frame, whole_silver

START = ORDINAL[date(2025, 10, 1)]
NEARBY = st.sampled_from(SESSIONS[START : START + 15])
SYMBOLS = st.sampled_from(["AAPL", "BRK.B"])


class Lake:
    """A bucket with its requests and completion events, finished or not."""

    def __init__(self, retention_days: int | None = None) -> None:
        self.store = MemoryObjectStore()
        self.retention_days = retention_days
        self.requests: list[str] = []
        self.events: list[str] = []
        self.open_requests: list[str] = []
        self.open_events: list[str] = []

    def put(self, key: str, data: bytes) -> None:
        """Put a file; its notification becomes a request at once."""
        self.store.lay(key, data)
        record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": BUCKET}, "object": {"key": key}}}
        (request,) = requests([read_notification(json.dumps({"Records": [record]}), BUCKET, LAKE)])
        self.requests.append(request.model_dump_json())
        self.open_requests.append(self.requests[-1])

    def consolidate(self, bodies: Sequence[str]) -> None:
        queue, topic = FakeQueue(), FakeTopic()
        for body in bodies:
            queue.put(body)
        worker = Worker(Consolidator(self.store, LAKE, nyse()), topic, "run", lambda: NOW, 2, self.retention_days)
        worker.drain(queue, 100, 6, 0)
        assert queue.dead == []
        self.open_requests = [body for body in self.open_requests if body not in bodies]
        published = [event.model_dump_json() for event in topic.published]
        self.events += published
        self.open_events += published

    def resample(self, interval: int, bodies: Sequence[str]) -> None:
        messages = [ReceivedMessage(str(n), str(n), body, 1) for n, body in enumerate(bodies)]
        assert resample_batch(resampler(self.store, interval), messages, NOW) == {}
        self.open_events = [body for body in self.open_events if body not in bodies]

    def catch_up(self, interval: int) -> None:
        """Process all requests and events."""
        self.consolidate(self.open_requests)
        self.resample(interval, self.open_events)


class World(Lake):
    """A lake, and its expected content."""

    def __init__(self, retention_days: int | None) -> None:
        super().__init__(retention_days)
        self.bronze: dict[str, dict[date, Daily]] = {}
        self.facts: dict[str, Facts] = {}
        self.paid: dict[str, dict[date, float]] = {}

    def bar(self, symbol: str, session: date, price: int) -> None:
        self.bronze.setdefault(symbol, {})[session] = flat(price)
        later = pa.array([NOW + timedelta(seconds=len(self.requests))], BRONZE.field("ingested_at").type)
        row = table(symbol, {session: flat(price)}).set_column(10, BRONZE.field("ingested_at"), later)
        self.put(LAKE.date_key(symbol, session), encode(row))

    def history(self, symbol: str) -> None:
        """Put the bars of the two weeks before NEARBY, as one range file."""
        days = {session: flat(10 + n) for n, session in enumerate(SESSIONS[START - 9 : START])}
        self.bronze.setdefault(symbol, {}).update(days)
        self.put(LAKE.range_key(symbol, min(days), max(days)), encode(table(symbol, days)))

    def splits(self, symbol: str, ratios: dict[date, tuple[int, int]]) -> None:
        facts = self.facts.get(symbol, Facts())
        splitting = tuple((day, *ratio) for day, ratio in sorted(ratios.items()))
        self.facts[symbol] = Facts(splitting, facts.handovers)
        self.put(splits_key(symbol), splits_file(splits(*((str(d), *r) for d, r in ratios.items()), symbol=symbol)))

    def dividends(self, symbol: str, cash: dict[date, float]) -> None:
        self.paid[symbol] = dict(sorted(cash.items()))
        rows = [dividend(str(day), amount, symbol) for day, amount in cash.items()]
        self.put(dividends_key(symbol), dividends_file(rows))

    def audit(self, interval: int) -> list[Lag]:
        """Return what lags, without the intervals that were not resampled."""
        auditor = Reconciler(self.store, LAKE, Grid(nyse(), adjusted=True), NOW.date())
        return [lag for lag in auditor.audit((), None).lags if lag.interval in {None, interval}]

    def companies(self, symbol: str, handovers: set[date]) -> None:
        facts = self.facts.get(symbol, Facts())
        self.facts[symbol] = Facts(facts.splits, tuple(sorted(handovers)))
        bearers = companies("1980-12-12", *map(str, sorted(handovers)), symbol=symbol)
        self.put(identities_key(symbol), identities_file(bearers))


ARRIVAL = st.one_of(
    st.tuples(st.just("bar"), SYMBOLS, NEARBY, st.integers(2, 9)),
    st.tuples(st.just("bar"), SYMBOLS, NEARBY, st.integers(2, 9)),
    st.tuples(
        st.just("splits"), SYMBOLS, st.dictionaries(NEARBY, st.sampled_from([(1, 2), (4, 1), (1, 8)]), max_size=2)
    ),
    st.tuples(st.just("companies"), SYMBOLS, st.sets(NEARBY, max_size=2)),
    st.tuples(st.just("dividends"), SYMBOLS, st.dictionaries(NEARBY, st.sampled_from([0.25, 1.0]), max_size=2)),
)


@settings(max_examples=settings().max_examples // 2)
@given(
    interval=st.sampled_from(INTERVALS),
    arrivals=st.lists(ARRIVAL, min_size=1, max_size=8),
    retention=st.sampled_from([None, 0, 90]),
    data=st.data(),
)
def test_in_any_order_and_repetition_of_bars_splits_dividends_and_identities_silver_is_the_same(
    interval: int, arrivals: list[tuple], retention: int | None, data: st.DataObject
) -> None:
    world = World(retention)
    for symbol in data.draw(st.sets(SYMBOLS)):
        world.history(symbol)
    for kind, *arrival in arrivals:
        getattr(world, kind)(*arrival)
        if data.draw(st.booleans()):
            world.catch_up(interval)
        if some := data.draw(st.lists(st.sampled_from(world.requests), max_size=2)):
            world.consolidate(some)
        if world.events and (repeated := data.draw(st.lists(st.sampled_from(world.events), max_size=2))):
            world.resample(interval, repeated)
    world.catch_up(interval)
    assert silver(world.store, interval) == whole_silver(world.bronze, interval, world.facts)
    for symbol in world.bronze:
        stored = Consolidated.decode(world.store.peek(LAKE.data_key(symbol)) or b"", symbol, NOW)
        assert stored.reference.dividends == tuple(Payout(*paid) for paid in world.paid.get(symbol, {}).items())


def test_a_split_recorded_afterwards_changes_its_symbols_silver_by_hand_worked_numbers_and_no_others() -> None:
    """Bucket of 3 in which a share of Monday is two of Tuesday: 2-for-1 on 2025-11-18."""
    world = World(None)
    monday, tuesday, wednesday = (date(2025, 11, day) for day in (17, 18, 19))
    assert {ORDINAL[day] // 5 for day in (monday, tuesday, wednesday)} == {ORDINAL[monday] // 5}
    for symbol in ("AAPL", "MSFT"):
        for session, price in ((monday, 200), (tuesday, 102), (wednesday, 104)):
            world.bar(symbol, session, price)
    world.catch_up(5)
    as_traded, others = silver(world.store, 5)
    assert (as_traded["open"], as_traded["high"], as_traded["low"], as_traded["close"]) == (200, 201, 101, 104.5)
    assert as_traded["volume"] == 2_000 + 1_020 + 1_040
    before = world.store.peek(LAKE.data_key("AAPL")) or b""

    world.splits("AAPL", {tuesday: (1, 2)})
    world.catch_up(5)

    adjusted, untouched = silver(world.store, 5)
    # Monday's bar has half the price and twice the volume now: open 100, high 100.5, low 99.5, volume 4,000.
    assert (adjusted["open"], adjusted["high"], adjusted["low"], adjusted["close"]) == (100, 105, 99.5, 104.5)
    assert adjusted["volume"] == 4_000 + 1_020 + 1_040
    assert untouched == others
    after = world.store.peek(LAKE.data_key("AAPL")) or b""
    assert after != before
    assert _columns(after) == _columns(before), "bronze is never rewritten"
    assert Consolidated.decode(after, "AAPL", NOW).bars.equals(Consolidated.decode(before, "AAPL", NOW).bars)


def test_a_dividend_alone_rewrites_no_silver() -> None:
    """Silver is adjusted for splits only: a dividend changes data.parquet, but leads to no event and changes no month
    file.
    """
    world = World(None)
    world.history("AAPL")
    world.catch_up(3)
    before = {key: world.store.etag(key) for key in world.store.keys("silver/")}
    events, bars = len(world.events), _columns(world.store.peek(LAKE.data_key("AAPL")) or b"")
    world.store.journal.clear()

    world.dividends("AAPL", {SESSIONS[START - 5]: 0.5})
    world.catch_up(3)

    stored = Consolidated.decode(world.store.peek(LAKE.data_key("AAPL")) or b"", "AAPL", NOW)
    assert stored.reference.dividends == (Payout(SESSIONS[START - 5], 0.5),)
    assert _columns(world.store.peek(LAKE.data_key("AAPL")) or b"") == bars, "bronze is never rewritten"
    assert len(world.events) == events
    assert {key: world.store.etag(key) for key in world.store.keys("silver/")} == before
    assert [key for key in world.store.done("put", "write") if key.startswith("silver/")] == []
    assert world.audit(3) == []
    # The next bar reaches silver as without a dividend.
    world.bar("AAPL", SESSIONS[START], 9)
    world.catch_up(3)
    assert silver(world.store, 3) == whole_silver(world.bronze, 3)


def test_a_split_that_was_announced_is_applied_to_all_bars_when_the_first_bar_shows_it() -> None:
    world = World(None)
    world.history("AAPL")
    world.splits("AAPL", {SESSIONS[START]: (1, 2)})
    world.catch_up(3)
    as_traded = silver(world.store, 3)
    assert as_traded == whole_silver(world.bronze, 3)
    world.bar("AAPL", SESSIONS[START], 9)
    world.catch_up(3)
    adjusted = silver(world.store, 3)
    assert adjusted == whole_silver(world.bronze, 3, world.facts)
    assert adjusted[0]["close"] == as_traded[0]["close"] / 2


def test_silver_of_one_range_file_of_16_000_sessions_equals_the_independent_recomputation() -> None:
    bars = _history("LONG", SESSIONS[:16_000])
    sample_splits = [SampleSplit("LONG", date(1975, 3, 3), 2, 3), SampleSplit("LONG", date(1999, 1, 4), 1, 7),
            SampleSplit("LONG", date(2012, 6, 1), 10, 1), SampleSplit("LONG", date(2031, 1, 2), 1, 2)]  # fmt: skip
    lake = Lake()
    range_file = encode(pa.Table.from_pylist([bar.row(NOW) for bar in bars], schema=BRONZE))
    lake.put(splits_key("LONG"), splits_file(_as_the_vendor_tells_them(sample_splits)))
    lake.put(LAKE.range_key("LONG", bars[0].session, bars[-1].session), range_file)
    lake.consolidate(lake.open_requests)
    (event,) = lake.open_events
    for interval, expected in expected_tables(bars, INTERVALS, sample_splits).items():
        lake.resample(interval, [event])
        assert differences(silver_frame(lake.store, interval), expected) == 0


def _history(symbol: str, sessions: Sequence[date]) -> list[ReportedBar]:
    chance = np.random.default_rng(16_000)
    closes = (np.exp(np.cumsum(chance.normal(0, 0.01, len(sessions)))) * 100).tolist()
    volumes = chance.integers(1_000, 10_000_000, len(sessions)).tolist()
    return [
        ReportedBar(symbol, session, close, close * 1.01, close * 0.99, close * 1.001, float(volume))
        for session, close, volume in zip(sessions, closes, volumes, strict=True)
    ]


def _as_the_vendor_tells_them(sample_splits: Sequence[SampleSplit]) -> list:
    return splits(
        *((str(s.execution_date), int(s.split_from), int(s.split_to)) for s in sample_splits),
        symbol=sample_splits[0].symbol,
    )


def _columns(data: bytes) -> bytes:
    """Return a Parquet file's column data: all bytes before its footer, whose length is in the last bytes."""
    return data[: -8 - int.from_bytes(data[-8:-4], "little")]


def test_a_split_after_a_companys_last_bar_changes_nothing_of_it_and_the_audit_agrees() -> None:
    """The first company's bars end before its split; the second company's first bar does not count for it."""
    world, days = World(None), SESSIONS[START:]
    world.history("AAPL")
    world.companies("AAPL", {days[9]})
    world.splits("AAPL", {days[4]: (1, 5)})
    world.catch_up(3)
    as_traded = silver(world.store, 3)
    assert as_traded == whole_silver(world.bronze, 3)
    world.bar("AAPL", days[9], 9)
    world.catch_up(3)
    assert silver(world.store, 3)[: len(as_traded) - 1] == as_traded[:-1]
    assert silver(world.store, 3) == whole_silver(world.bronze, 3, world.facts)
    audit = Reconciler(world.store, LAKE, Grid(nyse(), adjusted=True), NOW.date()).audit((), None)
    assert {lag.interval for lag in audit.lags} == set(INTERVALS) - {3}
    # A late bar of the first company, on or after its split, changes all its earlier bars, and nothing else.
    world.bar("AAPL", days[5], 2)
    world.catch_up(3)
    assert silver(world.store, 3) == whole_silver(world.bronze, 3, world.facts)
    assert silver(world.store, 3)[0]["close"] == as_traded[0]["close"] / 5

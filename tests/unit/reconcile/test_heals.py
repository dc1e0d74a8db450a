"""Events are lost at random; an audit and its repairs bring the lake to the state without losses."""

import random
from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiblake.aggregate import SILVER, decode_silver
from fiblake.bars import Consolidated, encode
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS, dividends_key
from services.reconcile.lag import Cause, requests
from services.reconcile.reconcile import FILES_LOOKED_INTO, Outlets, Reconciler, Report
from services.reconcile.silver import Grid
from shared.events import ConsolidationComplete
from shared.objects import ObjectInfo, ObjectStore
from tests.fakes import LAKE, FakeJobs, FakeQueue, FakeTopic, bar, parquet
from tests.unit.resampler.daily import NOW, SESSIONS, flat
from tests.unit.resampler.silver_lake import silver, whole_silver
from tests.unit.test_put_to_silver import NEARBY, START, SYMBOLS, World

ARRIVAL = st.one_of(
    st.tuples(st.just("bar"), SYMBOLS, NEARBY, st.integers(2, 9)),
    st.tuples(st.just("bar"), SYMBOLS, NEARBY, st.integers(2, 9)),
    st.tuples(
        st.just("splits"), SYMBOLS, st.dictionaries(NEARBY, st.sampled_from([(1, 2), (4, 1)]), max_size=2)
    ),
    st.tuples(st.just("companies"), SYMBOLS, st.sets(NEARBY, max_size=1)),
    st.tuples(st.just("dividends"), SYMBOLS, st.dictionaries(NEARBY, st.just(0.5), max_size=2)),
)  # fmt: skip
LOSS = 0.2


def audited(world: World, since: date | None = None, symbols: Sequence[str] = ()) -> Report:
    return Reconciler(world.store, LAKE, Grid(nyse(), adjusted=True), NOW.date()).audit(symbols, since)


def healed(world: World, report: Report) -> int:
    """Do what the audit enqueues; return how many messages that were."""
    queue, topic, jobs = FakeQueue(), FakeTopic(), FakeJobs()
    sent = Outlets(queue, topic, jobs, 100).enqueue(report.lags, "audit")
    assert (sent.requests, sent.completions, sent.unsent) == (len(queue.sent), len(topic.published), 0)
    assert [size for _, size in jobs.submitted] == ([1] if queue.sent else [])
    world.consolidate(queue.sent)
    for event in topic.published:
        assert isinstance(event, ConsolidationComplete)
        for interval in event.intervals:
            world.resample(interval, [event.model_dump_json()])
    for interval in INTERVALS:
        world.resample(interval, world.events)
    return sent.requests + sent.completions


def let_some_through(world: World, chance: random.Random) -> None:
    """Consolidate and resample what has arrived, except a fifth of the messages to each step, which are lost."""
    world.consolidate([body for body in world.open_requests if chance.random() >= LOSS])
    world.open_requests.clear()
    for interval in INTERVALS:
        world.resample(interval, [body for body in world.events if chance.random() >= LOSS])
    world.events.clear()


def arrive(world: World, kind: str, *about: object) -> None:
    if kind == "bar":
        world.bar(*about)  # type: ignore[arg-type]
    elif kind == "splits":
        world.splits(*about)  # type: ignore[arg-type]
    elif kind == "companies":
        world.companies(*about)  # type: ignore[arg-type]
    else:
        world.dividends(*about)  # type: ignore[arg-type]


@settings(max_examples=settings().max_examples // 4)
@given(
    batches=st.lists(st.lists(ARRIVAL, min_size=1, max_size=5), min_size=1, max_size=4),
    retention=st.sampled_from([None, 0]),
    seed=st.integers(0, 2**16),
)
def test_whatever_events_are_lost_an_audit_repairs_the_lake(
    batches: list[list[tuple[object, ...]]], retention: int | None, seed: int
) -> None:
    world, chance = World(retention), random.Random(seed)  # noqa: S311 (no secret)
    for batch in batches:
        for kind, *about in batch:
            arrive(world, str(kind), *about)
        let_some_through(world, chance)
    for symbol in world.facts.keys() - world.bronze.keys():
        world.history(symbol)  # splits of a symbol without bars need no repair
    healed(world, audited(world))
    assert audited(world).lags == []
    for interval in INTERVALS:
        assert silver(world.store, interval) == whole_silver(world.bronze, interval, world.facts)


def test_a_lake_without_loss_lags_nowhere_and_nothing_is_enqueued() -> None:
    world = World(None)
    for symbol in ("AAPL", "BRK.B"):
        world.history(symbol)
    world.splits("AAPL", {date(2025, 9, 25): (1, 2)})
    world.consolidate(world.open_requests)
    for interval in INTERVALS:
        world.resample(interval, world.events)
    report = audited(world)
    assert (report.lags, report.symbols) == ([], 2)
    assert report.newest_session == date(2025, 9, 30)
    assert healed(world, report) == 0


@pytest.mark.parametrize("happens", ["it is put again and merged", "it is deleted"])
def test_what_happens_between_the_listing_of_a_file_and_the_reading_of_data_parquet_is_no_lag(
    happens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, day = World(None), date(2025, 9, 30)
    world.history("AAPL")
    world.catch_up(3)
    world.bar("AAPL", day, 7)
    listed = type(world.store).list_objects

    def list_and_act(_store: ObjectStore, prefix: str) -> list[ObjectInfo]:
        objects = listed(world.store, prefix)
        if world.open_requests and prefix == "bronze/":
            if happens == "it is put again and merged":
                world.bar("AAPL", day, 8)
                world.consolidate(world.open_requests)
            else:
                world.store.take_away(LAKE.date_key("AAPL", day))
                world.open_requests.clear()
        return objects

    monkeypatch.setattr(type(world.store), "list_objects", list_and_act)
    causes = {lag.cause for lag in audited(world).lags}
    assert not world.open_requests
    assert causes & {Cause.UNMERGED, Cause.NEVER_CONSOLIDATED, Cause.UNMERGEABLE} == set()


def test_each_stages_loss_is_reported_with_its_cause() -> None:
    world = World(None)
    for symbol in ("AAPL", "BRK.B"):
        world.history(symbol)
    assert {lag.cause for lag in audited(world).lags} == {Cause.NEVER_CONSOLIDATED}
    world.consolidate(world.open_requests)
    assert {(lag.cause, lag.interval) for lag in audited(world).lags} == {
        (Cause.SILVER, n) for n in INTERVALS
    }  # fmt: skip
    world.resample(3, world.events)
    assert {lag.interval for lag in audited(world).lags} == set(INTERVALS) - {3}
    for interval in INTERVALS:
        world.resample(interval, world.events)
    world.bar("AAPL", date(2025, 9, 30), 7)
    world.splits("BRK.B", {date(2025, 9, 25): (1, 2)})
    (late, split) = sorted(audited(world).lags, key=lambda lag: lag.symbol)
    assert (late.cause, late.changed_from, late.detail) == (
        Cause.UNMERGED, date(2025, 9, 30), "date=2025-09-30.parquet",
    )  # fmt: skip
    assert (split.symbol, split.cause, split.detail) == ("BRK.B", Cause.REFERENCE, "1 split, 0 handovers")


def test_dividends_whose_message_was_lost_are_read_again_and_silver_stays_as_it_is() -> None:
    world = World(None)
    world.history("AAPL")
    world.consolidate(world.open_requests)
    for interval in INTERVALS:
        world.resample(interval, world.events)
    world.events.clear()  # rows of an event that comes again are computed from the new version
    world.dividends("AAPL", {date(2025, 9, 25): 0.5, date(2025, 9, 29): 0.5})
    before = {key: world.store.etag(key) for key in world.store.keys("silver/")}
    (lag,) = audited(world).lags
    assert (lag.symbol, lag.cause, lag.detail) == ("AAPL", Cause.DIVIDENDS, "dividends of 2 days")
    (request,) = requests([lag], "audit")
    assert request.is_of_dividends_only
    assert healed(world, audited(world)) == 1
    assert audited(world).lags == []
    assert {key: world.store.etag(key) for key in world.store.keys("silver/")} == before


def test_a_bar_and_dividends_whose_messages_were_lost_are_one_request_from_the_bars_session() -> None:
    world = World(None)
    world.history("AAPL")
    world.consolidate(world.open_requests)
    world.dividends("AAPL", {date(2025, 9, 25): 0.5})
    world.bar("AAPL", date(2025, 9, 30), 7)
    lags = [lag for lag in audited(world).lags if lag.cause is not Cause.SILVER]
    (request,) = requests(lags, "audit")
    assert (request.changed_from, request.dividends_changed) == (date(2025, 9, 30), True)
    assert (request.files, request.reference_changed, request.is_of_dividends_only) == ((), False, False)


def test_a_file_of_dividends_that_cannot_be_read_is_left_to_a_person_and_splits_are_compared() -> None:
    world = World(None)
    world.history("AAPL")
    world.consolidate(world.open_requests)
    world.store.lay(dividends_key("AAPL"), b"no Parquet")
    world.splits("AAPL", {date(2025, 9, 25): (1, 2)})
    lags = {lag.cause: lag.detail for lag in audited(world).lags if lag.cause is not Cause.SILVER}
    assert lags.keys() == {Cause.UNREADABLE, Cause.REFERENCE}
    assert lags[Cause.UNREADABLE].startswith(f"{dividends_key('AAPL')}: the dividends of AAPL cannot be read")


def test_a_restated_bar_whose_completion_was_lost_is_seen_in_silver_alone() -> None:
    world = World(0)
    world.history("AAPL")
    world.catch_up(3)
    for interval in INTERVALS:
        world.resample(interval, world.events)
    world.events.clear()
    world.bar("AAPL", date(2025, 9, 25), 77)
    world.consolidate(world.open_requests)
    lags = audited(world).lags
    assert {(lag.cause, lag.interval) for lag in lags} == {(Cause.SILVER, n) for n in INTERVALS}
    assert all(lag.changed_from and lag.changed_from <= date(2025, 9, 25) for lag in lags)
    assert audited(world, since=date(2025, 11, 19)).lags == [], "older buckets were not asked for"
    assert healed(world, audited(world)) == 1
    assert audited(world).lags == []


def test_a_data_parquet_that_cannot_be_read_is_left_to_a_person() -> None:
    world = World(None)
    world.history("AAPL")
    world.store.lay(LAKE.data_key("BRK.B"), b"no Parquet")
    lags = [lag for lag in audited(world).lags if lag.symbol == "BRK.B"]
    assert [lag.cause for lag in lags] == [Cause.UNREADABLE]
    assert healed(world, Report(1, lags)) == 0


def test_a_file_that_no_worker_would_merge_is_left_to_a_person_and_its_neighbours_are_not() -> None:
    world = World(None)
    world.history("AAPL")
    world.catch_up(3)
    for interval in INTERVALS:
        world.resample(interval, world.events)
    world.events.clear()
    bad = LAKE.date_key("AAPL", date(2025, 9, 29))
    world.store.lay(bad, b"no Parquet")
    [lag] = audited(world).lags
    assert (lag.cause, lag.detail.partition(": ")[0]) == (Cause.UNMERGEABLE, bad)
    assert "cannot be read as bars" in lag.detail
    assert healed(world, audited(world)) == 0, "asking for it each day would make a dead letter each day"
    world.bar("AAPL", date(2025, 9, 30), 7)
    assert {lag.cause for lag in audited(world).lags} == {Cause.UNMERGEABLE, Cause.UNMERGED}
    world.open_requests.clear()
    assert healed(world, audited(world)) == 1
    assert {lag.cause for lag in audited(world).lags} == {Cause.UNMERGEABLE}
    world.store.lay(bad, parquet(bar("2025-09-29", 7, symbol="AAPL")))
    assert healed(world, audited(world)) == 1
    assert audited(world).lags == []


def test_a_symbol_without_any_mergeable_file_is_not_requested_however_many_files_it_has() -> None:
    world = World(None)
    for day in range(1, FILES_LOOKED_INTO + 4):
        world.store.lay(LAKE.date_key("AAPL", date(2025, 9, day)), b"no Parquet")
        lags = audited(world).lags
        assert {lag.cause for lag in lags} == {Cause.UNMERGEABLE}
        assert len(lags) == min(day, FILES_LOOKED_INTO + 1)
        assert healed(world, audited(world)) == 0
    assert lags[-1].detail.startswith("3 older files are not checked")


def test_a_good_file_is_requested_once_however_many_bad_ones_there_are() -> None:
    world = World(None)
    for day in range(1, FILES_LOOKED_INTO + 4):
        world.store.lay(LAKE.date_key("AAPL", date(2025, 9, day)), b"no Parquet")
    world.bar("AAPL", date(2025, 9, 30), 7)
    assert Cause.NEVER_CONSOLIDATED in {lag.cause for lag in audited(world).lags}
    world.consolidate(world.open_requests)
    assert {lag.cause for lag in audited(world).lags} == {Cause.UNMERGEABLE, Cause.SILVER}


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (
            parquet({**bar("2025-09-29", 7, symbol="AAPL"), "high": 1.0}),
            "it holds 1 bar, none of which can be merged (row 1: high",
        ),
        (parquet(), "it holds no bars"),
    ],
)
def test_a_first_file_without_a_bar_that_can_be_merged_is_left_to_a_person(data: bytes, detail: str) -> None:
    world = World(None)
    key = LAKE.date_key("AAPL", date(2025, 9, 29))
    world.store.lay(key, data)
    [lag] = audited(world).lags
    assert lag.cause is Cause.UNMERGEABLE
    assert lag.detail.startswith(f"{key}: {detail}")
    assert healed(world, audited(world)) == 0, "there is nothing that a worker would write"
    world.bar("AAPL", date(2025, 9, 30), 7)
    assert {lag.cause for lag in audited(world).lags} == {Cause.UNMERGEABLE, Cause.NEVER_CONSOLIDATED}
    world.catch_up(3)
    assert Cause.UNMERGEABLE not in {lag.cause for lag in audited(world).lags}, "its log names the file from now on"


def test_a_data_parquet_of_another_program_is_reported() -> None:
    world = World(None)
    world.history("AAPL")
    world.consolidate(world.open_requests)
    key = LAKE.data_key("AAPL")
    stored = Consolidated.decode(world.store.peek(key) or b"", "AAPL", NOW)
    sink = pa.BufferOutputStream()
    pq.write_table(stored.bars.replace_schema_metadata(None), sink)
    world.store.lay(key, sink.getvalue().to_pybytes())
    assert Cause.ADOPTED in {lag.cause for lag in audited(world).lags}
    healed(world, audited(world))
    assert audited(world).lags == []


def test_a_checkpoint_that_was_lost_is_written_again() -> None:
    world = World(None)
    world.history("AAPL")
    world.consolidate(world.open_requests)
    for interval in INTERVALS:
        world.resample(interval, world.events)
    world.store.take_away("processing_metadata/silver_8d_checkpoint.json")
    (lag,) = audited(world).lags
    assert (lag.cause, lag.interval, lag.detail) == (Cause.CHECKPOINT, 8, "it says nothing")
    assert healed(world, audited(world)) == 1
    assert audited(world).lags == []


def test_a_manifest_that_was_lost_is_written_again() -> None:
    world = World(None)
    world.history("AAPL")
    world.consolidate(world.open_requests)
    for interval in INTERVALS:
        world.resample(interval, world.events)
    world.store.take_away("processing_metadata/consolidation_manifest.parquet")
    assert {lag.cause for lag in audited(world).lags} == {Cause.MANIFEST}
    healed(world, audited(world))
    assert audited(world).lags == []


def settled() -> World:
    world = World(0)
    world.history("AAPL")
    world.catch_up(3)
    for interval in INTERVALS:
        world.resample(interval, world.events)
    world.events.clear()
    return world


@pytest.mark.parametrize("lost", [None, "silver/", "processing_metadata/"])
def test_a_data_parquet_that_was_put_back_is_consolidated_beyond_the_reported_version(lost: str | None) -> None:
    world = settled()
    key = LAKE.data_key("AAPL")
    before = world.store.peek(key) or b""
    world.bar("AAPL", date(2025, 9, 30), 77)
    world.consolidate(world.open_requests)
    for interval in INTERVALS:
        world.resample(interval, world.events)
    world.events.clear()
    world.store.take_away(LAKE.date_key("AAPL", date(2025, 9, 30)))
    world.store.lay(key, before)
    for name in world.store.keys(lost) if lost else ():
        world.store.take_away(name)
    assert {lag.cause for lag in audited(world).lags} >= {Cause.RESTORED}
    healed(world, audited(world))
    assert audited(world).lags == []
    bars = Consolidated.decode(before, "AAPL", NOW).bars.to_pylist()
    world.bronze["AAPL"] = {bar["timestamp"]: flat(bar["open"]) for bar in bars}
    for interval in INTERVALS:
        assert silver(world.store, interval) == whole_silver(world.bronze, interval)


def test_silver_that_is_wrong_at_the_very_version_of_data_parquet_is_mended_by_a_newer_version() -> None:
    world = settled()
    key = next(name for name in world.store.keys("silver/") if "silver_8d" in name)
    rows = decode_silver(world.store.peek(key) or b"", key)
    wrong = pa.array([-1.0] * rows.num_rows, pa.float64())
    world.store.lay(key, encode(rows.set_column(2, SILVER.field(2), wrong)))
    (lag,) = audited(world).lags
    assert (lag.cause, lag.interval, lag.version_floor is not None) == (Cause.SILVER, 8, True)
    assert healed(world, audited(world)) == 1
    assert audited(world).lags == []


def test_a_data_parquet_that_grew_while_silver_was_read_lags_in_nothing() -> None:
    world = settled()
    reconciler = Reconciler(world.store, LAKE, Grid(nyse(), adjusted=True), NOW.date())
    old = Consolidated.decode(world.store.peek(LAKE.data_key("AAPL")) or b"", "AAPL", NOW)
    world.bar("AAPL", date(2025, 9, 30), 77)
    world.consolidate(world.open_requests)
    for interval in INTERVALS:
        world.resample(interval, world.events)
    assert list(reconciler._compare_silver({"AAPL": old}, 3, None)) == []  # noqa: SLF001 (what it read before is given)


@pytest.mark.parametrize("lost", [0, 6])
def test_silver_that_is_wrong_where_the_audit_begins_is_repaired_from_the_first_session_on(lost: int) -> None:
    """A history's only event is lost: the days before the audited ones are as wrong as the audited ones."""
    world = World(None)
    world.history("AAPL")
    for place in range(START, START + 9):
        world.bar("AAPL", SESSIONS[place], 5)
        if place < START + lost:
            world.catch_up(3)
    world.consolidate(world.open_requests)
    world.events.clear()
    since = SESSIONS[START + 3]

    report = audited(world, since)

    [lag] = [lag for lag in report.lags if lag.interval == 3 and lag.cause is Cause.SILVER]
    assert (lag.changed_from == min(world.bronze["AAPL"])) == (lost == 0)
    healed(world, report)
    assert silver(world.store, 3) == whole_silver(world.bronze, 3)

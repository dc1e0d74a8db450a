"""A lake of another program: data.parquet without logs; silver, manifest and checkpoints in other formats."""

import json
from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fiblake.aggregate import SILVER_CALENDAR, decode_silver
from fiblake.bars import Consolidated, decode_manifest, encode
from fiblake.calendar import nyse
from fiblake.decoding import DEFAULT_LIMIT_MB, MAKE_ANEW, MARKET_SHARE, MEGABYTE, TooLargeError
from fiblake.errors import ConflictError, UpstreamError
from fiblake.lake import CLEANUP_RECORD_KEY, INTERVALS, LATEST_VERSION, MANIFEST_KEY, Month, checkpoint_key, silver_key
from services.reconcile.adopt import ARCHIVE_PREFIX, find_foreign, move_away
from services.reconcile.lag import Cause, requests
from services.reconcile.reconcile import Reconciler
from services.reconcile.silver import Grid
from tests.fakes import LAKE
from tests.unit.reconcile.test_heals import audited, healed
from tests.unit.resampler.daily import NOW
from tests.unit.resampler.silver_lake import silver, whole_silver
from tests.unit.test_put_to_silver import World

SEPTEMBER, OCTOBER = Month(2025, 9), Month(2025, 10)


def written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


@pytest.fixture
def old() -> World:
    """Two symbols' bars in data.parquet files as pandas writes them, and the silver of other jobs."""
    world = World(0)
    for symbol in ("AAPL", "BRK.B"):
        world.history(symbol)
    world.consolidate(world.open_requests)
    for symbol in ("AAPL", "BRK.B"):
        key = LAKE.data_key(symbol)
        bars = Consolidated.decode(world.store.peek(key) or b"", symbol, NOW).bars
        stamps = bars["timestamp"].cast(pa.timestamp("ns"))
        plain = bars.select(["symbol", "open", "high", "low", "close", "volume"]).append_column("timestamp", stamps)
        for name in world.store.keys(LAKE.symbol_prefix(symbol)):
            world.store.take_away(name)
        world.store.lay(key, written(plain.replace_schema_metadata(None)))
    world.events.clear()
    theirs = written(pa.table({"symbol": ["AAPL", "GONE"], "date": ["2025-10-01", "2025-10-01"], "close": [1.0, 2.0]}))
    for interval in INTERVALS:
        world.store.lay(silver_key(interval, OCTOBER), theirs)
        world.store.lay(checkpoint_key(interval), b'{"last_date": "2025-10-01"}')
    world.store.lay(MANIFEST_KEY, written(pa.table({"symbol": ["AAPL"], "rows": [9]})))
    world.store.lay(CLEANUP_RECORD_KEY, b"[]")
    return world


def versions(world: World) -> dict[str, str | None]:
    names = world.store.keys()
    return {name: world.store.etag(name) for name in names}


def reconciler(world: World) -> Reconciler:
    return Reconciler(world.store, LAKE, Grid(nyse(), adjusted=True), NOW.date())


def test_files_of_another_program_are_found_and_nothing_is_changed(old: World) -> None:
    before = versions(old)
    to_adopt = find_foreign(reconciler(old))
    silver_files = [silver_key(n, OCTOBER) for n in INTERVALS]
    checkpoints = [checkpoint_key(n) for n in INTERVALS]
    assert sorted(key for key, _ in to_adopt.unreadable) == sorted(
        [*silver_files, *checkpoints, MANIFEST_KEY, CLEANUP_RECORD_KEY]
    )
    assert {(lag.symbol, lag.cause) for lag in to_adopt.symbols} == {("AAPL", Cause.ADOPTED), ("BRK.B", Cause.ADOPTED)}
    assert versions(old) == before


def test_an_adopted_lake_has_every_bar_right_silver_and_every_earlier_byte(old: World) -> None:
    before = {key: old.store.peek(key) for key in versions(old)}
    to_adopt = find_foreign(reconciler(old))
    assert move_away(old.store, to_adopt.unreadable) == len(to_adopt.unreadable)
    old.consolidate([request.model_dump_json() for request in requests(to_adopt.symbols, "adopt")])
    for interval in INTERVALS:
        old.resample(interval, old.events)
    assert audited(old).lags == []
    for interval in INTERVALS:
        assert silver(old.store, interval) == whole_silver(old.bronze, interval, {})
    for key, _ in to_adopt.unreadable:
        assert old.store.peek(f"{ARCHIVE_PREFIX}{key}") == before[key]
    for symbol, days in old.bronze.items():
        stored = Consolidated.decode(old.store.peek(LAKE.data_key(symbol)) or b"", symbol, NOW)
        assert stored.bars["timestamp"].to_pylist() == sorted(days)
        assert not stored.adopted


def test_adopting_twice_changes_nothing_more(old: World) -> None:
    to_adopt = find_foreign(reconciler(old))
    move_away(old.store, to_adopt.unreadable)
    old.consolidate([request.model_dump_json() for request in requests(to_adopt.symbols, "adopt")])
    again = find_foreign(reconciler(old))
    assert (again.unreadable, again.symbols) == ([], [])


def test_a_lake_of_our_own_has_nothing_to_adopt() -> None:
    world = World(None)
    world.history("AAPL")
    healed(world, audited(world))
    to_adopt = find_foreign(reconciler(world))
    assert (to_adopt.unreadable, to_adopt.symbols) == ([], [])


def test_what_was_rewritten_since_is_left_where_it_is(old: World) -> None:
    to_adopt = find_foreign(reconciler(old))
    key = silver_key(3, OCTOBER)
    old.store.lay(key, b"newer")
    assert move_away(old.store, to_adopt.unreadable) == len(to_adopt.unreadable) - 1
    assert old.store.peek(key) == b"newer"
    assert old.store.peek(f"{ARCHIVE_PREFIX}{key}") is None


def test_a_file_that_is_too_large_to_be_copied_does_not_stop_the_others(old: World) -> None:
    key = silver_key(3, OCTOBER)
    old.store.lay(key, bytes(MARKET_SHARE * DEFAULT_LIMIT_MB * MEGABYTE + 1))
    to_adopt = find_foreign(reconciler(old))
    with pytest.raises(TooLargeError, match=rf"{key} is .* raise READ_LIMIT_MB"):
        move_away(old.store, to_adopt.unreadable)
    assert [name for name, _ in find_foreign(reconciler(old)).unreadable] == [key]
    assert old.store.peek(f"{ARCHIVE_PREFIX}{key}") is None


def test_something_else_in_the_archives_place_stops_before_anything_of_it_is_deleted(old: World) -> None:
    key = silver_key(3, OCTOBER)
    old.store.lay(f"{ARCHIVE_PREFIX}{key}", b"of another adoption")
    with pytest.raises(ConflictError, match="move one of the two away first"):
        move_away(old.store, [(key, old.store.etag(key) or "")])
    assert old.store.peek(key)


def test_a_copy_that_is_not_written_deletes_nothing(old: World) -> None:
    key = silver_key(3, OCTOBER)
    old.store.fail("write", UpstreamError("S3 is away"))
    with pytest.raises(UpstreamError):
        move_away(old.store, [(key, old.store.etag(key) or "")])
    assert old.store.peek(key)
    assert move_away(old.store, [(key, old.store.etag(key) or "")]) == 1


def test_a_checkpoint_of_ours_is_known_by_its_fields() -> None:
    world = World(None)
    world.store.lay(checkpoint_key(3), json.dumps({"last_processed_date": str(date(2025, 10, 1))}).encode())
    assert find_foreign(reconciler(world)).unreadable == []


def with_column(table: pa.Table, name: str, value: object) -> pa.Table:
    place = table.column_names.index(name)
    field = table.schema.field(name)
    return table.set_column(place, field, pa.repeat(pa.scalar(value, field.type), table.num_rows))


def with_a_sunday(world: World) -> str:
    key = silver_key(5, SEPTEMBER)
    rows = decode_silver(world.store.peek(key) or b"", key)
    world.store.lay(key, encode(with_column(rows, "ts", date(2025, 9, 21))))
    return key


def with_an_impossible_version(world: World) -> str:
    key = silver_key(5, SEPTEMBER)
    rows = decode_silver(world.store.peek(key) or b"", key)
    world.store.lay(key, encode(with_column(rows, "version", LATEST_VERSION)))
    return key


def with_an_impossible_manifest(world: World) -> str:
    rows = decode_manifest(world.store.peek(MANIFEST_KEY) or b"")
    world.store.lay(MANIFEST_KEY, encode(with_column(rows, "last_updated", LATEST_VERSION)))
    return MANIFEST_KEY


@pytest.mark.parametrize("damage", [with_a_sunday, with_an_impossible_version, with_an_impossible_manifest])
def test_the_remedy_of_rows_that_no_resampler_writes_works(damage: Callable[[World], str]) -> None:
    world = whole_world()
    key = damage(world)
    damaged = world.store.peek(key)
    to_adopt = find_foreign(reconciler(world))
    assert [name for name, _ in to_adopt.unreadable] == [key]
    assert move_away(world.store, to_adopt.unreadable) == 1
    healed(world, audited(world))
    assert audited(world).lags == []
    assert find_foreign(reconciler(world)).unreadable == []
    for interval in INTERVALS:
        assert silver(world.store, interval) == whole_silver(world.bronze, interval, {})
    assert world.store.peek(f"{ARCHIVE_PREFIX}{key}") == damaged


def test_impossible_versions_in_silver_are_named_with_the_remedy_and_not_taken_for_a_restored_file() -> None:
    world = whole_world()
    with_an_impossible_version(world)
    lags = audited(world).lags
    assert {(lag.symbol, lag.cause, lag.interval) for lag in lags} == {("AAPL", Cause.UNREADABLE, 5)}
    assert f"which no version can follow: {MAKE_ANEW}" in lags[0].detail
    assert requests(lags, "audit") == []


def test_a_file_that_another_calendar_cut_is_not_moved_away() -> None:
    world = whole_world()
    key = silver_key(5, SEPTEMBER)
    rows = decode_silver(world.store.peek(key) or b"", key)
    stamp = {SILVER_CALENDAR: "2025-10-03 0123456789abcdef"}
    world.store.lay(key, encode(with_column(rows, "ts", date(2025, 9, 21)), stamp))
    assert find_foreign(reconciler(world)).unreadable == []


def whole_world() -> World:
    """Return a lake of one symbol in which everything is up to date."""
    world = World(None)
    world.history("AAPL")
    healed(world, audited(world))
    assert audited(world).lags == []
    return world

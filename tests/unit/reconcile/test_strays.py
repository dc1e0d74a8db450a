"""The audit names every object below bronze that no service reads, with the remedy."""

import inspect
import json
from dataclasses import replace
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.bars import MANIFEST, Consolidated, decode_manifest, encode
from fiblake.calendar import nyse
from fiblake.decoding import DEFAULT_LIMIT_MB, MARKET_SHARE, MEGABYTE
from fiblake.errors import NotFoundError
from fiblake.lake import INTERVALS, MANIFEST_KEY, Bronze, Month, checkpoint_key, identities_key, silver_key, splits_key
from services.reconcile import reconcile
from services.reconcile.adopt import find_foreign
from services.reconcile.lag import Cause, Lag, requests
from services.reconcile.mended import find_mended
from services.reconcile.reconcile import KEYS_NAMED, Reconciler, Report
from services.reconcile.silver import Grid, buckets, first_difference
from shared import lake
from shared.dead_letters import DeadLetter
from shared.events import ConsolidationRequest
from shared.objects import StoredObject
from shared.queues import ReceivedMessage
from tests.fakes import BUCKET, LAKE, bar, table
from tests.unit.reconcile.test_heals import audited, healed
from tests.unit.resampler.daily import NOW
from tests.unit.test_put_to_silver import World

DAY = date(2025, 9, 30)


def quiet_world(*symbols: str) -> World:
    """Return a lake in which nothing lags."""
    world = World(None)
    for symbol in symbols or ("AAPL",):
        world.history(symbol)
    world.consolidate(world.open_requests)
    for interval in INTERVALS:
        world.resample(interval, world.events)
    world.events.clear()
    return world


def only_lag(report: Report) -> Lag:
    (lag,) = report.lags
    return lag


def test_a_version_that_none_can_follow_is_named_and_stops_no_repair() -> None:
    world = quiet_world("AAPL", "MSFT")
    rows = decode_manifest(world.store.peek(MANIFEST_KEY) or b"").to_pylist()
    for row, version in zip(rows, (datetime(9999, 6, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)), strict=True):
        row["last_updated"] = version
    world.store.lay(MANIFEST_KEY, encode(pa.Table.from_pylist(rows, MANIFEST)))
    impossible, behind = audited(world).lags
    assert (impossible.symbol, impossible.cause, behind.cause) == ("AAPL", Cause.UNREADABLE, Cause.MANIFEST)
    assert "which no version can follow: move it away: `fiblake adopt`" in impossible.detail
    assert [request.symbol for request in requests([impossible, behind], "audit")] == ["MSFT"]


def test_a_row_of_the_manifest_that_names_no_symbol_is_named_and_stops_no_audit() -> None:
    world = quiet_world()
    manifest = decode_manifest(world.store.peek(MANIFEST_KEY) or b"")
    row = manifest.to_pylist()[0] | {"symbol": "BRK/B"}
    world.store.lay(MANIFEST_KEY, encode(pa.concat_tables([manifest, pa.Table.from_pylist([row], MANIFEST)])))
    reconciler = Reconciler(world.store, LAKE, Grid(nyse(), adjusted=True), NOW.date())
    lag = only_lag(reconciler.audit((), None))
    assert (lag.symbol, lag.cause) == ("", Cause.UNREADABLE)
    assert lag.detail.startswith(f"{MANIFEST_KEY} has a row of another program: 'BRK/B' is not a symbol")
    assert MANIFEST_KEY in [key for key, _ in find_foreign(reconciler).unreadable]


@pytest.mark.parametrize(
    ("key", "symbol", "remedy"),
    [
        ("bronze/raw_ohlcv/symbol=N.A/part-0.parquet", "N.A", "put its bars so"),
        (
            "bronze/raw_ohlcv/symbol=N.E/2013-02-08.parquet",
            "N.E",
            "move it to bronze/raw_ohlcv/symbol=N.E/date=2013",
        ),
        ("bronze/raw_ohlcv/symbol=N.F/Date=2013-02-08.parquet", "N.F", "move it to bronze/raw_ohlcv/symbol=N.F/date="),
        ("bronze/raw_ohlcv/symbol=CAPSX/date=2024-01-02.PARQUET", "CAPSX", "move it to bronze/raw_ohlcv/symbol=CAPSX/"),
        ("bronze/raw_ohlcv/symbol=AAPL/date=2025-02-30.parquet", "AAPL", "put its bars so"),
        ("bronze/raw_ohlcv/symbol=AAPL/2013/date=2025-09-30.parquet", "AAPL", "put its bars so"),
        ("bronze/raw_ohlcv/symbol=A B/date=2025-09-30.parquet", "A B", "not below bronze/raw_ohlcv/symbol=SYMBOL/"),
        ("bronze/raw_ohlcv/AAPL.parquet", "", "not below bronze/raw_ohlcv/symbol=SYMBOL/"),
        ("bronze/splits/AAPL.parquet", "", "not of the form symbol=SYMBOL.parquet"),
        ("bronze/identities/symbol=~.parquet", "", "not of the form symbol=SYMBOL.parquet"),
        ("bronze/quarantine/symbol=AAPL/part-0.parquet", "", "move it out of bronze/"),
        ("bronze/readme.txt", "", "move it out of bronze/"),
    ],
)
def test_an_object_that_no_service_reads_is_named_with_what_to_do(key: str, symbol: str, remedy: str) -> None:
    world = quiet_world()
    world.store.lay(key, b"x")
    lag = only_lag(audited(world))
    assert (lag.cause, lag.symbol) == (Cause.STRAY, symbol)
    assert repr(key) in lag.detail
    assert remedy in lag.detail
    assert healed(world, audited(world)) == 0


def test_of_many_objects_a_few_are_named_and_the_others_counted() -> None:
    world = quiet_world()
    for number in range(KEYS_NAMED + 11):
        world.store.lay(f"bronze/raw_ohlcv/symbol=PARTX/part-{number:02}.parquet", b"x")
    lag = only_lag(audited(world))
    assert lag.detail.count("part-") == KEYS_NAMED
    assert lag.detail.endswith(" and 11 more")


def test_if_symbols_are_named_only_their_folders_are_looked_through() -> None:
    world = quiet_world("AAPL", "MSFT")
    for symbol in ("AAPL", "MSFT"):
        world.store.lay(f"bronze/raw_ohlcv/symbol={symbol}/part-0.parquet", b"x")
    assert {lag.symbol for lag in audited(world).lags} == {"AAPL", "MSFT"}
    assert only_lag(audited(world, symbols=["MSFT"])).symbol == "MSFT"


def test_a_folder_marker_named_like_a_file_is_no_file_that_waits() -> None:
    world = quiet_world()
    world.store.lay_marker("bronze/raw_ohlcv/symbol=AAPL/")
    world.store.lay_marker("bronze/raw_ohlcv/symbol=AAPL/2013/")
    assert audited(world).lags == []
    world.store.lay_marker("bronze/raw_ohlcv/symbol=AAPL/date=2025-09-29.parquet/")
    lag = only_lag(audited(world))
    assert (lag.cause, lag.symbol) == (Cause.STRAY, "AAPL")
    assert "an empty folder that is named like a file: delete it" in lag.detail


def test_every_key_of_bronze_that_a_service_writes_is_none_of_them() -> None:
    """A new kind of key in fiblake/lake.py must be known to `stray`, or the audit would complain of our own files."""
    samples: dict[str, object] = {"symbol": "AAPL", "session": DAY, "first": DAY, "last": DAY}
    builders = [*vars(lake).items(), *((name, getattr(LAKE, name)) for name in dir(LAKE))]
    keys = [
        build(*(samples[name] for name in inspect.signature(build).parameters))
        for name, build in builders
        if name.endswith("_key") and callable(build) and set(inspect.signature(build).parameters) <= samples.keys()
    ]
    of_bronze = [key for key in keys if key.startswith("bronze/")]
    assert {LAKE.date_key("AAPL", DAY), splits_key("AAPL"), identities_key("AAPL")} <= set(of_bronze)
    assert [key for key in of_bronze if LAKE.remedy_for_stray(key)] == []
    assert LAKE.remedy_for_stray(lake.quarantine_key("not a symbol", DAY)) is None


@given(st.text(max_size=40))
def test_every_key_of_bronze_is_read_by_a_service_or_reported(rest: str) -> None:
    for prefix in (*LAKE.roots(), "bronze/raw_ohlcv/symbol=AAPL/", "bronze/splits/"):
        key = f"{prefix}{rest}"
        reason = LAKE.remedy_for_stray(key)
        assert reason or key.endswith("/") or LAKE.is_source(key) or LAKE.is_consolidated(key) or "symbol=" in key


def test_a_lake_below_another_prefix_is_looked_through_as_well() -> None:
    assert Bronze("raw/bars").roots() == ["raw/bars/", "bronze/"]
    assert "not below raw/bars/symbol=SYMBOL/" in str(Bronze("raw/bars").remedy_for_stray("raw/bars/x.csv"))


def test_a_symbol_in_small_letters_is_pointed_out_beside_the_one_in_capitals() -> None:
    world = quiet_world("AAPL", "aapl")
    lag = only_lag(audited(world))
    assert (lag.symbol, lag.cause) == ("aapl", Cause.TWIN)
    assert "symbol=AAPL/" in lag.detail
    assert requests([lag], "audit") == []


def test_symbols_that_differ_in_a_few_letters_case_are_different_companies() -> None:
    """TpC is a preferred share of AT&T's, TPC is Tutor Perini."""
    assert audited(quiet_world("TpC", "TPC", "abc")).lags == []


def test_a_symbol_that_the_lake_does_not_know_is_an_error_that_names_the_nearest() -> None:
    world = quiet_world("AAPL", "MSFT")
    with pytest.raises(NotFoundError, match=r"the lake has no bars of ZZZZ$"):
        audited(world, symbols=["ZZZZ"])
    with pytest.raises(NotFoundError, match=r"no bars of MSTF, aapl \(did you mean MSFT, AAPL\?\)"):
        audited(world, symbols=["aapl", "MSTF"])


@pytest.mark.parametrize(
    "key", [MANIFEST_KEY, silver_key(5, Month(2025, 9)), checkpoint_key(5), splits_key("MSFT"), identities_key("MSFT")]
)
@pytest.mark.parametrize(
    ("content", "remedy"),
    [(b"damaged", "`fiblake adopt`"), (bytes(MARKET_SHARE * DEFAULT_LIMIT_MB * MEGABYTE + 1), "raise READ_LIMIT_MB")],
    ids=["damaged", "too large"],
)
def test_a_file_that_cannot_be_read_is_named_and_costs_nothing_else(key: str, content: bytes, remedy: str) -> None:
    world = quiet_world("AAPL", "MSFT")
    world.store.lay(key, content)
    world.bar("AAPL", DAY, 7)
    lags = audited(world).lags
    assert {(lag.symbol, lag.cause) for lag in lags} == {
        ("AAPL", Cause.UNMERGED),
        ("MSFT" if "MSFT" in key else "", Cause.UNREADABLE),
    }
    (unreadable,) = [lag for lag in lags if lag.cause is Cause.UNREADABLE]
    assert key in unreadable.detail
    assert "MSFT" in key or remedy in unreadable.detail


def test_a_month_file_that_cannot_be_read_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "SYMBOLS_AT_ONCE", 1)
    world = quiet_world("AAPL", "MSFT")
    world.store.lay(silver_key(5, Month(2025, 9)), b"damaged")
    assert only_lag(audited(world)).interval == 5


def letter(queue: str, body: str) -> DeadLetter:
    return DeadLetter(queue, ReceivedMessage(body, "r", body, 6))


def test_a_letter_of_a_resampler_is_mended_when_its_own_interval_is_right() -> None:
    world = quiet_world()
    world.store.take_away(silver_key(5, Month(2025, 9)))
    body = ConsolidationRequest(symbol="AAPL").model_dump_json()
    auditor = Reconciler(world.store, LAKE, Grid(nyse(), adjusted=True), NOW.date())
    queues = ("consolidation", "resample-3d", "resample-5d", "history")
    assert [queue for queue in queues if find_mended([letter(queue, body)], auditor)] == [
        "consolidation",
        "resample-3d",
    ]


def test_a_letter_about_another_bucket_or_an_unknown_symbol_always_stays() -> None:
    world = quiet_world()
    auditor = Reconciler(world.store, LAKE, Grid(nyse(), adjusted=True), NOW.date())
    key = LAKE.date_key("AAPL", DAY)
    ours, other, unknown = (
        json.dumps({"bucket": bucket, "key": name})
        for bucket, name in ((BUCKET, key), ("elsewhere", key), (BUCKET, LAKE.date_key("ZZZZ", DAY)))
    )
    assert find_mended([letter("bronze-arrivals", body) for body in (ours, other, unknown)], auditor) == {ours}


def test_a_data_parquet_that_is_damaged_while_the_audit_runs_costs_its_own_symbol() -> None:
    world = quiet_world("AAPL", "MSFT")
    older = world.store.peek(LAKE.data_key("AAPL")) or b""
    world.bar("AAPL", DAY, 7)
    world.consolidate(world.open_requests)
    world.resample(3, world.events)
    reads = iter([older])  # first the one that was put back
    real = world.store.find

    def find(key: str) -> StoredObject | None:
        stored = real(key)
        if stored and key == LAKE.data_key("AAPL"):
            return replace(stored, content=next(reads, b"damaged"))
        return stored

    world.store.find = find  # type: ignore[method-assign]
    lags = [lag for lag in audited(world).lags if lag.interval is None]
    assert {(lag.symbol, lag.cause) for lag in lags} >= {("AAPL", Cause.UNREADABLE)}
    assert {lag.symbol for lag in lags} == {"AAPL"}


def test_a_bar_without_a_price_from_an_older_version_does_not_lag_for_ever() -> None:
    grid = Grid(nyse(), adjusted=True)
    rows = table(bar("2025-09-29"), bar(DAY) | {"open": float("nan"), "volume": float("nan")})
    stored = Consolidated(rows, {}, NOW)
    silver_rows = pa.table(buckets(stored, 5, 0, grid))
    assert first_difference(stored, silver_rows, 5, 0, grid) is None
    other = Consolidated(table(bar("2025-09-29"), bar(DAY)), {}, NOW)
    assert first_difference(other, silver_rows, 5, 0, grid) == silver_rows["ts"][0].as_py()

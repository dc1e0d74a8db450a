import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from fiblake.aggregate import SILVER
from fiblake.bars import MANIFEST, encode
from fiblake.buckets import bucket_start
from fiblake.calendar import nyse
from fiblake.errors import ConfigurationError, ContractError
from fiblake.lake import INTERVALS, MANIFEST_KEY, Month, checkpoint_key, silver_key
from services.reconcile import freshness_handler
from services.reconcile.freshness import measure
from shared.objects import ObjectStore
from tests.fakes import BUCKET, LAKE, NOON, MemoryObjectStore
from tests.unit.conftest import Metrics

FRIDAY, WEDNESDAY, TUESDAY = date(2025, 11, 28), date(2025, 11, 26), date(2025, 11, 25)
"""Thursday was Thanksgiving."""
SATURDAY_MORNING = datetime(2025, 11, 29, 6, 35, tzinfo=UTC)
LONG_AGO = date(2012, 1, 3)
EVERY_SESSION = nyse().ordinal(FRIDAY) + 1


def lake(
    arrived: Mapping[str, date], consolidated: Mapping[str, date], resampled: Mapping[str, date]
) -> MemoryObjectStore:
    """Make a lake with the given last session of each step, symbol by symbol."""
    store = MemoryObjectStore()
    for symbol, day in arrived.items():
        store.lay(LAKE.date_key(symbol, day), b"a bar")
    if consolidated:
        rows = [
            {"symbol": symbol, "last_consolidated_date": day, "row_count": 1, "last_updated": NOON}
            for symbol, day in consolidated.items()
        ]
        store.lay(MANIFEST_KEY, encode(pa.Table.from_pylist(rows, schema=MANIFEST)))
    for interval in INTERVALS if resampled else ():
        lay_silver(store, interval, resampled)
        checkpoint = json.dumps({"last_processed_date": str(max(resampled.values()))}).encode()
        store.lay(checkpoint_key(interval), checkpoint)
    return store


def lay_silver(store: MemoryObjectStore, interval: int, resampled: Mapping[str, date]) -> None:
    months: dict[Month, list[dict[str, Any]]] = {}
    for symbol, day in resampled.items():
        first = nyse().session(bucket_start(nyse().ordinal(day), interval))
        prices = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)
        row = {
            "symbol": symbol,
            "ts": first,
            "last_date": day,
            "bars": 1,
            "is_complete": False,
            "adjusted": True,
            "version": NOON,
        }
        months.setdefault(Month.of(first), []).append(row | prices)
    for month, rows in months.items():
        store.lay(silver_key(interval, month), encode(pa.Table.from_pylist(rows, schema=SILVER)))


def measured(store: MemoryObjectStore) -> dict[str, Any]:
    return measure(store, LAKE, nyse(), SATURDAY_MORNING)


@pytest.mark.parametrize(("last", "behind"), [(FRIDAY, 0), (WEDNESDAY, 1), (TUESDAY, 2), (date(2025, 12, 1), 0)])
def test_a_step_is_behind_by_closed_sessions_and_not_by_days(last: date, behind: int, metrics: Metrics) -> None:
    sessions = {"OLD": LONG_AGO, "AAPL": last}
    shown = measured(lake(sessions, sessions, {"AAPL": last}))
    assert (shown["last_closed"], shown["not_consolidated"]) == ("2025-11-28", behind)
    assert shown["not_resampled"] == {f"{n}d": behind for n in INTERVALS}
    [first, *by_interval] = metrics()
    assert first == {
        "SessionsNotConsolidated": behind, "SymbolsNotConsolidated": 0,
        "SessionsNotResampled": behind, "SymbolsNotResampled": 0,
    }  # fmt: skip
    assert by_interval == [
        {"SessionsNotResampled": behind, "SymbolsNotResampled": 0, "interval": f"{n}d"} for n in INTERVALS
    ]


def test_a_fresh_symbol_hides_no_stale_ones(metrics: Metrics) -> None:
    arrived = {"FRESH": FRIDAY, "STALE": FRIDAY, "NEVER": FRIDAY, "QUIET": TUESDAY}
    consolidated = {"FRESH": FRIDAY, "STALE": WEDNESDAY, "QUIET": TUESDAY}
    shown = measured(lake(arrived, consolidated, {"FRESH": FRIDAY, "STALE": WEDNESDAY, "QUIET": TUESDAY}))
    assert (shown["not_consolidated"], shown["symbols_not_consolidated"]) == (0, 2)
    assert metrics()[0]["SymbolsNotConsolidated"] == 2


def test_a_symbol_that_one_interval_lacks_is_counted_there_and_in_the_worst() -> None:
    sessions = {"AAPL": FRIDAY, "MSFT": FRIDAY, "GONE": LONG_AGO}
    store = lake(sessions, sessions, {"AAPL": FRIDAY, "MSFT": FRIDAY})
    lay_silver(store, 34, {"AAPL": FRIDAY, "MSFT": TUESDAY})
    shown = measured(store)
    assert shown["not_resampled"]["34d"] == 0
    assert shown["symbols_not_resampled"] == {f"{n}d": int(n == 34) for n in INTERVALS}


@pytest.mark.parametrize("interval", INTERVALS)
def test_a_symbol_that_stopped_a_month_ago_is_found_in_the_month_its_last_bucket_begins_in(interval: int) -> None:
    for ago in range(22):
        last = nyse().session(nyse().ordinal(FRIDAY) - ago)
        shown = measured(lake({"A": last}, {"A": last}, {"A": last}))
        assert shown["symbols_not_resampled"][f"{interval}d"] == 0, last


def test_a_lake_that_never_did_anything_is_behind_by_all_there_was(metrics: Metrics) -> None:
    shown = measured(MemoryObjectStore())
    assert shown["not_consolidated"] == EVERY_SESSION
    assert metrics()[0] == {
        "SessionsNotConsolidated": EVERY_SESSION, "SymbolsNotConsolidated": 0,
        "SessionsNotResampled": EVERY_SESSION, "SymbolsNotResampled": 0,
    }  # fmt: skip


def test_bars_that_no_step_ever_took_up_are_all_behind() -> None:
    arrived = {"A": FRIDAY, "B": WEDNESDAY}
    assert measured(lake(arrived, {}, {}))["symbols_not_consolidated"] == 2
    assert set(measured(lake(arrived, arrived, {}))["symbols_not_resampled"].values()) == {2}


def test_a_bar_of_a_session_that_has_not_closed_is_not_waited_for() -> None:
    shown = measured(lake({"A": FRIDAY + timedelta(days=3)}, {"A": FRIDAY}, {"A": FRIDAY}))
    assert shown["symbols_not_consolidated"] == 0


def test_objects_of_bronze_that_are_no_source_files_are_ignored() -> None:
    store = lake({"A": FRIDAY}, {"A": FRIDAY}, {"A": FRIDAY})
    for name in ("data.parquet", "date=2025-13-01.parquet", "notes.txt"):
        store.lay(f"{LAKE.symbol_prefix('B')}{name}", b"")
    assert measured(store)["symbols_not_consolidated"] == 0


def test_a_row_of_a_day_after_the_calendars_end_stops_no_measurement() -> None:
    far = date(9999, 1, 1)
    store = lake({"A": FRIDAY, "B": FRIDAY}, {"A": WEDNESDAY, "B": far}, {"A": WEDNESDAY})
    store.lay(checkpoint_key(8), json.dumps({"last_processed_date": str(far)}).encode())
    shown = measured(store)
    assert (shown["symbols_not_consolidated"], shown["not_resampled"]["8d"], shown["not_resampled"]["3d"]) == (1, 0, 1)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"last_processed_date": "soon"}'])
def test_a_checkpoint_that_cannot_be_read_fails_and_is_named(data: bytes) -> None:
    store = lake({"A": FRIDAY}, {"A": FRIDAY}, {"A": FRIDAY})
    store.lay(checkpoint_key(8), data)
    with pytest.raises(ContractError, match=r"silver_8d_checkpoint\.json cannot be read"):
        measured(store)


def test_a_manifest_that_cannot_be_read_fails_and_is_named() -> None:
    store = lake({"A": FRIDAY}, {"A": FRIDAY}, {"A": FRIDAY})
    store.lay(MANIFEST_KEY, b"no Parquet")
    with pytest.raises(ContractError, match=MANIFEST_KEY):
        measured(store)


def test_the_function_measures_its_bucket(monkeypatch: pytest.MonkeyPatch, metrics: Metrics) -> None:
    day = date(2025, 1, 2)
    store = lake({"A": day}, {"A": day}, {"A": day})
    connected: list[str] = []

    def connect(bucket: str) -> MemoryObjectStore:
        connected.append(bucket)
        return store

    monkeypatch.setattr(ObjectStore, "connect", connect)
    context: Any = Context()
    with pytest.raises(ConfigurationError, match="S3_BUCKET"):
        freshness_handler.handler({}, context)
    monkeypatch.setenv("S3_BUCKET", BUCKET)
    assert freshness_handler.handler({}, context)["not_consolidated"] > 200
    assert connected == [BUCKET]
    assert len(metrics()) == 1 + len(INTERVALS)


class Context:
    """What Lambda says of an invocation."""

    function_name = "freshness"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:freshness"
    aws_request_id = "request-1"

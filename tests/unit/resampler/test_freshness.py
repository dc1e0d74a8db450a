import json
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest

from services.resampler import freshness_handler
from services.resampler.freshness import measure
from shared.bars import MANIFEST, encode
from shared.calendar import nyse
from shared.errors import ConfigurationError, ContractError
from shared.lake import INTERVALS, MANIFEST_KEY, checkpoint_key
from shared.objects import ObjectStore
from tests.fakes import BUCKET, NOON, MemoryObjectStore
from tests.unit.conftest import Metrics

FRIDAY, WEDNESDAY, TUESDAY = date(2025, 11, 28), date(2025, 11, 26), date(2025, 11, 25)
"""Thursday was Thanksgiving."""
SATURDAY_MORNING = datetime(2025, 11, 29, 6, 35, tzinfo=UTC)


def lake(consolidated: date | None, resampled: date | None) -> MemoryObjectStore:
    store = MemoryObjectStore()
    if consolidated:
        days = {"OLD": date(2012, 1, 3), "AAPL": consolidated}
        rows = [
            {"symbol": symbol, "last_consolidated_date": day, "row_count": 1, "last_updated": NOON}
            for symbol, day in days.items()
        ]
        store.lay(MANIFEST_KEY, encode(pa.Table.from_pylist(rows, schema=MANIFEST)))
    for interval in INTERVALS if resampled else ():
        told = json.dumps({"last_processed_date": str(resampled)}).encode()
        store.lay(checkpoint_key(interval), told)
    return store


@pytest.mark.parametrize(("last", "behind"), [(FRIDAY, 0), (WEDNESDAY, 1), (TUESDAY, 2), (date(2025, 12, 1), 0)])
def test_a_step_is_behind_by_closed_sessions_and_not_by_days(last: date, behind: int, metrics: Metrics) -> None:
    measure(lake(last, last), nyse(), SATURDAY_MORNING)
    assert metrics() == [
        {"SessionsNotConsolidated": behind}, *({"SessionsNotResampled": behind, "interval": f"{n}d"} for n in INTERVALS)
    ]  # fmt: skip


def test_what_is_consolidated_may_not_be_resampled_yet() -> None:
    store = lake(FRIDAY, FRIDAY)
    store.lay(checkpoint_key(34), json.dumps({"last_processed_date": str(TUESDAY)}).encode())
    shown = measure(store, nyse(), SATURDAY_MORNING)
    assert (shown["last_closed"], shown["not_consolidated"]) == ("2025-11-28", 0)
    assert shown["not_resampled"] == {"3d": 0, "5d": 0, "8d": 0, "13d": 0, "21d": 0, "34d": 2}


def test_a_lake_without_anything_is_behind_nothing(metrics: Metrics) -> None:
    assert measure(lake(None, None), nyse(), SATURDAY_MORNING)["not_consolidated"] is None
    assert metrics() == []


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"last_processed_date": "soon"}'])
def test_a_checkpoint_that_cannot_be_read_fails_and_is_named(data: bytes) -> None:
    store = lake(FRIDAY, FRIDAY)
    store.lay(checkpoint_key(8), data)
    with pytest.raises(ContractError, match=r"silver_8d_checkpoint\.json cannot be read"):
        measure(store, nyse(), SATURDAY_MORNING)


def test_the_function_measures_its_bucket(monkeypatch: pytest.MonkeyPatch, metrics: Metrics) -> None:
    store = lake(date(2025, 1, 2), date(2025, 1, 2))
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

import json
from datetime import date, timedelta

import pyarrow as pa
import pytest

from cli import status
from fiblake.bars import MANIFEST, encode
from fiblake.errors import EntitlementError, UpstreamError
from fiblake.lake import MANIFEST_KEY, checkpoint_key
from shared.jobs import JobRun
from tests.fakes import LAKE, NOON, bar, consolidated, parquet
from tests.unit.cli.conftest import FakeTarget, Run
from tests.unit.shared.test_dead_letters import Source

DAY = date(2025, 11, 19)


@pytest.fixture(autouse=True)
def _lake(stack: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.queues = {"bronze-arrivals": Source("test-bronze-arrivals"), "consolidation": Source("test-consolidation")}
    stack.queues["consolidation"].put("{}")
    stack.queues["consolidation"].dead_letters.put("dead")
    rows = [
        {"symbol": symbol, "last_consolidated_date": day, "row_count": 1, "last_updated": NOON}
        for symbol, day in (("AAPL", DAY), ("GONE", DAY - timedelta(days=300)))
    ]
    stack.store.lay(MANIFEST_KEY, encode(pa.Table.from_pylist(rows, schema=MANIFEST)))
    stack.store.lay(checkpoint_key(3), json.dumps({"interval": "3d", "last_processed_date": "2025-11-19"}).encode())
    stack.store.lay(LAKE.date_key("LAGS", DAY), parquet(bar(DAY, symbol="LAGS")))
    stack.store.lay(LAKE.data_key("AAPL"), consolidated(bar(DAY)))
    monkeypatch.setattr(status, "watermark", lambda _stack: DAY)
    monkeypatch.setattr(
        stack.workers, "recent", lambda _most: [JobRun("i", "drain-1", "RUNNING", 2, NOON, None)], raising=False
    )


def test_a_program_sees_queues_letters_progress_lag_and_jobs(run: Run) -> None:
    state = json.loads(run("status", "--json").stdout)
    assert state["queues"]["consolidation"] == {"visible": 1, "in_flight": 0, "delayed": 0, "oldest_seconds": 7}
    assert state["dead_letters"] == {"bronze-arrivals": 0, "consolidation": 1}
    assert state["fetched"] == "2025-11-19"
    assert state["consolidated"]["symbols"] == 2
    assert state["consolidated"]["symbols_of_last_session"] == 1
    assert state["intervals"]["3d"]["last_processed_date"] == "2025-11-19"
    assert state["intervals"]["34d"] is None
    assert state["lagging"] == ["LAGS"]
    assert state["jobs"][0]["status"] == "RUNNING"
    assert state["faults"] == {}


def test_a_person_sees_the_same(run: Run) -> None:
    output = run("status").stdout
    for part in ("consolidation", "silver_34d", "2025-11-19", "LAGS", "drain-1"):
        assert part in output


def test_a_refused_file_is_reported_with_its_sessions(run: Run, stack: FakeTarget) -> None:
    key = LAKE.range_key("AAPL", DAY - timedelta(days=400), DAY - timedelta(days=1))
    stack.store.lay(key, b"refused")
    stack.store.lay(LAKE.data_key("AAPL"), consolidated(bar(DAY)))
    (refused,) = json.loads(run("status", "--json").stdout)["refused"]
    assert (refused["symbol"], refused["first"], refused["last"]) == ("AAPL", "2024-10-15", "2025-11-18")
    assert refused["key"] == key
    assert "Files that a consolidation has refused: 1" in run("status").stdout


def test_what_cannot_be_seen_does_not_hide_the_rest(
    run: Run, stack: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_stack: object) -> None:
        raise UpstreamError("the database cannot be reached")

    def refused() -> None:
        raise EntitlementError("CloudWatch is refused")

    monkeypatch.setattr(status, "watermark", unreachable)
    monkeypatch.setattr(stack, "queue_ages", refused)
    result = run("status", "--json")
    state = json.loads(result.stdout)
    assert state["fetched"] is None
    assert state["faults"] == {"fetched": "the database cannot be reached", "oldest": "CloudWatch is refused"}
    assert state["queues"]["consolidation"]["visible"] == 1
    assert "not seen: fetched: the database cannot be reached" in run("status").stdout


def test_without_lag_bronze_is_not_listed(run: Run, stack: FakeTarget) -> None:
    assert json.loads(run("status", "--json", "--no-lag").stdout)["refused"] is None
    assert stack.store.done("list") == []


def test_watching_looks_again_until_it_is_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def nap(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", nap)
    result = run("status", "--watch", "--every", "2", "--json")
    assert len(result.stdout.splitlines()) == 3
    assert looks == [2, 2, 2]


@pytest.mark.parametrize("when", [5, None, ["x"], "soon", "0001-01-01T00:00:00+14:00"])
def test_a_checkpoint_with_an_odd_instant_is_shown_all_the_same(when: object, run: Run, stack: FakeTarget) -> None:
    """Only this table uses the instant, so no service refuses it."""
    checkpoint = {"last_processed_date": "2025-11-17", "last_run_timestamp": when}
    stack.store.lay(checkpoint_key(34), json.dumps(checkpoint).encode())
    result = run("status")
    assert result.exit_code == 0
    assert "2025-11-17" in result.stdout

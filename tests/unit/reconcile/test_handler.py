from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from fiblake.errors import ContractError
from services.reconcile import handler as entry
from services.reconcile.reconcile import Outlets
from services.reconcile.settings import ReconcileEvent, window_start
from shared.events import ConsolidationRequest
from shared.objects import ObjectStore
from tests.fakes import LAKE, FakeJobs, FakeQueue, FakeTopic, MemoryObjectStore, bar, parquet
from tests.unit.conftest import Metrics

DAY = date(2025, 11, 19)


@pytest.fixture
def outlets(monkeypatch: pytest.MonkeyPatch) -> Outlets:
    store = MemoryObjectStore()
    store.lay(LAKE.date_key("AAPL", DAY), parquet(bar(DAY)))
    outlets = Outlets(FakeQueue(), FakeTopic(), FakeJobs(), 100)  # type: ignore[arg-type]
    monkeypatch.setattr(ObjectStore, "connect", lambda _bucket: store)
    monkeypatch.setattr(entry, "_outlets", lambda _settings: outlets)
    for name in ("S3_BUCKET", "CONSOLIDATION_QUEUE_URL", "CONSOLIDATION_COMPLETE_TOPIC_ARN"):
        monkeypatch.setenv(name, "x")
    for name in ("BATCH_JOB_QUEUE", "BATCH_JOB_DEFINITION"):
        monkeypatch.setenv(name, "x")
    return outlets


def called(event: dict[str, Any]) -> dict[str, Any]:
    context = SimpleNamespace(
        function_name="reconcile", memory_limit_in_mb=1, invoked_function_arn="arn", aws_request_id="id-1"
    )
    answer: dict[str, Any] = entry.handler(event, context)
    return answer


def test_the_daily_run_enqueues_what_lags_under_its_own_id(outlets: Outlets) -> None:
    answer = called({"fix": True})
    assert answer["causes"] == {"never_consolidated": 1}
    assert answer["enqueued"] == {"requests": 1, "completions": 0, "unsent": 0, "job": "job-1"}
    assert isinstance(outlets.consolidation, FakeQueue)
    (body,) = outlets.consolidation.sent
    request = ConsolidationRequest.model_validate_json(body)
    assert (request.symbol, request.changed_from, request.correlation_id) == ("AAPL", None, "id-1")


def test_an_audit_of_all_measures_what_lags_and_of_some_nothing(outlets: Outlets, metrics: Metrics) -> None:
    store = ObjectStore.connect("x")
    assert isinstance(store, MemoryObjectStore)
    store.lay(LAKE.data_key("TORN"), b"no Parquet")
    called({"symbols": ["AAPL"]})
    assert metrics() == []
    called({"fix": True})
    assert metrics() == [{"SymbolsAudited": 2, "SymbolsLagging": 2, "SymbolsNeedingAPerson": 1}]
    assert isinstance(outlets.consolidation, FakeQueue)


def test_without_fix_it_only_reports(outlets: Outlets) -> None:
    answer = called({})
    assert (answer["lagging"], answer["enqueued"]) == (1, None)
    assert answer["lags"][0]["symbol"] == "AAPL"
    assert isinstance(outlets.consolidation, FakeQueue)
    assert outlets.consolidation.sent == []


@pytest.mark.usefixtures("outlets")
@pytest.mark.parametrize("event", [{"fix": "perhaps"}, {"days": 0}, {"symbols": ["../x"]}, {"repair": True}])
def test_an_event_that_is_not_understood_is_an_error_that_names_what_is(event: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match=r"not a reconcile event \(symbols, days, fix are known\)"):
        called(event)


def test_buckets_of_some_days_or_of_all_history_are_compared() -> None:
    today = datetime.now(UTC).date()
    assert ReconcileEvent.of({"days": 10}).since(today) == today - timedelta(days=10)
    assert ReconcileEvent.of({"days": None}).since(today) is None


def test_the_window_is_the_resamplers() -> None:
    assert window_start(date(2024, 2, 29), 0) is None
    assert window_start(date(2024, 2, 29), 5) == date(2019, 2, 28)

from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest

from fiblake.errors import ConfigurationError, ContractError
from services.vacuum.handler import handler
from shared.objects import ObjectStore
from tests.fakes import LAKE, MemoryObjectStore, bar, consolidated, parquet

OLD = date(2025, 6, 2)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = MemoryObjectStore()
    for symbol in ("AAPL", "MSFT"):
        key = LAKE.date_key(symbol, OLD)
        etag = store.lay(key, parquet(bar(OLD, symbol=symbol)))
        store.lay(LAKE.data_key(symbol), consolidated(bar(OLD, symbol=symbol), log={key: etag}))
    monkeypatch.setattr(ObjectStore, "connect", lambda _bucket: store)
    monkeypatch.setenv("S3_BUCKET", "b")
    monkeypatch.setenv("RETENTION_DAYS", "30")
    return store


def called(event: dict[str, Any]) -> dict[str, Any]:
    context = SimpleNamespace(
        function_name="vacuum", memory_limit_in_mb=1, invoked_function_arn="arn", aws_request_id="id-1"
    )
    answer: dict[str, Any] = handler(event, context)
    return answer


@pytest.mark.parametrize("event", [{}, {"detail-type": "Scheduled Event", "source": "aws.events"}])
def test_a_schedule_deletes_what_may_go(event: dict[str, Any], store: MemoryObjectStore) -> None:
    answer = called(event)
    assert answer["deleted"]["files"] == answer["due"]["files"] == 2
    assert len(store.done("delete")) == 2


def test_a_dry_run_only_says_what_may_go(store: MemoryObjectStore) -> None:
    answer = called({"dry_run": True, "symbols": ["AAPL"]})
    assert (answer["due"]["files"], answer["deleted"]) == (1, None)
    assert store.done("delete") == []


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("event", [{"retention_days": 6}, {"symbols": ["../x"]}, {"dryrun": True}, []])
def test_an_event_that_is_not_understood_is_an_error_that_names_what_is(event: Any) -> None:  # noqa: ANN401
    with pytest.raises(ContractError, match=r"not a vacuum event \(symbols, retention_days, dry_run are known\)"):
        called(event)


@pytest.mark.usefixtures("store")
def test_a_retention_below_the_floor_is_a_setting_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETENTION_DAYS", "3")
    with pytest.raises(ConfigurationError, match="below the floor of 7"):
        called({})

import json
from datetime import date

import pytest

from cli import reconcile
from fiblake.errors import UpstreamError
from shared.events import ConsolidationRequest
from tests.fakes import LAKE, FakeQueue, bar, parquet
from tests.unit.cli.conftest import FakeTarget, Run

DAY = date(2025, 11, 19)


@pytest.fixture(autouse=True)
def _lake(stack: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.outputs = {"ResamplingRetentionYears": "0", "SplitAdjusted": "true"}
    stack.queues = {"consolidation": FakeQueue("test-consolidation")}
    for symbol in ("AAPL", "MSFT"):
        stack.store.lay(LAKE.date_key(symbol, DAY), parquet(bar(DAY, symbol=symbol)))
    monkeypatch.setattr(reconcile, "watermark", lambda _stack: None)


def test_what_lags_is_listed_with_its_cause_and_is_exit_code_3(run: Run, stack: FakeTarget) -> None:
    result = run("reconcile")
    assert result.exit_code == 3
    assert "2 symbols compared, 2 lag" in result.stdout
    assert "nothing is enqueued" in result.stdout
    report = json.loads(run("reconcile", "--symbols", "AAPL", "--json").stdout)
    assert [(lag["symbol"], lag["cause"]) for lag in report["lags"]] == [("AAPL", "never_consolidated")]
    assert stack.queues["consolidation"].sent == []


def test_fix_enqueues_the_work_and_starts_a_worker(run: Run, stack: FakeTarget) -> None:
    result = run("reconcile", "--fix")
    assert result.exit_code == 0
    symbols = [ConsolidationRequest.model_validate_json(body).symbol for body in stack.queues["consolidation"].sent]
    assert sorted(symbols) == ["AAPL", "MSFT"]
    assert [size for _, size in stack.workers.submitted] == [1]
    assert "enqueued: 2 consolidations" in result.stdout


def test_what_only_a_person_can_mend_is_exit_code_3_even_with_fix(run: Run, stack: FakeTarget) -> None:
    stack.store.lay(LAKE.data_key("BAD"), b"no Parquet")
    assert run("reconcile", "--fix").exit_code == 3


def test_a_watermark_that_bronze_does_not_reach_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "watermark", lambda _stack: DAY)
    result = run("reconcile", "--fix", "--json")
    assert result.exit_code == 3
    assert "no data.parquet reaches beyond None" in json.loads(result.stdout)["note"]


def test_a_database_out_of_reach_is_no_hindrance(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_stack: object) -> None:
        raise UpstreamError("away")

    monkeypatch.setattr(reconcile, "watermark", unreachable)
    assert run("reconcile", "--fix").exit_code == 0


@pytest.mark.parametrize("arguments", [["--symbols", "../x"], ["--since", "yesterday"]])
def test_an_impossible_request_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    assert run("reconcile", *arguments).exit_code == 2

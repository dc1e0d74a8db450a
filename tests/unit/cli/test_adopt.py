import json
from datetime import date

import pyarrow as pa
import pytest

from fiblake.bars import encode
from fiblake.lake import Month, silver_key
from services.reconcile.adopt import ARCHIVE_PREFIX
from shared.events import ConsolidationRequest
from tests.fakes import LAKE, FakeQueue, bar, table
from tests.unit.cli.conftest import FakeTarget, Run

KEY = silver_key(3, Month(2025, 10))


@pytest.fixture(autouse=True)
def _lake(stack: FakeTarget) -> None:
    stack.outputs = {"ResamplingRetentionYears": "0", "SplitAdjusted": "true"}
    stack.queues = {"consolidation": FakeQueue("test-consolidation")}
    stack.store.lay(LAKE.data_key("AAPL"), encode(table(bar(date(2025, 11, 19)))))
    stack.store.lay(KEY, encode(pa.table({"symbol": ["AAPL"]})))


def test_without_consent_it_only_says_what_it_would_do(run: Run, stack: FakeTarget) -> None:
    output = run("adopt").stdout
    assert KEY in output
    assert "with a data.parquet that is to be adopted: 1 symbol\n" in output
    assert "nothing is changed" in output
    assert json.loads(run("adopt", "--json").stdout)["moved"] == 0
    assert stack.store.done("write", "delete") == []


def test_with_consent_what_is_in_the_way_is_moved_and_the_bars_are_consolidated(run: Run, stack: FakeTarget) -> None:
    report = json.loads(run("adopt", "--yes", "--json").stdout)
    assert (report["moved"], report["enqueued"], report["unreadable"]) == (1, 1, [KEY])
    assert stack.store.keys("archive") == [f"{ARCHIVE_PREFIX}{KEY}"]
    (body,) = stack.queues["consolidation"].sent
    assert ConsolidationRequest.model_validate_json(body).symbol == "AAPL"
    assert len(stack.workers.submitted) == 1


def test_a_data_parquet_that_cannot_be_adopted_is_named_and_is_exit_code_3(run: Run, stack: FakeTarget) -> None:
    stack.store.lay(LAKE.data_key("BAD"), b"no Parquet")
    result = run("adopt", "--yes")
    assert result.exit_code == 3
    assert "BAD cannot be" in result.stdout
    assert [ConsolidationRequest.model_validate_json(b).symbol for b in stack.queues["consolidation"].sent] == ["AAPL"]

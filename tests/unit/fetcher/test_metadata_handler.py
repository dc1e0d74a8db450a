import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from fiblake.errors import ConfigurationError, ContractError
from fiblake.lake import splits_key
from fiblake.reference import Split
from services.fetcher import assembly, metadata_handler
from shared.queues import Queue
from tests.fakes import FakeQueue, sample
from tests.unit.conftest import Metrics
from tests.unit.fetcher.deployed import DAY, Context, Deployed
from tests.unit.fetcher.reference import ReferenceDatabase, ReferenceVendor, ticker
from tests.unit.fetcher.vendor import KEY

QUEUE = "https://sqs.us-east-1.amazonaws.com/000000000000/test-history"
MINE = ("METADATA_DETAILS_DAYS", "METADATA_DETAILS_PER_RUN", "HISTORY_RETRY_HOURS")


class Reference:
    """The metadata function's surroundings."""

    def __init__(self) -> None:
        self.vendor = ReferenceVendor([ticker("AAPL"), ticker("MSFT"), ticker("AACBW", type="WARRANT")])
        self.database = ReferenceDatabase()
        self.queue = FakeQueue("test-history")
        self.paces: list[float | None] = []

    @asynccontextmanager
    async def massive(self, _url: str, key: SecretStr, pace: float | None) -> AsyncIterator[ReferenceVendor]:
        assert key.get_secret_value() == KEY
        self.paces.append(pace)
        yield self.vendor

    def connect(self, url: str) -> FakeQueue:
        assert url == QUEUE
        return self.queue


@pytest.fixture
def reference(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> Reference:
    reference = Reference()
    deployed.database = reference.database  # type: ignore[assignment]
    monkeypatch.setitem(assembly.VENDORS, "massive", reference.massive)
    monkeypatch.setattr(Queue, "connect", reference.connect)
    monkeypatch.setenv("HISTORY_QUEUE_URL", QUEUE)
    for name in MINE:
        monkeypatch.delenv(name, raising=False)
    return reference


def invoke(event: dict[str, Any], time_left: timedelta = timedelta(minutes=15)) -> Any:  # noqa: ANN401 (JSON)
    context: Any = Context(left=time_left)
    return json.loads(json.dumps(metadata_handler.handler(event, context)))


@pytest.mark.parametrize("event", [{}, sample("schedule")])
def test_a_schedules_event_brings_everything_up_to_date_and_the_answer_counts(
    reference: Reference, event: dict[str, Any]
) -> None:
    answer = invoke(event)
    assert answer.pop("seconds") >= 0
    assert {name: count for name, count in answer.items() if count} == {
        "listed": 3, "new": 3, "details": 3, "histories_requested": 2,
    }  # fmt: skip
    assert [json.loads(body)["symbol"] for body in reference.queue.sent] == ["AAPL", "MSFT"]


def test_splits_alone_may_be_requested(reference: Reference, deployed: Deployed) -> None:
    invoke({})
    reference.vendor.reported = [Split("AAPL", DAY, 1.0, 4.0, "forward_split", 0.25, "E1")]
    reference.vendor.listed = []
    assert invoke({"splits_only": True})["splits_changed"] == 1
    assert deployed.store.keys("bronze/splits/") == [splits_key("AAPL")]


def test_details_stop_before_the_functions_time_is_over(reference: Reference) -> None:
    answer = invoke({}, time_left=timedelta(minutes=2))
    assert (answer["details"], answer["details_left"], answer["histories_requested"]) == (0, 3, 2)
    assert reference.vendor.questions("details") == []


def test_the_settings_reach_the_fetcher(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "UNIVERSE_TYPES": "WARRANT, CS", "UNIVERSE": "AACBW", "METADATA_DETAILS_PER_RUN": "1",
        "REQUESTS_PER_MINUTE": "5",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    answer = invoke({})
    assert (answer["details"], answer["details_left"]) == (1, 2)
    assert [json.loads(body)["symbol"] for body in reference.queue.sent] == ["AACBW"]
    assert reference.paces == [5.0]


def test_fresh_details_are_not_requested_again(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    invoke({})
    assert invoke({})["details"] == 0
    for record in list(reference.database.records.values()):
        old = datetime.now(UTC) - timedelta(days=8)
        aged = replace(record, details_at=old, history_requested_at=old)
        reference.database.records[record.symbol, record.valid_from] = aged
    monkeypatch.setenv("METADATA_DETAILS_DAYS", "7")
    monkeypatch.setenv("HISTORY_RETRY_HOURS", "24")
    answer = invoke({})
    assert (answer["details"], answer["histories_requested"]) == (3, 2)


def test_a_queue_that_is_not_named_is_an_error_that_names_the_variable(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HISTORY_QUEUE_URL")
    with pytest.raises(ConfigurationError, match="HISTORY_QUEUE_URL"):
        invoke({})
    assert reference.paces == []


@pytest.mark.parametrize("name", ["METADATA_DETAILS_DAYS", "HISTORY_RETRY_HOURS", "REQUESTS_PER_MINUTE"])
@pytest.mark.parametrize("value", ["0", "-1", "soon"])
def test_a_setting_that_cannot_be_is_named(
    reference: Reference, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        invoke({})
    assert reference.paces == []


def test_an_event_with_an_unknown_option_is_refused_with_the_known_ones(reference: Reference) -> None:
    with pytest.raises(ContractError, match=r"\(as_of, splits_only are known\): splits"):
        invoke({"splits": True})
    assert reference.paces == []


@pytest.mark.usefixtures("reference")
def test_what_a_run_did_is_metrics(metrics: Metrics) -> None:
    invoke({})
    counts = {"TickersListed": 3, "SymbolsNew": 3, "SymbolsVanished": 0, "SplitsChanged": 0, "DividendsChanged": 0}
    counts["HistoriesRequested"] = 2
    assert metrics() == [counts]

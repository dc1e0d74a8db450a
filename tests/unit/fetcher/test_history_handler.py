import json
from typing import Any

import boto3
import pytest

from fiblake.calendar import TradingCalendar, nyse
from fiblake.errors import UpstreamError
from services.fetcher import assembly, history_handler
from shared.events import HistoryRequest
from shared.queues import queue_of_arn
from tests.fakes import LAKE, sample
from tests.unit.conftest import Metrics
from tests.unit.fetcher.deployed import DAY, Context, Deployed
from tests.unit.fetcher.test_history import record
from tests.unit.fetcher.vendor import page, range_row

ARN = "arn:aws:sqs:us-east-1:123456789012:dev-history"


@pytest.fixture
def dead_letters(deployed: Deployed) -> Any:  # noqa: ANN401 (boto's resource)
    """The queue's dead letters, in an account with the queue and the symbol AAPL."""
    deployed.database.records["AAPL"] = record("AAPL")
    sqs = boto3.resource("sqs")
    sqs.create_queue(QueueName="dev-history")
    queue_of_arn.cache_clear()
    return sqs.create_queue(QueueName="dev-history-dlq")


def invoke(*bodies: str, receives: int = 1) -> list[str]:
    """Pass the messages as Lambda does; return the ids of those that come again."""
    records = [
        {
            "messageId": f"m{number}", "receiptHandle": f"r{number}", "body": body, "eventSourceARN": ARN,
            "eventSource": "aws:sqs", "messageAttributes": {},
            "attributes": {"ApproximateReceiveCount": str(receives)},
        }
        for number, body in enumerate(bodies, start=1)
    ]  # fmt: skip
    context: Any = Context()
    answer = history_handler.handler({"Records": records}, context)
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def history_request(symbol: str) -> str:
    return HistoryRequest(symbol=symbol).model_dump_json()


@pytest.mark.usefixtures("dead_letters")
def test_a_request_leads_to_one_range_file_and_is_done(deployed: Deployed) -> None:
    deployed.vendor.answers = [page([range_row(DAY)])]
    assert invoke(history_request("AAPL")) == []
    assert deployed.store.keys() == [LAKE.range_key("AAPL", DAY, DAY)]
    assert deployed.database.loaded == {"AAPL": DAY}


@pytest.mark.usefixtures("dead_letters")
def test_requests_that_came_often_before_are_worked_on_one_by_one(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them may have killed the function each time."""
    groups: list[int] = []
    real = history_handler.load_requested

    def load_requested(runner: Any, fetcher: Any, messages: Any, closed: Any) -> Any:  # noqa: ANN401 (as it is)
        groups.append(len(messages))
        return real(runner, fetcher, messages, closed)

    monkeypatch.setattr(history_handler, "load_requested", load_requested)
    deployed.vendor.answers = [page([range_row(DAY)])] * 2
    assert invoke(history_request("AAPL"), history_request("AAPL"), receives=3) == []
    assert groups == [1, 1]


@pytest.mark.usefixtures("dead_letters")
def test_the_sample_event_leads_to_the_same_and_is_counted(
    deployed: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed.vendor.answers = [page([range_row(DAY)])]
    context: Any = Context()
    assert history_handler.handler(sample("history-request"), context) == {"batchItemFailures": []}
    assert deployed.database.loaded == {"AAPL": DAY}
    [metrics] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert (metrics["HistoriesLoaded"], metrics["BarsStored"], metrics["BarsQuarantined"]) == ([1], [1], [0])


def test_a_poison_message_is_dead_lettered_with_its_reason_while_the_others_succeed(
    deployed: Deployed,
    dead_letters: Any,  # noqa: ANN401
) -> None:
    deployed.vendor.answers = [page([range_row(DAY)])]
    assert invoke('{"symbol": "../x"}', history_request("AAPL"), history_request("NOBODY")) == []
    letters = dead_letters.receive_messages(MaxNumberOfMessages=10, MessageAttributeNames=["All"])
    reasons = {json.loads(m.body)["symbol"]: m.message_attributes["reason"]["StringValue"] for m in letters}
    assert reasons.keys() == {"../x", "NOBODY"}
    assert "symbol_metadata does not know NOBODY" in reasons["NOBODY"]
    assert deployed.database.loaded == {"AAPL": DAY}


def test_a_database_that_is_down_is_no_messages_fault_and_all_come_again(
    deployed: Deployed,
    dead_letters: Any,  # noqa: ANN401
) -> None:
    deployed.down = UpstreamError("the database failed")
    assert invoke(history_request("AAPL"), history_request("NOBODY")) == ["m1", "m2"]
    assert dead_letters.receive_messages() == []


def test_a_calendar_that_is_too_short_is_no_messages_fault_and_all_come_again(
    deployed: Deployed,
    dead_letters: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = TradingCalendar(nyse().sessions[:13_000])
    monkeypatch.setattr(assembly, "lake_calendar", lambda: short)
    assert invoke(history_request("AAPL"), history_request("NOBODY")) == ["m1", "m2"]
    assert (deployed.vendor.requests, dead_letters.receive_messages()) == ([], [])


def test_an_answer_that_cannot_be_trusted_is_requested_again_later(deployed: Deployed, dead_letters: Any) -> None:  # noqa: ANN401
    deployed.vendor.answers = [page([range_row(DAY)], resultsCount=2)]
    assert invoke(history_request("AAPL")) == ["m1"]
    assert (deployed.store.keys(), dead_letters.receive_messages()) == ([], [])


@pytest.mark.usefixtures("dead_letters")
def test_histories_and_their_bars_are_metrics_and_so_are_dead_letters(deployed: Deployed, metrics: Metrics) -> None:
    deployed.vendor.answers = [page([range_row(DAY)])]
    invoke(history_request("AAPL"), history_request("NOBODY"))
    assert metrics() == [
        {"HistoriesLoaded": 1, "BarsStored": 1, "BarsQuarantined": 0, "BarsFlagged": 0},
        {"MessagesDeadLettered": 1, "MessagesRetried": 0},
    ]

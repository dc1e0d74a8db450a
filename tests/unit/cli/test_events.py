import json
from pathlib import Path
from typing import Any

import pytest

from cli.events import messages
from fiblake.errors import ContractError
from fiblake.lake import INTERVALS
from services.consolidator.arrivals import read_notification, requests
from services.reconcile.settings import ReconcileEvent
from services.resampler.handler import interval_of
from services.vacuum.settings import VacuumEvent
from shared.events import ConsolidationComplete, ConsolidationRequest, parse
from tests.fakes import BUCKET, LAKE, REPOSITORY, FakeQueue, sample
from tests.unit.cli.conftest import FakeTarget, Run

COMPLETIONS = tuple(f"consolidation-complete-{n}d" for n in INTERVALS)


def bodies(name: str) -> list[str]:
    return [record["body"] for record in sample(name)["Records"]]


def path(name: str) -> str:
    return str(REPOSITORY / "events" / f"{name}.json")


@pytest.fixture(autouse=True)
def _queues(stack: FakeTarget) -> None:
    stack.queues = {name: FakeQueue(f"test-{name}") for name in ("bronze-arrivals", "consolidation", "resample-3d")}
    stack.bucket = BUCKET


def test_there_is_a_completion_for_every_interval() -> None:
    arns = [sample(name)["Records"][0]["eventSourceARN"] for name in COMPLETIONS]
    assert [interval_of(arn.rsplit(":", 1)[-1]) for arn in arns] == list(INTERVALS)
    assert {parse(ConsolidationComplete, *bodies(name)).symbol for name in COMPLETIONS} == {"AAPL"}


def test_a_notification_that_comes_twice_is_one_request() -> None:
    twice = [read_notification(body, "dev-condvest-datalake", LAKE) for body in bodies("s3-put-twice")]
    assert [request.symbol for request in requests(twice)] == ["AAPL"]
    assert len(twice) == 2


@pytest.mark.parametrize(
    ("name", "reason"), [("poison", "not a Consol"), ("consolidation-complete-unknown-version", "schema version 9.0")]
)
def test_a_poison_message_and_an_unknown_version_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ContractError, match=reason):
        parse(ConsolidationComplete, *bodies(name))


def test_the_housekeepers_samples_are_understood() -> None:
    assert ReconcileEvent.of(sample("reconcile-fix")).fix
    assert VacuumEvent.of(sample("vacuum-dry-run")).dry_run


def test_what_lambda_gets_from_a_queue_is_sent_as_the_messages_in_it(run: Run, stack: FakeTarget) -> None:
    result = run("events", "send", path("consolidation-complete-3d"), "--queue", "resample-3d", "--json")
    assert json.loads(result.stdout) == {"queue": "resample-3d", "sent": 1}
    assert stack.queues["resample-3d"].sent == bodies("consolidation-complete-3d")
    (message,) = stack.queues["resample-3d"].receive()
    assert message.attributes["intervals"]["DataType"] == "String.Array"


def test_a_message_of_ours_is_sent_as_it_is_and_a_worker_is_started_for_it(run: Run, stack: FakeTarget) -> None:
    assert run("events", "send", path("consolidation-request"), "--queue", "consolidation").exit_code == 0
    (body,) = stack.queues["consolidation"].sent
    assert parse(ConsolidationRequest, body).symbol == "AAPL"
    assert len(stack.workers.submitted) == 1


def test_a_sample_of_s3s_may_speak_of_the_stacks_own_bucket(run: Run, stack: FakeTarget) -> None:
    run("events", "send", path("s3-put-via-eventbridge"), "--queue", "bronze-arrivals", "--own-bucket")
    (body,) = stack.queues["bronze-arrivals"].sent
    assert read_notification(body, BUCKET, LAKE).files


def test_an_event_may_come_from_another_command(run: Run, stack: FakeTarget) -> None:
    record = {"Records": [{"eventSource": "aws:s3", "s3": {}}]}
    result = run("events", "send", "-", "--queue", "bronze-arrivals", input_=json.dumps(record))
    assert result.exit_code == 0
    assert stack.queues["bronze-arrivals"].sent == [json.dumps(record)]


@pytest.mark.parametrize(
    "attributes", [None, [], {"a": 5}, {"a": {"stringValue": "v"}}, {"a": {"stringValue": 5, "dataType": "x"}}]
)
def test_attributes_that_are_none_are_left_out(attributes: object) -> None:
    record = {"eventSource": "aws:sqs", "body": "x", "messageAttributes": attributes}
    assert messages(json.dumps({"Records": [record]})) == (["x"], [{}])


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "no JSON", "[1]", '{"Records": [1]}', '{"Records": [{"eventSource": "aws:s3"}]}']
)
def test_whatever_is_no_event_of_a_queues_is_one_message(text: str) -> None:
    bodies_and_attributes: tuple[list[str], list[dict[str, Any]]] = messages(text)
    assert bodies_and_attributes == ([text], [{}])


def test_no_such_file_and_no_such_queue_are_exit_code_2(run: Run, tmp_path: Path) -> None:
    assert run("events", "send", str(tmp_path / "none.json"), "--queue", "consolidation").exit_code == 2
    result = run("events", "send", path("poison"), "--queue", "nowhere")
    assert result.exit_code == 2
    assert "the queues are bronze-arrivals" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("file", ["/dev/zero", "/dev/full"])
def test_a_file_without_an_end_is_refused_and_does_not_fill_the_memory(run: Run, stack: FakeTarget, file: str) -> None:
    result = run("events", "send", file, "--queue", "consolidation")
    assert result.exit_code == 2
    assert f"{file} cannot be sent: it has more than 32,000,000 characters" in " ".join(
        result.stderr.replace("│", " ").split()
    )
    assert stack.queues["consolidation"].sent == []


def test_what_the_queue_does_not_take_is_an_error(run: Run, stack: FakeTarget) -> None:
    stack.queues["consolidation"].refuse_sends = lambda _body: True
    assert run("events", "send", path("consolidation-request"), "--queue", "consolidation").exit_code == 1

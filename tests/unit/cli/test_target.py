import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.target import Choice, Target, target
from fiblake import stacks
from fiblake.errors import NotFoundError
from local import supervisor
from local.stack import Stack
from shared.telemetry import logger
from tests.fakes import FakeJobs

SQS = "https://sqs.us-east-1.amazonaws.com/000000000000"
NAMES = ("resample-34d", "history", "consolidation", "resample-3d", "bronze-arrivals")
OUTPUTS = {
    "BucketName": "prod-condvest-datalake",
    **{f"{name.title().replace('-', '')}QueueUrl": f"{SQS}/prod-eu-{name}" for name in NAMES},
    "OhlcvFetcherDeadLettersUrl": f"{SQS}/prod-eu-ohlcv-fetcher-dlq",
    "BatchJobQueueName": "prod-batch-consolidation",
    "BatchJobDefinitionName": "prod-batch-bronze-consolidator",
    "DatabaseTls": "disable",
}
OWNER = '{"host": "db", "port": 5432, "username": "owner", "password": "hush", "dbname": "d"}'


def context(choice: Choice) -> SimpleNamespace:
    return SimpleNamespace(find_object=lambda _kind: choice)


@pytest.fixture(autouse=True)
def _logger_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger.registered_handler, "stream", sys.stdout)


def test_queues_are_named_without_the_environment_in_the_order_of_the_flow() -> None:
    stack = Target("prod", OUTPUTS)
    assert list(stack.queue_urls) == ["history", "bronze-arrivals", "consolidation", "resample-3d", "resample-34d"]
    assert stack.queue_urls["history"] == f"{SQS}/prod-eu-history"
    assert stack.lone_dead_letter_urls == {"ohlcv-fetcher-dlq": f"{SQS}/prod-eu-ohlcv-fetcher-dlq"}
    assert stack.bucket == "prod-condvest-datalake"


def test_a_stack_that_is_not_fiblakes_is_an_error_that_says_so() -> None:
    foreign = Target("webshop", {"Url": "x"})
    with pytest.raises(NotFoundError, match="stack webshop has no output BucketName: is it fiblake's"):
        _ = foreign.bucket
    with pytest.raises(NotFoundError, match=r"stack webshop has no output of the form \.\.\.QueueUrl"):
        _ = foreign.queue_urls


def test_the_database_is_spoken_to_as_the_fetchers_do_and_on_an_older_stack_as_its_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = {"arn:owner": OWNER, "arn:fetcher": OWNER.replace("owner", "fetcher")}
    monkeypatch.setattr("shared.secrets.read_secret", secrets.__getitem__)
    older = OUTPUTS | {"RdsSecretArn": "arn:owner"}
    for outputs, user in ((older, "owner"), (older | {"FetcherSecretArn": "arn:fetcher"}, "fetcher")):
        address, tls = Target("prod", outputs).database()
        assert repr(address) == f"DatabaseAddress({user}@db:5432/d)"
        assert not tls.verify


def test_the_options_turn_the_process_to_the_stack_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(stacks, "connect", lambda: "client")
    monkeypatch.setattr(stacks, "outputs_of", lambda *arguments: calls.append(arguments) or OUTPUTS)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    stack = target(context(Choice(region="eu-west-1", stack="prod")))  # type: ignore[arg-type]
    assert calls == [("client", "prod")]
    assert (stack.name, stack.outputs) == ("prod", OUTPUTS)
    assert logger.registered_handler.stream is sys.stderr  # type: ignore[attr-defined]
    assert os.environ["AWS_REGION"] == "eu-west-1"


def test_the_local_stack_takes_no_setting_of_the_users_account(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Stack(Path(), "http://127.0.0.1:1", "http://127.0.0.1:2", "", OWNER, OUTPUTS)
    monkeypatch.setattr(supervisor, "running_stack", lambda: running)
    monkeypatch.setenv("AWS_PROFILE", "prod")
    stack = target(context(Choice(local=True)))  # type: ignore[arg-type]
    assert (stack.name, stack.outputs) == ("local", OUTPUTS)
    assert "AWS_PROFILE" not in os.environ
    assert os.environ["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"


def test_without_a_local_stack_the_sentence_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "is_running", lambda: False)
    with pytest.raises(supervisor.NotRunningError, match="start one with `fiblake local up`"):
        target(context(Choice(local=True)))  # type: ignore[arg-type]


def test_workers_are_started_for_requests_unless_some_are_yet_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = FakeJobs()
    monkeypatch.setattr(Target, "jobs", lambda _self, _prefix: jobs)
    stack = Target("prod", OUTPUTS)
    stack.start_workers(501)
    jobs.waiting = True
    stack.start_workers(5)
    assert [size for _, size in jobs.submitted] == [2]

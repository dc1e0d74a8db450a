import json
import os
from datetime import date

import pytest

from fiblake.lake import BRONZE_PREFIX
from services.consolidator import __main__ as worker
from shared.events import ConsolidationRequest
from tests.fakes import LAKE, FakeQueue, bar, parquet
from tests.unit.cli.conftest import FakeTarget, Run

DAY = date(2025, 11, 19)


@pytest.fixture(autouse=True)
def _lake(stack: FakeTarget) -> None:
    stack.queues = {"consolidation": FakeQueue("test-consolidation")}
    for symbol in ("AAPL", "MSFT"):
        stack.store.lay(LAKE.date_key(symbol, DAY), parquet(bar(DAY, symbol=symbol)))
    stack.store.lay(f"{BRONZE_PREFIX}/notes/readme.txt", b"not ours")


def sent_requests(stack: FakeTarget) -> list[ConsolidationRequest]:
    return [ConsolidationRequest.model_validate_json(body) for body in stack.queues["consolidation"].sent]


def test_named_symbols_are_requested_with_all_their_history_and_a_worker_is_started(
    run: Run, stack: FakeTarget
) -> None:
    assert json.loads(run("consolidate", "--symbols", "MSFT", "--json").stdout) == {"enqueued": 1}
    (request,) = sent_requests(stack)
    assert (request.symbol, request.changed_from) == ("MSFT", None)
    assert len(stack.workers.submitted) == 1


def test_all_are_the_symbols_of_the_lake(run: Run, stack: FakeTarget) -> None:
    assert "2 symbols enqueued" in run("consolidate", "--all").stdout
    assert [request.symbol for request in sent_requests(stack)] == ["AAPL", "MSFT"]


@pytest.mark.parametrize(
    ("options", "mode"),
    [(["--here"], []), (["--full"], ["--mode", "full"]), (["--full", "--here"], ["--mode", "full"])],
)
def test_in_this_process_the_worker_runs_as_in_a_job_and_its_exit_code_is_ours(
    run: Run, stack: FakeTarget, monkeypatch: pytest.MonkeyPatch, options: list[str], mode: list[str]
) -> None:
    ran: list[tuple[list[str], str, str]] = []

    def main(arguments: list[str]) -> int:
        ran.append((arguments, os.environ["S3_BUCKET"], os.environ["CONSOLIDATION_COMPLETE_TOPIC_ARN"]))
        return 3

    for name in ("S3_BUCKET", "CONSOLIDATION_COMPLETE_TOPIC_ARN"):
        monkeypatch.setenv(name, "of another stack")
    monkeypatch.setattr(worker, "main", main)
    assert run("consolidate", "--symbols", "MSFT,AAPL", "--max-workers", "2", *options).exit_code == 3
    assert ran == [(["--symbols", "AAPL,MSFT", "--max-workers", "2", *mode], "lake", stack.complete.arn)]
    assert sent_requests(stack) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name --symbols, or say --all"),
        (["--symbols", "AAPL", "--all"], "name --symbols, or say --all"),
        (["--symbols", "GHOST"], "the lake has no bars of GHOST"),
        (["--symbols", "../x"], "is not a symbol"),
    ],
)
def test_an_impossible_request_is_exit_code_2(run: Run, arguments: list[str], sentence: str) -> None:
    result = run("consolidate", *arguments)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.replace("│", " ").split())


def test_what_the_queue_does_not_take_is_an_error(run: Run, stack: FakeTarget) -> None:
    stack.queues["consolidation"].refuse_sends = lambda _body: True
    assert run("consolidate", "--all").exit_code == 1

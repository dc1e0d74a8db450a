import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from cli.dead_letters import REASONS_SHOWN
from fiblake.bars import MANIFEST, encode
from fiblake.errors import ContractError, FiblakeError, NotFoundError
from fiblake.lake import MANIFEST_KEY
from shared import functions
from shared.events import ConsolidationRequest
from shared.queues import ReceivedMessage
from tests.fakes import LAKE, NOON, FakeQueue, bar, consolidated, parquet
from tests.unit.cli.conftest import FakeTarget, Run
from tests.unit.shared.test_dead_letters import Source

RECORD = {"requestContext": {"functionArn": "arn:fetcher"}, "requestPayload": {"as_of": "2025-11-19"}}


def request(symbol: str) -> str:
    return ConsolidationRequest(symbol=symbol).model_dump_json()


def bury(queue: Source, body: str, error: FiblakeError) -> None:
    queue.dead_letter(ReceivedMessage("m", "r", body, 6), error)


@pytest.fixture(autouse=True)
def letters(stack: FakeTarget) -> None:
    consolidation, arrivals = Source("test-consolidation"), Source("test-bronze-arrivals")
    stack.queues = {"bronze-arrivals": arrivals, "consolidation": consolidation}
    stack.lone_dead_letters = {"ohlcv-fetcher-dlq": FakeQueue("test-ohlcv-fetcher-dlq")}
    for symbol in ("AAPL", "MSFT"):
        bury(consolidation, request(symbol), NotFoundError(f"{symbol} has no bars"))
    bury(consolidation, "poison", ContractError("not a ConsolidationRequest"))
    stack.lone_dead_letters["ohlcv-fetcher-dlq"].put(json.dumps(RECORD))


def source(stack: FakeTarget, name: str = "consolidation") -> Source:
    queue = stack.queues[name]
    assert isinstance(queue, Source)
    return queue


def test_all_dead_letter_queues_are_listed_with_depth_age_and_reasons(run: Run) -> None:
    rows = {row["queue"]: row for row in json.loads(run("dlq", "list", "--json").stdout)}
    assert {name: row["letters"] for name, row in rows.items()} == {
        "bronze-arrivals": 0, "consolidation": 3, "ohlcv-fetcher": 1,
    }  # fmt: skip
    assert rows["consolidation"]["reasons"] == {
        "NotFoundError: AAPL has no bars": 1,
        "NotFoundError: MSFT has no bars": 1,
        "ContractError: not a ConsolidationRequest": 1,
    }
    assert rows["consolidation"]["oldest_seconds"] > 0
    assert rows["bronze-arrivals"]["oldest_seconds"] is None
    assert "1 of NotFoundError" in run("dlq", "list").stdout


def test_a_letter_is_shown_with_its_reason_and_receive_count(run: Run, stack: FakeTarget) -> None:
    result = run("dlq", "show", "--queue", "consolidation", "--symbols", "AAPL")
    assert "NotFoundError: AAPL has no bars" in result.stdout
    assert "after 6 receives" in result.stdout
    assert request("AAPL") in result.stdout
    assert "1 letter\n" in result.stdout
    (shown,) = json.loads(run("dlq", "show", "--reason", "not a Consol", "--json").stdout)
    assert (shown["body"], shown["receive_count"]) == ("poison", 6)
    assert source(stack).dead_letters.depth().visible == 3


def test_all_reasons_are_listed_or_the_others_are_counted(run: Run, stack: FakeTarget) -> None:
    for number in range(REASONS_SHOWN + 8):
        bury(source(stack), request("IBM"), ContractError(f"fault-{number:02}"))
    output = run("dlq", "list").stdout
    assert sum(f"fault-{number:02}" in output for number in range(REASONS_SHOWN + 8)) == REASONS_SHOWN - 3
    assert "and 11 more" in output


def test_a_reason_is_text_whatever_it_contains(run: Run, stack: FakeTarget) -> None:
    bury(source(stack), "[red]body[/red]", ContractError("[bold]fault[/bold] :smile: [/nothing]"))
    for command in ("list", "show"):
        output = " ".join(run("dlq", command).stdout.replace("│", " ").split())
        assert "[bold]fault[/bold] :smile: [/nothing]" in output
    assert "[red]body[/red]" in run("dlq", "show").stdout


def test_a_text_of_others_is_no_command_to_the_terminal(run: Run, stack: FakeTarget) -> None:
    bury(source(stack), "\x1b]0;title\x07 \u202eesrever", ContractError("\x1b[31mred\x9b1m"))
    for command in ("list", "show"):
        output = run("dlq", command).stdout
        assert not set(output) & set("\x1b\x07\x9b\u202e")
        assert r"[31mred\x9b1m" in output
    assert r"\x1b]0;title\x07 \u202eesrever" in run("dlq", "show").stdout


@pytest.fixture
def sixteen(stack: FakeTarget) -> None:
    """Sixteen letters about refused files; fifteen of the files were put again since, without the broken row."""
    stack.outputs = {"ResamplingRetentionYears": "0", "SplitAdjusted": "true"}
    rows = []
    for number in range(16):
        symbol, day = f"S{number:02}", date(2025, 11, 19)
        bury(source(stack), request(symbol), ContractError(f"{LAKE.date_key(symbol, day)}: session {day}: open is nan"))
        good = bar(day, symbol=symbol)
        key = LAKE.date_key(symbol, day)
        etag = stack.store.lay(key, parquet(good) if number else b"still refused")
        stack.store.lay(LAKE.data_key(symbol), consolidated(good, log={key: etag} if number else {}))
        rows.append({"symbol": symbol, "last_consolidated_date": day, "row_count": 1, "last_updated": NOON})
    stack.store.lay(MANIFEST_KEY, encode(pa.Table.from_pylist(rows, schema=MANIFEST)))


@pytest.mark.usefixtures("sixteen")
def test_letters_of_faults_that_are_mended_since_are_discarded_by_one_filter(
    run: Run, stack: FakeTarget, tmp_path: Path
) -> None:
    assert len(json.loads(run("dlq", "show", "--mended", "--json").stdout)) == 15
    standing = json.loads(run("dlq", "show", "--standing", "--json").stdout)
    assert {tuple(letter["symbols"]) for letter in standing} == {("S00",), ("AAPL",), ("MSFT",), ()}
    file = str(tmp_path / "dropped.jsonl")
    report = json.loads(run("dlq", "discard", "--mended", "--to", file, "--yes", "--json").stdout)
    assert (report["meant"], report["discarded"]) == (15, 15)
    assert sorted(source(stack).dead_letters.bodies()) == sorted(
        [request("AAPL"), request("MSFT"), "poison", request("S00")]
    )


def test_a_place_that_cannot_be_written_is_exit_code_2_and_no_letter_is_touched(run: Run, tmp_path: Path) -> None:
    assert run("dlq", "discard", "--yes", "--to", str(tmp_path / "none" / "x.jsonl")).exit_code == 2


def test_what_is_replayed_goes_back_and_a_worker_is_started_for_it(run: Run, stack: FakeTarget) -> None:
    result = run("dlq", "replay", "--queue", "consolidation-dlq", "--reason", "no bars")
    assert result.exit_code == 0
    assert "2 letters replayed" in result.stdout
    assert sorted(source(stack).bodies()) == sorted([request("AAPL"), request("MSFT")])
    assert source(stack).dead_letters.bodies() == ["poison"]
    assert [size for _, size in stack.workers.submitted] == [2]


def test_a_replay_that_is_run_again_starts_the_worker_that_the_first_one_died_before(
    run: Run, stack: FakeTarget
) -> None:
    stack.store.lay(LAKE.data_key("IBM"), consolidated(bar("2025-11-19", symbol="IBM")))
    source(stack).put(request("AAPL"))
    assert "0 letters replayed" in run("dlq", "replay", "--queue", "consolidation", "--symbols", "IBM").stdout
    assert [size for _, size in stack.workers.submitted] == [1]


def test_without_a_letter_or_a_request_no_worker_is_started(run: Run, stack: FakeTarget) -> None:
    stack.store.lay(LAKE.data_key("IBM"), consolidated(bar("2025-11-19", symbol="IBM")))
    assert "0 letters replayed" in run("dlq", "replay", "--queue", "consolidation", "--symbols", "IBM").stdout
    assert stack.workers.submitted == []


def test_a_dry_run_replays_nothing(run: Run, stack: FakeTarget) -> None:
    result = run("dlq", "replay", "--dry-run", "--json")
    assert {row["queue"]: row["done"] for row in json.loads(result.stdout)} == {
        "bronze-arrivals": 0, "consolidation": 3, "ohlcv-fetcher": 1,
    }  # fmt: skip
    assert source(stack).bodies() == []
    assert stack.workers.submitted == []


def test_a_functions_event_is_handed_over_to_it_again(
    run: Run, stack: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, str]] = []
    monkeypatch.setattr(functions, "call_later", lambda _client, name, event: called.append((name, event)))
    assert run("dlq", "replay", "--queue", "ohlcv-fetcher").exit_code == 0
    assert called == [("arn:fetcher", '{"as_of": "2025-11-19"}')]
    assert stack.lone_dead_letters["ohlcv-fetcher-dlq"].bodies() == []


def test_a_letter_that_died_too_often_is_left_and_is_exit_code_3(run: Run, stack: FakeTarget) -> None:
    attributes = {"replays": {"DataType": "Number", "StringValue": "3"}}
    source(stack).dead_letters.put(request("IBM"), attributes=attributes)
    result = run("dlq", "replay", "--symbols", "IBM")
    assert result.exit_code == 3
    assert source(stack).bodies() == []
    assert run("dlq", "replay", "--symbols", "IBM", "--most-replays", "4").exit_code == 0


def test_discarded_letters_are_in_the_file_first(run: Run, stack: FakeTarget, tmp_path: Path) -> None:
    file = tmp_path / "dropped.jsonl"
    arguments = ["dlq", "discard", "--reason", "not a Consol", "--to", str(file)]
    assert "none is discarded" in run(*arguments).stdout
    assert "none is discarded" in run(*arguments, "--yes", "--dry-run").stdout
    assert not file.exists()
    assert json.loads(run(*arguments, "--yes", "--json").stdout) == {"meant": 1, "discarded": 1, "file": str(file)}
    assert [json.loads(line)["body"] for line in file.read_text().splitlines()] == ["poison"]
    assert file.stat().st_mode & 0o077 == 0
    assert source(stack).dead_letters.depth().visible == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["list", "--queue", "nowhere"], "the queues are bronze-arrivals, consolidation"),
        (["show", "--older-than", "yesterday"], "is no age"),
        (["show", "--symbols", "../x"], "is not a symbol"),
        (["replay", "--rate", "0"], "--rate"),
        (["replay", "--most-replays", "0"], "--most-replays"),
    ],
)
def test_an_impossible_request_is_exit_code_2_and_a_sentence(arguments: list[str], sentence: str, run: Run) -> None:
    result = run("dlq", *arguments)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("command", ["show", "replay", "discard"])
def test_a_symbol_that_only_a_letter_names_may_be_requested(
    command: str, run: Run, stack: FakeTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stack.store.folders(f"{LAKE.prefix}/") == []
    result = run("dlq", command, "--symbols", "AAPL", *(["--yes"] if command == "discard" else []), "--json")
    assert result.exit_code == 0
    unknown = run("dlq", command, "--symbols", "MSFT,APPL")
    assert unknown.exit_code == 2
    assert "the lake has no bars of APPL" in unknown.stderr

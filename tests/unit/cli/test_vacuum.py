import json
from datetime import date

import pytest

from cli import rows
from fiblake.errors import ContractError
from services.vacuum.rows import Due, Retired
from tests.fakes import LAKE, bar, consolidated, parquet
from tests.unit.cli.conftest import FakeTarget, Run

OLD = date(2025, 6, 2)


@pytest.fixture(autouse=True)
def _lake(stack: FakeTarget) -> None:
    for symbol in ("AAPL", "MSFT"):
        key = LAKE.date_key(symbol, OLD)
        etag = stack.store.lay(key, parquet(bar(OLD, symbol=symbol)))
        stack.store.lay(LAKE.data_key(symbol), consolidated(bar(OLD, symbol=symbol), log={key: etag}))


def test_without_consent_nothing_is_deleted(run: Run, stack: FakeTarget) -> None:
    result = run("vacuum")
    assert result.exit_code == 0
    assert "2 merged files of 2 of " in result.stdout
    assert "say --yes" in result.stdout
    assert stack.store.done("delete") == []


def test_with_yes_it_deletes_and_says_how_much(run: Run, stack: FakeTarget) -> None:
    result = run("vacuum", "--yes", "--symbols", "AAPL")
    assert "1 file deleted" in result.stdout
    assert stack.store.done("delete") == [LAKE.date_key("AAPL", OLD)]


def test_a_dry_run_wins_over_yes(run: Run, stack: FakeTarget) -> None:
    assert run("vacuum", "--dry-run", "--yes").exit_code == 0
    assert run("vacuum", "--dry-run", "--yes", "--json").exit_code == 0
    assert stack.store.done("delete") == []


def test_a_program_gets_numbers_and_is_never_asked(run: Run, stack: FakeTarget) -> None:
    shown = json.loads(run("vacuum", "--json").stdout)
    assert (shown["due"]["files"], shown["deleted"]) == (2, None)
    report = json.loads(run("vacuum", "--yes", "--json").stdout)
    assert report["deleted"]["files"] == 2
    assert len(stack.store.done("delete")) == 2


def test_a_symbol_that_cannot_be_looked_at_is_exit_code_3(run: Run, stack: FakeTarget) -> None:
    stack.store.lay(LAKE.data_key("MSFT"), b"no Parquet")
    assert run("vacuum", "--dry-run").exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--symbols", "../x"], "is not a symbol"),
        (["--symbols", ","], "no symbol is named"),
        (["--symbols", "GHOST"], "the lake has no bars of GHOST"),
        (["--retention-days", "6"], "below the floor of 7"),
        (["--retention-days", "x"], "--retention-days"),
    ],
)
def test_an_impossible_request_is_exit_code_2_and_a_sentence(arguments: list[str], sentence: str, run: Run) -> None:
    result = run("vacuum", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_a_session_that_cannot_be_archived_is_named_and_exit_code_3(
    run: Run, stack: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find_due(*_: object) -> Due:
        return Due(date(2025, 7, 1), {OLD: 2, date(2025, 6, 3): 1})

    async def retire(*_: object) -> Retired:
        return Retired(1, 1, 0, {OLD: ContractError("archive/x cannot be read: move it away")})

    monkeypatch.setattr(rows, "target", lambda _context: stack)
    monkeypatch.setattr(rows, "_find_due", find_due)
    monkeypatch.setattr(rows, "_retire", retire)
    result = run("vacuum", "rds", "--yes")
    assert result.exit_code == 3
    text = " ".join(result.stdout.split())
    assert "1 row of 1 session" in text
    assert "the rows of 2025-06-02 stay in Postgres: archive/x cannot be read: move it away" in text
    answer = run("vacuum", "rds", "--yes", "--json")
    assert answer.exit_code == 3
    assert json.loads(answer.stdout)["retired"]["faults"] == {"2025-06-02": "archive/x cannot be read: move it away"}

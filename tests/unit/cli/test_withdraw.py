import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import pytest

import shared.database
from fiblake.bars import Consolidated
from fiblake.errors import UpstreamError
from fiblake.lake import WITHDRAWAL_RECORD_KEY
from tests.fakes import LAKE, NOON, bar, consolidated, later
from tests.unit.cli.conftest import FakeTarget, Run

DAY = date(2025, 11, 19)
DATA = LAKE.data_key("AAPL")
COMMAND = ("withdraw", "AAPL", "2025-11-19")


@dataclass
class Rows:
    """Postgres' rows of one session, by symbol."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: UpstreamError | None = None

    async def bars(self, session: date) -> dict[str, dict[str, Any]]:
        assert session == DAY
        if self.error:
            raise self.error
        return dict(self.rows)

    async def delete_bars(self, session: date, rows: Sequence[dict[str, Any]]) -> int:
        assert session == DAY
        return sum(self.rows.pop(row["symbol"], None) == row for row in rows)


@pytest.fixture
def postgres(stack: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> Rows:
    rows = Rows({"AAPL": bar(DAY), "MSFT": bar(DAY, symbol="MSFT")})

    @asynccontextmanager
    async def connected(address: str, tls: str) -> AsyncIterator[Rows]:
        assert (address, tls) == ("address", "tls")
        await asyncio.sleep(0)
        yield rows

    monkeypatch.setattr(shared.database, "connected", connected)
    monkeypatch.setattr(stack, "database", lambda: ("address", "tls"), raising=False)
    stack.store.lay(DATA, consolidated(bar("2025-11-18"), bar(DAY)))
    return rows


def sessions(stack: FakeTarget) -> list[date]:
    return Consolidated.decode(stack.store.peek(DATA) or b"", "AAPL", NOON).bars["timestamp"].to_pylist()


def test_the_bar_leaves_data_parquet_and_postgres_and_silver_is_told(
    run: Run, stack: FakeTarget, postgres: Rows
) -> None:
    result = run(*COMMAND, "--by", "jane", "--reason", "a test trade", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    (event,) = stack.complete.published
    assert sessions(stack) == [date(2025, 11, 18)]
    assert list(postgres.rows) == ["MSFT"]
    assert facts == {
        "symbol": "AAPL", "session": "2025-11-19", "by": "jane", "until": NOON.isoformat(),
        "changed_from": "2025-11-19", "version": event.version.isoformat(), "rows": 1,
    }  # fmt: skip
    (entry,) = json.loads(stack.store.peek(WITHDRAWAL_RECORD_KEY) or b"")["withdrawals"]
    assert (entry["by"], entry["reason"]) == ("jane", "a test trade")


@pytest.mark.parametrize(("ingested_at", "stays"), [(NOON, False), (later(1), True)])
def test_a_row_that_was_ingested_later_stays_in_postgres(
    run: Run, postgres: Rows, ingested_at: datetime, *, stays: bool
) -> None:
    postgres.rows["AAPL"]["ingested_at"] = ingested_at
    assert "the bar of AAPL of 2025-11-19 is withdrawn" in run(*COMMAND).stdout
    assert ("AAPL" in postgres.rows) is stays


def test_a_database_that_fails_is_said_and_the_command_is_run_again(
    run: Run, stack: FakeTarget, postgres: Rows
) -> None:
    postgres.error = UpstreamError("there is no answer")
    result = run(*COMMAND)
    assert result.exit_code == 1
    assert (
        "the bar is out of the lake, but its row may still be in Postgres (there is no answer): run the"
        in result.stderr
    )
    postgres.error = None
    assert run(*COMMAND).exit_code == 0
    assert list(postgres.rows) == ["MSFT"]
    assert len(stack.complete.published) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("AAPL", "2025-11-20"), "AAPL has no bar of 2025-11-20"),
        (("GHOST", "2025-11-19"), "the lake has no bars of GHOST"),
        (("../x", "2025-11-19"), "is not a symbol"),
        (("AAPL", "soon"), "does not match the format"),
    ],
)
def test_what_cannot_be_withdrawn_is_exit_code_2(
    run: Run, stack: FakeTarget, postgres: Rows, arguments: tuple[str, str], text: str
) -> None:
    result = run("withdraw", *arguments)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.replace("│", " ").split())
    assert stack.complete.published == []
    assert list(postgres.rows) == ["AAPL", "MSFT"]


def test_the_last_bar_is_exit_code_2(run: Run, stack: FakeTarget, postgres: Rows) -> None:
    stack.store.lay(DATA, consolidated(bar(DAY)))
    result = run(*COMMAND)
    assert result.exit_code == 2
    assert "is the last one of AAPL" in result.stderr
    assert "AAPL" in postgres.rows

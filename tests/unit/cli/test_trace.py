"""The steps of a put, from log lines as the services write them."""

import json
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest

from cli import trace as command
from cli.trace import look, steps_of
from fiblake.errors import NotFoundError
from fiblake.lake import INTERVALS
from tests.unit.cli.conftest import FakeTarget, Run

SINCE = datetime(2026, 11, 26, tzinfo=UTC)
EVIL = "<script>x</script>"


def line(second: float, service: str, message: str, **fields: object) -> str:
    record = {
        "level": "INFO",
        "message": message,
        "timestamp": f"2026-11-26 18:00:{second:06.3f}+0000".replace(".", ",", 1),
    }
    return json.dumps({**record, "service": service, "symbol": "AAPL", **fields}, separators=(",", ":"))


@pytest.fixture
def stack(tmp_path: Path) -> FakeTarget:
    """Return a local stack with the logs of one put, whose work was merged into an earlier one."""
    (tmp_path / "aws").mkdir()
    (tmp_path / "jobs").mkdir()
    requested = line(1, "consolidation-router", "consolidation requested", correlation_id="one")
    resampled = [line(4 + n / 100, "resampler", "resampled", correlation_id="two", interval=n) for n in INTERVALS]
    others = ["START RequestId", "{no json", line(9, "resampler", "resampled", correlation_id="else", interval=3)]
    (tmp_path / "aws/emulator.log").write_text("\n".join([requested, *resampled, *others, resampled[0]]))
    joined = line(2, "consolidator", "joined", correlation_id="one", into="two")
    consolidated = line(
        3, "consolidator", "consolidated", correlation_id="two", put_at="2026-11-26T18:00:00.500000Z", bars=EVIL
    )
    (tmp_path / "jobs/1.log").write_text(f"{joined}\n{consolidated}\n")
    stack = FakeTarget()
    stack.log_folder = tmp_path
    return stack


def test_a_put_is_followed_through_the_message_it_was_joined_with(stack: FakeTarget) -> None:
    steps = look(stack, "one", SINCE)  # type: ignore[arg-type]
    assert [step["stage"] for step in steps] == [
        "put",
        "requested",
        "joined",
        "consolidated",
        *["resampled"] * len(INTERVALS),
    ]
    assert [step["seconds"] for step in steps[:4]] == [0, 0.5, 1.5, 2.5]
    assert [step["interval"] for step in steps[4:]] == [f"{n}d" for n in INTERVALS]


def test_a_symbol_selects_its_last_put(stack: FakeTarget) -> None:
    assert {step["correlation_id"] for step in look(stack, "AAPL", SINCE)} == {"else"}  # type: ignore[arg-type]


def test_what_no_line_names_is_not_found(stack: FakeTarget) -> None:
    with pytest.raises(NotFoundError, match="no log line since 2026-11-26 00:00:00Z"):
        look(stack, "nobody", SINCE)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError):
        look(stack, "one", datetime(2026, 11, 27, tzinfo=UTC))  # type: ignore[arg-type]


def test_the_command_shows_the_way_and_how_long_it_took(
    run: Run, stack: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "datetime", Clock)
    result = run("trace", "one")
    assert result.exit_code == 0, result.output
    assert f"s from the put to the last of {len(INTERVALS)} tables" in result.stdout
    steps = json.loads(run("trace", "one", "--json").stdout)
    assert (steps[0]["stage"], steps[0]["at"]) == ("put", "2026-11-26T18:00:00.500000+00:00")
    assert run("trace", 'x" || "').exit_code == 2
    assert run("trace", "one", "--since", "soon").exit_code == 2
    del stack


@pytest.mark.parametrize("age", ["800000d", "999999999d", "9999999999d", "9" * 5_000 + "s"])
@pytest.mark.parametrize(
    "arguments",
    [("trace", "one", "--since"), ("dlq", "show", "--older-than"), ("dlq", "show", "--newer-than")],
)
def test_an_age_beyond_1970_is_a_wrong_command_line(run: Run, arguments: tuple[str, ...], age: str) -> None:
    result = run(*arguments, age)
    assert result.exit_code == 2
    assert "reaches back beyond 1970" in " ".join(result.stderr.split())


class Clock(datetime):
    """A clock that shows one hour after the lines."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "Clock":
        return cls(2026, 11, 26, 19, tzinfo=tz)


def test_lines_that_are_no_instants_do_not_stop_it() -> None:
    [step] = steps_of([{"message": "resampled", "timestamp": "soon", "correlation_id": "x"}])
    assert (step["stage"], step["seconds"]) == ("resampled", 0)

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import typer
from typer._click.exceptions import BadOptionUsage, MissingParameter
from typer.core import TyperGroup
from typer.testing import CliRunner

from cli import app as command_line
from cli.app import app, exit_code, hoist_options, main
from cli.target import Choice
from fiblake.errors import ConfigurationError, EntitlementError, NotFoundError, UpstreamError
from tests.fakes import REPOSITORY

ROOT = typer.main.get_command(app)
HEAVY = {"boto3", "botocore", "obstore", "pyarrow", "numpy", "duckdb", "matplotlib", "asyncpg", "pydantic", "pandas"}


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    for name, command in group.commands.items():
        here = (*path, name)
        if not isinstance(command, TyperGroup) or command.invoke_without_command:
            yield " ".join(here), command
        if isinstance(command, TyperGroup):
            yield from commands(command, here)


COMMANDS = dict(commands())


def examples(command: Any) -> list[str]:  # noqa: ANN401
    lines = (command.epilog or "").splitlines()
    return [line.removeprefix("Example: ") for line in lines if line.startswith("Example: ")]


def parsed(arguments: list[str]) -> str:
    """Parse a command line without running it; return the command's path."""
    command: Any = ROOT
    context = command.make_context("fiblake", arguments)
    path = []
    while isinstance(command, TyperGroup) and (remaining := [*context._protected_args, *context.args]):  # noqa: SLF001
        name, command, rest = command.resolve_command(context, remaining)
        path.append(str(name))
        context = command.make_context(name, rest, parent=context)
    return " ".join(path)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help_with_an_example_that_is_right(path: str) -> None:
    command = COMMANDS[path]
    assert command.help
    command_lines = [line for line in examples(command) if line.startswith("fiblake")]
    assert command_lines or "fiblake" in (command.epilog or "")
    for line in command_lines:
        before_the_pipe = re.split(r" [|>] ", line)[0]
        assert parsed(shlex.split(before_the_pipe)[1:]) == path


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_says_what_it_is_for(path: str) -> None:
    silent = [p.name for p in COMMANDS[path].params if p.param_type_name == "option" and not p.help]
    assert silent == []


def test_help_names_every_command_and_the_exit_codes() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    for path in COMMANDS:
        assert path.split()[0] in output
    assert "Exit codes" in output


@pytest.mark.parametrize(
    ("typed", "sorted_"),
    [
        (["status", "--stack", "x", "--json"], ["--stack", "x", "--json", "status"]),
        (["query", "SELECT 1", "--region=eu-west-1"], ["--region=eu-west-1", "query", "SELECT 1"]),
        (["query", "--", "--json"], ["query", "--", "--json"]),
        (["status", "--stack"], ["--stack", "status"]),
        (["local", "up"], ["local", "up"]),
    ],
)
def test_global_options_may_stand_behind_the_command(typed: list[str], sorted_: list[str]) -> None:
    assert hoist_options(typed) == sorted_


def test_the_global_options_and_their_variables_are_the_commands_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Choice] = []
    probe = typer.Typer(cls=command_line.GlobalOptionsAnywhere)
    probe.callback()(command_line.choose)

    @probe.command()
    def look(context: typer.Context) -> None:
        seen.append(context.obj)

    monkeypatch.setenv("FIBLAKE_STACK", "from-environment")
    monkeypatch.delenv("AWS_REGION")
    typed = ["look", "--profile", "p", "--region", "eu-west-1", "--endpoint-url", "http://x", "--json"]
    result = CliRunner().invoke(probe, typed)
    assert result.exit_code == 0, result.output
    (choice,) = seen
    assert choice == Choice("p", "eu-west-1", "http://x", "from-environment", local=False, as_json=True)
    assert choice.environment() == {
        "AWS_PROFILE": "p", "AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://x",
    }  # fmt: skip


def test_the_command_line_loads_nothing_heavy_before_a_command_runs() -> None:
    program = "import sys, cli.app; print(*sorted(name for name in sys.modules if '.' not in name))"
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout.split()
    assert set(loaded) & HEAVY == set()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UpstreamError("away"), 1),
        (EntitlementError("refused"), 1),
        (NotFoundError("no such stack"), 2),
        (ConfigurationError("a setting"), 2),
    ],
)
def test_an_error_is_a_sentence_and_an_exit_code(
    error: UpstreamError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(command_line, "app", fails)
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == code == exit_code(error)
    assert capsys.readouterr().err == f"fiblake: {error}\n"


def commands_of_page(page: str) -> list[str]:
    """Return the command lines of `fiblake` that a page shows, in the text or in a block."""
    text = "\n".join(line for line in page.splitlines() if not line.startswith("#"))  # docs/cli.md: names of commands
    shown = re.findall(r"`((?:\.venv/bin/)?fiblake [^`\n]+)`", text)
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE))
    shown += re.findall(r"^(?:\.venv/bin/)?fiblake .+$", blocks.replace("\\\n", " "), flags=re.MULTILINE)
    return [re.split(r"\s#\s| [|>] ", line)[0].removeprefix(".venv/bin/") for line in shown]


PLACEHOLDERS = {"DAY": "2025-11-19", "SYMBOL": "AAPL"}
PAGES = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
SHOWN = sorted({
    line for page in PAGES for line in commands_of_page(page.read_text(encoding="utf-8"))
    if not {"COMMAND", "--help", "--install-completion"} & set(line.split())
})  # fmt: skip


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_line_that_a_page_shows_is_right(line: str) -> None:
    words = [word for word in shlex.split(line)[1:] if word not in {"...", "…"}]
    with suppress(MissingParameter, BadOptionUsage):  # a page may leave out arguments, and the value of the last option
        parsed([PLACEHOLDERS.get(word, word.partition("|")[0]) for word in words])


def test_pages_show_many_command_lines() -> None:
    assert len(SHOWN) > 60

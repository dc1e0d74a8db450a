"""Every command line ends with a sentence and an exit code, never with a traceback."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from cli.app import main
from cli.target import _keep_stdout_clean
from fiblake.errors import NotFoundError
from local import supervisor
from local.stack import Stack
from shared.telemetry import logger
from tests.fakes import LAKE, REPOSITORY, bar, consolidated
from tests.unit.cli.conftest import FakeTarget
from tests.unit.cli.test_app import COMMANDS
from tests.unit.shared.test_dead_letters import Source

NEEDED = {
    "query": ["SELECT 1"],
    "chart": ["AAPL", "1d", "-o", "x.png"],
    "consolidate": ["--all"],
    "resample": ["--full"],
    "events send": ["events/poison.json", "--queue", "consolidation"],
    "migrate": ["--secret", "arn:of-a-secret"],
}
"""The required arguments of some commands; for the others each required argument gets a sample."""
DAYS = {"session", "day", "first", "last"}
NO_ACCOUNT = {"costs", "local up", "local down", "local env"}
"""Commands that ask no AWS account."""
WRONG = [
    (["--endpoint-url", "not-a-url"], "is no URL such as http://localhost:4566"),
    (["--endpoint-url", "http://[bad"], "is no URL"),
    (["--endpoint-url", "ftp://host"], "is no URL"),
    (["--endpoint-url", "http://host:99999"], "is no URL"),
    (["--region", "us east [red]1[/red]"], "'us east [red]1[/red]' is no region such as us-east-1"),
    (["--profile", "nobody"], "'nobody' is not in AWS's configuration files"),
]


EMPTY = dict.fromkeys(COMMANDS, 0) | {
    "chart": 2, "fetch": 2, "load companies": 2, "load flatfiles": 2, "metadata": 2, "migrate": 2, "quality": 2,
    "quarantine release": 2, "resample": 2, "trace": 2, "universe": 2, "vacuum rds": 1, "withdraw": 2,
}  # fmt: skip
"""The exit code of each command on an empty lake, with a stack without Postgres whose functions have no settings."""
INTERRUPTED = {
    "costs": "cli.costs.table", "local up": "time.sleep", "local down": "local.supervisor.stop",
    "local env": "local.supervisor.running_stack",
}  # fmt: skip
"""The function in which Ctrl-C reaches a command without an account; it reaches the others while they find their stack.
"""
COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9]+)*m")


def needed(path: str) -> list[str]:
    """Return the required arguments of a command."""
    if path in NEEDED:
        return NEEDED[path]
    words: list[str] = []
    required = [parameter for parameter in COMMANDS[path].params if parameter.required]
    for parameter in required:
        sample = "2025-11-19" if parameter.name in DAYS else "AAPL"
        sample = "100" if path == "costs" else sample
        words += [sample] if parameter.param_type_name == "argument" else [parameter.opts[0], sample]
    return words


WRONG_VARIABLES = [
    ("AWS_CONFIG_FILE", "BROKEN", "AWS's settings cannot be used"),
    ("AWS_SHARED_CREDENTIALS_FILE", "BROKEN", "AWS's settings cannot be used"),
    ("AWS_PROFILE", "nobody", "'nobody' is not in AWS's configuration files"),
    ("AWS_RETRY_MODE", "garbage", "AWS's settings cannot be used"),
    ("AWS_MAX_ATTEMPTS", "many", "AWS's settings cannot be used"),
    ("AWS_ENDPOINT_URL_SQS", "garbage", "AWS_ENDPOINT_URL_SQS='garbage' is no URL"),
]


def ended(monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["fiblake", *arguments])
    monkeypatch.setattr(logger.registered_handler, "stream", sys.stdout)
    with pytest.raises(SystemExit) as raised:
        main()
    return int(raised.value.code or 0)


@pytest.fixture
def empty(stack: FakeTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTarget:
    """Let every command use a stack that has never been used."""
    stack.outputs = {
        "ResamplingRetentionYears": "0", "SplitAdjusted": "true", "OhlcvFetcherFunctionName": "test-ohlcv-fetcher",
        "MetadataFetcherFunctionName": "test-metadata-fetcher", "ResamplerFunctionName": "test-resampler",
    }  # fmt: skip
    stack.queues = {name: Source(f"test-{name}") for name in ("bronze-arrivals", "consolidation", "resample-3d")}
    monkeypatch.setattr(stack.workers, "recent", lambda _most: [], raising=False)
    for module in [module for name, module in sys.modules.items() if name.startswith("cli.")]:
        if hasattr(module, "target"):
            monkeypatch.setattr(module, "target", lambda _context: stack)
    monkeypatch.setattr("shared.functions.variables_of", lambda _function: {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    return stack


@dataclass
class Supervisor:
    """The stand-in for the process that runs the local stack."""

    stack: Stack
    is_up: bool = False
    ended: list[str] = field(default_factory=list)

    def start(self, _arguments: list[str]) -> "Supervisor":
        self.is_up = True
        supervisor._write_state(self.stack)  # noqa: SLF001 (what the real one does)
        return self

    def stop(self, *_arguments: object) -> None:
        self.is_up = False

    def terminate(self) -> None:
        self.ended.append("terminate")

    def wait(self) -> None:
        self.ended.append("wait")


@pytest.fixture
def on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Supervisor:
    """Let `fiblake local` start and end the test's own stack, which does not run yet."""
    fields = dict.fromkeys(Stack.__dataclass_fields__, "") | {"folder": tmp_path, "outputs": {"BucketName": "lake"}}
    fake = Supervisor(Stack(**fields))
    for name in ("STATE", "LOG", "LOCK"):
        monkeypatch.setattr(supervisor, name, tmp_path / f"stack.{name.lower()}")
    monkeypatch.setattr(supervisor, "is_running", lambda: fake.is_up)
    monkeypatch.setattr(supervisor, "stop", fake.stop)
    monkeypatch.setattr("cli.local._start", fake.start)
    return fake


@pytest.fixture
def everywhere(empty: FakeTarget, on_this_machine: Supervisor, monkeypatch: pytest.MonkeyPatch) -> FakeTarget:
    """Prepare what each command needs: a stack that was never used, also here; the console serves one visit."""
    on_this_machine.start([])
    monkeypatch.setattr("cli.local._start", lambda _arguments: on_this_machine.start([]))
    monkeypatch.setattr("uvicorn.Server.run", lambda _server, sockets: sockets)
    return empty


def typed(path: str) -> list[str]:
    """Return a valid command line for an empty lake."""
    if path == "events send":
        return ["events", "send", str(REPOSITORY / "events/poison.json"), "--queue", "consolidation"]
    return path.split() if path == "migrate" else [*path.split(), *needed(path)]


def unwrapped(text: str) -> str:
    """Return a text without the frame and the line ends of a terminal."""
    return " ".join(text.replace("│", " ").split())


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "FIBLAKE_STACK", "RDS_SECRET_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.parametrize("path", sorted(COMMANDS.keys() - NO_ACCOUNT))
@pytest.mark.parametrize(("wrong", "sentence"), WRONG)
def test_an_account_that_cannot_be_is_exit_code_2_in_every_command(
    path: str, wrong: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    level = logger.log_level
    assert ended(monkeypatch, [*path.split(), *needed(path), *wrong]) == 2
    logger.setLevel(level)
    out, err = capsys.readouterr()
    assert sentence in err
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("path", "variable", "value", "text"),
    [(path, *WRONG_VARIABLES[0]) for path in sorted(COMMANDS.keys() - NO_ACCOUNT)]
    + [("status", *row) for row in WRONG_VARIABLES[1:]],
)
def test_a_variable_that_cannot_be_used_is_exit_code_2_in_every_command(  # noqa: PLR0917
    path: str, variable: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "broken").write_text("no section\n[x\n")
    monkeypatch.setenv(variable, str(tmp_path / "broken") if value == "BROKEN" else value)
    assert ended(monkeypatch, [*path.split(), *needed(path)]) == 2
    out, err = capsys.readouterr()
    assert text in err
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["fetch", "--symbols", "../x"],
        ["fetch", "--from", "2025-11-19", "--to", "2025-11-18"],
        ["fetch", "--date", "2025-11-19", "--from", "2025-11-18"],
        ["quarantine", "list", "--symbol", "../x"],
        ["quarantine", "release", "../x", "2025-11-19"],
        ["chart", "../x", "1d", "-o", "x.png"],
        ["query", "FROM bronze", "--symbols", "../x"],
        ["costs", "--symbols", "9" * 400],
        ["reconcile", "--symbols", ","],
        ["reconcile", "--since", "2099-01-01"],
        ["dlq", "show", "--older-than", "[red]x[/red]"],
        ["status", "--every", "0", "--watch"],
    ],
)
def test_an_impossible_request_is_exit_code_2(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(monkeypatch, arguments) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["status", "--local", "--stack", "prod"], "--stack: it names another stack than --local, or"),
        (
            ["local", "down", "--stack", "prod"],
            "--stack: it names another stack than --local, or `fiblake local`, does",
        ),
        (["query", "SHOW TABLES", "--profile", "p", "--local"], "--profile: it names another stack than --local, or"),
        (["migrate", "--local", "--secret", "arn"], "--secret: it names another database than --local does"),
        (["status", "--every", "2"], "say --watch as well"),
        (["fetch", "--again"], "--again: it is for all sessions of --from and --to"),
        (["fetch", "--again", "--symbols", "AAPL", "--from", "2025-11-19"], "--again: it is for all sessions"),
        (["query", "FROM bronze", "--csv", "x.csv", "--rows", "3"], "--rows: it limits what is printed"),
        (["consolidate", "--all", "--symbols", "AAPL"], "name --symbols, or say --all"),
        (["dlq", "list", "--older-than", "2h"], "No such option"),
        (["dlq", "show", "--older-than", "2h", "--newer-than", "90m"], "more than 2h ago and less than 90m ago"),
        (["local", "env", "--unset", "--sam"], "--sam is for a file"),
    ],
)
def test_options_that_contradict_each_other_are_named(
    arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ended(monkeypatch, arguments) == 2
    assert text in unwrapped(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["fetch", "--date", "2025-11-22"],
            "--date: Saturday 2025-11-22 is no session: the nearest are 2025-11-21 and 2025-11-24",
        ),
        (["fetch", "--date", "2098-11-19"], "--date: 2098-11-19 is yet to come"),
        (["fetch", "--from", "2098-11-19"], "--from: 2098-11-19 is yet to come"),
        (["load", "flatfiles", "--from", "2098-11-19"], "--from: 2098-11-19 is yet to come"),
        (["load", "companies", "--from", "2098-11-19"], "--from: 2098-11-19 is yet to come"),
        (["universe", "2098-11-19"], "DATE: 2098-11-19 is yet to come"),
        (["withdraw", "AAPL", "2025-11-27"], "SESSION: Thursday 2025-11-27 is no session"),
        (["withdraw", "AAPL", "1961-12-29"], "SESSION: Friday 1961-12-29 is no session: the nearest are 1962-01-02"),
        (["quarantine", "release", "AAPL", "2098-11-19"], "SESSION: 2098-11-19 is yet to come"),
        (["reconcile", "--since", "2098-11-19"], "--since: 2098-11-19 is yet to come"),
        (["local", "up", "--first-session", "2013-03-02"], "--first-session: Saturday 2013-03-02 is no session"),
    ],
)
def test_a_day_that_is_no_session_or_yet_to_come_is_named(
    arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, arguments) == 2
    assert text in unwrapped(capsys.readouterr().err)


UNKNOWN_SYMBOL = {
    "chart": ["APPL", "1d", "-o", "x.png"],
    "consolidate": ["--symbols", "APPL"],
    "dlq discard": ["--symbols", "APPL"],
    "dlq replay": ["--symbols", "APPL"],
    "dlq show": ["--symbols", "APPL"],
    "fetch": ["--symbols", "APPL"],
    "quality": ["APPL"],
    "quarantine list": ["--symbol", "APPL"],
    "quarantine release": ["APPL", "2025-11-19"],
    "query": ["FROM bronze", "--symbols", "APPL"],
    "reconcile": ["--symbols", "APPL"],
    "vacuum": ["--symbols", "APPL", "--dry-run"],
    "withdraw": ["APPL", "2025-11-19"],
}
"""Every command that takes symbols, with an unknown one."""


def test_the_table_has_every_command_that_takes_symbols() -> None:
    takes = {path for path, command in COMMANDS.items() if {"symbol", "symbols"} & {p.name for p in command.params}}
    assert takes - {"costs"} == UNKNOWN_SYMBOL.keys()  # `costs` takes a number of symbols


@pytest.mark.parametrize("path", [*UNKNOWN_SYMBOL, "chart of an interval"])
def test_an_unknown_symbol_is_exit_code_2_with_the_nearest(
    path: str, empty: FakeTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async def unknown(*_arguments: object) -> NoReturn:
        raise NotFoundError("there is no APPL")

    # Only the vendor and Postgres know whether a symbol of these two commands exists.
    for name in ("fetch", "release_bar"):
        monkeypatch.setattr(f"services.fetcher.assembly.{name}", unknown)
    for name in ("cli.target", "cli.quarantine"):
        monkeypatch.setattr(f"{name}.settings_of", lambda *_arguments: SimpleNamespace(s3_bucket="lake"))
    monkeypatch.setattr("shared.objects.ObjectStore.connect", lambda _bucket: empty.store)
    monkeypatch.chdir(tmp_path)
    empty.store.lay(LAKE.data_key("AAPL"), consolidated(bar("2025-11-19")))
    arguments = (
        [*path.split(), *UNKNOWN_SYMBOL[path]] if path in UNKNOWN_SYMBOL else ["chart", "APPL", "3d", "-o", "x.png"]
    )
    assert ended(monkeypatch, arguments) == 2
    assert "no APPL (did you mean AAPL?)" in unwrapped(capsys.readouterr().err).replace("bars of ", "")


def test_the_version_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(monkeypatch, ["--version"]) == 0
    assert capsys.readouterr().out == f"fiblake {version('fiblake-stack')}\n"


def test_a_reader_that_has_had_enough_is_no_traceback() -> None:
    program = "import sys; from cli import app; app.app = lambda: [print('x' * 9000) for _ in range(99)]; app.main()"
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY, text=True)
    assert process.stdout
    assert process.stderr
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1
    process.stderr.close()


def test_what_goes_well_is_in_the_answer_and_not_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("POWERTOOLS_LOG_LEVEL", raising=False)
    monkeypatch.setattr(logger.registered_handler, "stream", sys.stdout)
    level = logger.log_level
    _keep_stdout_clean()
    logger.info("it went well")
    logger.warning("it did not")
    logger.setLevel(level)
    out, err = capsys.readouterr()
    assert out == ""
    assert [json.loads(line)["message"] for line in err.splitlines()] == ["it did not"]


# ------------------------------------------------------------------------------ every command, in every circumstance


def test_the_tables_name_existing_commands() -> None:
    """Every test below takes its rows from them, or from all commands."""
    assert EMPTY.keys() == COMMANDS.keys()
    assert INTERRUPTED.keys() == NO_ACCOUNT


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("path", sorted(EMPTY))
def test_on_an_empty_lake(
    path: str, on_this_machine: Supervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Without a terminal, as in a script: 80 columns, no control character, no question."""
    on_this_machine.is_up = path != "local up"
    monkeypatch.chdir(tmp_path)
    assert ended(monkeypatch, typed(path)) == EMPTY[path]
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert "\x1b" not in out + err
    if path not in {"costs", "console", "local env", "local up"}:  # Markdown, an address, lines for a shell
        assert max(map(len, out.splitlines()), default=0) <= 80
    assert (err == "") == (EMPTY[path] == 0), err


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("path", sorted(path for path, code in EMPTY.items() if code == 0))
def test_on_an_empty_lake_for_a_program(
    path: str, on_this_machine: Supervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    on_this_machine.is_up = path != "local up"
    monkeypatch.chdir(tmp_path)
    assert ended(monkeypatch, [*typed(path), "--json"]) == 0
    json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("path", sorted(COMMANDS.keys() - {"costs", "local up"}))
def test_without_a_stack(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("local.supervisor.LOCK", tmp_path / "stack.lock")
    local = [] if path.startswith("local") else ["--local"]
    assert ended(monkeypatch, [*typed(path), *local]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "no local stack is up" in err


def test_with_a_stack_that_is_up_already(
    on_this_machine: Supervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_this_machine.is_up = True
    assert ended(monkeypatch, ["local", "up"]) == 1
    assert capsys.readouterr().err == (
        "fiblake: a local stack is up already: `fiblake status --local`, `fiblake local down`\n"
    )


@pytest.mark.parametrize("path", sorted(COMMANDS.keys() - {"costs"}))
def test_with_a_folder_of_the_local_stack_that_cannot_be_written(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("local.supervisor.LOCK", tmp_path / "file/stack.lock")
    assert ended(monkeypatch, [*typed(path), *([] if path.startswith("local") else ["--local"])]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "name another folder in FIBLAKE_LOCAL_FOLDER" in err


def test_with_a_port_that_is_taken(
    empty: FakeTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del empty
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert ended(monkeypatch, ["console", "--port", str(other.getsockname()[1])]) == 2
    assert "--port 0 takes a free one" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(COMMANDS.keys() - NO_ACCOUNT))
def test_without_credentials(path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert ended(monkeypatch, typed(path)) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "no AWS credentials are found: set AWS_* variables or name a --profile" in err


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_with_an_option_that_it_does_not_have(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, [*typed(path), "--frobnicate"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "No such option: --frobnicate" in unwrapped(err)


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_help_fits_80_columns(path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert ended(monkeypatch, [*path.split(), "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("path", "option"),
    [("chart", "--output"), ("query", "--csv"), ("query", "--parquet"), ("quality", "--html"), ("dlq discard", "--to")],
)
@pytest.mark.parametrize(
    ("place", "fault"),
    [("no/such/x.png", "there is no folder"), (".", "it is a folder"), ("\udcff.png", "its name is not UTF-8")],
)
def test_an_output_that_cannot_be_written(  # noqa: PLR0917
    path: str, option: str, place: str, fault: str, empty: FakeTarget, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = [word for word in typed(path) if word not in {"-o", "x.png"}]
    assert ended(monkeypatch, [*words, option, place]) == 2
    assert fault in unwrapped(capsys.readouterr().err)
    assert empty.store.done("list") == []


def test_a_home_that_cannot_be_written(
    empty: FakeTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    empty.store.lay(LAKE.data_key("AAPL"), consolidated(bar("2025-11-19")))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert ended(monkeypatch, ["query", "FROM bronze"]) == 2
    assert "set XDG_CACHE_HOME" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--version"], ["status", "--help"], ["costs", "--symbols", "100"]])
def test_an_answer_that_cannot_be_written(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "cli", *arguments]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=REPOSITORY)
    assert (ran.returncode, ran.stderr) == (1, "fiblake: No space left on device\n")


@pytest.mark.parametrize("path", sorted(EMPTY))
def test_with_no_color_a_terminal_gets_none(  # noqa: PLR0917
    path: str, everywhere: FakeTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, on_this_machine: Supervisor,
) -> None:  # fmt: skip
    on_this_machine.is_up = path != "local up"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    everywhere.store.lay(LAKE.date_key("LAGS", date(2025, 11, 19)), b"x")
    ended(monkeypatch, typed(path))
    out, err = capsys.readouterr()
    assert COLOUR.search(out + err) is None


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_ctrl_c_ends_it_without_a_traceback(
    path: str, empty: FakeTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    on_this_machine: Supervisor,
) -> None:  # fmt: skip
    del empty

    def interrupted(*_arguments: object) -> NoReturn:
        raise KeyboardInterrupt

    for module in [module for name, module in sys.modules.items() if name.startswith("cli.")]:
        if hasattr(module, "target"):
            monkeypatch.setattr(module, "target", interrupted)
    if path in INTERRUPTED:
        monkeypatch.setattr(INTERRUPTED[path], interrupted)
    monkeypatch.setattr(on_this_machine, "poll", lambda: None, raising=False)
    monkeypatch.setattr("cli.local._start", lambda _arguments: on_this_machine)  # it does not come up
    assert ended(monkeypatch, typed(path)) == 130
    assert capsys.readouterr() == ("", "")
    assert on_this_machine.ended == (["terminate", "wait"] if path == "local up" else [])

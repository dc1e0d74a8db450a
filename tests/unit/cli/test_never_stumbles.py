"""Whatever is typed: a sentence, an exit code, and no traceback."""

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

from cli.app import main
from cli.target import _keep_stdout_clean
from shared.telemetry import logger
from tests.fakes import LAKE, REPOSITORY, bar, consolidated
from tests.unit.cli.conftest import FakeTarget, Run
from tests.unit.cli.test_app import COMMANDS

NEEDED = {
    "query": ["SELECT 1"],
    "chart": ["AAPL", "1d", "-o", "x.png"],
    "consolidate": ["--all"],
    "resample": ["--full"],
    "events send": ["events/poison.json", "--queue", "consolidation"],
    "migrate": ["--secret", "arn:of-a-secret"],
}
"""What some commands ask for at the least; of the others each argument that is asked for is a sample."""
DAYS = {"session", "day", "first", "last"}
NO_ACCOUNT = {"costs", "local up", "local down", "local env"}
WRONG = [
    (["--endpoint-url", "not-a-url"], "is no URL such as http://localhost:4566"),
    (["--endpoint-url", "http://[bad"], "is no URL"),
    (["--endpoint-url", "ftp://host"], "is no URL"),
    (["--endpoint-url", "http://host:99999"], "is no URL"),
    (["--region", "us east [red]1[/red]"], "'us east [red]1[/red]' is no region such as us-east-1"),
    (["--profile", "nobody"], "'nobody' is not in AWS's configuration files"),
]


def needed(path: str) -> list[str]:
    """Return what a command asks for at the least."""
    if path in NEEDED:
        return NEEDED[path]
    words: list[str] = []
    for parameter in (one for one in COMMANDS[path].params if one.required):
        sample = "2025-11-19" if parameter.name in DAYS else "AAPL"
        words += [sample] if parameter.param_type_name == "argument" else [parameter.opts[0], sample]
    return words


def ended(monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["fiblake", *arguments])
    monkeypatch.setattr(logger.registered_handler, "stream", sys.stdout)
    with pytest.raises(SystemExit) as raised:
        main()
    return int(raised.value.code or 0)


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "FIBLAKE_STACK", "RDS_SECRET_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.parametrize("path", sorted(COMMANDS.keys() - NO_ACCOUNT))
@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_an_account_that_cannot_be_is_exit_code_2_in_every_command(
    path: str, wrong: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    level = logger.log_level
    assert ended(monkeypatch, [*path.split(), *needed(path), *wrong]) == 2
    logger.setLevel(level)
    out, err = capsys.readouterr()
    assert said in err
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
        ["reconcile", "--symbols", ","],
        ["reconcile", "--since", "2099-01-01"],
        ["dlq", "show", "--older-than", "[red]x[/red]"],
        ["status", "--every", "0"],
    ],
)
def test_what_cannot_be_asked_for_is_exit_code_2(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(monkeypatch, arguments) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["reconcile", "--symbols", "APPL"],
        ["consolidate", "--symbols", "APPL"],
        ["vacuum", "--symbols", "APPL", "--dry-run"],
        ["query", "FROM bronze", "--symbols", "APPL"],
        ["chart", "APPL", "1d", "-o", "x.png"],
        ["chart", "APPL", "3d", "-o", "x.png"],
    ],
)
def test_a_symbol_that_the_lake_does_not_know_is_exit_code_2_with_the_nearest(
    arguments: list[str], run: Run, stack: FakeTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    stack.outputs = {"ResamplingRetentionYears": "0", "SplitAdjusted": "true"}
    stack.store.lay(LAKE.data_key("AAPL"), consolidated(bar("2025-11-19")))
    result = run(*arguments)
    assert result.exit_code == 2
    assert "the lake has no bars of APPL (did you mean AAPL?)" in " ".join(result.stderr.replace("│", " ").split())


def test_the_version_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(monkeypatch, ["--version"]) == 0
    assert capsys.readouterr().out == f"fiblake {version('fiblake')}\n"


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

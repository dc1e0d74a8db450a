"""The output and the arguments of `fiblake local`, without a stack."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import local as command
from cli.app import app, exit_code
from fiblake.errors import FiblakeError
from local import supervisor
from local.stack import Stack

CSV = "session,open,high,low,close,volume\n2012-07-02,1,2,1,2,100\n2012-07-03,2,3,2,3,100\n"


class Lambda:
    def get_function_configuration(self, *, FunctionName: str) -> dict[str, Any]:  # noqa: N803
        return {"Environment": {"Variables": {"S3_BUCKET": "lake", "ME": FunctionName}}}


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stack:
    outputs = {"BucketName": "lake", "RouterFunctionName": "local-router", "ResamplerFunctionName": "local-resampler"}
    fields = {"folder": tmp_path, "endpoint_url": "http://a b", "batch_url": "http://batch", "outputs": outputs}
    rest = {name: "" for name in Stack.__dataclass_fields__ if name not in fields}
    stack = Stack(**fields, **rest)
    monkeypatch.setattr(supervisor, "running_stack", lambda: stack)
    monkeypatch.setattr(Stack, "client", lambda _stack, _service: Lambda())
    return stack


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["local", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.usefixtures("stack")
def test_the_environment_is_for_a_shell_or_for_a_program() -> None:
    exported = dict(shlex.split(line)[1].split("=", 1) for line in run("env").splitlines())
    assert exported == json.loads(run("env", "--json"))
    assert exported["AWS_ENDPOINT_URL"] == "http://a b"
    assert run("env", "--unset").split() == ["unset", *exported]


@pytest.mark.usefixtures("stack")
def test_what_would_lead_a_shell_elsewhere_is_unset_and_a_proxy_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "prod")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://elsewhere")
    monkeypatch.setenv("https_proxy", "http://proxy")
    lines = run("env").splitlines()
    assert lines[0] == "unset AWS_ENDPOINT_URL_S3 AWS_PROFILE"
    assert "export NO_PROXY=127.0.0.1,localhost" in lines


@pytest.mark.usefixtures("stack")
def test_sam_gets_the_variables_of_each_function_and_where_aws_is() -> None:
    by_function = json.loads(run("env", "--sam"))
    assert by_function == {
        f"{name}Function": {
            "S3_BUCKET": "lake", "ME": f"local-{name.lower()}", "AWS_ENDPOINT_URL": "http://a b",
            "AWS_ENDPOINT_URL_BATCH": "http://batch",
        }
        for name in ("Resampler", "Router")
    }  # fmt: skip


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, list[list[str]], str]:
    """Run `local up` up to the start of the supervisor."""
    starts: list[list[str]] = []

    class Stop(Exception):  # noqa: N818
        pass

    def start(words: list[str]) -> None:
        starts.append(words)
        raise Stop

    monkeypatch.setattr(command, "_start", start)
    monkeypatch.setattr(supervisor, "is_running", lambda: False)
    result = CliRunner().invoke(app, ["local", "up", *arguments])
    if isinstance(result.exception, FiblakeError):
        return exit_code(result.exception), starts, str(result.exception)
    return (0 if isinstance(result.exception, Stop) else result.exit_code), starts, result.output


def test_a_folder_of_bars_is_handed_on_with_the_first_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "OWN.csv").write_text(CSV)
    code, starts, _ = started(monkeypatch, "--bars", str(tmp_path), "--first-session", "2012-07-03")
    assert (code, starts) == (0, [["--first-session", "2012-07-03", "--bars", str(tmp_path)]])
    monkeypatch.setattr("sys.argv", ["supervisor", *starts[0]])
    arguments = supervisor._arguments()  # noqa: SLF001
    assert (str(arguments.first_session), arguments.bars) == ("2012-07-03", tmp_path)


@pytest.mark.parametrize("content", [None, ""])
def test_a_folder_without_bars_is_refused_before_anything_starts(
    content: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "notes.txt").write_text(content)
    folder = tmp_path if content is not None else tmp_path / "none"
    code, starts, output = started(monkeypatch, "--bars", str(folder))
    assert (code, starts) == (2, [])
    assert ("--bars" if content is None else "holds no bars") in output

"""`fiblake local` from outside: its commands, and any S3 client."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from tempfile import mkdtemp

import boto3
import pytest

from fiblake.lake import INTERVALS, Bronze
from local.emulator import REPOSITORY
from tests.integration.conftest import bar, parquet, wait_until

FIBLAKE = [str(Path(sys.executable).with_name("fiblake")), "local"]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    (REPOSITORY / ".local").mkdir(exist_ok=True)
    folder = Path(mkdtemp(prefix="test-up-", dir=REPOSITORY / ".local"))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment = {**inherited, "FIBLAKE_LOCAL_FOLDER": str(folder / "stack")}
    yield environment
    fiblake(environment, "down")
    shutil.rmtree(folder)


def fiblake(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*FIBLAKE, *arguments], env=environment, capture_output=True, text=True, check=False)


def show_status(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [FIBLAKE[0], "status", "--local", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def exported(environment: dict[str, str]) -> dict[str, str]:
    lines = fiblake(environment, "env").stdout.splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)


def test_a_stack_that_is_up_resamples_whatever_any_s3_client_puts_until_it_is_down(
    environment: dict[str, str], tmp_path: Path
) -> None:
    Path(environment["FIBLAKE_LOCAL_FOLDER"] + ".json").write_text("what a stack that was killed leaves behind")
    own = tmp_path / "bars"
    own.mkdir()
    (own / "OWN.csv").write_text("session,open,high,low,close,volume\n2012-07-02,1,2,1,2,100\n2012-07-03,2,3,2,3,100\n")
    up = fiblake(environment, "up", "--bars", str(own))
    assert up.returncode == 0, up.stderr
    variables = exported(environment)
    s3 = boto3.Session(
        variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"], region_name=variables["AWS_REGION"]
    ).client("s3", endpoint_url=variables["AWS_ENDPOINT_URL"])
    session = date(2012, 7, 3)

    key = Bronze().date_key("ANY", session)
    s3.put_object(Bucket=variables["S3_BUCKET"], Key=key, Body=parquet([bar("ANY", session, 7)]))

    def status() -> dict[str, dict[str, dict[str, str]]]:
        facts: dict[str, dict[str, dict[str, str]]] = json.loads(show_status(environment, "--json").stdout)
        return facts

    wait_until(lambda: all(status()["intervals"].values()), "all intervals have a checkpoint")
    assert status()["intervals"].keys() == {f"{n}d" for n in INTERVALS}
    assert {c["last_processed_date"] for c in status()["intervals"].values()} == {"2012-07-03"}
    assert "silver_34d" in show_status(environment).stdout
    by_function = json.loads(fiblake(environment, "env", "--sam").stdout)
    assert by_function["RouterFunction"]["S3_BUCKET"] == variables["S3_BUCKET"]
    endpoints = {function_variables["AWS_ENDPOINT_URL"] for function_variables in by_function.values()}
    assert endpoints == {variables["AWS_ENDPOINT_URL"]}
    assert json.loads(fiblake(environment, "env", "--json").stdout) == variables
    names = [name for name in variables if name.upper() != "NO_PROXY"]  # behind a proxy it may have been set before
    assert fiblake(environment, "env", "--unset").stdout.split() == ["unset", *names]
    metadata = [FIBLAKE[0], "metadata", "--local", "--json"]
    reported = subprocess.run(metadata, env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(reported)["new"] == 1, "the vendor has the folder's one symbol"
    twice = fiblake(environment, "up")
    assert (twice.returncode, "is up already" in twice.stderr) == (1, True)
    assert fiblake(environment, "down").returncode == 0
    gone = show_status(environment)
    assert (gone.returncode, gone.stderr) == (1, "fiblake: no local stack is up: start one with `fiblake local up`\n")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let the started processes receive Ctrl-C: a shell that runs the tests in the background makes all its processes
    ignore it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_stack_that_is_interrupted_while_it_starts_leaves_nothing_running(environment: dict[str, str]) -> None:
    folder = Path(environment["FIBLAKE_LOCAL_FOLDER"])
    with subprocess.Popen([*FIBLAKE, "up"], env=environment, stdout=subprocess.DEVNULL) as up:
        wait_until(lambda: folder.with_suffix(".lock").exists() and folder.is_dir(), "the stack starts")
        up.send_signal(signal.SIGINT)

    assert up.returncode != 0
    assert show_status(environment).returncode == 1
    wait_until(lambda: processes_that_name(folder) == [], "all its parts have ended")


def test_a_demo_that_is_interrupted_stops_everything_and_says_where_to_look() -> None:
    command = [sys.executable, "-m", "local.demo", "--sessions", "1"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        seen = ""
        while "deploying" not in seen:
            line = demo.stdout.readline()
            assert line, f"the demo ended early: {seen}"
            seen += line

        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()

    assert demo.returncode == 1
    assert "the demo failed: interrupted" in rest
    folder = Path(rest.rsplit("until the next demo, in", 1)[1].replace("\n", "").strip())
    assert folder.is_dir()
    assert processes_that_name(folder) == []
    shutil.rmtree(folder)


def processes_that_name(folder: Path) -> list[str]:
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            lines.append(process.read_text(errors="replace"))
    return [line for line in lines if str(folder) in line]

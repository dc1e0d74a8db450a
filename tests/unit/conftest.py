"""Unit tests open no socket, do not sleep, and have no AWS account."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import pytest
from botocore.loaders import JSONFileLoader, Loader
from hypothesis import HealthCheck, settings

from shared.telemetry import logger

settings.register_profile("frugal", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("frugal"), max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "frugal"))

NUMBERS = count()
AWS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "POWERTOOLS_SERVICE_NAME": "test",
    "POWERTOOLS_METRICS_DISABLED": "false",
}


@pytest.fixture(autouse=True)
def _no_aws_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def _loud_logger() -> Iterator[None]:
    """Restore the logger's level and stream: the command line changes both, for its whole process."""
    handler = logger.registered_handler
    level, stream = logger.log_level, handler.stream  # type: ignore[attr-defined]
    yield
    logger.setLevel(level)
    handler.setStream(stream)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_self: socket.socket, address: object) -> NoReturn:
        raise AssertionError(f"a unit test connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which local stacks of all tests would be."""
    return tmp_path_factory.mktemp("stacks")


@pytest.fixture(autouse=True)
def _no_local_stack(monkeypatch: pytest.MonkeyPatch, stacks: Path) -> None:
    """Hide the local stack that may run in this checkout, and that of another test, so that no test ends them.

    Each test has its own file names in one folder, because a folder for each would take a tenth of their time.
    """
    from local import supervisor  # noqa: PLC0415 (the process that only hands out tests needs no stack)

    number = next(NUMBERS)
    for name in ("FOLDER", "STATE", "LOG", "LOCK"):
        monkeypatch.setattr(supervisor, name, stacks / f"{number}.{name.lower()}")


@pytest.fixture(autouse=True, scope="session")
def _service_models_read_once() -> Iterator[None]:
    """Let botocore list and parse each of its data files once in a process; it does so for each session of boto3."""
    read, listed = cache(JSONFileLoader().load_file), dict[tuple[str, ...], list[str]]()
    list_services = Loader.list_available_services

    def services(loader: Loader, type_name: str) -> list[str]:
        place = (type_name, *loader.search_paths)
        if place not in listed:
            listed[place] = list_services(loader, type_name)
        return listed[place]

    with (
        patch.object(JSONFileLoader, "load_file", lambda _self, file_path: read(file_path)),
        patch.object(Loader, "list_available_services", services),
    ):
        yield


@pytest.fixture(autouse=True, scope="session")
def _scratch_opened_once() -> Iterator[None]:
    """Let queries be checked in one database of the process: to open one takes a hundred times as long as a check."""
    from fiblake.reader import views  # noqa: PLC0415 (the process that only hands out tests needs no DuckDB)

    scratch = cache(views.open_scratch)
    with patch.object(views, "open_scratch", lambda *, local_files: scratch(local_files=local_files).cursor()):
        yield


@pytest.fixture(autouse=True)
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace sleeping; return the requested seconds."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


Metrics = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def metrics(capsys: pytest.CaptureFixture[str]) -> Metrics:
    """Return the metrics that were written since the last call: names and values by line, also `interval`."""

    def read() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"_aws"')]
        return [_values(line) for line in lines]

    return read


def _values(line: dict[str, Any]) -> dict[str, Any]:
    """Read one line of the embedded metric format, as CloudWatch does: only what it declares is a metric."""
    [declared] = line["_aws"]["CloudWatchMetrics"]
    [dimensions] = declared["Dimensions"]
    assert all(name in line for name in dimensions)
    values = {metric["Name"]: line[metric["Name"]] for metric in declared["Metrics"]}
    shown = {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in values.items()}
    return shown | {name: line[name] for name in dimensions if name != "service"}

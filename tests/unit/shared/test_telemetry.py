"""The lines that CloudWatch reads, written by a process that is started like a function, with its variables."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from shared.telemetry import level_of
from tests.fakes import REPOSITORY


def written(program: str, namespace: str = "") -> list[dict[str, Any]]:
    environment = os.environ | {"POWERTOOLS_METRICS_NAMESPACE": namespace, "POWERTOOLS_SERVICE_NAME": "resampler"}
    process = subprocess.run(
        [sys.executable, "-c", f"from shared.telemetry import emit_metrics; {program}"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in process.stdout.splitlines()]


def declared(line: dict[str, Any]) -> dict[str, Any]:
    [directive] = line["_aws"]["CloudWatchMetrics"]
    assert isinstance(directive, dict)
    return directive


def test_a_count_is_one_line_that_cloudwatch_reads_as_metrics_of_the_service() -> None:
    [line] = written("emit_metrics(SymbolsConsolidated=3, PutToSilverSeconds=1.5, BarsQuarantinedPercent=0.25)")
    assert (declared(line)["Namespace"], declared(line)["Dimensions"], line["service"]) == (
        "fiblake", [["service"]], "resampler",
    )  # fmt: skip
    units = {metric["Name"]: metric["Unit"] for metric in declared(line)["Metrics"]}
    assert units == {
        "SymbolsConsolidated": "Count", "PutToSilverSeconds": "Seconds", "BarsQuarantinedPercent": "Percent",
    }  # fmt: skip
    assert (line["SymbolsConsolidated"], line["PutToSilverSeconds"]) == ([3.0], [1.5])


def test_an_interval_is_a_dimension_of_that_line_only() -> None:
    of_interval, after = written("emit_metrics(interval=21, SymbolsResampled=1); emit_metrics(SymbolsResampled=1)")
    assert [sorted(dimensions) for dimensions in declared(of_interval)["Dimensions"]] == [["interval", "service"]]
    assert of_interval["interval"] == "21d"
    assert declared(after)["Dimensions"] == [["service"]]


def test_lines_of_threads_that_count_at_once_stay_apart() -> None:
    lines = written("""
from concurrent.futures import ThreadPoolExecutor
import warnings
warnings.simplefilter("error")
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda n: emit_metrics(interval=n, Rows=n), [3, 5, 8, 13] * 50))
""")
    assert [line["interval"] for line in lines] == [f"{int(line['Rows'][0])}d" for line in lines]
    assert len(lines) == 200


def test_each_environment_has_a_namespace_of_its_own() -> None:
    [line] = written("emit_metrics(SymbolsConsolidated=1)", "fiblake/prod")
    assert declared(line)["Namespace"] == "fiblake/prod"


@pytest.mark.parametrize(
    ("environment", "level"),
    [
        ({}, None),
        ({"LOG_LEVEL": "debug"}, "DEBUG"),
        ({"LOG_LEVEL": "DEBUG", "POWERTOOLS_LOG_LEVEL": "ERROR"}, "ERROR"),
        ({"LOG_LEVEL": "trace"}, None),
    ],
)
def test_a_level_that_another_program_has_is_none_of_ours(environment: dict[str, str], level: str | None) -> None:
    assert level_of(environment) == level


def test_a_level_that_is_none_does_not_stop_the_process_and_one_of_ours_counts() -> None:
    for variable, expected in (("trace", "20"), ("ERROR", "40")):
        command = [sys.executable, "-c", "from shared.telemetry import logger; print(logger.log_level)"]
        environment = {**os.environ, "LOG_LEVEL": variable}
        shown = subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, capture_output=True, text=True)
        assert shown.stdout.strip() == expected

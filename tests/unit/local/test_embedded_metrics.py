import json
from typing import Any

import pytest

from local.embedded_metrics import Measurement, declared_metrics
from shared.telemetry import emit_metrics


def line(**changes: Any) -> str:  # noqa: ANN401 (JSON)
    directive = {
        "Namespace": "lake",
        "Dimensions": [["service"], ["service", "interval"]],
        "Metrics": [{"Name": "Bars", "Unit": "Count"}, {"Name": "Load"}],
    }
    values = {"service": "fetcher", "interval": "3d", "Bars": [1, 2], "Load": 0.5, "more": "text"}
    return json.dumps({"_aws": {"Timestamp": 1, "CloudWatchMetrics": [directive]}, **values, **changes})


def test_each_metric_is_measured_once_for_each_set_of_dimensions_with_all_its_values() -> None:
    service, both = {"service": "fetcher"}, {"service": "fetcher", "interval": "3d"}
    assert list(declared_metrics(line())) == [
        Measurement("lake", "Bars", "Count", (1.0, 2.0), service),
        Measurement("lake", "Load", "None", (0.5,), service),
        Measurement("lake", "Bars", "Count", (1.0, 2.0), both),
        Measurement("lake", "Load", "None", (0.5,), both),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "START RequestId: 1",
        '{"message": "no metrics", "about": "_aws"}',
        '{"_aws": {"CloudWatchMetrics": ',
        '{"_aws": 1}',
        line(Bars="many"),
        line(_aws={"CloudWatchMetrics": [{"Namespace": "lake", "Dimensions": [["nobody"]], "Metrics": []}]}),
    ],
)
def test_a_line_of_another_kind_or_without_what_it_declares_measures_nothing(text: str) -> None:
    assert list(declared_metrics(f"{text}\n")) == []
    assert len(list(declared_metrics(f"{text}\n{line()}\n{text}"))) == 4


def test_what_the_services_write_is_measured_as_they_meant_it(capsys: pytest.CaptureFixture[str]) -> None:
    emit_metrics(interval=3, SessionsBehind=2)
    [metric] = declared_metrics(capsys.readouterr().out)
    assert (metric.namespace, metric.name, metric.unit, metric.values) == ("fiblake", "SessionsBehind", "Count", (2.0,))
    assert metric.dimensions["interval"] == "3d"

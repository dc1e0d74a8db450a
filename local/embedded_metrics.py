"""Read the metrics that a log line declares (embedded metric format), as CloudWatch does."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """One metric of a line under one set of dimensions."""

    namespace: str
    name: str
    unit: str
    values: tuple[float, ...]
    dimensions: Mapping[str, str]


def declared_metrics(text: str) -> Iterator[Measurement]:
    """Return all metrics that the lines of a log declare; other lines, and those without the values, are ignored."""
    for line in text.splitlines():
        if line.startswith("{") and '"_aws"' in line:
            try:
                line_fields = json.loads(line)
                yield from _measurements(line_fields, line_fields["_aws"]["CloudWatchMetrics"])
            except (ValueError, KeyError, TypeError):
                continue


def _measurements(line: Mapping[str, Any], directives: list[Any]) -> list[Measurement]:
    return [
        Measurement(
            directive["Namespace"],
            metric["Name"],
            metric.get("Unit", "None"),
            _values(line[metric["Name"]]),
            {name: line[name] for name in dimensions},
        )
        for directive in directives
        for dimensions in directive["Dimensions"]
        for metric in directive["Metrics"]
    ]


def _values(metric_value: Any) -> tuple[float, ...]:  # noqa: ANN401 (a number, or a list of them)
    return tuple(float(value) for value in (metric_value if isinstance(metric_value, list) else [metric_value]))

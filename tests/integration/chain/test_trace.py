"""The facts about one put for an operator: one correlation id in every stage's logs, and the time it took."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from fiblake.calendar import nyse
from fiblake.lake import INTERVALS
from tests.integration.conftest import Chain, bar, wait_until

DAY = nyse().last_closed(datetime(2012, 5, 1, tzinfo=UTC))


def logged(chain: Chain) -> Iterator[dict[str, Any]]:
    """Return every JSON line that the functions (the emulator's log) and the jobs (a log each) have written."""
    folder = chain.stack.folder
    for path in [folder / "aws/emulator.log", *(folder / "jobs").rglob("*.log")]:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            _, brace, rest = line.partition("{")
            try:
                fields = json.loads(brace + rest)
            except ValueError:
                continue
            if isinstance(fields, dict):
                yield fields


def test_one_correlation_id_leads_from_a_put_through_the_logs_of_every_stage_to_silver(chain: Chain) -> None:
    bars = [bar("TRACED", DAY, 50)]
    chain.put(bars)
    chain.wait_for_silver(bars)

    def about_it() -> list[tuple[str, str, str]]:
        ours = [line for line in logged(chain) if line.get("symbol") == "TRACED"]
        return [(line["service"], line["message"], line.get("correlation_id", "")) for line in ours]

    wait_until(lambda: sum(message == "resampled" for _, message, _ in about_it()) == len(INTERVALS), "all six logged")
    stages = [(service, message) for service, message, _ in about_it()]
    assert sorted(stages) == sorted([
        ("consolidation-router", "consolidation requested"),
        ("consolidator", "consolidated"),
        *[("resampler", "resampled")] * len(INTERVALS),
    ])  # fmt: skip
    [correlation_id] = {name for _, _, name in about_it()}
    assert correlation_id

    # CloudWatch makes its metrics from the same lines, in the environment's own namespace.
    measured = [line for line in logged(chain) if "_aws" in line]
    assert {line["_aws"]["CloudWatchMetrics"][0]["Namespace"] for line in measured} == {"fiblake/local"}
    took = {line["interval"]: line["PutToSilverSeconds"] for line in measured if "PutToSilverSeconds" in line}
    assert took.keys() == {f"{interval}d" for interval in INTERVALS}
    assert {line["service"] for line in measured if "SymbolsConsolidated" in line} == {"consolidator"}
    client = chain.stack.client("cloudwatch")

    def is_metric(name: str, **dimensions: str) -> bool:
        wanted = [{"Name": name, "Value": value} for name, value in dimensions.items()]
        metrics = client.list_metrics(Namespace="fiblake/local", MetricName=name)["Metrics"]
        return any(sorted(metric["Dimensions"], key=lambda d: d["Name"]) == wanted for metric in metrics)

    for interval in INTERVALS:
        assert is_metric("PutToSilverSeconds", interval=f"{interval}d", service="resampler")
    wait_until(lambda: is_metric("SymbolsConsolidated", service="consolidator"), "what the job has written counts, too")

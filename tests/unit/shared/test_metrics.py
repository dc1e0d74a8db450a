from datetime import UTC, date, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from fiblake.errors import UpstreamError
from shared.metrics import Latency, latencies, oldest_ages

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def test_the_newest_value_of_each_queue_counts_and_unknown_queues_are_left_out() -> None:
    client = boto3.client("cloudwatch")
    with Stubber(client) as stub:
        minutes = [NOON + timedelta(minutes=number) for number in range(3)]
        results: list[Any] = [
            {"Id": "q1", "Timestamps": [minutes[1], minutes[2], minutes[0]], "Values": [12.0, 61.0, 99.0]},
            {"Id": "q0", "Timestamps": [], "Values": []},
        ]
        expected = {"MetricDataQueries": ANY, "StartTime": ANY, "EndTime": ANY}
        stub.add_response("get_metric_data", {"MetricDataResults": results}, expected)
        assert oldest_ages(["dev-a", "dev-b"], client) == {"dev-b": 61}


def test_a_refusal_is_a_fault_that_may_pass() -> None:
    client = boto3.client("cloudwatch")
    with Stubber(client) as stub:
        stub.add_client_error("get_metric_data", "AccessDenied")
        with pytest.raises(UpstreamError, match="CloudWatch does not say"):
            oldest_ages(["dev-a"], client)


def test_the_latency_of_each_interval_is_that_of_the_last_day_with_puts() -> None:
    client = boto3.client("cloudwatch")
    request: dict[str, Any] = {}
    client.meta.events.register("provide-client-params.*.GetMetricData", lambda params, **_: request.update(params))
    days = [datetime(2026, 1, number, tzinfo=UTC) for number in (5, 7, 6)]
    results: list[Any] = [
        {"Id": "q0", "Timestamps": days, "Values": [10.0, 12.5, 11.0]},
        {"Id": "q1", "Timestamps": days, "Values": [60.0, 90.0, 70.0]},
        {"Id": "q2", "Timestamps": [], "Values": []},
        {"Id": "q3", "Timestamps": [], "Values": []},
    ]
    with Stubber(client) as stub:
        stub.add_response("get_metric_data", {"MetricDataResults": results})
        assert latencies("fiblake/dev", [3, 34], client) == {3: Latency(date(2026, 1, 7), 12.5, 90.0)}
    queries = [query["MetricStat"] for query in request["MetricDataQueries"]]
    assert [query["Stat"] for query in queries] == ["p50", "p95"] * 2
    assert {(query["Metric"]["Namespace"], query["Metric"]["MetricName"]) for query in queries} == {
        ("fiblake/dev", "PutToSilverSeconds")
    }
    assert queries[3]["Metric"]["Dimensions"] == [
        {"Name": "service", "Value": "resampler"}, {"Name": "interval", "Value": "34d"},
    ]  # fmt: skip

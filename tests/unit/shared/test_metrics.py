from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from fiblake.errors import UpstreamError
from shared.metrics import oldest_ages

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def test_the_newest_value_of_each_queue_counts_and_unknown_queues_are_left_out() -> None:
    client = boto3.client("cloudwatch")
    with Stubber(client) as stub:
        minutes = [NOON + timedelta(minutes=number) for number in range(3)]
        results: list[Any] = [
            {"Id": "q1", "Timestamps": [minutes[1], minutes[2], minutes[0]], "Values": [12.0, 61.0, 99.0]},
            {"Id": "q0", "Timestamps": [], "Values": []},
        ]
        asked = {"MetricDataQueries": ANY, "StartTime": ANY, "EndTime": ANY}
        stub.add_response("get_metric_data", {"MetricDataResults": results}, asked)
        assert oldest_ages(["dev-a", "dev-b"], client) == {"dev-b": 61}


def test_a_refusal_is_a_fault_that_may_pass() -> None:
    client = boto3.client("cloudwatch")
    with Stubber(client) as stub:
        stub.add_client_error("get_metric_data", "AccessDenied")
        with pytest.raises(UpstreamError, match="CloudWatch does not say"):
            oldest_ages(["dev-a"], client)

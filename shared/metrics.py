"""Read AWS's own metrics from CloudWatch: the one place that talks to it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from fiblake.errors import UpstreamError

WINDOW = timedelta(minutes=15)
"""SQS reports every minute, a few minutes late, and does not report a queue that was idle for hours."""


def oldest_ages(queues: Sequence[str], client: Any = None) -> dict[str, int]:  # noqa: ANN401 (CloudWatch's client)
    """Return the age of the oldest message of each queue, in seconds; queues without a report are left out."""
    now = datetime.now(UTC)
    try:
        cloudwatch = client or boto3.client("cloudwatch")
        answer = cloudwatch.get_metric_data(
            MetricDataQueries=[_query(i, name) for i, name in enumerate(queues)], StartTime=now - WINDOW, EndTime=now,
        )  # fmt: skip
    except (ClientError, BotoCoreError) as error:
        raise UpstreamError(f"CloudWatch does not say how old messages are: {error}") from error
    ages = {}
    for result in answer["MetricDataResults"]:
        if result["Values"]:
            _, newest = max(zip(result["Timestamps"], result["Values"], strict=True))
            ages[queues[int(result["Id"].removeprefix("q"))]] = int(newest)
    return ages


def _query(number: int, queue: str) -> dict[str, Any]:
    dimensions = [{"Name": "QueueName", "Value": queue}]
    metric = {"Namespace": "AWS/SQS", "MetricName": "ApproximateAgeOfOldestMessage", "Dimensions": dimensions}
    return {"Id": f"q{number}", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Maximum"}}

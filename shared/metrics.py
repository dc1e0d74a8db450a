"""Read metrics from CloudWatch, AWS's own and ours: the one place that talks to it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from fiblake.errors import UpstreamError

WINDOW = timedelta(minutes=15)
"""SQS reports every minute, a few minutes late, and does not report a queue that was idle for hours."""


LATENCY_DAYS = 7
"""The number of days in which the last put is searched: a week always has a session."""
_DAY = int(timedelta(days=1).total_seconds())
_Points = list[tuple[datetime, float]]


@dataclass(frozen=True, slots=True)
class Latency:
    """How many seconds puts took to silver on one day (UTC): half of them at most `p50`, 95 % at most `p95`."""

    day: date
    p50: float
    p95: float


def oldest_ages(queues: Sequence[str], client: Any = None) -> dict[str, int]:  # noqa: ANN401 (CloudWatch's client)
    """Return the age of the oldest message of each queue, in seconds; queues without a report are left out."""
    now = datetime.now(UTC)
    queries = [
        _query(number, "AWS/SQS", "ApproximateAgeOfOldestMessage", {"QueueName": name}, 60, "Maximum")
        for number, name in enumerate(queues)
    ]
    answers = _ask(queries, now - WINDOW, now, "how old messages are", client)
    return {queues[number]: int(max(points)[1]) for number, points in answers.items()}


def latencies(namespace: str, intervals: Iterable[int], client: Any = None) -> dict[int, Latency]:  # noqa: ANN401
    """Return how long puts took to each interval's silver on the last day that had any; others are left out."""
    wanted, midnight = list(intervals), datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    queries = [
        _query(2 * number + place, namespace, "PutToSilverSeconds", _resampler(interval), _DAY, statistic)
        for number, interval in enumerate(wanted)
        for place, statistic in enumerate(("p50", "p95"))
    ]
    start, end = midnight - timedelta(days=LATENCY_DAYS), midnight + timedelta(days=1)
    answers = _ask(queries, start, end, "how long puts took", client)
    by_interval: dict[int, Latency] = {}
    for number, interval in enumerate(wanted):
        halves, most = dict(answers.get(2 * number, [])), dict(answers.get(2 * number + 1, []))
        if days := halves.keys() & most.keys():
            last = max(days)
            by_interval[interval] = Latency(last.astimezone(UTC).date(), halves[last], most[last])
    return by_interval


def _resampler(interval: int) -> dict[str, str]:
    return {"service": "resampler", "interval": f"{interval}d"}


def _query(  # noqa: PLR0917
    number: int, namespace: str, name: str, dimensions: dict[str, str], period: int, statistic: str
) -> dict[str, Any]:
    pairs = [{"Name": dimension, "Value": value} for dimension, value in dimensions.items()]
    metric = {"Namespace": namespace, "MetricName": name, "Dimensions": pairs}
    return {"Id": f"q{number}", "MetricStat": {"Metric": metric, "Period": period, "Stat": statistic}}


def _ask(
    queries: list[dict[str, Any]],
    start: datetime,
    end: datetime,
    what: str,
    client: Any = None,  # noqa: ANN401
) -> dict[int, _Points]:
    """Return the points of each query that has any, by the query's number."""
    try:
        cloudwatch = client or boto3.client("cloudwatch")
        answer = cloudwatch.get_metric_data(MetricDataQueries=queries, StartTime=start, EndTime=end)
    except (ClientError, BotoCoreError) as error:
        raise UpstreamError(f"CloudWatch does not say {what}: {error}") from error
    return {
        int(result["Id"].removeprefix("q")): list(zip(result["Timestamps"], result["Values"], strict=True))
        for result in answer["MetricDataResults"]
        if result["Values"]
    }

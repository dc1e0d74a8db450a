"""Report finished Batch jobs: an event on AWS's event bus, and the metrics of the log.

Both are best effort, as on AWS: if a report fails, the job has still finished.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from local.embedded_metrics import declared_metrics
from local.emulator import client
from shared.batching import chunks

Report = Callable[[Mapping[str, Any], Path | None], object]
"""Accepts a job's description, as returned by DescribeJobs, and its log, if it has one."""

_DATA_PER_REQUEST: Final = 500


@contextmanager
def open_reporter(url: str | None) -> Iterator[Report]:
    """Return a function that reports to this endpoint (None: not at all), job by job, in a separate thread."""
    if url is None:
        yield lambda _job, _log: None
        return
    with ThreadPoolExecutor(1) as thread:
        yield lambda job, log: thread.submit(_report, url, job, log)


def _report(url: str, job: Mapping[str, Any], log: Path | None) -> None:
    try:
        client("events", url).put_events(Entries=[_event(job)])
        if log and log.exists():
            _measure(url, log.read_text(encoding="utf-8", errors="replace"))
    except (BotoCoreError, ClientError) as error:
        sys.stderr.write(f"job {job['jobId']} is not reported: {error}\n")


def _event(job: Mapping[str, Any]) -> dict[str, Any]:
    # The format is in the AWS Batch User Guide, "AWS Batch events": the detail is the job's description.
    return {
        "Source": "aws.batch",
        "DetailType": "Batch Job State Change",
        "Resources": [job["jobArn"]],
        "Detail": json.dumps(job),
    }


def _measure(url: str, text: str) -> None:
    by_namespace: dict[str, list[dict[str, Any]]] = {}
    for metric in declared_metrics(text):
        dimensions = [{"Name": name, "Value": value} for name, value in metric.dimensions.items()]
        datum = {
            "MetricName": metric.name,
            "Unit": metric.unit,
            "Values": list(metric.values),
            "Dimensions": dimensions,
        }
        by_namespace.setdefault(metric.namespace, []).append(datum)
    for namespace, data in by_namespace.items():
        for chunk in chunks(data, _DATA_PER_REQUEST):
            client("cloudwatch", url).put_metric_data(Namespace=namespace, MetricData=chunk)

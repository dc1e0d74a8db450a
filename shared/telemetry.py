"""What the services write about themselves: structured log lines and metrics (Powertools, JSON to stdout)."""

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

logger = Logger()
"""Name and level come from POWERTOOLS_SERVICE_NAME and LOG_LEVEL."""

_metrics = Metrics(namespace="fiblake")


def count(**counts: int) -> None:
    """Write counts by name as one line of metrics (CloudWatch's embedded metric format), with the service's name."""
    for name, value in counts.items():
        _metrics.add_metric(name, MetricUnit.Count, value)
    _metrics.flush_metrics()

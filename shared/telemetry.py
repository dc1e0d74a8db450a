"""Write structured log lines and metrics (Powertools, JSON to stdout)."""

import os
import threading
from collections.abc import Mapping
from typing import Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

TRACE: Final = "_X_AMZN_TRACE_ID"
"""The variable in which Lambda names the trace of an invocation, and where Powertools' logger and boto3 look for it."""
_LEVELS: Final = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
"""`logging` has more levels if a library has registered its own."""


def level_of(environment: Mapping[str, str]) -> str | None:
    """Return the level that POWERTOOLS_LOG_LEVEL, or else LOG_LEVEL, names; None if it is no level of ours.

    Other programs read LOG_LEVEL as well, and have other levels (`trace`).
    """
    named = (environment.get("POWERTOOLS_LOG_LEVEL") or environment.get("LOG_LEVEL") or "").upper()
    return named if named in _LEVELS else None


logger = Logger(level=level_of(os.environ) or "INFO")
"""Its name comes from POWERTOOLS_SERVICE_NAME."""

# One namespace for each environment, so that an alarm counts only its own environment.
_metrics = Metrics(namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE") or "fiblake")
_one_line = threading.Lock()
"""Fields that one thread adds must not appear in another thread's lines."""
_UNITS: Final = {"Seconds": MetricUnit.Seconds, "Percent": MetricUnit.Percent}


def emit_metrics(*, interval: int | None = None, **values: float) -> None:
    """Write values by name as one line of metrics (CloudWatch's embedded metric format), with the service's name.

    A name that ends in Seconds or Percent is in that unit, any other is a count. `interval` is a separate dimension.
    """
    with _one_line:
        if interval is not None:
            _metrics.add_dimension("interval", f"{interval}d")
        for name, value in values.items():
            unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), MetricUnit.Count)
            _metrics.add_metric(name, unit, value)
        _metrics.flush_metrics()


def log_correlation_merge(symbol: str, correlation_id: str, into: str) -> None:
    """Log that this id's work continues under the id of another message."""
    if correlation_id != into:
        logger.info("joined", extra={"symbol": symbol, "correlation_id": correlation_id, "into": into})

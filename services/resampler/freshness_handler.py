"""Entry point of the freshness function: a schedule's event in, how many sessions each step is behind out."""

from datetime import UTC, datetime
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from services.resampler.freshness import measure
from services.resampler.settings import FreshnessSettings
from shared.calendar import nyse
from shared.objects import ObjectStore
from shared.settings import load
from shared.telemetry import logger


@logger.inject_lambda_context(clear_state=True)
def handler(_event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Measure how fresh the lake is."""
    return measure(ObjectStore.connect(load(FreshnessSettings).s3_bucket), nyse(), datetime.now(UTC))

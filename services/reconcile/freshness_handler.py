"""Entry point of the freshness function: it takes a schedule's event and returns how far each step is behind."""

from datetime import UTC, datetime
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from fiblake.calendar import lake_calendar
from fiblake.lake import Bronze
from services.reconcile.freshness import measure
from services.reconcile.settings import FreshnessSettings
from shared.objects import ObjectStore
from shared.settings import load
from shared.telemetry import logger


@logger.inject_lambda_context(clear_state=True)
def handler(_event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Measure how fresh the lake is."""
    settings = load(FreshnessSettings)
    return measure(
        ObjectStore.connect(settings.s3_bucket), Bronze(settings.s3_prefix), lake_calendar(), datetime.now(UTC)
    )

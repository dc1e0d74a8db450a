"""Entry point of the vacuum function: a schedule's event, or one with `symbols`, `dry_run`."""

from datetime import UTC, datetime
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from fiblake.lake import Bronze
from services.vacuum.bronze import Vacuum, check_retention, execute, plan
from services.vacuum.report import facts
from services.vacuum.settings import VacuumEvent, VacuumSettings
from shared.objects import ObjectStore
from shared.settings import load
from shared.telemetry import logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Delete the merged source files that are older than the retention."""
    settings, request = load(VacuumSettings), VacuumEvent.of(event)
    days = check_retention(request.retention_days or settings.retention_days, force=settings.force_retention)
    vacuum = Vacuum(ObjectStore.connect(settings.s3_bucket), Bronze(settings.s3_prefix), settings.max_workers)
    planned = plan(vacuum, request.symbols, days, datetime.now(UTC))
    deleted = None if request.dry_run else execute(vacuum, planned, f"vacuum-{context.aws_request_id}")
    counts = facts(vacuum.bronze, planned, deleted)
    logger.info("vacuum ended", extra=counts)
    return counts

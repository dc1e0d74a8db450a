"""Entry point of the reconcile function: a schedule's event, or one with `fix`, `symbols`, `days`."""

from datetime import UTC, datetime
from typing import Any, Final

from aws_lambda_powertools.utilities.typing import LambdaContext

from fiblake.calendar import lake_calendar
from fiblake.lake import Bronze
from services.reconcile.lag import NEEDS_A_PERSON
from services.reconcile.reconcile import Outlets, Reconciler
from services.reconcile.settings import ReconcileEvent, ReconcileSettings, window_start
from services.reconcile.silver import Grid
from shared.jobs import DRAINS, JobQueue
from shared.objects import ObjectStore
from shared.queues import Queue, Topic
from shared.settings import load
from shared.telemetry import emit_metrics, logger

LAGS_REPORTED: Final = 100


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Find what lags, and enqueue its repair if the event asks for it."""
    settings, request, today = load(ReconcileSettings), ReconcileEvent.of(event), datetime.now(UTC).date()
    store, window = ObjectStore.connect(settings.s3_bucket), window_start(today, settings.resampling_retention_years)
    grid = Grid(lake_calendar(), settings.resampling_adjusted)
    reconciler = Reconciler(store, Bronze(settings.s3_prefix), grid, today, window)
    report = reconciler.audit(request.symbols, request.since(today))
    sent = _outlets(settings).enqueue(report.lags, context.aws_request_id) if request.fix and report.lags else None
    facts = report.facts(sent, LAGS_REPORTED)
    if not request.symbols:  # the metrics are about the whole lake, and their silence is an alarm
        needing_a_person = len({lag.symbol for lag in report.lags if lag.cause in NEEDS_A_PERSON})
        emit_metrics(
            SymbolsAudited=report.symbols, SymbolsLagging=facts["lagging"], SymbolsNeedingAPerson=needing_a_person
        )
    logger.info("reconcile ended", extra=facts)
    return facts


def _outlets(settings: ReconcileSettings) -> Outlets:
    return Outlets(
        Queue.connect(settings.consolidation_queue_url),
        Topic.connect(settings.consolidation_complete_topic_arn),
        JobQueue.connect(settings.batch_job_queue, settings.batch_job_definition, DRAINS),
        settings.symbols_per_child,
    )

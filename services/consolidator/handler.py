"""Entry point of the router function: messages of `bronze-arrivals` in, partial batch response out."""

from functools import cache
from typing import Any

from aws_lambda_powertools.utilities.data_classes import SQSEvent
from aws_lambda_powertools.utilities.typing import LambdaContext

from fiblake.lake import Bronze
from services.consolidator.router import Router
from services.consolidator.settings import RouterSettings
from shared.jobs import DRAINS, JobQueue
from shared.outcomes import process_messages
from shared.queues import Queue, from_lambda
from shared.settings import load
from shared.telemetry import logger


@cache
def _build_router() -> tuple[RouterSettings, Router]:
    settings = load(RouterSettings)
    consolidation = Queue.connect(settings.consolidation_queue_url)
    jobs = JobQueue.connect(settings.batch_job_queue, settings.batch_job_definition, DRAINS)
    bronze = Bronze(settings.s3_prefix)
    router = Router(settings.s3_bucket, bronze, consolidation, jobs, settings.symbols_per_child, settings.largest_array)
    return settings, router


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Route the arrivals of one batch."""
    settings, router = _build_router()
    messages = [from_lambda(record) for record in SQSEvent(event).records]
    return process_messages(event["Records"][0]["eventSourceARN"], messages, router.route, settings.max_receive_count)

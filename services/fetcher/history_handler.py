"""Entry point of the history fetcher function: messages of the `history` queue in, partial batch response out."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from aws_lambda_powertools.utilities.data_classes import SQSEvent
from aws_lambda_powertools.utilities.typing import LambdaContext

from services.fetcher.assembly import clock, opened
from services.fetcher.history import HistoryFetcher, load_requested
from services.fetcher.intake import counted
from services.fetcher.settings import FetcherSettings
from shared.errors import FiblakeError, UpstreamError
from shared.outcomes import attempt, batch_response
from shared.queues import from_lambda
from shared.settings import load
from shared.telemetry import count, logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Load the histories that one batch asks for."""
    settings = load(FetcherSettings)
    messages = [from_lambda(record) for record in SQSEvent(event).records]
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        intake = attempt(lambda: runner.run(stack.enter_async_context(opened(settings))))
        if isinstance(intake, FiblakeError):
            # No message is to blame for a database or a secret: they come again, when that may be mended.
            errors: dict[str, FiblakeError] = dict.fromkeys((m.id for m in messages), UpstreamError(str(intake)))
        else:
            fetcher = HistoryFetcher(intake, settings.history_from)
            stored, errors = load_requested(runner, fetcher, messages, intake.calendar.last_closed(clock()))
            count(HistoriesLoaded=len(stored), **counted(stored))
            runner.run(stack.aclose())
    return batch_response(event["Records"][0]["eventSourceARN"], messages, errors, settings.max_receive_count)

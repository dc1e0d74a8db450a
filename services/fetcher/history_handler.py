"""Entry point of the history fetcher function: messages of the `history` queue in, partial batch response out."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import date
from typing import Any

from aws_lambda_powertools.utilities.data_classes import SQSEvent
from aws_lambda_powertools.utilities.typing import LambdaContext

from fiblake.errors import FiblakeError, UpstreamError
from services.fetcher.assembly import open_intake
from services.fetcher.connections import clock
from services.fetcher.history import HistoryFetcher, load_requested
from services.fetcher.intake import Intake, stored_counts
from services.fetcher.settings import FetcherSettings
from shared.outcomes import catch_errors, process_messages
from shared.queues import ReceivedMessage, from_lambda
from shared.settings import load
from shared.telemetry import emit_metrics, logger


def _opened(runner: asyncio.Runner, stack: AsyncExitStack, settings: FetcherSettings) -> tuple[Intake, date]:
    intake = runner.run(stack.enter_async_context(open_intake(settings)))
    return intake, intake.calendar.last_closed(clock())


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Load the histories of one batch of messages."""
    settings = load(FetcherSettings)
    messages = [from_lambda(record) for record in SQSEvent(event).records]
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        opening = catch_errors(_opened, runner, stack, settings)

        def work(group: Sequence[ReceivedMessage]) -> Mapping[str, FiblakeError]:
            if isinstance(opening, FiblakeError):
                # Database, secret or calendar failed, not a message: all messages come again later.
                return dict.fromkeys((m.id for m in group), UpstreamError(str(opening)))
            intake, closed = opening
            fetcher = HistoryFetcher(intake, settings.history_from, settings.universe_types)
            stored, errors = load_requested(runner, fetcher, group, closed)
            emit_metrics(HistoriesLoaded=len(stored), **stored_counts(stored))
            return errors

        response = process_messages(event["Records"][0]["eventSourceARN"], messages, work, settings.max_receive_count)
        runner.run(stack.aclose())
    return response

"""Entry point of the OHLCV fetcher function: a schedule's event (or one with sessions) in, counts out."""

import asyncio
from datetime import timedelta
from typing import Any, Final

from aws_lambda_powertools.utilities.typing import LambdaContext

from services.fetcher.assembly import fetch
from services.fetcher.connections import clock
from services.fetcher.intake import stored_counts
from services.fetcher.ohlcv import Fetched
from services.fetcher.settings import FetcherSettings, FetchEvent
from shared.settings import load
from shared.telemetry import emit_metrics, logger

FOR_A_SESSION: Final = timedelta(minutes=3)
"""The longest time of a run's last session, with a slow vendor."""


def _measure(fetched: Fetched) -> None:
    stored = [*fetched.done, *fetched.looked_at_again]
    counts = stored_counts(stored)
    bars = counts["BarsStored"] + counts["BarsQuarantined"] + sum(session.unchanged for session in stored)
    emit_metrics(SessionsStored=len(fetched.done), SessionsPending=len(fetched.pending), **counts)
    if bars:
        emit_metrics(BarsQuarantinedPercent=100 * counts["BarsQuarantined"] / bars)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Fetch the sessions that are missing, oldest first, within the function's time."""
    time_left = timedelta(milliseconds=context.get_remaining_time_in_millis())
    deadline = clock() + time_left - FOR_A_SESSION
    fetched = Fetched()
    try:
        return asyncio.run(fetch(load(FetcherSettings), FetchEvent.of(event), deadline=deadline, fetched=fetched))
    finally:
        _measure(fetched)  # also for a failed run, which has stored and refused bars before its failure

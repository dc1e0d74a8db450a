"""Entry point of the OHLCV fetcher function: a schedule's event (or one that asks for sessions) in, counts out."""

import asyncio
from datetime import timedelta
from typing import Any, Final

from aws_lambda_powertools.utilities.typing import LambdaContext

from services.fetcher.assembly import clock, fetch
from services.fetcher.settings import FetcherSettings, FetchEvent
from shared.settings import load
from shared.telemetry import count, logger

FOR_A_SESSION: Final = timedelta(minutes=3)
"""What the last session of a run may take, with a vendor that is slow to answer."""


def _measure(answer: dict[str, Any]) -> None:
    stored = [*answer["done"], *answer["looked_at_again"]]
    quarantined = sum(one["quarantined"] for one in stored)
    bars = quarantined + sum(one["stored"] + one["unchanged"] for one in stored)
    count(
        SessionsStored=len(answer["done"]),
        SessionsPending=len(answer["pending"]),
        BarsStored=sum(one["stored"] for one in stored),
        BarsQuarantined=quarantined,
        BarsFlagged=sum(len(one["flagged"]) for one in stored),
    )
    if bars:
        count(BarsQuarantinedPercent=100 * quarantined / bars)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Fetch the sessions that are missing, oldest first, within the function's time."""
    left = timedelta(milliseconds=context.get_remaining_time_in_millis())
    deadline = clock() + left - FOR_A_SESSION
    answer = asyncio.run(fetch(load(FetcherSettings), FetchEvent.of(event), deadline=deadline))
    _measure(answer)
    return answer

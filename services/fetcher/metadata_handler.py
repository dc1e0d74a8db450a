"""Entry point of the metadata fetcher function: a schedule's event (or one with `splits_only`) in, counts out."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aws_lambda_powertools.utilities.typing import LambdaContext

from services.fetcher.assembly import refresh
from services.fetcher.settings import MetadataEvent, MetadataSettings
from shared.settings import load
from shared.telemetry import emit_metrics, logger

TO_FINISH: Final = timedelta(minutes=5)
"""The time of a function that is reserved for the steps after single symbols: at a free plan's pace splits need three
minutes."""


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Bring reference data up to date, within the function's time."""
    time_left = timedelta(milliseconds=context.get_remaining_time_in_millis())
    deadline = datetime.now(UTC) + time_left - TO_FINISH
    answer = asyncio.run(refresh(load(MetadataSettings), MetadataEvent.of(event), deadline))
    emit_metrics(
        TickersListed=answer["listed"],
        SymbolsNew=answer["new"],
        SymbolsVanished=answer["vanished"],
        SplitsChanged=answer["splits_changed"],
        DividendsChanged=answer["dividends_changed"],
        HistoriesRequested=answer["histories_requested"],
    )
    return answer

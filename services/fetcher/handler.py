"""Entry point of the OHLCV fetcher function: a schedule's event (or one with `as_of`, `backfill`) in, counts out."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from services.fetcher.credentials import api_key
from services.fetcher.massive import massive
from services.fetcher.ohlcv import Fetcher
from services.fetcher.settings import FetcherSettings, FetchEvent
from shared.calendar import nyse
from shared.database import DatabaseAddress, Tls, connected
from shared.lake import Bronze
from shared.objects import ObjectStore
from shared.secrets import read_secret
from shared.settings import load
from shared.telemetry import logger


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Fetch the sessions that are missing, oldest first."""
    return asyncio.run(_fetch(load(FetcherSettings), FetchEvent.of(event)))


async def _fetch(settings: FetcherSettings, event: FetchEvent) -> dict[str, Any]:
    store, bronze = ObjectStore.connect(settings.s3_bucket), Bronze(settings.s3_prefix)
    address = DatabaseAddress.of_secret(read_secret(settings.rds_secret_arn))
    async with (
        massive(settings.market_data_url, api_key(settings)) as vendor,
        connected(address, Tls(settings.database_tls == "verify-full", settings.database_ca_file)) as database,
    ):
        fetcher = Fetcher(
            vendor,
            store,
            bronze,
            database,
            nyse(),
            settings.universe,
            settings.first_session,
            lambda: datetime.now(UTC),
        )
        fetched = await fetcher.fetch(event)
        watermark = await database.watermark()
    shown = [{**asdict(one), "written_at": one.written_at.isoformat()} for one in fetched.done]
    pending = [session.isoformat() for session in fetched.pending]
    return {"done": shown, "pending": pending, "watermark": watermark.isoformat() if watermark else None}

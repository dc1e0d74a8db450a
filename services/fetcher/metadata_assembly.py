"""How the metadata fetcher is put together from its settings, for the function and the command line alike."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from services.fetcher.credentials import api_key
from services.fetcher.massive import massive
from services.fetcher.metadata import MetadataFetcher, Rules
from services.fetcher.settings import MetadataEvent, MetadataSettings
from shared.calendar import nyse
from shared.database import DatabaseAddress, Tls, connected
from shared.objects import ObjectStore
from shared.queues import Queue
from shared.secrets import read_secret


async def refresh(settings: MetadataSettings, event: MetadataEvent, deadline: datetime | None = None) -> dict[str, Any]:
    """Do one run and give what it did, ready for JSON."""
    store, histories = ObjectStore.connect(settings.s3_bucket), Queue.connect(settings.history_queue_url)
    address = DatabaseAddress.of_secret(read_secret(settings.rds_secret_arn))
    tls = Tls(settings.database_tls == "verify-full", settings.database_ca_file)
    async with (
        massive(settings.market_data_url, api_key(settings), settings.requests_per_minute) as vendor,
        connected(address, tls) as database,
    ):
        fetcher = MetadataFetcher(vendor, store, database, nyse(), histories, _rules(settings), _clock)
        return asdict(await fetcher.refresh(event, deadline))


def _clock() -> datetime:
    return datetime.now(UTC)


def _rules(settings: MetadataSettings) -> Rules:
    return Rules(
        settings.universe_types, settings.metadata_details_days, settings.metadata_details_per_run,
        settings.history_retry_hours,
    )  # fmt: skip

"""Build the fetchers from their settings, for the functions and the command line."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import date, datetime
from typing import Any, Final

from fiblake.calendar import lake_calendar
from fiblake.errors import ConfigurationError
from fiblake.lake import Bronze
from services.fetcher.companies import KIND as COMPANIES
from services.fetcher.companies import CompaniesLoader, CompaniesReport
from services.fetcher.connections import clock, database_of
from services.fetcher.credentials import api_key
from services.fetcher.gaps import Asked
from services.fetcher.history import HistoryFetcher
from services.fetcher.intake import Intake, Stored
from services.fetcher.massive import massive
from services.fetcher.metadata import MetadataFetcher, Rules
from services.fetcher.ohlcv import Fetched, Fetcher, Progress, Universe, no_progress
from services.fetcher.quarantine import find_quarantined, release
from services.fetcher.runs import record_run
from services.fetcher.settings import (
    FetcherSettings,
    FetchEvent,
    MetadataEvent,
    MetadataSettings,
    ReleaseSettings,
    VendorSettings,
)
from services.fetcher.vendor import OpenVendor
from shared.objects import ObjectStore
from shared.quarantine import list_quarantined
from shared.queues import Queue

VENDORS: Final[dict[str, OpenVendor]] = {"massive": massive}
"""The vendors by the values of MARKET_DATA_VENDOR."""


@asynccontextmanager
async def open_intake(settings: VendorSettings) -> AsyncIterator[Intake]:
    """Open vendor, bucket and database, with one connection each; close them at the end of the block.

    Raises ConfigurationError if there is no such vendor.
    """
    open_vendor = VENDORS.get(settings.market_data_vendor)
    if open_vendor is None:
        raise ConfigurationError(
            f"there is no vendor {settings.market_data_vendor!r}: set MARKET_DATA_VENDOR right ({', '.join(VENDORS)})"
        )
    store, bronze = ObjectStore.connect(settings.s3_bucket), Bronze(settings.s3_prefix)
    async with (
        open_vendor(settings.market_data_url, api_key(settings), settings.requests_per_minute) as vendor,
        database_of(settings) as database,
    ):
        yield Intake(vendor, store, bronze, database, lake_calendar(), settings.price_jump_limit, clock)


async def fetch(
    settings: FetcherSettings, event: FetchEvent, show: Progress = no_progress, deadline: datetime | None = None,
    *, fetched: Fetched | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run once and return the result as values for JSON; a failed run is recorded, and its error raised.

    No session is started after `deadline`. `fetched`, if given, receives the result, also before an error.
    """
    fetched = Fetched() if fetched is None else fetched
    async with open_intake(settings) as intake:
        event_fields = event.model_dump(mode="json", exclude_defaults=True, by_alias=True)
        async with record_run(intake.database, "ohlcv", event_fields, clock) as result:
            try:
                await _fetch(settings, intake, event, show, deadline, fetched)
            finally:
                result.update(_to_json(fetched), rows_left_out=intake.vendor.left_out.total())
        watermark = await intake.database.watermark()
    return {**result, "watermark": watermark.isoformat() if watermark else None}


async def refresh(settings: MetadataSettings, event: MetadataEvent, deadline: datetime | None = None) -> dict[str, Any]:
    """Update reference data (see `metadata.MetadataFetcher`) and return the counts as values for JSON."""
    rules = Rules(
        settings.universe_types, settings.universe, settings.metadata_details_days, settings.metadata_details_per_run,
        settings.history_retry_hours, settings.metadata_dividends_days, settings.metadata_dividends_per_run,
    )  # fmt: skip
    async with open_intake(settings) as intake:
        histories = Queue.connect(settings.history_queue_url)
        fetcher = MetadataFetcher(
            intake.vendor, intake.store, intake.database, intake.calendar, histories, rules, clock
        )  # fmt: skip
        return asdict(await fetcher.refresh(event, deadline))


async def load_companies(settings: VendorSettings, first: date, show: Progress) -> CompaniesReport:
    """Load the companies of the past (see `companies.CompaniesLoader`); record the run with its counts."""
    async with open_intake(settings) as intake:
        loader = CompaniesLoader(intake.vendor, intake.store, intake.database, intake.calendar, clock)
        async with record_run(intake.database, COMPANIES, {"from": first.isoformat()}, clock) as result:
            report = await loader.load(first, show)
            result.update(asdict(report))
        return report


async def release_bar(settings: ReleaseSettings, symbol: str, session: date, row: int | None, by: str) -> str:
    """Release a bar from quarantine (see `quarantine.release`) and return the key of its date file."""
    store = ObjectStore.connect(settings.s3_bucket)
    bar = find_quarantined(list_quarantined(store, symbol), symbol, session, row)
    async with database_of(settings) as database:
        return await release(store, Bronze(settings.s3_prefix), database, lake_calendar(), bar, by, clock())


async def _fetch(  # noqa: PLR0917
    settings: FetcherSettings, intake: Intake, event: FetchEvent, show: Progress, deadline: datetime | None,
    fetched: Fetched,
) -> None:  # fmt: skip
    if not event.symbols:
        universe = Universe(settings.universe_types, settings.universe)
        fetcher = Fetcher(intake, universe, settings.first_session, settings.look_back_sessions, deadline)
        await fetcher.fetch(event, show, fetched)
        return
    history = HistoryFetcher(intake, settings.history_from, settings.universe_types)
    closed = intake.calendar.last_closed(event.now(clock()))
    for number, symbol in enumerate(event.symbols):
        show(symbol, number, len(event.symbols))
        fetched.done.append(await history.load(symbol, Asked(event.first, event.last), closed))


def _to_json(fetched: Fetched) -> dict[str, Any]:
    return {
        "done": [_stored_to_json(stored_session) for stored_session in fetched.done],
        "looked_at_again": [_stored_to_json(stored_session) for stored_session in fetched.looked_at_again],
        "pending": [session.isoformat() for session in fetched.pending],
    }


def _stored_to_json(stored: Stored) -> dict[str, Any]:
    return {**asdict(stored), "flagged": list(stored.flagged), "written_at": stored.written_at.isoformat()}

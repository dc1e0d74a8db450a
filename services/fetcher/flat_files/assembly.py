"""Build the loader from its settings."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

from fiblake.calendar import TradingCalendar, lake_calendar
from fiblake.errors import ConfigurationError
from fiblake.lake import Bronze
from fiblake.symbols import SymbolRecord
from services.fetcher.connections import clock, database_of
from services.fetcher.flat_files.before_listing import Judge, take_from_unclaimed
from services.fetcher.flat_files.chunk import Claims
from services.fetcher.flat_files.keys import flat_file_keys
from services.fetcher.flat_files.load import FlatFileLoader, LoadReport, Progress
from services.fetcher.flat_files.sources import BucketSource, FolderSource, Source
from services.fetcher.flat_files.stored import StoredFiles
from services.fetcher.identities import identities_of, merged
from services.fetcher.reference_files import put_identities, put_universe
from services.fetcher.settings import FlatFileSettings
from shared.database import IDENTITIES, Database
from shared.objects import ObjectStore

FIRST_FLAT_FILE = date(2003, 9, 10)
"""The vendor's first day file."""


async def load_flat_files(
    settings: FlatFileSettings, folder: Path | None, first: date | None, last: date | None, show: Progress,
    *, all_tickers: bool, again: bool,
) -> LoadReport:  # fmt: skip
    """Load day files from `folder`, or from the vendor's bucket, and return the report.

    `all_tickers`: also bars that belong to no company that symbol_metadata knows. Raises ConfigurationError if
    symbol_metadata is empty or the bucket's keys are missing.
    """
    calendar, store, bronze = lake_calendar(), ObjectStore.connect(settings.s3_bucket), Bronze(settings.s3_prefix)
    claims = None
    if not all_tickers:
        async with database_of(settings) as database:
            claims = claims_of(await database.metadata(), settings.universe_types, settings.universe)
    loader = FlatFileLoader(
        _source(settings, folder), store, bronze, calendar, claims, settings.flat_file_memory_mb << 20,
        settings.flat_file_max_bytes, clock,
    )  # fmt: skip
    report = loader.load(first or FIRST_FLAT_FILE, last or calendar.last_closed(clock()), show, again=again)
    if claims is not None:
        show("bars from before a listing", report.files, report.files)
        async with database_of(settings) as database:
            report.decided = await take_bars_before_listing(store, bronze, database, settings, calendar)
    return report


async def take_bars_before_listing(
    store: ObjectStore, bronze: Bronze, database: Database, settings: FlatFileSettings, calendar: TradingCalendar
) -> dict[str, str]:
    """Store unclaimed bars as bars of their companies (see `before_listing`); return the decisions by symbol.

    The files are written first, then the records get their earlier first day, and last the rows are removed from
    bronze/unclaimed. If a run ends before the records are saved, the next run repeats it. If it ends later, rows may
    also stay unclaimed.
    """
    stored = StoredFiles.list_all(store, bronze)
    async with database.session_lock(IDENTITIES):
        records = await database.metadata()
        is_ours = partial(_is_ours, types=settings.universe_types, only=settings.universe)
        splits = await database.splits()
        judge = Judge(stored, records, splits, settings.price_jump_limit, calendar)
        finds = judge.put_bars_before_listing(is_ours=is_ours)
        if finds:
            moved = {(find.record.symbol, find.record.valid_from): find.first for find in finds}
            moved_records = [replace(find.record, valid_from=find.first) for find in finds]
            everyone = merged([r for r in records if (r.symbol, r.valid_from) not in moved], moved_records)
            await put_identities(store, identities_of(everyone))
            await put_universe(store, everyone, min(record.first_seen for record in everyone).date())
            await database.save_metadata(moved_records, moved)
            take_from_unclaimed(stored, finds)
    return {find.record.symbol: find.decided for find in finds}


def claims_of(records: Iterable[SymbolRecord], types: frozenset[str], only: frozenset[str]) -> Claims:
    """Return the time ranges of each ticker's companies of these types, or of none; `only` (empty: all) limits them.

    Raises ConfigurationError if there is none.
    """
    claims: dict[str, list[tuple[date, date]]] = {}
    for record in records:
        if _is_ours(record, types, only):
            claims.setdefault(record.symbol, []).append((record.valid_from, record.valid_to or date.max))
    if not claims:
        raise ConfigurationError(
            "symbol_metadata knows no company whose bars could be stored: run `fiblake metadata` first, or load the "
            "bars of all tickers (--all-tickers)"
        )
    return claims


def _is_ours(record: SymbolRecord, types: frozenset[str], only: frozenset[str]) -> bool:
    return (not only or record.symbol in only) and (record.type is None or record.type in types)


def _source(settings: FlatFileSettings, folder: Path | None) -> Source:
    if folder:
        return FolderSource(folder)
    key_id, secret_key = flat_file_keys(settings)
    endpoint, bucket = settings.flat_files_endpoint, settings.flat_files_bucket
    return BucketSource(ObjectStore.connect_to(bucket, endpoint, key_id, secret_key.get_secret_value()))

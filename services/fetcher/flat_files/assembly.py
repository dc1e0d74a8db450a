"""How the loader is put together from its settings."""

from collections.abc import Iterable
from datetime import date
from pathlib import Path

from fiblake.calendar import nyse
from fiblake.errors import ConfigurationError
from fiblake.lake import Bronze
from fiblake.symbols import SymbolRecord
from services.fetcher.assembly import clock, database_of
from services.fetcher.flat_files.chunk import Claims
from services.fetcher.flat_files.load import FlatFileLoader, LoadReport, Progress
from services.fetcher.flat_files.sources import BucketSource, FolderSource, Source
from services.fetcher.settings import FlatFileSettings
from shared.objects import ObjectStore

FIRST_FLAT_FILE = date(2003, 9, 10)
"""The vendor has no day file before."""


async def load_flat_files(
    settings: FlatFileSettings, folder: Path | None, first: date | None, last: date | None, show: Progress,
    *, all_tickers: bool, again: bool,
) -> LoadReport:  # fmt: skip
    """Load day files from `folder`, or from the vendor's bucket, and return what was done.

    `all_tickers`: also bars that belong to no company that symbol_metadata knows. Raises ConfigurationError if
    symbol_metadata is empty or the bucket's keys are missing.
    """
    claims = None
    if not all_tickers:
        async with database_of(settings) as database:
            claims = claims_of(await database.metadata(), settings.universe_types, settings.universe)
    calendar = nyse()
    loader = FlatFileLoader(
        _source(settings, folder), ObjectStore.connect(settings.s3_bucket), Bronze(settings.s3_prefix), calendar,
        claims, settings.flat_file_memory_mb << 20, settings.flat_file_max_bytes, clock,
    )  # fmt: skip
    return loader.load(first or FIRST_FLAT_FILE, last or calendar.last_closed(clock()), show, again=again)


def claims_of(records: Iterable[SymbolRecord], types: frozenset[str], only: frozenset[str]) -> Claims:
    """Return who bore which ticker when, of these types; a record without a type counts as one. `only`: none is all."""
    claims: dict[str, list[tuple[date, date]]] = {}
    for record in records:
        is_ours = not only or record.symbol in only
        if is_ours and (record.type is None or record.type in types):
            claims.setdefault(record.symbol, []).append((record.valid_from, record.valid_to or date.max))
    if not claims:
        raise ConfigurationError(
            "symbol_metadata knows no company whose bars could be stored: run `fiblake metadata` first, or load the "
            "bars of all tickers (--all-tickers)"
        )
    return claims


def _source(settings: FlatFileSettings, folder: Path | None) -> Source:
    if folder:
        return FolderSource(folder)
    key, secret = settings.flat_files_access_key_id, settings.flat_files_secret_access_key
    if not key or not secret:
        raise ConfigurationError(
            "set FLAT_FILES_ACCESS_KEY_ID and FLAT_FILES_SECRET_ACCESS_KEY (the S3 keys of the vendor's dashboard, not "
            "the API key), or name a folder with day files (--dir)"
        )
    endpoint, bucket = settings.flat_files_endpoint, settings.flat_files_bucket
    return BucketSource(ObjectStore.connect_to(bucket, endpoint, key, secret.get_secret_value()))

"""The clock, and the connection to the database that settings name: what a job without the vendor needs as well."""

from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from services.fetcher.settings import ReleaseSettings
from shared.database import Database, DatabaseAddress, Tls, connected
from shared.secrets import read_secret


def clock() -> datetime:
    """Return the present instant (UTC)."""
    return datetime.now(UTC)


def database_of(settings: ReleaseSettings) -> AbstractAsyncContextManager[Database]:
    """Return the database that the settings name, to be opened."""
    address = DatabaseAddress.of_secret(read_secret(settings.rds_secret_arn))
    return connected(address, Tls(settings.database_tls == "verify-full", settings.database_ca_file))

"""Entry point of the migration job, which runs in the database's network (`python -m migrations`).

Schema first, then the fetchers' user and its rights.

Exit codes: 0 the schema is up to date; 1 the database or a service failed (run it again); 2 the settings are wrong.
"""

import sys
from typing import Literal

from fiblake.errors import FiblakeError, PermanentError
from migrations.migrate import migrate
from shared.database import Tls
from shared.settings import Settings, load
from shared.telemetry import logger


class MigrationSettings(Settings):
    """Environment of the job."""

    rds_secret_arn: str
    """The secret of the user that owns the tables."""
    fetcher_secret_arn: str | None = None
    """The secret of the fetchers' user; None, or the same secret: they log in as the owner."""
    database_tls: Literal["verify-full", "disable"] = "verify-full"
    database_ca_file: str | None = None


def main() -> int:
    """Upgrade the schema and return the exit code."""
    try:
        settings = load(MigrationSettings)
        tls = Tls(settings.database_tls == "verify-full", settings.database_ca_file)
        addresses = migrate(settings.rds_secret_arn, settings.fetcher_secret_arn, tls)
    except FiblakeError as error:
        logger.error("not migrated", extra={"reason": str(error)})
        return 2 if isinstance(error, PermanentError) else 1
    logger.info("schema is up to date", extra={"users": [str(address) for address in addresses]})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Entry point of the migration job, which runs where the database can be reached (`python -m migrations`).

Exit codes: 0 the schema is up to date; 1 the database or a service failed (run it again); 2 the settings are wrong.
"""

import sys
from typing import Literal

from fiblake.errors import FiblakeError, PermanentError
from migrations.schema import upgrade
from shared.database import DatabaseAddress, Tls
from shared.secrets import read_secret
from shared.settings import Settings, load
from shared.telemetry import logger


class MigrationSettings(Settings):
    """Environment of the job."""

    rds_secret_arn: str
    database_tls: Literal["verify-full", "disable"] = "verify-full"
    database_ca_file: str | None = None


def main() -> int:
    """Bring the schema up to date and return the exit code."""
    try:
        settings = load(MigrationSettings)
        address = DatabaseAddress.of_secret(read_secret(settings.rds_secret_arn))
        upgrade(address, Tls(settings.database_tls == "verify-full", settings.database_ca_file))
    except FiblakeError as error:
        logger.error("not migrated", extra={"reason": str(error)})
        return 2 if isinstance(error, PermanentError) else 1
    logger.info("schema is up to date", extra={"database": str(address)})
    return 0


if __name__ == "__main__":
    sys.exit(main())

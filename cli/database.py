"""`fiblake migrate`: bring the database's schema up to date."""

from typing import Annotated, Final

import typer

MIGRATE_EXAMPLE: Final = "Example: fiblake migrate --secret arn:aws:secretsmanager:us-east-1:123456789012:secret:rds"


def migrate(
    secret: Annotated[
        str, typer.Option(envvar="RDS_SECRET_ARN", help="Secret with the database's address, as RDS keeps it.")
    ],
    *,
    ca_file: Annotated[
        str | None, typer.Option(envvar="DATABASE_CA_FILE", help="Authorities to trust; RDS's are Amazon's own.")
    ] = None,
    tls: Annotated[bool, typer.Option(help="Verify the server's certificate (off for a local server).")] = True,
) -> None:
    """Bring the database's schema up to date; doing it twice changes nothing."""
    from migrations.schema import upgrade
    from shared.database import DatabaseAddress, Tls
    from shared.secrets import read_secret

    address = DatabaseAddress.of_secret(read_secret(secret))
    upgrade(address, Tls(tls, ca_file))
    typer.echo(f"{address} is up to date")

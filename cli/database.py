"""`fiblake migrate`: bring the database's schema up to date."""

from typing import Annotated

import typer

from migrations.schema import upgrade
from shared.database import DatabaseAddress
from shared.secrets import read_secret


def migrate(
    secret: Annotated[
        str, typer.Option(envvar="RDS_SECRET_ARN", help="Secret with the database's address, as RDS keeps it.")
    ],
    *,
    tls: Annotated[bool, typer.Option(help="Verify the server's certificate (off for a local server).")] = True,
) -> None:
    """Bring the database's schema up to date; doing it twice changes nothing."""
    address = DatabaseAddress.of_secret(read_secret(secret))
    upgrade(address, "verify-full" if tls else "disable")
    typer.echo(f"{address} is up to date")

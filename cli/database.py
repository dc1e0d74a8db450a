"""`fiblake migrate`: bring the database's schema up to date."""

from typing import Annotated, Final

import typer

MIGRATE_EXAMPLE: Final = (
    "Example: fiblake migrate --stack prod-fiblake\n\n"
    "Example: fiblake migrate --secret arn:aws:secretsmanager:us-east-1:123456789012:secret:rds"
)


def migrate(
    context: typer.Context,
    secret: Annotated[
        str | None,
        typer.Option(envvar="RDS_SECRET_ARN", help="Secret with the database's address; not named: the stack's."),
    ] = None,
    *,
    ca_file: Annotated[
        str | None, typer.Option(envvar="DATABASE_CA_FILE", help="Authorities to trust; RDS's are Amazon's own.")
    ] = None,
    tls: Annotated[bool, typer.Option(help="Verify the server's certificate (off for a local server).")] = True,
) -> None:
    """Bring the database's schema up to date; doing it twice changes nothing."""
    from cli.target import Choice, target, use_account
    from migrations.schema import upgrade
    from shared.database import DatabaseAddress, Tls
    from shared.secrets import read_secret

    choice = context.find_object(Choice) or Choice()
    if secret is None or choice.local:
        address, of_stack = target(context).database()
        upgrade(address, Tls(tls and of_stack.verify, ca_file or of_stack.ca_file))
    else:
        use_account(choice)
        address = DatabaseAddress.of_secret(read_secret(secret))
        upgrade(address, Tls(tls, ca_file))
    typer.echo(f"{address} is up to date")

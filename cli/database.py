"""`fiblake migrate`: bring the database's schema up to date."""

from typing import Annotated, Final

import typer

MIGRATE_EXAMPLE: Final = (
    "Example: fiblake migrate --stack prod-fiblake\n\n"
    "Example: fiblake migrate --secret arn:aws:secretsmanager:us-east-1:123456789012:secret:rds "
    "--fetcher-secret arn:aws:secretsmanager:us-east-1:123456789012:secret:fetcher"
)


def migrate(
    context: typer.Context,
    secret: Annotated[
        str | None,
        typer.Option(envvar="RDS_SECRET_ARN", help="Secret with the database's address; default: the stack's."),
    ] = None,
    fetcher_secret: Annotated[
        str | None,
        typer.Option(
            envvar="FETCHER_SECRET_ARN",
            help="Secret of the fetchers' user, who gets rights to rows only; default: the stack's.",
        ),
    ] = None,
    *,
    ca_file: Annotated[
        str | None, typer.Option(envvar="DATABASE_CA_FILE", help="Authorities to trust; RDS's are Amazon's own.")
    ] = None,
    tls: Annotated[bool, typer.Option(help="Verify the server's certificate (off for a local server).")] = True,
) -> None:
    """Bring the database's schema up to date, and create the fetchers' user; a second run changes nothing."""
    from cli.target import Choice, target, use_account
    from migrations.migrate import migrate as migrate_database
    from shared.database import Tls

    choice = context.find_object(Choice) or Choice()
    source = context.get_parameter_source("secret")
    if choice.local and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter("it names another database than --local does: leave one out", param_hint="--secret")
    if secret is None or choice.local:
        stack = target(context)
        secret, fetchers = stack.output("RdsSecretArn"), stack.outputs.get("FetcherSecretArn")
        fetcher_secret = fetchers if choice.local else fetcher_secret or fetchers
        of_stack = stack.database_tls()
        protection = Tls(tls and of_stack.verify, ca_file or of_stack.ca_file)
    else:
        use_account(choice)
        protection = Tls(tls, ca_file)
    for address in migrate_database(secret, fetcher_secret, protection):
        typer.echo(f"{address} is up to date")

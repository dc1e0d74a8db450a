"""`fiblake quarantine list|release`: list bars that broke a rule, and release one into the lake."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.output import answer, table
from cli.target import settings_of, target
from fiblake.errors import NotFoundError

if TYPE_CHECKING:
    from shared.objects import ObjectStore
    from shared.quarantine import QuarantinedBar

app = typer.Typer(help="Bars that broke a rule: list them, release one.", no_args_is_help=True)


@app.command(name="list", epilog="Example: fiblake quarantine list --symbol AAPL")
def list_(context: typer.Context, symbol: Annotated[str, typer.Option(help="Only bars of this symbol.")] = "") -> None:
    """List the bars in quarantine with the reasons. Exit code 3: objects could not be read; a warning names them."""
    from fiblake.rules import NUMBER_COLUMNS

    symbol_wanted = options.symbol(symbol, "--symbol") if symbol else None
    store = target(context).store
    unreadable: dict[str, str] = {}
    rows = facts_of(store, symbol_wanted, unreadable)
    if symbol_wanted and not rows:
        options.check_in_lake(store, [symbol_wanted])
    columns = ("symbol", "session", "row", *NUMBER_COLUMNS, "reason")
    answer(context, rows, lambda console: console.print(table("Bars in quarantine", rows, columns)))
    if unreadable:
        raise typer.Exit(3)


@app.command(epilog="Example: fiblake quarantine release AAPL 2025-11-19 --by jane")
def release(
    context: typer.Context,
    symbol: Annotated[str, typer.Argument(help="The symbol.")],
    session: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="The session.")],
    row: Annotated[int | None, typer.Option(help="The row, if `list` shows several of the session.")] = None,
    by: Annotated[
        str, typer.Option(help="The responsible person, for the record; empty: the user of this machine.")
    ] = "",
) -> None:
    """Release a bar into the lake as it was reported; processing_metadata/quarantine_releases.json records it."""
    import asyncio
    import getpass

    from services.fetcher.assembly import release_bar
    from services.fetcher.settings import ReleaseSettings

    options.symbol(symbol, "SYMBOL")
    day, name = options.session(session, "SESSION"), by or getpass.getuser()
    settings = settings_of(context, "OhlcvFetcherFunctionName", ReleaseSettings)
    try:
        key = asyncio.run(release_bar(settings, symbol, day, row, name))
    except NotFoundError as error:
        raise NotFoundError(f"{error}{options.nearest_in_lake(settings.s3_bucket, [symbol])}") from error
    answer(context, {"key": key, "by": name}, lambda console: console.print(f"released by {name}: {key}"))


def facts_of(
    store: "ObjectStore", symbol: str | None, unreadable: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return the bars in quarantine (of one symbol), by symbol and session; see `list_quarantined`."""
    from shared.quarantine import list_quarantined

    return [_row(bar) for bar in list_quarantined(store, symbol, unreadable)]


def _row(held: "QuarantinedBar") -> dict[str, Any]:
    from fiblake.rules import NUMBER_COLUMNS

    bar = held.bar
    row = {"symbol": bar.symbol, "session": bar.session.isoformat(), "row": held.row}
    row |= {name: getattr(bar, name) for name in NUMBER_COLUMNS}
    where = {"source": held.source, "held_since": held.held_since.isoformat(), "key": held.key}
    return {**row, "reason": held.reason, **where}

"""`fiblake fetch`: fetch bars from the vendor into the lake, like the fetcher function, from this machine."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import options
from cli.output import answer, progress_by_name, table
from fiblake.errors import NotFoundError

if TYPE_CHECKING:
    from rich.console import Console

DAY: Final = ["%Y-%m-%d"]
FETCH_EXAMPLES: Final = """Example: fiblake fetch

Example: fiblake fetch --date 2025-11-19

Example: fiblake fetch --symbols AAPL,BRK.B --from 2000-01-03

The settings are those of the stack's fetcher function;
a variable of the same name in the environment takes precedence."""
_COLUMNS: Final = ("what", "stored", "unchanged", "quarantined", "outside_universe", "flagged", "seconds")


def fetch(
    context: typer.Context,
    first: Annotated[datetime | None, typer.Option("--from", formats=DAY, help="First session.")] = None,
    last: Annotated[datetime | None, typer.Option("--to", formats=DAY, help="Last session.")] = None,
    day: Annotated[
        datetime | None, typer.Option("--date", formats=DAY, help="Only this session, even if it is stored.")
    ] = None,
    symbols: Annotated[
        str, typer.Option(help="Only the history of these symbols (AAPL,MSFT); no session counts as stored whole.")
    ] = "",
    *,
    again: Annotated[bool, typer.Option("--again", help="With --from or --to: also stored sessions.")] = False,
) -> None:
    """Fetch the missing sessions, or those you name; bars that are stored are not written again."""
    import asyncio

    from cli.target import settings_of
    from services.fetcher.assembly import fetch as run
    from services.fetcher.settings import FetcherSettings, FetchEvent

    if first:
        options.parse_past_day(first, "--from")
    if day:
        options.session(day, "--date")
    if again and (symbols or not (first or last)):
        raise typer.BadParameter("it is for all sessions of --from and --to: name one of them", param_hint="--again")
    event = options.check_option(lambda: FetchEvent.of(_event(first, last, day, symbols, again=again)))
    settings = settings_of(context, "OhlcvFetcherFunctionName", FetcherSettings)
    try:
        with progress_by_name() as show:
            result = asyncio.run(run(settings, event, show))
    except NotFoundError as error:
        raise NotFoundError(f"{error}{options.nearest_in_lake(settings.s3_bucket, event.symbols)}") from error
    answer(context, result, lambda console: _show(console, result))


def _event(
    first: datetime | None, last: datetime | None, day: datetime | None, symbols: str, *, again: bool
) -> dict[str, Any]:
    days = {name: value.date().isoformat() for name, value in (("from", first), ("to", last), ("date", day)) if value}
    names = [name.strip() for name in symbols.split(",") if name.strip()]
    return {**days, **({"symbols": names} if names else {}), **({"again": True} if again else {})}


def _show(console: "Console", result: dict[str, Any]) -> None:
    rows = [
        {
            **stored_session,
            "flagged": " ".join(stored_session["flagged"]),
            "seconds": round(sum(stored_session["seconds"].values()), 1),
        }
        for stored_session in (*result["done"], *result["looked_at_again"])
    ]
    console.print(table("Bars written, by session or symbol", rows, _COLUMNS))
    for session in result["pending"]:
        console.print(f"{session} is pending: the vendor does not give it out yet")
    console.print(f"stored whole up to {result['watermark'] or '(nothing yet)'}")

"""`fiblake fetch`: bars from the vendor into the lake, as the fetcher function does it, from this machine."""

import asyncio
import json
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAY: Final = ["%Y-%m-%d"]
EXAMPLES: Final = """
Examples:

  fiblake fetch                                  all sessions that are missing

  fiblake fetch --date 2025-11-19                one session again: bars that were restated are written

  fiblake fetch --symbols AAPL,BRK.B             the whole history of two symbols, one range file each

The settings are the function's: S3_BUCKET, RDS_SECRET_ARN, MASSIVE_API_KEY (or POLYGON_API_KEY_SECRET_ARN), ... For the
local stack: eval "$(fiblake local env)".
"""


def fetch(
    first: Annotated[datetime | None, typer.Option("--from", formats=DAY, help="First session.")] = None,
    last: Annotated[datetime | None, typer.Option("--to", formats=DAY, help="Last session.")] = None,
    day: Annotated[datetime | None, typer.Option("--date", formats=DAY, help="Just this session.")] = None,
    symbols: Annotated[str, typer.Option(help="Only these (AAPL,MSFT): their history, without the watermark.")] = "",
    *,
    again: Annotated[bool, typer.Option("--again", help="Look at stored sessions of --from/--to, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Fetch bars: what is missing, or what you name. What is stored already is not written again."""
    from services.fetcher.assembly import fetch as run  # noqa: PLC0415 (half a second: not for every command)
    from services.fetcher.settings import FetcherSettings, FetchEvent  # noqa: PLC0415
    from shared.settings import load  # noqa: PLC0415

    days = {"from": first, "to": last, "date": day}
    asked: dict[str, Any] = {name: value.date().isoformat() for name, value in days.items() if value}
    names = [name.strip() for name in symbols.split(",") if name.strip()]
    event = FetchEvent.of(asked | ({"symbols": names} if names else {}) | ({"again": True} if again else {}))
    with progress() as show:
        result = asyncio.run(run(load(FetcherSettings), event, show))
    if as_json:
        typer.echo(json.dumps(result))
        return
    Console().print(_table(result))
    for session in result["pending"]:
        typer.echo(f"{session} is pending: the vendor does not give it out yet")
    typer.echo(f"stored whole up to {result['watermark'] or 'nothing yet'}")


@contextmanager
def progress() -> "Iterator[Callable[[str, int, int], None]]":
    """Show a bar on the terminal while the block runs; nothing where there is none."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _table(result: dict[str, Any]) -> Table:
    table = Table("session or symbol", "written", "unchanged", "quarantined", "outside universe", "flagged", "seconds")
    for one in [*result["done"], *result["looked_at_again"]]:
        counts = (one[name] for name in ("stored", "unchanged", "quarantined", "outside_universe"))
        seconds = f"{sum(one['seconds'].values()):.1f}"
        table.add_row(one["what"], *(f"{count:,}" for count in counts), " ".join(one["flagged"]) or "-", seconds)
    return table

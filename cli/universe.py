"""`fiblake universe`: the companies that were listed on a day, including companies delisted later."""

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import options
from cli.fetch import DAY
from cli.output import answer, table
from cli.target import target
from fiblake.wording import pluralize

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLE: Final = "Example: fiblake universe 2012-06-29 --types CS,ADRC --json"
COLUMNS: Final = ("symbol", "name", "type", "exchange", "valid_from", "valid_to", "composite_figi")


def universe(
    context: typer.Context,
    day: Annotated[datetime, typer.Argument(formats=DAY, help="The day.", metavar="DATE")],
    types: Annotated[
        str | None, typer.Option("--types", help="Only these, and those without a type.", metavar="CS,ETF")
    ] = None,
) -> None:
    """List the companies that were listed on a day, with their symbols on that day."""
    from fiblake.errors import NotFoundError
    from fiblake.lake import UNIVERSE_KEY
    from fiblake.universe import read_universe

    wanted_day = options.parse_past_day(day, "DATE")
    stored = target(context).store.find(UNIVERSE_KEY)
    if stored is None:
        raise NotFoundError(f"the lake has no {UNIVERSE_KEY}: run `fiblake metadata`, which writes it")
    universe = read_universe(stored.data)
    listed = universe.listed_on(wanted_day).to_pylist()
    wanted = {name.strip() for name in types.split(",")} | {None} if types else {row["type"] for row in listed}
    rows = [row for row in listed if row["type"] in wanted]
    facts = {
        "day": wanted_day.isoformat(), "known_since": universe.known_since.isoformat(),
        "survivors_only": wanted_day < universe.known_since, "companies": rows,
    }  # fmt: skip
    answer(context, facts, lambda console: _show(console, facts))


def _show(console: "Console", facts: dict[str, Any]) -> None:
    rows = facts["companies"]
    console.print(table(f"Companies listed on {facts['day']}", rows, COLUMNS))
    counts = Counter(row["type"] or "of unknown type" for row in rows)
    by_type = ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
    console.print(f"{pluralize(len(rows), 'company', 'companies')}{f': {by_type}' if rows else ''}")
    if facts["survivors_only"]:
        console.print(
            f"Companies that were gone before {facts['known_since']} are not known: "
            f"`fiblake load companies --from {facts['day']}` asks for them."
        )

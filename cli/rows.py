"""`fiblake vacuum rds`: move old rows from Postgres to the archive."""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import Advance, answer, confirm, progress, wants_json
from cli.target import Target, target
from fiblake.wording import pluralize

if TYPE_CHECKING:
    from services.vacuum.rows import Due, Retired

EXAMPLE = "Example: fiblake vacuum rds --days 730 --dry-run\n\nExample: fiblake vacuum rds --days 730 --yes"


def rds(
    context: typer.Context,
    *,
    days: Annotated[int, typer.Option(min=1, help="Rows of later sessions stay (at least 60).")] = 730,
    batch: Annotated[int, typer.Option(min=1, max=50_000, help="Rows deleted at once.")] = 5_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be moved; do not ask.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Archive and delete without asking.")] = False,
) -> None:
    """Move rows of raw_ohlcv older than DAYS to archive/raw_ohlcv/ in the bucket.

    Each session's rows are written as Parquet, read back and compared, and only then deleted. The next run finishes an
    interrupted one. A session whose archive cannot be read stays, and is named; the exit code is then 3.
    """
    stack = target(context)
    old = asyncio.run(_find_due(stack, days))
    sessions = sorted(old.sessions)
    due_facts = {"before": old.before, "sessions": len(sessions), "rows": old.rows}
    if not wants_json(context):
        span = f", {sessions[0]} to {sessions[-1]}" if sessions else ""
        of = f"{pluralize(old.rows, 'row')} of {pluralize(len(sessions), 'session')}{span}"
        typer.echo(f"older than {pluralize(days, 'day')}: {of}")
    may_delete = bool(sessions) and not dry_run
    if not may_delete or not (yes or (not wants_json(context) and confirm("archive and delete them?"))):
        answer(context, {"due": due_facts, "retired": None}, lambda console: console.print("nothing is deleted"))
        return
    with progress("rows archived", old.rows) as advance:
        result = asyncio.run(_retire(stack, old, batch, advance))
    moved = f"{pluralize(result.rows, 'row')} of {pluralize(result.sessions, 'session')}"
    faults = {session.isoformat(): str(error) for session, error in result.faults.items()}
    counts = {"sessions": result.sessions, "rows": result.rows, "kept": result.kept, "faults": faults}
    lines = [f"in the archive, and no longer in Postgres: {moved}"]
    lines += [f"  the rows of {session} stay in Postgres: {reason}" for session, reason in faults.items()]
    answer(context, {"due": due_facts, "retired": counts}, lambda console: console.print("\n".join(lines)))
    if result.kept or faults:
        raise typer.Exit(3)


async def _find_due(stack: Target, days: int) -> "Due":
    from services.vacuum.rows import find_due
    from shared.database import connected

    async with connected(*stack.database()) as database:
        return await find_due(database, datetime.now(UTC).date(), days)


async def _retire(stack: Target, old: "Due", batch: int, advance: Advance) -> "Retired":
    from services.vacuum.rows import archive_rows
    from shared.database import connected

    async with connected(*stack.database()) as database:
        return await archive_rows(database, stack.store, old, batch, datetime.now(UTC), advance)

"""`fiblake vacuum`: show merged source files that are old enough, and delete them."""

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options, rows
from cli.output import answer, confirm, progress, wants_json
from cli.target import target
from fiblake.wording import pluralize

if TYPE_CHECKING:
    from services.vacuum.bronze import Plan, Vacuum
    from shared.cleanup import Counts

app = typer.Typer()
BRONZE_EXAMPLE = (
    "Example: fiblake vacuum --dry-run\n\nExample: fiblake vacuum --symbols AAPL,MSFT --retention-days 60 --yes"
)


@app.callback(invoke_without_command=True, epilog=BRONZE_EXAMPLE)
def bronze(
    context: typer.Context,
    symbols: options.Symbols = None,
    max_workers: Annotated[int, typer.Option(min=1, max=256, help="Symbols that are checked at once.")] = 10,
    retention_days: Annotated[int, typer.Option(min=0, help="Merged files of later sessions are kept.")] = 30,
    *,
    force_retention: Annotated[bool, typer.Option("--force-retention", help="Allow less than 7 days.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted; do not ask.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Delete date and range files that are merged, and older than the retention.

    Nothing is deleted without --yes or your confirmation. Symbols without data.parquet, and files that were put again
    since, are not touched. cleanup_manifest.json records each run.
    """
    if context.invoked_subcommand:
        return
    from fiblake.lake import Bronze
    from services.vacuum.bronze import Vacuum, check_retention, plan

    days = check_retention(retention_days, force=force_retention)
    chosen = options.parse_symbols(symbols)
    vacuum = Vacuum(target(context).store, Bronze(), max_workers)
    with progress("symbols looked at") as advance:
        made = plan(vacuum, chosen, days, datetime.now(UTC), advance)
    _carry_out(context, vacuum, made, dry_run=dry_run, yes=yes)
    if made.faults:
        raise typer.Exit(3)


app.command(name="rds", epilog=rows.EXAMPLE)(rows.rds)


def _carry_out(context: typer.Context, vacuum: "Vacuum", made: "Plan", *, dry_run: bool, yes: bool) -> None:
    from services.vacuum.report import facts, sentences, totals

    if wants_json(context):
        deleted = _delete(vacuum, made) if yes and not dry_run else None
        answer(context, facts(vacuum.bronze, made, deleted), lambda _: None)
        return
    typer.echo("\n".join(sentences(vacuum.bronze, made)))
    if not made.due or dry_run:
        return
    if yes or confirm("delete them?"):
        gone = totals(_delete(vacuum, made))
        typer.echo(f"{pluralize(gone['files'], 'file')} deleted ({pluralize(gone['bytes'], 'byte')})")
    else:
        typer.echo("nothing is deleted: say --yes to delete them")


def _delete(vacuum: "Vacuum", made: "Plan") -> "Counts":
    from services.vacuum.bronze import execute

    with progress("symbols cleaned", len(made.proofs)) as advance:
        return execute(vacuum, made, f"vacuum-{uuid.uuid4().hex}", advance)

"""`fiblake reconcile`: find what lags and why; `--fix` enqueues the repair."""

import uuid
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import options
from cli.output import answer, progress, table
from cli.status import watermark
from cli.target import SYMBOLS_PER_CHILD, Target, target
from fiblake.wording import pluralize

if TYPE_CHECKING:
    from rich.console import Console

    from services.reconcile.reconcile import Reconciler, Report, Sent

EXAMPLE = "Example: fiblake reconcile\n\nExample: fiblake reconcile --symbols AAPL,MSFT --since 2024-01-01 --fix"
LAGS_SHOWN: Final = 50
EVERY: Final = 1_000_000


def reconcile(
    context: typer.Context,
    *,
    symbols: options.Symbols = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Compare only buckets that end on or after this day.")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Enqueue the repair of what lags.")] = False,
) -> None:
    """Compare bronze, its logs and reference files, manifest, silver and checkpoints, and list every symbol that lags.

    While the chain is working, a lag may only mean messages in flight. Exit code 3: a lag was found and not enqueued.
    """
    chosen = options.parse_symbols(symbols)
    start = options.parse_past_day(since, "--since") if since else None
    stack = target(context)
    with progress("symbols compared") as advance:
        report = auditor(stack).audit(chosen, start, advance)
    sent = _enqueue_repairs(stack, report) if fix and report.lags else None
    note = None if chosen else _watermark_note(stack, report.newest_session)
    answer(context, {**report.facts(sent, EVERY), "note": note}, lambda c: _draw(c, report, sent, note))
    if note or (report.lags and not fix) or _needs_a_person(report) or (sent and sent.unsent):
        raise typer.Exit(3)


def auditor(stack: Target) -> "Reconciler":
    """Return a reconciler with the settings of the stack's resamplers."""
    from fiblake.calendar import lake_calendar
    from fiblake.lake import Bronze
    from services.reconcile.reconcile import Reconciler
    from services.reconcile.settings import window_start
    from services.reconcile.silver import Grid

    today = datetime.now(UTC).date()
    window = window_start(today, int(stack.output("ResamplingRetentionYears")))
    return Reconciler(
        stack.store, Bronze(), Grid(lake_calendar(), stack.output("SplitAdjusted") == "true"), today, window
    )


def _enqueue_repairs(stack: Target, report: "Report") -> "Sent":
    from services.reconcile.reconcile import Outlets
    from shared.jobs import DRAINS

    queue = stack.queue(stack.queue_urls["consolidation"])
    outlets = Outlets(queue, stack.complete, stack.jobs(DRAINS), SYMBOLS_PER_CHILD)
    return outlets.enqueue(report.lags, f"reconcile-{uuid.uuid4().hex}")


def _watermark_note(stack: Target, newest: date | None) -> str | None:
    """Return a sentence if Postgres has a session without a bar in bronze; nothing if the database does not answer."""
    from fiblake.errors import FiblakeError
    from shared.outcomes import catch_errors

    stored = catch_errors(watermark, stack)
    if stored is None or isinstance(stored, FiblakeError) or (newest and stored <= newest):
        return None
    return f"the watermark says {stored} is stored whole, and no data.parquet reaches beyond {newest}: fetch it again"


def _needs_a_person(report: "Report") -> bool:
    from services.reconcile.lag import NEEDS_A_PERSON

    return any(lag.cause in NEEDS_A_PERSON for lag in report.lags)


def _draw(console: "Console", report: "Report", sent: "Sent | None", note: str | None) -> None:
    rows: list[dict[str, Any]] = [lag.facts() for lag in report.lags[:LAGS_SHOWN]]
    if rows:
        console.print(table("What lags", rows, ["symbol", "interval", "what", "detail", "changed_from"]))
    if len(report.lags) > LAGS_SHOWN:
        console.print(f"... and {len(report.lags) - LAGS_SHOWN} more: --json lists all")
    lagging = len({lag.symbol for lag in report.lags} - {""})
    console.print(f"{pluralize(report.symbols, 'symbol')} compared, {lagging} {'lags' if lagging == 1 else 'lag'}")
    if sent:
        completions = pluralize(sent.completions, "resampling")
        console.print(f"enqueued: {pluralize(sent.requests, 'consolidation')}, {completions}")
    elif report.lags:
        console.print("nothing is enqueued: --fix does that")
    if note:
        console.print(note)

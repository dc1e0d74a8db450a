"""`fiblake adopt`: take over a lake that somebody else's jobs have filled."""

import uuid
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import answer, confirmed, printable, progress, wants_json
from cli.reconcile import auditor
from cli.target import SYMBOLS_PER_CHILD, Target, target

if TYPE_CHECKING:
    from services.reconcile.adopt import Foreign

EXAMPLE = "Example: fiblake adopt\n\nExample: fiblake adopt --yes --json"
KEYS_SHOWN = 20


def adopt(
    context: typer.Context,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Adopt without asking.")] = False,
) -> None:
    """Take over data.parquet files without logs, and move silver, manifest and checkpoints of another shape away.

    Nothing is deleted: what our readers cannot read is moved to archive/adopted/, byte for byte. Bars are consolidated
    in the queue, and silver follows. Safe to do twice. Exit code 3: something is left, and named.
    """
    from services.reconcile.adopt import foreign

    stack = target(context)
    with progress("files read") as advance:
        found = foreign(auditor(stack), advance)
    if not wants_json(context):
        _show(found)
    work = bool(found.unreadable or found.symbols)
    done = work and (yes or (not wants_json(context) and confirmed("adopt them?")))
    moved, asked = _adopted(stack, found) if done else (0, 0)
    facts = {
        "unreadable": [key for key, _ in found.unreadable],
        "symbols": [lag.facts() for lag in found.symbols],
        "moved": moved,
        "enqueued": asked,
    }
    said = f"{moved} files moved to archive/adopted/, {asked} consolidations enqueued" if done else "nothing is changed"
    answer(context, facts, lambda console: console.print(said))
    unadoptable = [lag for lag in found.symbols if lag.cause.name == "UNREADABLE"]
    if done and (moved < len(found.unreadable) or unadoptable):
        raise typer.Exit(3)


def _adopted(stack: Target, found: "Foreign") -> tuple[int, int]:
    from services.reconcile.adopt import move_away
    from services.reconcile.reconcile import Outlets
    from shared.jobs import DRAINS

    # First what is in the way: the resamplers that the consolidations start must find the places free.
    with progress("files moved", len(found.unreadable)) as advance:
        moved = move_away(stack.store, found.unreadable, advance)
    queue = stack.queue(stack.queue_urls["consolidation"])
    outlets = Outlets(queue, stack.complete, stack.jobs(DRAINS), SYMBOLS_PER_CHILD)
    return moved, outlets.enqueue(found.symbols, f"adopt-{uuid.uuid4().hex}").requests


def _show(found: "Foreign") -> None:
    typer.echo(f"{len(found.unreadable)} files of another shape are in the way, and are to be moved:")
    for key, _ in found.unreadable[:KEYS_SHOWN]:
        typer.echo(f"  {printable(key)}")
    if len(found.unreadable) > KEYS_SHOWN:
        typer.echo(f"  ... and {len(found.unreadable) - KEYS_SHOWN} more")
    typer.echo(f"{len(found.symbols)} symbols have a data.parquet that is to be adopted")
    for lag in (lag for lag in found.symbols if lag.cause.name == "UNREADABLE"):
        typer.echo(f"  {lag.symbol} cannot be: {printable(lag.detail)}")

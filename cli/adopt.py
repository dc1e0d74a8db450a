"""`fiblake adopt`: adopt a lake that another program has filled."""

import uuid
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import answer, confirm, printable, progress, wants_json
from cli.reconcile import auditor
from cli.target import SYMBOLS_PER_CHILD, Target, target
from fiblake.wording import pluralize

if TYPE_CHECKING:
    from services.reconcile.adopt import Foreign

EXAMPLE = "Example: fiblake adopt\n\nExample: fiblake adopt --yes --json"
KEYS_SHOWN = 20


def adopt(
    context: typer.Context,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Adopt without asking.")] = False,
) -> None:
    """Adopt data.parquet files without logs, and move silver, manifest and checkpoints of another format away.

    Nothing is deleted: files that fiblake cannot read are moved to archive/adopted/, byte for byte. Bars are
    consolidated through the queue, and silver is computed after that. You may run it twice. Exit code 3: files remain,
    and are listed.
    """
    from services.reconcile.adopt import find_foreign

    stack = target(context)
    with progress("files read") as advance:
        foreign_objects = find_foreign(auditor(stack), advance)
    if not wants_json(context):
        _show(foreign_objects)
    work = bool(foreign_objects.unreadable or foreign_objects.symbols)
    is_confirmed = work and (yes or (not wants_json(context) and confirm("adopt them?")))
    moved, requests, unsent = _move_and_enqueue(stack, foreign_objects) if is_confirmed else (0, 0, 0)
    facts = {
        "unreadable": [key for key, _ in foreign_objects.unreadable],
        "symbols": [lag.facts() for lag in foreign_objects.symbols],
        "moved": moved,
        "enqueued": requests,
    }
    sentence = "nothing is changed"
    if is_confirmed:
        sentence = (
            f"{pluralize(moved, 'file')} moved to archive/adopted/, {pluralize(requests, 'consolidation')} enqueued"
        )
    answer(context, facts, lambda console: console.print(sentence))
    unadoptable = [lag for lag in foreign_objects.symbols if lag.cause.name == "UNREADABLE"]
    if (work and not is_confirmed) or moved < len(foreign_objects.unreadable) or unsent or unadoptable:
        raise typer.Exit(3)


def _move_and_enqueue(stack: Target, foreign_objects: "Foreign") -> tuple[int, int, int]:
    """Adopt; return how many files were moved, and how many messages were sent and not sent."""
    from services.reconcile.adopt import move_away
    from services.reconcile.reconcile import Outlets
    from shared.jobs import DRAINS

    # First the old files: the resamplers that the consolidations start need their keys.
    with progress("files moved", len(foreign_objects.unreadable)) as advance:
        moved = move_away(stack.store, foreign_objects.unreadable, advance)
    queue = stack.queue(stack.queue_urls["consolidation"])
    outlets = Outlets(queue, stack.complete, stack.jobs(DRAINS), SYMBOLS_PER_CHILD)
    sent = outlets.enqueue(foreign_objects.symbols, f"adopt-{uuid.uuid4().hex}")
    return moved, sent.requests, sent.unsent


def _show(foreign_objects: "Foreign") -> None:
    typer.echo(f"of another shape, in the way, and to be moved: {pluralize(len(foreign_objects.unreadable), 'file')}")
    for key, _ in foreign_objects.unreadable[:KEYS_SHOWN]:
        typer.echo(f"  {printable(key)}")
    if len(foreign_objects.unreadable) > KEYS_SHOWN:
        typer.echo(f"  ... and {len(foreign_objects.unreadable) - KEYS_SHOWN} more")
    typer.echo(f"with a data.parquet that is to be adopted: {pluralize(len(foreign_objects.symbols), 'symbol')}")
    for lag in (lag for lag in foreign_objects.symbols if lag.cause.name == "UNREADABLE"):
        typer.echo(f"  {lag.symbol} cannot be: {printable(lag.detail)}")

"""`fiblake consolidate`: consolidate symbols again, by the stack's workers or in this process."""

import os
import uuid
from typing import Annotated

import typer

from cli import options
from cli.output import answer
from cli.target import Target, target
from fiblake.errors import UpstreamError
from fiblake.wording import pluralize

EXAMPLE = (
    "Example: fiblake consolidate --symbols AAPL,MSFT\n\n"
    "Example: fiblake consolidate --all --full --max-workers 16"
)  # fmt: skip


def consolidate(
    context: typer.Context,
    *,
    symbols: options.Symbols = None,
    everything: Annotated[bool, typer.Option("--all", help="Every symbol of the lake.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Merge all source files again, also those in the log; works in this process.")
    ] = False,
    here: Annotated[bool, typer.Option("--here", help="Work in this process, without the workers.")] = False,
    max_workers: Annotated[int, typer.Option(min=1, max=256, help="Symbols in work at once, in this process.")] = 8,
) -> None:
    """Bring data.parquet up to date with bronze, splits and identities, and publish the change.

    Sends requests to the workers, through the queue, unless --here or --full is set: then exit code 3 means that some
    symbols failed.
    """
    if bool(symbols) == everything:
        raise typer.BadParameter("name --symbols, or say --all", param_hint="--symbols")
    stack = target(context)
    chosen = _symbols_chosen(stack, options.parse_symbols(symbols))
    if full or here:
        raise typer.Exit(_consolidate_here(stack, chosen, max_workers, full=full))
    sent = _enqueue(stack, chosen)
    answer(context, {"enqueued": sent}, lambda console: console.print(f"{pluralize(sent, 'symbol')} enqueued"))


def _symbols_chosen(stack: Target, chosen: tuple[str, ...]) -> list[str]:
    """Return the chosen symbols, or all of the lake; raise NotFoundError if one has no folder."""
    from fiblake.lake import Bronze

    if chosen:
        options.check_in_lake(stack.store, chosen)
        return sorted(set(chosen))
    bronze = Bronze()
    return bronze.symbols_in(stack.store.folders(f"{bronze.prefix}/"))


def _enqueue(stack: Target, symbols: list[str]) -> int:
    from shared.events import ConsolidationRequest

    run = f"by-hand-{uuid.uuid4().hex}"
    bodies = [ConsolidationRequest(symbol=symbol, correlation_id=run).model_dump_json() for symbol in symbols]
    unsent = stack.queue(stack.queue_urls["consolidation"]).send(bodies)
    if unsent:
        raise UpstreamError(f"SQS did not take {len(unsent)} of {pluralize(len(bodies), 'request')}: ask again")
    if bodies:
        stack.start_workers(len(bodies))
    return len(bodies)


def _consolidate_here(stack: Target, symbols: list[str], max_workers: int, *, full: bool) -> int:
    """Consolidate in this process, as a job would; return the exit code."""
    from services.consolidator.__main__ import main

    os.environ["S3_BUCKET"] = stack.bucket
    os.environ["CONSOLIDATION_COMPLETE_TOPIC_ARN"] = stack.complete.arn
    mode = ["--mode", "full"] if full else []
    return main(["--symbols", ",".join(symbols), "--max-workers", str(max_workers), *mode]) if symbols else 0

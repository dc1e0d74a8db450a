"""`fiblake resample --full`: all of silver computed anew, with its progress shown."""

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.resampler.__main__ import resample as run
from services.resampler.full import Summary
from services.resampler.settings import FullResamplerSettings
from shared.errors import UpstreamError
from shared.settings import load


def resample(
    *,
    full: Annotated[bool, typer.Option("--full", help="All symbols, all of history, all six intervals.")] = False,
    memory_mb: Annotated[
        int, typer.Option(envvar="MEMORY_MB", min=512, help="Memory to keep to; less means more readings of bronze.")
    ] = 3000,
) -> None:
    """Compute silver anew from bronze; what is right already is not written again.

    The lake is the one that S3_BUCKET, SILVER_UPDATED_TOPIC_ARN and the AWS environment variables name. It may run
    beside the live resamplers, and be stopped and run again.
    """
    if not full:
        raise typer.BadParameter("say --full: single symbols are resampled by themselves when their bars arrive")
    settings = load(FullResamplerSettings).model_copy(update={"memory_mb": memory_mb})
    summary = _watched(settings)
    Console().print(_table(summary))
    if summary.failed:
        faults = "; ".join(f"{symbol}: {reason}" for symbol, reason in sorted(summary.failed.items()))
        raise UpstreamError(f"{len(summary.failed)} symbols could not be read, their rows stay as they were: {faults}")


def _watched(settings: FullResamplerSettings) -> Summary:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {what: progress.add_task(what, total=None) for what in ("reading symbols", "writing month files")}

        def watch(what: str, done: int, of: int) -> None:
            progress.update(tasks[what], completed=done, total=of)

        return run(settings, watch)


def _table(summary: Summary) -> Table:
    title = f"{len(summary.symbols):,} symbols up to {summary.last_session}, {summary.written:,} month files written"
    table = Table("silver table", "buckets computed", title=title)
    for interval, rows in summary.rows.items():
        table.add_row(f"silver_{interval}d", f"{rows:,}")
    return table

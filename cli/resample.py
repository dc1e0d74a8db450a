"""`fiblake resample --full`: compute all of silver again from bronze, on this machine."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.output import answer, progress_by_name, table
from fiblake.wording import pluralize

if TYPE_CHECKING:
    from rich.console import Console

    from services.resampler.full import Summary

RESAMPLE_EXAMPLES: Final = """Example: fiblake resample --full

Example: fiblake resample --full --memory-mb 1000

Example: fiblake resample --full --rebuild

The settings are those of the stack's resampler function;
a variable of the same name in the environment takes precedence."""
_SOME_FAILED: Final = 3


def resample(
    context: typer.Context,
    *,
    full: Annotated[bool, typer.Option("--full", help="All symbols, all of history, all intervals.")] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Also overwrite rows of the same version of the bars, after a change of SplitAdjusted.",
        ),
    ] = False,
    memory_mb: Annotated[
        int, typer.Option(min=512, help="The limit of memory; a lower one means more readings of bronze.")
    ] = 3000,
) -> None:
    """Compute all of silver again while the resamplers work; files that are up to date are not written.

    Rows of a newer version of their bars are never overwritten. It may be stopped and run again. On AWS the Batch job
    ENV-batch-duckdb-resampler does the same.
    """
    if not full:
        raise typer.BadParameter("say --full: single symbols are resampled by themselves when their bars arrive")
    from cli.target import settings_of
    from services.resampler.__main__ import resample as run
    from services.resampler.settings import FullResamplerSettings

    settings = settings_of(context, "ResamplerFunctionName", FullResamplerSettings)
    with progress_by_name() as show:
        summary = run(settings.model_copy(update={"memory_mb": memory_mb, "rebuild": rebuild}), show)
    answer(context, _facts(summary), lambda console: _show(console, summary))
    if summary.failed:
        raise typer.Exit(_SOME_FAILED)


def _facts(summary: "Summary") -> dict[str, Any]:
    return {
        "symbols": len(summary.symbols),
        "last_session": summary.last_session,
        "buckets": {f"{interval}d": rows for interval, rows in summary.rows.items()},
        "month_files_written": summary.written,
        "readings_of_bronze": summary.readings,
        "failed": summary.failed,
    }


def _show(console: "Console", summary: "Summary") -> None:
    rows = [{"table": f"silver_{interval}d", "buckets": count} for interval, count in summary.rows.items()]
    symbols, files = pluralize(len(summary.symbols), "symbol"), pluralize(summary.written, "month file")
    title = f"{symbols} up to {summary.last_session}, {files} written"
    console.print(table(title, rows, ("table", "buckets")))
    for symbol, reason in sorted(summary.failed.items()):
        console.print(f"{symbol} could not be read, and keeps its rows: {reason}")

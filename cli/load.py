"""`fiblake load flatfiles`: many sessions of all tickers from the vendor's flat files, or from a folder of them."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import options
from cli.fetch import DAY
from cli.output import answer, progress_by_name, table

if TYPE_CHECKING:
    from rich.console import Console

    from services.fetcher.flat_files.load import LoadReport

app = typer.Typer(help="Load the past: companies, and long histories from files.", no_args_is_help=True)
COMPANIES_EXAMPLE: Final = """Example: fiblake load companies --from 2003-09-10

The settings are those of the stack's metadata fetcher;
a variable of the same name in the environment takes precedence."""
EXAMPLES: Final = """Example: fiblake load flatfiles --from 2003-09-10

Example: fiblake load flatfiles --dir ~/flatfiles --from 2020-01-02 --to 2020-12-31

The settings are those of the stack's fetcher function;
a variable of the same name in the environment takes precedence."""
NAMED_AT_MOST: Final = 5


@app.command(name="companies", epilog=COMPANIES_EXAMPLE)
def companies(
    context: typer.Context,
    first: Annotated[datetime, typer.Option("--from", formats=DAY, help="First day whose companies are requested.")],
) -> None:
    """Load into symbol_metadata the companies of each symbol since a day, including delisted companies.

    It reads the vendor's list of one day in each month, and requests days in between where two lists differ.
    """
    import asyncio
    from dataclasses import asdict

    from cli.target import settings_of
    from services.fetcher.assembly import load_companies
    from services.fetcher.settings import MetadataSettings

    start = options.parse_past_day(first, "--from")
    settings = settings_of(context, "MetadataFetcherFunctionName", MetadataSettings)
    with progress_by_name() as show:
        report = asyncio.run(load_companies(settings, start, show))
    facts = asdict(report)
    rows = [{"what": name.replace("_", " "), "number": number} for name, number in facts.items()]
    answer(context, facts, lambda console: console.print(table("Companies", rows, ("what", "number"))))


@app.command(name="flatfiles", epilog=EXAMPLES)
def flatfiles(
    context: typer.Context,
    first: Annotated[datetime | None, typer.Option("--from", formats=DAY, help="First session.")] = None,
    last: Annotated[datetime | None, typer.Option("--to", formats=DAY, help="Last session.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--dir", help="A folder with YYYY-MM-DD.csv.gz files, instead of the vendor's bucket."),
    ] = None,
    *,
    all_tickers: Annotated[
        bool, typer.Option("--all-tickers", help="Also bars that belong to no company in symbol_metadata.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Also files that are already loaded.")] = False,
) -> None:
    """Load day files into bronze: one range file for each symbol and chunk of sessions. A later run continues.

    A file that the vendor has replaced is read again. Exit code 3: a file could not be loaded.
    """
    import asyncio

    from cli.target import settings_of
    from services.fetcher.flat_files.assembly import load_flat_files
    from services.fetcher.settings import FlatFileSettings

    if folder and not folder.is_dir():
        raise typer.BadParameter(f"{folder} is not a folder", param_hint="--dir")
    if first and last and first > last:
        raise typer.BadParameter(f"{first:%Y-%m-%d} lies after --to {last:%Y-%m-%d}", param_hint="--from")
    start, end = options.parse_past_day(first, "--from") if first else None, last.date() if last else None
    settings = settings_of(context, "OhlcvFetcherFunctionName", FlatFileSettings)
    with progress_by_name() as show:
        report = asyncio.run(load_flat_files(settings, folder, start, end, show, all_tickers=all_tickers, again=again))
    facts = facts_of(report)
    answer(context, facts, lambda console: _show(console, report))
    if report.failed:
        raise typer.Exit(3)


def facts_of(report: "LoadReport") -> dict[str, Any]:
    """Return a report as values for JSON."""
    from dataclasses import asdict

    days = {name: [str(day) for day in getattr(report, name)] for name in ("missing_sessions", "not_sessions")}
    facts = {**asdict(report), **days, "unclaimed_tickers": dict(report.unclaimed_tickers.most_common())}
    return {**facts, "tickers_stored": len(report.tickers_stored)}


def _show(console: "Console", report: "LoadReport") -> None:
    numbers = {
        "day files loaded": report.files, "day files already loaded": report.unchanged, "bars stored": report.stored,
        "range files": report.range_files, "bars in quarantine": report.quarantined,
        "bars of no known company": report.unclaimed, "lines that are no rows": report.bad_line_count,
        "day files not loaded": len(report.failed), "sessions without a day file": len(report.missing_sessions),
        "companies without a bar": len(report.without_bars),
    }  # fmt: skip
    console.print(
        table("Flat files", [{"what": what, "number": number} for what, number in numbers.items()], ("what", "number"))
    )
    for key, reason in list(report.failed.items())[:NAMED_AT_MOST]:
        console.print(f"not loaded: {reason if key in reason else f'{key}: {reason}'}", markup=False)
    for text in report.bad_lines[:NAMED_AT_MOST]:
        console.print(f"no row: {text}", markup=False)
    if report.missing_sessions:
        named = ", ".join(str(day) for day in report.missing_sessions[:NAMED_AT_MOST])
        more = len(report.missing_sessions) - NAMED_AT_MOST
        console.print(f"no day file of {named}{f' and {more:,} more' if more > 0 else ''}")
    if report.without_bars:
        more = len(report.without_bars) - NAMED_AT_MOST
        named = ", ".join(report.without_bars[:NAMED_AT_MOST])
        console.print(f"no bar of {named}{f' and {more:,} more' if more > 0 else ''}", markup=False)
    for symbol, decided in list(report.decided.items())[:NAMED_AT_MOST]:
        console.print(f"{symbol}: {decided}", markup=False)
    if report.unclaimed_tickers:
        top = ", ".join(
            f"{ticker} ({count:,})" for ticker, count in report.unclaimed_tickers.most_common(NAMED_AT_MOST)
        )
        console.print(f"of no known company: {top}", markup=False)

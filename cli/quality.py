"""`fiblake quality AAPL MSFT`: check that a symbol's history is complete and plausible; also as one page."""

import asyncio
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import options
from cli.output import answer, printable, progress, table
from cli.target import Target, target
from fiblake.errors import PermanentError
from fiblake.wording import instant, pluralize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from cli.quality_report import Quality, Sources
    from fiblake.calendar import TradingCalendar

EXAMPLE: Final = "Example: fiblake quality AAPL MSFT\n\nExample: fiblake quality AAPL --html aapl.html"
FINDINGS_SHOWN: Final = 20


def quality(
    context: typer.Context,
    symbols: Annotated[list[str], typer.Argument(help="The symbols.")],
    *,
    html: Annotated[Path | None, typer.Option(help="Also write the report to this file, as one page of HTML.")] = None,
) -> None:
    """Show whether a symbol's bars are complete, by the calendar and its listing, and whether they are plausible.

    A requested session without a bar had no trade: it is not missing. The report names price jumps that no split
    explains, splits that are not visible in the bars or that are reported twice, sessions that repeat the one before,
    and dividends whose vendor factor contradicts cash and close.
    If the lake has, or had, a bar of the API and one of a flat file, the two are compared.
    Exit code 3: the report names a problem, or a symbol cannot be read.
    """
    options.check_writable(html, "--html")
    chosen = [options.symbol(name, "SYMBOLS") for name in symbols]
    stack = target(context)
    options.check_in_lake(stack.store, chosen)
    results, faults = [], []
    with progress("symbols read", len(chosen)) as advance:
        for symbol in chosen:
            try:
                results.append(look(stack, symbol))
            except PermanentError as error:
                faults.append(error)
            advance(1)
    if faults and not results:
        raise faults[0]
    if html:
        html.write_text(page(results), encoding="utf-8")
    answer(context, [result.facts() for result in results], lambda console: _show(console, results))
    for fault in faults:
        sys.stderr.write(printable(f"fiblake: {fault}\n"))
    if faults or not all(result.is_good for result in results):
        raise typer.Exit(3)


def look(stack: Target, symbol: str) -> "Quality":
    """Return a symbol's quality; raise NotFoundError without bars, ConfigurationError if another program wrote them."""
    from cli.quality_report import quality_of
    from fiblake.bars import Consolidated
    from fiblake.calendar import lake_calendar
    from fiblake.errors import ConfigurationError, NotFoundError
    from fiblake.lake import Bronze
    from fiblake.reader.faults import using

    key = Bronze().data_key(symbol)
    data_file = stack.store.find(key)
    if data_file is None:
        raise NotFoundError(f"{symbol} has files, and no bars that are consolidated yet")
    with using(key):
        stored = Consolidated.decode(data_file.data, symbol, data_file.last_modified)
    if stored.adopted or not stored.bars.num_rows:
        raise ConfigurationError(f"{key} is of another program, or empty: run `fiblake adopt` first")
    calendar = lake_calendar()
    closed = calendar.last_closed(datetime.now(UTC))
    sources = _sources(stack, symbol, calendar, stored.first_session, closed)
    return quality_of(symbol, stored, calendar, closed, sources)


def _sources(stack: Target, symbol: str, calendar: "TradingCalendar", first: date, closed: date) -> "Sources":
    """Return the facts about a symbol besides its bars; without an answer of Postgres they are unknown."""
    from cli.quality_report import Sources
    from fiblake.errors import FiblakeError
    from fiblake.lake import identities_key, revisions_key, splits_key
    from fiblake.reader.faults import using
    from fiblake.reference import read_identities, read_splits
    from fiblake.revisions import read_revisions
    from shared.outcomes import catch_errors
    from shared.quarantine import list_quarantined

    keys = [identities_key(symbol), splits_key(symbol), revisions_key(symbol)]
    identities, splits, revisions = stack.store.get_many(keys)
    with using(keys[2]):
        superseded = read_revisions(revisions.data, symbol) if revisions else None
    sources = Sources(
        read_identities(identities.data, symbol) if identities else (),
        read_splits(splits.data, symbol) if splits else (),
        {held.bar.session for held in list_quarantined(stack.store, symbol)},
        revisions=superseded,
    )
    database_facts = catch_errors(lambda: asyncio.run(_read_requested(stack, symbol, calendar, first, closed)))
    return sources if isinstance(database_facts, FiblakeError) else replace(sources, asked=database_facts)


async def _read_requested(
    stack: Target, symbol: str, calendar: "TradingCalendar", first: date, closed: date
) -> set[date]:
    """Return the sessions that were requested from the vendor: those of the ledger and of the symbol's history."""
    from shared.database import connected

    async with connected(*stack.database()) as database:
        sessions = await database.stored_sessions(first, closed)
        record = await database.current_record(symbol)
    if record and record.history_loaded_at and record.history_from:
        last = min(record.history_loaded_at.date(), closed)
        sessions |= set(calendar.between(record.history_from, last)) if record.history_from <= last else set()
    return sessions


def page(results: "Sequence[Quality]") -> str:
    """Return one page of HTML that needs no other file and runs no script."""
    import jinja2

    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("cli.console"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return pages.get_template("quality_paper.html").render(
        results=[values_of(result) for result in results], at=instant(datetime.now(UTC))
    )


def values_of(result: "Quality") -> dict[str, Any]:
    """Return the values of the page's fragment of a symbol."""
    from cli.quality_report import by_year

    years = [(year, list(months)) for year, months in by_year(result.months)]
    return {**result.facts(), "years": years, "verdict": verdict(result)}


def verdict(result: "Quality") -> str:
    """Return the most important fact in a sentence."""
    from cli.quality_report import NO_TRADE, QUARANTINED, UNKNOWN, WITHDRAWN

    totals = result.totals
    kinds = Counter(finding.kind for finding in result.findings)
    parts = [
        *([pluralize(len(result.missing), "missing session")] if result.missing else []),
        *([f"{pluralize(totals[QUARANTINED], 'session')} in quarantine"] if totals[QUARANTINED] else []),
        *(pluralize(count, kind, _plural(kind)) for kind, count in kinds.items()),
    ]
    notes = [
        *([f"{pluralize(totals[NO_TRADE], 'session')} without a trade"] if totals[NO_TRADE] else []),
        *([f"{pluralize(totals[WITHDRAWN], 'session')} withdrawn"] if totals[WITHDRAWN] else []),
        *(
            [f"{pluralize(totals[UNKNOWN], 'session')} without a bar (Postgres does not say why)"]
            if totals[UNKNOWN]
            else []
        ),
        *([_compared(result)] if result.compared else []),
        *([f"{pluralize(result.before_first, 'session')} listed before the first bar"] if result.before_first else []),
    ]
    sentence = f"To look at: {', '.join(parts)}." if parts else "Whole and plausible."
    return f"{sentence} {', '.join(notes)}." if notes else sentence


def _compared(result: "Quality") -> str:
    compared = pluralize(result.compared, "session")
    return f"{compared} compared between the API and flat files ({result.differing} differ)"


def _plural(kind: str) -> str:
    return {"split not seen": "splits not seen", "flat file differs": "flat files differ"}.get(kind, f"{kind}s")


def _show(console: "Console", results: "Sequence[Quality]") -> None:
    from cli.quality_report import STATES

    for result in results:
        years: dict[str, Counter[str]] = {}
        for month, states in result.months.items():
            years.setdefault(month[:4], Counter(dict.fromkeys(STATES, 0))).update(states)
        rows = [{"year": year, **states} for year, states in years.items()]
        title = f"{result.symbol}: {result.first} to {result.last}"
        shown = [state for state in STATES if state == "bars" or result.totals[state]]
        console.print(table(title, rows, ["year", *shown]))
        console.print(verdict(result))
        if result.missing:
            named = ", ".join(map(str, result.missing[:FINDINGS_SHOWN]))
            more = len(result.missing) - FINDINGS_SHOWN
            console.print(f"  missing: {named}{f' and {more:,} more: --json lists all' if more > 0 else ''}")
        for finding in result.findings[:FINDINGS_SHOWN]:
            console.print(f"  {finding.session}  {finding.kind}: {finding.text}")
        if len(result.findings) > FINDINGS_SHOWN:
            console.print(f"  ... and {len(result.findings) - FINDINGS_SHOWN:,} more: --json lists all")

"""`fiblake metadata`: update tickers, companies, splits and dividends, like the metadata fetcher function."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.output import answer, table

if TYPE_CHECKING:
    from rich.console import Console

METADATA_EXAMPLES: Final = """Example: fiblake metadata

Example: fiblake metadata --splits-only

The settings are those of the stack's function;
a variable of the same name in the environment takes precedence."""


def metadata(
    context: typer.Context,
    *,
    splits_only: Annotated[bool, typer.Option("--splits-only", help="Update splits only.")] = False,
) -> None:
    """Update symbol_metadata, splits and dividends, and request the histories of new symbols."""
    import asyncio

    from cli.target import settings_of
    from services.fetcher.assembly import refresh
    from services.fetcher.settings import MetadataEvent, MetadataSettings

    settings = settings_of(context, "MetadataFetcherFunctionName", MetadataSettings)
    result = asyncio.run(refresh(settings, MetadataEvent(splits_only=splits_only)))
    answer(context, result, lambda console: _show(console, result))


def _show(console: "Console", result: dict[str, Any]) -> None:
    rows = [{"what": name.replace("_", " "), "number": number} for name, number in result.items()]
    console.print(table("Reference data refreshed", rows, ("what", "number")))

"""`fiblake quarantine list|release`: bars that failed validation, and how a person lets one into the lake."""

import asyncio
import getpass
import json
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from shared.lake import check_symbol

app = typer.Typer(help="Bars that failed validation: look at them, let one in after all.", no_args_is_help=True)


@app.command(name="list", epilog="Example: fiblake quarantine list --symbol AAPL")
def list_(
    symbol: Annotated[str, typer.Option(help="Only this symbol's.")] = "",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the bars in quarantine with the reasons they are there."""
    from services.fetcher.quarantine import held  # noqa: PLC0415 (half a second: not for every command)

    bars = held(_store(), check_symbol(symbol) if symbol else None)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in bars], default=str))
        return
    names = ("open", "high", "low", "close", "volume")
    table = Table("symbol", "session", "row", *names, "reason", title=f"bars in quarantine: {len(bars)}")
    for one in bars:
        numbers = (f"{getattr(one.bar, name):g}" for name in names)
        table.add_row(one.bar.symbol, str(one.bar.session), str(one.row), *numbers, one.reason)
    Console().print(table)


@app.command(epilog="Example: fiblake quarantine release AAPL 2025-11-19 --by jane")
def release(
    symbol: Annotated[str, typer.Argument(help="The symbol.")],
    session: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="The session.")],
    row: Annotated[int | None, typer.Option(help="Which, if `list` shows several of the session.")] = None,
    by: Annotated[str, typer.Option(help="Who answers for it (for the record).")] = "",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a sentence.")] = False,
) -> None:
    """Let a bar into the lake as the vendor reported it, on record in processing_metadata/quarantine_releases.json."""
    from services.fetcher.assembly import release_bar  # noqa: PLC0415 (see above)
    from services.fetcher.settings import ReleaseSettings  # noqa: PLC0415
    from shared.settings import load  # noqa: PLC0415

    name = by or getpass.getuser()
    key = asyncio.run(release_bar(load(ReleaseSettings), check_symbol(symbol), session.date(), row, name))
    typer.echo(json.dumps({"key": key, "by": name}) if as_json else f"released by {name}: {key}")


def _store() -> Any:  # noqa: ANN401 (imported when it is needed)
    from services.fetcher.settings import LakeSettings  # noqa: PLC0415 (see above)
    from shared.objects import ObjectStore  # noqa: PLC0415
    from shared.settings import load  # noqa: PLC0415

    return ObjectStore.connect(load(LakeSettings).s3_bucket)

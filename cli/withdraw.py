"""`fiblake withdraw`: withdraw a bar that should not exist."""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.output import answer
from cli.target import Target, target

if TYPE_CHECKING:
    from services.consolidator.worker import Worker

EXAMPLE = 'Example: fiblake withdraw AAPL 2025-11-19 --reason "a test trade of the vendor" --by jane'


def withdraw(
    context: typer.Context,
    symbol: Annotated[str, typer.Argument(help="The symbol.")],
    session: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="The session.")],
    reason: Annotated[str, typer.Option(help="The reason, for the record.")] = "",
    by: Annotated[
        str, typer.Option(help="The responsible person, for the record; empty: the user of this machine.")
    ] = "",
) -> None:
    """Withdraw a bar from data.parquet, silver and Postgres; processing_metadata/withdrawals.json records it.

    The bar stays withdrawn, whatever file still holds it; a bar of the session that is ingested later is stored again.
    """
    import asyncio
    import getpass

    from services.consolidator import withdraw as service

    options.symbol(symbol, "SYMBOL")
    day, name = options.session(session, "SESSION"), by or getpass.getuser()
    stack = target(context)
    options.check_in_lake(stack.store, [symbol])
    withdrawal = service.withdraw(_worker(stack), symbol, day, name, reason)
    rows = asyncio.run(_delete_row(stack, symbol, day, withdrawal.until))
    facts = {
        "symbol": symbol, "session": day.isoformat(), "by": name, "until": withdrawal.until.isoformat(),
        "changed_from": withdrawal.changed_from.isoformat(), "version": withdrawal.version.isoformat(), "rows": rows,
    }  # fmt: skip
    text = f"the bar of {symbol} of {day} is withdrawn by {name}; silver follows"
    answer(context, facts, lambda console: console.print(text))


def _worker(stack: Target) -> "Worker":
    import uuid

    from fiblake.calendar import lake_calendar
    from fiblake.lake import Bronze
    from services.consolidator.consolidate import Consolidator
    from services.consolidator.worker import Worker

    return Worker(
        consolidator=Consolidator(stack.store, Bronze(), lake_calendar()), complete=stack.complete,
        run=f"withdraw-{uuid.uuid4().hex}", clock=lambda: datetime.now(UTC), max_workers=1, retention_days=None,
    )  # fmt: skip


async def _delete_row(stack: Target, symbol: str, session: date, until: datetime) -> int:
    """Delete the bar's row from Postgres unless it is a later one; return how many rows that were.

    Otherwise the fetcher, which compares the last sessions again, would treat the bar as stored.
    """
    from fiblake.errors import FiblakeError, UpstreamError
    from shared.database import connected

    try:
        async with connected(*stack.database()) as database:
            row = (await database.bars(session)).get(symbol)
            if row is None or row["ingested_at"] > until:
                return 0
            return await database.delete_bars(session, [row])
    except FiblakeError as error:
        raise UpstreamError(
            f"the bar is out of the lake, but its row may still be in Postgres ({error}): run the command again"
        ) from error

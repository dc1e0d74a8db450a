"""Withdraw a wrong bar, at a person's request."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, cast

import pyarrow.compute as pc

from fiblake.bars import Consolidated
from fiblake.errors import ConfigurationError, NotFoundError
from fiblake.lake import WITHDRAWAL_RECORD_KEY
from fiblake.wording import pluralize
from services.consolidator.worker import Worker
from shared.records import add_entry
from shared.telemetry import logger

MAX_WITHDRAWN: Final = 1_000
"""How many withdrawn sessions a symbol may have: each of them stays in the metadata of data.parquet."""


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A withdrawn bar."""

    symbol: str
    session: date
    until: datetime
    """A bar of the session that was ingested at or before this instant stays withdrawn; a later bar is merged."""
    changed_from: date
    """The first session that the completion event reports as changed."""
    version: datetime
    """The version of data.parquet without the bar."""


def withdraw(worker: Worker, symbol: str, session: date, by: str, reason: str) -> Withdrawal:
    """Take the bar of `session` out of data.parquet, publish the change, and update the manifest.

    The order is the audit record, data.parquet, the event. An interrupted run can be repeated: it publishes again if
    the bar is already withdrawn. Raises NotFoundError if there is no such bar, ConfigurationError if it cannot be
    withdrawn.
    """
    stored = _read(worker, symbol)
    until = stored.withdrawn.get(session)
    if until is None:
        row = _find_bar(stored, symbol, session)
        until = cast("datetime", row["ingested_at"])
        entry = {
            "withdrawn_at": worker.clock().isoformat(), "by": by, "reason": reason,
            "bar": row | {"timestamp": session.isoformat(), "ingested_at": until.isoformat()},
        }  # fmt: skip
        add_entry(worker.consolidator.store, WITHDRAWAL_RECORD_KEY, "withdrawals", entry)
    consolidation = worker.withdraw(symbol, session, until)
    logger.info("bar withdrawn", extra={"symbol": symbol, "session": str(session), "by": by, "reason": reason})
    return Withdrawal(symbol, session, until, consolidation.changed_from, consolidation.stored.last_updated)


def _read(worker: Worker, symbol: str) -> Consolidated:
    key = worker.consolidator.bronze.data_key(symbol)
    stored = worker.consolidator.store.find(key)
    if stored is None:
        raise NotFoundError(f"{symbol} has no data.parquet: there is no bar to withdraw")
    consolidated = Consolidated.decode(stored.data, symbol, stored.last_modified)
    if consolidated.adopted:
        raise ConfigurationError(f"{key} carries no log: run `fiblake consolidate --symbols {symbol}` first")
    return consolidated


def _find_bar(stored: Consolidated, symbol: str, session: date) -> dict[str, Any]:
    rows = stored.bars.filter(pc.equal(stored.bars["timestamp"], session)).to_pylist()
    if not rows:
        count, first, last = stored.bars.num_rows, stored.first_session, stored.last_session
        raise NotFoundError(
            f"{symbol} has no bar of {session}: it has {pluralize(count, 'bar')} from {first} to {last}"
        )
    if stored.bars.num_rows == 1:
        raise ConfigurationError(
            f"the bar of {session} is the last one of {symbol}, and cannot be withdrawn: a data.parquet needs a bar"
        )
    if len(stored.withdrawn) >= MAX_WITHDRAWN:
        raise ConfigurationError(f"{symbol} has {MAX_WITHDRAWN:,} withdrawn sessions already, and cannot have more")
    return cast("dict[str, Any]", rows[0])

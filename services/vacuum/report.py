"""Report a vacuum, for a person and for a program."""

from typing import Any, Final

from fiblake.lake import Bronze
from fiblake.wording import pluralize
from services.vacuum.bronze import Plan
from shared.cleanup import Counts

SYMBOLS_SHOWN: Final = 20


def facts(bronze: Bronze, planned: Plan, deleted: Counts | None) -> dict[str, Any]:
    """Return the run as numbers: what may be deleted, what was (None: it was only a plan), what was left."""
    return {
        "retention_days": planned.retention_days,
        "symbols": planned.symbols,
        "due": {"files": len(planned.due), "bytes": planned.size, "symbols": planned.counts(bronze)},
        "deleted": None if deleted is None else {**totals(deleted), "symbols": deleted},
        "unconsolidated": planned.unconsolidated,
        "faults": {symbol: str(error) for symbol, error in planned.faults.items()},
    }


def totals(counts: Counts) -> dict[str, int]:
    """Add up files and bytes over all symbols."""
    return {name: sum(count[name] for count in counts.values()) for name in ("files", "bytes")}


def sentences(bronze: Bronze, planned: Plan) -> list[str]:
    """Say what would be deleted, line by line."""
    counts = planned.counts(bronze)
    lines = [
        f"  {symbol}: {pluralize(count['files'], 'file')}, {pluralize(count['bytes'], 'byte')}"
        for symbol, count in counts.items()
    ]
    if len(lines) > SYMBOLS_SHOWN:
        lines = [*lines[:SYMBOLS_SHOWN], f"  ... and {pluralize(len(lines) - SYMBOLS_SHOWN, 'more symbol')}"]
    head = (
        f"older than {pluralize(planned.retention_days, 'day')}: {pluralize(len(planned.due), 'merged file')} of "
        f"{len(counts):,} of {pluralize(planned.symbols, 'symbol')} ({pluralize(planned.size, 'byte')})"
    )
    others = []
    if planned.unconsolidated:
        others = [f"  without data.parquet, not touched: {pluralize(len(planned.unconsolidated), 'symbol')}"]
    faults = [f"  {symbol} cannot be looked at: {error}" for symbol, error in planned.faults.items()]
    return [head, *lines, *others, *faults]

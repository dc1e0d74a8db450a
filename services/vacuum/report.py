"""What a vacuum says of itself, to a person and to a program."""

from typing import Any, Final

from fiblake.lake import Bronze
from services.vacuum.bronze import Plan
from shared.cleanup import Counts

SYMBOLS_SHOWN: Final = 20


def facts(bronze: Bronze, made: Plan, deleted: Counts | None) -> dict[str, Any]:
    """Return the run as numbers: what may go, what went (None: nothing was to be deleted), what was left alone."""
    return {
        "retention_days": made.retention_days,
        "symbols": made.symbols,
        "due": {"files": len(made.due), "bytes": made.size, "symbols": made.counts(bronze)},
        "deleted": None if deleted is None else {**totals(deleted), "symbols": deleted},
        "unconsolidated": made.unconsolidated,
        "faults": {symbol: str(error) for symbol, error in made.faults.items()},
    }


def totals(counts: Counts) -> dict[str, int]:
    """Add up files and bytes over all symbols."""
    return {name: sum(count[name] for count in counts.values()) for name in ("files", "bytes")}


def sentences(bronze: Bronze, made: Plan) -> list[str]:
    """Say what would be deleted, line by line."""
    counts = made.counts(bronze)
    lines = [f"  {symbol}: {count['files']} files, {count['bytes']:,} bytes" for symbol, count in counts.items()]
    if len(lines) > SYMBOLS_SHOWN:
        lines = [*lines[:SYMBOLS_SHOWN], f"  ... and {len(lines) - SYMBOLS_SHOWN} more symbols"]
    head = (
        f"{len(made.due)} merged files of {len(counts)} symbols ({made.size:,} bytes) are older than "
        f"{made.retention_days} days; {made.symbols} symbols were looked at"
    )
    left = [f"  {len(made.unconsolidated)} symbols have no data.parquet: not touched"] if made.unconsolidated else []
    faults = [f"  {symbol} cannot be looked at: {error}" for symbol, error in made.faults.items()]
    return [head, *lines, *left, *faults]

"""Which merged source files are deleted, of the whole lake or of some symbols: first a plan, then its execution."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

from fiblake.bars import Consolidated
from fiblake.errors import ConfigurationError, FiblakeError, UpstreamError
from fiblake.lake import Bronze, check_known
from shared.batching import chunks
from shared.cleanup import Counts, Proof, by_symbol, clean_up
from shared.objects import ObjectInfo, ObjectStore
from shared.outcomes import catch_errors

RETENTION_FLOOR_DAYS: Final = 7
SYMBOLS_PER_ROUND: Final = 100
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Vacuum:
    """What a vacuum works with."""

    store: ObjectStore
    bronze: Bronze
    max_workers: int


@dataclass(slots=True)
class Plan:
    """What a vacuum would delete, and what it would not touch."""

    now: datetime
    retention_days: int
    symbols: int = 0
    """Symbols that were looked at."""
    proofs: list[Proof] = field(default_factory=list)
    """Of the symbols that have files to delete."""
    due: list[ObjectInfo] = field(default_factory=list)
    unconsolidated: list[str] = field(default_factory=list)
    """Symbols without a data.parquet: nothing of them is merged, so nothing may go."""
    faults: dict[str, FiblakeError] = field(default_factory=dict)
    """Symbols that could not be looked at."""

    def counts(self, bronze: Bronze) -> Counts:
        """Count what would be deleted."""
        return by_symbol(bronze, self.due)

    @property
    def size(self) -> int:
        """Bytes that would be freed."""
        return sum(info.size for info in self.due)


def check_retention(days: int, *, force: bool) -> int:
    """Return `days` back; raise ConfigurationError below the floor of 7 days, unless that is meant."""
    if days < RETENTION_FLOOR_DAYS and not force:
        raise ConfigurationError(
            f"a retention of {days} days is below the floor of {RETENTION_FLOOR_DAYS}: whoever looks into a fault may "
            "still want the files; if you mean it, say --force-retention"
        )
    return days


def plan(
    vacuum: Vacuum, symbols: Sequence[str], retention_days: int, now: datetime, advance: Advance = lambda _: None
) -> Plan:
    """See what may go of these symbols (none named: of all in the lake); nothing is deleted.

    Raises NotFoundError if a named symbol has no folder in the lake.
    """
    known = vacuum.bronze.symbols_in(vacuum.store.folders(f"{vacuum.bronze.prefix}/"))
    check_known(symbols, known)
    wanted = sorted(set(symbols)) or known
    made = Plan(now, retention_days, len(wanted))
    with ThreadPoolExecutor(vacuum.max_workers) as pool:
        for symbol, outcome in zip(wanted, pool.map(lambda s: catch_errors(_proof, vacuum, s), wanted), strict=True):
            _note(made, vacuum.bronze, symbol, outcome)
            advance(1)
    return made


def execute(vacuum: Vacuum, made: Plan, run: str, advance: Advance = lambda _: None) -> Counts:
    """Delete what the plan names and is still what the plan saw; return what was deleted, by symbol.

    Each round is recorded by itself in cleanup_manifest.json, so a vacuum that is cut off has recorded what it did.
    """
    deleted: Counts = {}
    rounds = list(chunks(made.proofs, SYMBOLS_PER_ROUND))
    with ThreadPoolExecutor(min(vacuum.max_workers, len(rounds) or 1)) as pool:
        for gone, proofs in zip(pool.map(partial(_round, vacuum, made, run), rounds), rounds, strict=True):
            deleted |= gone
            advance(len(proofs))
    return deleted


def _round(vacuum: Vacuum, made: Plan, run: str, proofs: Sequence[Proof]) -> Counts:
    return clean_up(vacuum.store, vacuum.bronze, proofs, run, made.now, made.retention_days)


def _proof(vacuum: Vacuum, symbol: str) -> Proof | None:
    """Read what the symbol's data.parquet proves; None if it has none.

    Before the listing, as the worker does: of a file that is merged and listed in between the log knows nothing yet.
    """
    found = vacuum.store.find(vacuum.bronze.data_key(symbol))
    if found is None:
        return None
    log = Consolidated.decode(found.data, symbol, found.last_modified).log
    listing = vacuum.store.listed(vacuum.bronze.symbol_prefix(symbol))
    return Proof(symbol, found.etag, log, [info for info in listing if vacuum.bronze.is_source(info.key)])


def _note(made: Plan, bronze: Bronze, symbol: str, outcome: Proof | FiblakeError | None) -> None:
    if outcome is None:
        made.unconsolidated.append(symbol)
    elif isinstance(outcome, UpstreamError):
        raise outcome  # S3 itself fails: no plan is better than half of one
    elif isinstance(outcome, FiblakeError):
        made.faults[symbol] = outcome
    elif due := outcome.deletable(bronze, made.now.date(), made.retention_days):
        made.proofs.append(outcome)
        made.due += due

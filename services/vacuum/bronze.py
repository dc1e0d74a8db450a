"""Delete merged source files of the whole lake or of some symbols: first a plan, then its execution."""

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
    """The clients and settings of a vacuum."""

    store: ObjectStore
    bronze: Bronze
    max_workers: int


@dataclass(slots=True)
class Plan:
    """The files that a vacuum would delete, and the symbols that it would not touch."""

    now: datetime
    retention_days: int
    symbols: int = 0
    """How many symbols were read."""
    proofs: list[Proof] = field(default_factory=list)
    """One for each symbol that has files to delete."""
    due: list[ObjectInfo] = field(default_factory=list)
    unconsolidated: list[str] = field(default_factory=list)
    """Symbols without a data.parquet: nothing of them is merged, so nothing may be deleted."""
    faults: dict[str, FiblakeError] = field(default_factory=dict)
    """Symbols that could not be read, and why."""

    def counts(self, bronze: Bronze) -> Counts:
        """Count what would be deleted."""
        return by_symbol(bronze, self.due)

    @property
    def size(self) -> int:
        """Bytes that would be freed."""
        return sum(info.size for info in self.due)


def check_retention(days: int, *, force: bool) -> int:
    """Return `days`; raise ConfigurationError below the floor of 7 days, unless forced."""
    if days < RETENTION_FLOOR_DAYS and not force:
        raise ConfigurationError(
            f"a retention of {days} days is below the floor of {RETENTION_FLOOR_DAYS}: the files may be needed to "
            "find a fault; to delete them anyway, set --force-retention"
        )
    return days


def plan(
    vacuum: Vacuum, symbols: Sequence[str], retention_days: int, now: datetime, advance: Advance = lambda _: None
) -> Plan:
    """Plan what may be deleted of these symbols (none named: of all in the lake); delete nothing.

    Raises NotFoundError if a named symbol has no folder in the lake.
    """
    symbols_known = vacuum.bronze.symbols_in(vacuum.store.folders(f"{vacuum.bronze.prefix}/"))
    check_known(symbols, symbols_known)
    selected = sorted(set(symbols)) or symbols_known
    result = Plan(now, retention_days, len(selected))
    with ThreadPoolExecutor(vacuum.max_workers) as pool:
        outcomes = pool.map(lambda symbol: catch_errors(_read_proof, vacuum, symbol), selected)
        for symbol, outcome in zip(selected, outcomes, strict=True):
            _note(result, vacuum.bronze, symbol, outcome)
            advance(1)
    return result


def execute(vacuum: Vacuum, planned: Plan, run: str, advance: Advance = lambda _: None) -> Counts:
    """Delete the files of the plan that have not changed since; return what was deleted, by symbol.

    Each round has its record in cleanup_manifest.json, so an interrupted vacuum has recorded what it did.
    """
    deleted: Counts = {}
    rounds = list(chunks(planned.proofs, SYMBOLS_PER_ROUND))
    with ThreadPoolExecutor(min(vacuum.max_workers, len(rounds) or 1)) as pool:
        results = pool.map(partial(_clean_up_round, vacuum, planned, run), rounds)
        for counts, proofs in zip(results, rounds, strict=True):
            deleted |= counts
            advance(len(proofs))
    return deleted


def _clean_up_round(vacuum: Vacuum, planned: Plan, run: str, proofs: Sequence[Proof]) -> Counts:
    return clean_up(vacuum.store, vacuum.bronze, proofs, run, planned.now, planned.retention_days)


def _read_proof(vacuum: Vacuum, symbol: str) -> Proof | None:
    """Read which files the symbol's data.parquet proves to be merged; None if it has none.

    data.parquet is read before the listing, as the worker does: a file that is merged in between is not in its log yet.
    """
    stored = vacuum.store.find(vacuum.bronze.data_key(symbol))
    if stored is None:
        return None
    log = Consolidated.decode(stored.data, symbol, stored.last_modified).log
    listing = vacuum.store.list_objects(vacuum.bronze.symbol_prefix(symbol))
    return Proof(symbol, stored.etag, log, [info for info in listing if vacuum.bronze.is_source(info.key)])


def _note(planned: Plan, bronze: Bronze, symbol: str, outcome: Proof | FiblakeError | None) -> None:
    if outcome is None:
        planned.unconsolidated.append(symbol)
    elif isinstance(outcome, UpstreamError):
        raise outcome  # S3 itself fails: there is no plan then, rather than half of one
    elif isinstance(outcome, FiblakeError):
        planned.faults[symbol] = outcome
    elif due := outcome.deletable(bronze, planned.now.date(), planned.retention_days):
        planned.proofs.append(outcome)
        planned.due += due

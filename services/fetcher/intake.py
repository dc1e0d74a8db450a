"""Store bars: quarantine and files in S3 here, the database by the caller afterwards."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final

import pyarrow as pa

from fiblake.bars import BRONZE, encode
from fiblake.calendar import TradingCalendar
from fiblake.errors import FiblakeError, PermanentError, UpstreamError
from fiblake.lake import Bronze
from services.fetcher.range_files import with_stored
from services.fetcher.sifting import ClassifiedBars
from services.fetcher.vendor import Vendor
from shared.database import Database
from shared.objects import ObjectStore
from shared.quarantine import quarantine
from shared.telemetry import logger

NAMED_AT_MOST: Final = 20
"""How many symbols an error's sentence names; the logs name all."""


@dataclass(frozen=True, slots=True)
class Intake:
    """The clients and settings of the fetchers of bars."""

    vendor: Vendor
    store: ObjectStore
    bronze: Bronze
    database: Database
    calendar: TradingCalendar
    jump_limit: float
    clock: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Stored:
    """The result of storing the bars of one session, or of one symbol's history."""

    what: str
    """The session, or the symbol."""
    stored: int
    """Bars written: new ones, and those that differ from the stored ones."""
    unchanged: int
    quarantined: int
    outside_universe: int
    flagged: tuple[str, ...]
    """Symbols whose price jumped; their bars are stored all the same."""
    written_at: datetime
    """When the last of the objects was in S3 (UTC)."""
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    """Seconds spent by part: vendor, s3, database."""
    decided: str = ""
    """The decision about bars before the listing date; empty: there are none."""


class Stopwatch:
    """Measures seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Add the time that the block takes."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = round(self.seconds.get(what, 0.0) + time.perf_counter() - started, 3)


async def put_bars(intake: Intake, sifted: ClassifiedBars, files: Sequence[tuple[str, bytes]], what: str) -> None:
    """Put refused bars into quarantine and the others' files into bronze, many at a time.

    When all were tried, raise an error that names the symbols whose files could not be written.
    """
    await _quarantine_refused(intake, sifted)
    failures = await asyncio.to_thread(intake.store.put_many, files)
    if failures:
        raise _incomplete(intake.bronze, what, failures, len(files))


async def add_bars(intake: Intake, sifted: ClassifiedBars, key: str, symbol: str) -> None:
    """Put refused bars into quarantine, and add the others to the range file of this key, which may exist.

    Raises UpstreamError if it could not be written.
    """
    await _quarantine_refused(intake, sifted)
    if sifted.rows:
        bars = pa.Table.from_pylist(list(sifted.rows), schema=BRONZE)
        change = partial(with_stored, key, symbol, bars)
        failures = await asyncio.to_thread(intake.store.update_many, {key: change}, absent={key})
        if failures:
            raise _incomplete(intake.bronze, symbol, failures, 1)


async def _quarantine_refused(intake: Intake, sifted: ClassifiedBars) -> None:
    if sifted.refused:
        await asyncio.to_thread(quarantine, intake.store, sifted.refused, intake.clock())


def bars_file(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return bars of one symbol (rows of BRONZE) as the bytes of a source file."""
    return encode(pa.Table.from_pylist(list(rows), schema=BRONZE))


def log_stored(stored: Stored) -> Stored:
    """Log the stored counts in one line."""
    fields = asdict(stored) | {"flagged": list(stored.flagged)}
    logger.info("bars stored", extra=fields)
    return stored


def stored_counts(stored: Sequence[Stored]) -> dict[str, int]:
    """Return the stored counts, by the names of the metrics."""
    return {
        "BarsStored": sum(result.stored for result in stored),
        "BarsQuarantined": sum(result.quarantined for result in stored),
        "BarsFlagged": sum(len(result.flagged) for result in stored),
    }


def _incomplete(bronze: Bronze, what: str, failures: dict[str, FiblakeError], files: int) -> FiblakeError:
    symbols = sorted({bronze.parse_source(key).symbol for key in failures})
    logger.error("files not written", extra={"what": what, "symbols": symbols})
    first = next((e for e in failures.values() if isinstance(e, PermanentError)), next(iter(failures.values())))
    if isinstance(first, PermanentError) and len(failures) == files:
        return first
    more = "" if len(symbols) <= NAMED_AT_MOST else f" and {len(symbols) - NAMED_AT_MOST} more"
    named = ", ".join(symbols[:NAMED_AT_MOST])
    return UpstreamError(f"{len(failures)} of {files} files of {what} were not written ({named}{more}): {first}")

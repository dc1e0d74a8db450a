"""Put the rows of a chunk that are not stored as bars: broken ones into quarantine, the others into bronze/unclaimed.

They are put while the chunk is cut, so that memory holds few of them: a large part of the rows of a flat file may be
unclaimed (warrants, funds), and a row with its reason takes twice the memory that it takes in the chunk.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

import pyarrow as pa

from fiblake.bars import ReportedBar, encode
from fiblake.lake import unclaimed_key
from services.fetcher.flat_files.chunk import TickerBars
from services.fetcher.flat_files.days import DayFile
from shared.objects import ObjectStore
from shared.quarantine import quarantine_of_sessions

UNCLAIMED_ROWS_PER_PART: Final = 100_000
REFUSED_AT_ONCE: Final = 50_000


@dataclass(slots=True)
class SetAside:
    """Rows of a chunk that wait to be put: fewer than REFUSED_AT_ONCE broken bars, and less than one unclaimed part."""

    store: ObjectStore
    files: Sequence[DayFile]
    """The day files of the chunk, oldest first."""
    clock: Callable[[], datetime]
    _sources: dict[date, str] = field(init=False)
    _refused: list[tuple[ReportedBar, str, str]] = field(default_factory=list)
    _unclaimed: list[pa.Table] = field(default_factory=list)
    _unclaimed_rows: int = 0
    _parts: int = 0

    def __post_init__(self) -> None:
        """Name the file of each session."""
        self._sources = {file.session: file.key for file in self.files}

    def add(self, group: Iterable[TickerBars]) -> None:
        """Add the rows of some tickers, and put the rows that fill an object."""
        for ticker_bars in group:
            self._refused += [(bar, reason, self._sources[bar.session]) for bar, reason in ticker_bars.refused]
            if ticker_bars.unclaimed:
                self._unclaimed.append(ticker_bars.unclaimed)
                self._unclaimed_rows += ticker_bars.unclaimed.num_rows
        if len(self._refused) >= REFUSED_AT_ONCE:
            self._quarantine()
        if self._unclaimed_rows >= UNCLAIMED_ROWS_PER_PART:
            self._put_unclaimed(UNCLAIMED_ROWS_PER_PART)

    def end(self) -> None:
        """Put the remaining rows."""
        self._quarantine()
        self._put_unclaimed(1)

    def _quarantine(self) -> None:
        if self._refused:
            quarantine_of_sessions(self.store, self._refused, self.clock())
            self._refused.clear()

    def _put_unclaimed(self, fewest: int) -> None:
        """Put parts that stay below the readers' limit, as long as `fewest` rows remain."""
        rows = pa.concat_tables(self._unclaimed) if self._unclaimed else None
        while rows and rows.num_rows >= fewest:
            part = rows.slice(0, UNCLAIMED_ROWS_PER_PART)
            key = unclaimed_key(self.files[0].session, self.files[-1].session, self._parts)
            self.store.put(key, encode(part, what=key))
            self._parts += 1
            rows = rows.slice(UNCLAIMED_ROWS_PER_PART)
        self._unclaimed = [rows] if rows and rows.num_rows else []
        self._unclaimed_rows = rows.num_rows if rows else 0

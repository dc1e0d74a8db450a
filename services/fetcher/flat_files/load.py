"""Load day files into the lake: read once, cut by ticker, one range file for each ticker and chunk of sessions."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import partial
from itertools import islice
from typing import Any, Final

from fiblake.calendar import TradingCalendar
from fiblake.errors import FiblakeError, UpstreamError
from fiblake.lake import Bronze
from services.fetcher.flat_files.chunk import BYTES_PER_ROW, Chunk, Claims, TickerBars
from services.fetcher.flat_files.days import Day, DayFile, decode_day
from services.fetcher.flat_files.ledger import loaded_versions, record_loaded
from services.fetcher.flat_files.set_aside import SetAside
from services.fetcher.flat_files.sources import Source
from services.fetcher.flat_files.stored import StoredFiles
from services.fetcher.range_files import with_stored
from shared.batching import chunks
from shared.objects import ObjectStore
from shared.outcomes import catch_errors
from shared.telemetry import logger

DECODERS: Final = 2
WRITERS: Final = 2
TICKERS_PER_REQUEST: Final = 128
NAMED_AT_MOST: Final = 20

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the number of finished files, and the total."""


@dataclass(slots=True)
class LoadReport:
    """The result of a run."""

    files: int = 0
    """Day files that were read and loaded."""
    unchanged: int = 0
    """Day files of a version that an earlier run loaded."""
    rows: int = 0
    stored: int = 0
    """Bars that went into range files."""
    range_files: int = 0
    quarantined: int = 0
    unclaimed: int = 0
    """Bars that belong to no known company, or whose ticker cannot be a symbol."""
    bad_lines: list[str] = field(default_factory=list)
    """The first lines that are no rows, by file."""
    bad_line_count: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Files that could not be loaded, with the reason."""
    missing_sessions: list[date] = field(default_factory=list)
    """Sessions of the calendar without a day file."""
    not_sessions: list[date] = field(default_factory=list)
    """Day files of days that were no sessions; their bars are in quarantine."""
    unclaimed_tickers: Counter[str] = field(default_factory=Counter)
    """Bars of each ticker that belong to no known company."""
    tickers_stored: set[str] = field(default_factory=set)
    """Tickers of which this run stored bars."""
    without_bars: list[str] = field(default_factory=list)
    """Symbols of companies in these sessions of which the lake has no bar at all."""
    decided: dict[str, str] = field(default_factory=dict)
    """By symbol: the decision about bars before the recorded first day of its company."""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FlatFileLoader:
    """Loads day files into bronze.

    `claims`: the time ranges of each ticker's companies (None: each ticker that can be a symbol is stored).
    `memory_bytes`: the approximate memory of a chunk's rows.
    """

    source: Source
    store: ObjectStore
    bronze: Bronze
    calendar: TradingCalendar
    claims: Claims | None
    memory_bytes: int
    most_bytes_per_file: int
    clock: Callable[[], datetime]

    def load(self, first: date, last: date, show: Progress, *, again: bool = False) -> LoadReport:
        """Load the day files of the sessions from `first` to `last` whose version is not loaded yet.

        `again`: all of them. The next run continues an interrupted one. A file that cannot be read or decoded is named
        in the report, and the next run tries it again. Raises UpstreamError if S3 fails.
        """
        report = LoadReport()
        started = time.perf_counter()
        files = self._not_in_the_future(self.source.files(first, last))
        stored = StoredFiles.list_all(self.store, self.bronze)  # after the day files: later arrivals are newer
        loaded = {} if again else loaded_versions(self.store)
        due = [file for file in files if loaded.get(file.session) != file.etag]
        report.unchanged = len(files) - len(due)
        self._compare_with_calendar(first, last, files, report)
        for chunk in self._chunks(due, report, show):
            self._store(chunk, stored, report, show, len(due))
            report.files += len(chunk.files)
            record_loaded(self.store, chunk.files)
            logger.info("day files loaded", extra=self._line(chunk, report))
        if self.claims is not None:
            with_bars = report.tickers_stored | stored.symbols
            report.without_bars = _without_bars(self.claims, first, last, with_bars)
        report.seconds["all"] = round(time.perf_counter() - started, 3)
        return report

    def _not_in_the_future(self, files: Sequence[DayFile]) -> list[DayFile]:
        """Return the files; one that was last changed in the future, by a wrong clock, counts as changed now.

        Otherwise its bars would win over all later ones until that instant, or be refused.
        """
        now = self.clock()
        future = [file for file in files if file.last_modified > now]
        if future:
            extra = {"files": len(future), "first": future[0].key, "last_modified": str(future[0].last_modified)}
            logger.warning("day files changed in the future count as changed now", extra=extra)
        return [replace(file, last_modified=min(file.last_modified, now)) for file in files]

    def _compare_with_calendar(self, first: date, last: date, files: Sequence[DayFile], report: LoadReport) -> None:
        there = {file.session for file in files}
        sessions = self.calendar.between(first, min(last, self.calendar.last_closed(self.clock())))
        report.missing_sessions = [session for session in sessions if session not in there]
        report.not_sessions = sorted(there - set(self.calendar.between(first, last)))

    def _chunks(self, due: Sequence[DayFile], report: LoadReport, show: Progress) -> Iterator[Chunk]:
        """Decode the files, some ahead, and yield chunks that fill the memory."""
        most_rows = max(1, self.memory_bytes // BYTES_PER_ROW)
        chunk: Chunk | None = None
        for number, day in enumerate(self._days(due, report)):
            show(f"reading {day.file.session}", number, len(due))
            if chunk and not chunk.has_room_for(day):
                yield chunk
                chunk = None
            chunk = chunk or Chunk(most_rows)
            chunk.add(day)
        if chunk:
            yield chunk

    def _days(self, due: Sequence[DayFile], report: LoadReport) -> Iterator[Day]:
        waiting = iter(due)
        with ThreadPoolExecutor(DECODERS) as pool:

            def begin(count: int) -> list[tuple[DayFile, Future[Day | FiblakeError]]]:
                return [(file, pool.submit(catch_errors, self._decode, file)) for file in islice(waiting, count)]

            under_way = begin(2 * DECODERS)
            while under_way:
                file, future = under_way.pop(0)
                outcome = future.result()
                under_way += begin(1)
                if isinstance(outcome, FiblakeError):
                    report.failed[file.key] = str(outcome)
                    logger.warning("day file not loaded", extra={"file": file.key, "reason": str(outcome)})
                else:
                    yield outcome

    def _decode(self, file: DayFile) -> Day:
        return decode_day(file, self.source.read(file), self.most_bytes_per_file)

    def _store(self, chunk: Chunk, stored: StoredFiles, report: LoadReport, show: Progress, due: int) -> None:
        """Put each ticker's range file, and refused and unclaimed rows, before the files count as loaded."""
        sessions = frozenset(self.calendar.between(chunk.files[0].session, chunk.files[-1].session))
        report.rows += chunk.rows
        report.bad_line_count += len(chunk.bad_lines)
        report.bad_lines += [f"{key}: {line}" for key, line in chunk.bad_lines][: NAMED_AT_MOST - len(report.bad_lines)]
        set_aside = SetAside(self.store, chunk.files, self.clock)
        stored_files = 0
        with ThreadPoolExecutor(WRITERS) as pool:
            under_way: list[Future[list[TickerBars]]] = []
            for group in chunks(chunk.cut(sessions, self.claims), TICKERS_PER_REQUEST):
                set_aside.add(group)
                under_way.append(pool.submit(self._put, group, stored))
                if len(under_way) > WRITERS:
                    self._count(under_way.pop(0).result(), report)
                stored_files += len(group)
                show(
                    f"{stored_files:,} tickers, {chunk.files[0].session} to {chunk.files[-1].session}",
                    report.files,
                    due,
                )
            for future in under_way:
                self._count(future.result(), report)
        set_aside.end()

    def _put(self, group: Sequence[TickerBars], stored: StoredFiles) -> list[TickerBars]:
        """Put the new bars of a group of tickers; return them."""
        bars = stored.new_bars({ticker_bars.ticker: ticker_bars.bars for ticker_bars in group})
        news = [replace(ticker_bars, bars=bars[ticker_bars.ticker]) for ticker_bars in group]
        files = {self._key(ticker_bars): ticker_bars for ticker_bars in news if ticker_bars.bars.num_rows}
        new = {key for key, ticker_bars in files.items() if not stored.has(ticker_bars.ticker, key)}
        changes = {
            key: partial(with_stored, key, ticker_bars.ticker, ticker_bars.bars) for key, ticker_bars in files.items()
        }
        failures = self.store.update_many(changes, absent=new)
        if failures:
            key, error = next(iter(failures.items()))
            raise UpstreamError(f"{len(failures)} range files were not written, {key} first: {error}; run it again")
        return news

    def _key(self, ticker_bars: TickerBars) -> str:
        sessions = ticker_bars.bars["timestamp"]
        return self.bronze.range_key(ticker_bars.ticker, sessions[0].as_py(), sessions[-1].as_py())

    def _count(self, group: Sequence[TickerBars], report: LoadReport) -> None:
        for ticker_bars in group:
            report.stored += ticker_bars.bars.num_rows
            report.range_files += ticker_bars.bars.num_rows > 0
            report.tickers_stored |= {ticker_bars.ticker} if ticker_bars.bars.num_rows else set()
            report.quarantined += len(ticker_bars.refused)
            if ticker_bars.unclaimed:
                report.unclaimed += ticker_bars.unclaimed.num_rows
                report.unclaimed_tickers[ticker_bars.ticker] += ticker_bars.unclaimed.num_rows

    def _line(self, chunk: Chunk, report: LoadReport) -> dict[str, Any]:
        return {
            "first": str(chunk.files[0].session), "last": str(chunk.files[-1].session), "files": len(chunk.files),
            "rows": chunk.rows, "stored": report.stored, "quarantined": report.quarantined,
            "unclaimed": report.unclaimed,
        }  # fmt: skip


def _without_bars(claims: Claims, first: date, last: date, with_bars: AbstractSet[str]) -> list[str]:
    """Return the tickers with a company between two sessions, without those that have bars."""
    return sorted(
        ticker for ticker, periods in claims.items()
        if ticker not in with_bars and any(begins <= last and ends >= first for begins, ends in periods)
    )  # fmt: skip

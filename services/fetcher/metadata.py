"""Load reference data each day: companies, details, splits, dividends; and request the histories of new symbols.

Files in S3 come first, then rows in Postgres. The stored part of an interrupted run stays; for the rest the next run
still sees a difference to the vendor's data.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import uuid4

from fiblake.calendar import TradingCalendar, exchange_day
from fiblake.errors import EntitlementError, FiblakeError, TransientError, UpstreamError
from fiblake.lake import parse_reference, splits_key, valid_symbol
from fiblake.symbols import SymbolRecord
from services.fetcher.dividends import DividendFetcher
from services.fetcher.identities import (
    Comparison,
    Days,
    changed,
    compare,
    details_due,
    first_session_under,
    identities_of,
    last_day_of,
    merged,
    updated,
    without_undecided,
)
from services.fetcher.reference_files import put_identities, put_splits, put_universe
from services.fetcher.runs import record_run
from services.fetcher.sectors import sector_of
from services.fetcher.settings import MetadataEvent
from services.fetcher.split_changes import split_changes
from services.fetcher.tickers import Details, Ticker
from services.fetcher.vendor import BadRequestError, Vendor
from shared.batching import chunks
from shared.database import IDENTITIES, SPLITS, Database, Settled
from shared.events import HistoryRequest
from shared.objects import ObjectStore
from shared.queues import Queue
from shared.telemetry import logger

KIND: Final = "metadata"
"""The name of these runs in the table runs."""
ASKED_AT_ONCE: Final = 10
"""The number of simultaneous requests about single symbols; the client limits their rate."""
BATCHES_FAILED_AT_MOST: Final = 2
"""After this many completely failed batches of details in a row, the vendor is down."""
SPLITS_AT_ONCE: Final = 500
REQUESTS_AT_ONCE: Final = 500

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Rules:
    """The refresh interval of details, and the symbols whose histories are requested."""

    universe_types: frozenset[str]
    only: frozenset[str] = frozenset()
    """Only these symbols of those types, if any are named."""
    details_days: int = 30
    details_per_run: int = 1_000
    history_retry_hours: float = 22
    dividends_days: int = 30
    dividends_per_run: int = 10_000
    """Symbols."""


@dataclass(slots=True)
class Refreshed:
    """The counts of a run, in symbols."""

    listed: int = 0
    left_out: int = 0
    """Listed symbols that cannot be a key."""
    new: int = 0
    renamed: int = 0
    """New and handed-over symbols whose company is stored with another symbol."""
    handed_over: int = 0
    """Another company's now."""
    doubtful: int = 0
    """Listed with another FIGI; not handed over yet, because it may be the vendor's mistake."""
    back: int = 0
    """Vanished before, and listed again."""
    changed: int = 0
    """Another name, type, exchange, currency, or a FIGI that was missing."""
    vanished: int = 0
    identities_written: int = 0
    details: int = 0
    details_left: int = 0
    """Due, and left for the next runs."""
    details_failed: int = 0
    """The part of those left on which the vendor failed."""
    splits_changed: int = 0
    splits_refused: int = 0
    """Splits (not symbols) that are invalid."""
    splits_repaired: int = 0
    """Splits whose cumulative factor contradicts the ratios; the factor of the ratios is stored instead."""
    dividends_changed: int = 0
    dividends_refused: int = 0
    """Dividends (not symbols) that are invalid."""
    dividends_left: int = 0
    """Due, and left for the next runs."""
    dividends_failed: int = 0
    """Requests for dividends that the vendor did not answer; the log has each."""
    histories_requested: int = 0
    rows_left_out: int = 0
    """Rows of the vendor's answers that cannot be used; the log has each."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Run:
    now: datetime
    days: Days
    deadline: datetime | None
    correlation_id: str
    done: Refreshed
    clock: Callable[[], datetime]

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and self.clock() >= self.deadline

    def in_half_the_time(self) -> "_Run":
        """Return this run with a deadline after half of the remaining time."""
        now = self.clock()
        return replace(self, deadline=self.deadline and now + (self.deadline - now) / 2)

    async def in_time(self, answer: Coroutine[Any, Any, AnswerT]) -> AnswerT | None:
        """Wait for an answer until the deadline; None: there was none in time. At a slow pace ten of them take minutes.

        After the deadline no request is sent.
        """
        if self.late:
            answer.close()
            return None
        seconds_left = None if self.deadline is None else (self.deadline - self.clock()).total_seconds()
        try:
            async with asyncio.timeout(seconds_left):
                return await answer
        except TimeoutError:
            return None


@dataclass(frozen=True, slots=True)
class MetadataFetcher:
    """Refreshes reference data."""

    vendor: Vendor
    store: ObjectStore
    database: Database
    calendar: TradingCalendar
    histories: Queue
    rules: Rules
    clock: Callable[[], datetime]

    async def refresh(self, event: MetadataEvent, deadline: datetime | None = None) -> Refreshed:
        """Update reference data; after `deadline` no request about a single symbol is sent.

        Details that are left wait for the next run. The run is recorded with its counts, also if it fails. Raises
        UpstreamError if the vendor's lists are not usable, or if a history could not be requested.
        """
        now, started, report = event.now(self.clock()), time.perf_counter(), Refreshed()
        run = _Run(now, Days.of(self.calendar, now), deadline, str(uuid4()), report, self.clock)
        logger.append_keys(correlation_id=run.correlation_id)
        request = event.model_dump(mode="json", exclude_defaults=True)
        async with record_run(self.database, KIND, request, self.clock) as result:
            try:
                await (self._splits(run) if event.splits_only else self._all(run))
            finally:
                report.rows_left_out = self.vendor.left_out.total()
                report.seconds = round(time.perf_counter() - started, 3)
                result.update(asdict(report))
        logger.info("metadata refreshed", extra=asdict(report))
        return report

    async def _all(self, run: _Run) -> None:
        """Run all parts, also if one failed: they are independent. Raises the first error."""
        errors: list[FiblakeError] = []
        for part in (self._identities, self._splits, self._dividends, self._details, self._histories):
            try:
                await part(run)
            except FiblakeError as error:
                logger.warning("part failed", extra={"part": part.__name__.lstrip("_"), "reason": str(error)})
                errors.append(error)
        if errors:
            raise errors[0]

    # ------------------------------------------------------------------------------------------------------- identities

    async def _identities(self, run: _Run) -> None:
        async with self.database.session_lock(IDENTITIES):
            await self._take_identities(run)

    async def _take_identities(self, run: _Run) -> None:
        """Store the vendor's list of active tickers: identity files first, then all records in one transaction."""
        results, days = run.done, run.days
        records_known = await self.database.metadata()
        tickers = await self.vendor.tickers()
        listed = [ticker for ticker in tickers if valid_symbol(ticker.symbol)]
        compared = compare(records_known, listed)
        # The first list says nothing of the past, and a request for each symbol would take hours.
        beginnings, unanswered = await self._beginnings(compared, run) if records_known else ({}, set[str]())
        decided = without_undecided(compared, beginnings, days, unanswered)
        delistings = await self._delistings(decided, run)
        if any(not ticker.symbol for ticker in tickers):
            decided = _without_doubtful_ends(decided, delistings)
        ends = {record.symbol: last_day_of(record, delistings.get(record.symbol), days) for record in decided.vanished}
        records = updated(decided, beginnings, ends, days, run.now)
        results.listed, results.left_out = len(listed), len(tickers) - len(listed)
        everyone = merged(records_known, records)
        written = await put_identities(self.store, identities_of(everyone))
        first_list = min((record.first_seen for record in everyone), default=run.now)
        await put_universe(self.store, everyone, exchange_day(first_list))
        await self.database.save_metadata(records)
        results.new, results.renamed, results.handed_over = (
            len(decided.new),
            len(decided.renamed),
            len(decided.handed_over),
        )
        results.doubtful = len(decided.doubtful)
        results.back, results.vanished = len(decided.back), len(decided.vanished)
        results.changed, results.identities_written = sum(map(changed, decided.kept)), len(written)
        _log_changes(decided)

    async def _beginnings(self, comparison: Comparison, run: _Run) -> tuple[dict[str, date], set[str]]:
        """Return, by symbol, the first session of its new company, if the vendor has it; and the unanswered symbols.

        The changes of ticker are requested, but the list is stored without them, too: a symbol on which the vendor
        fails is unanswered, and a symbol without time for a request counts as unknown.
        """
        unanswered: set[str] = set()

        async def ask(symbol: str) -> date | None:
            try:
                return first_session_under(symbol, await self.vendor.ticker_changes(symbol), run.days)
            except FiblakeError as error:
                logger.warning("no ticker changes", extra={"symbol": symbol, "reason": str(error)})
                if isinstance(error, TransientError):
                    unanswered.add(symbol)
                return None

        beginnings: dict[str, date] = {}
        for symbols in chunks(comparison.unsettled, ASKED_AT_ONCE):
            if run.late:
                break
            answers = await asyncio.gather(*(run.in_time(ask(symbol)) for symbol in symbols))
            beginnings |= {symbol: day for symbol, day in zip(symbols, answers, strict=True) if day}
        return beginnings, unanswered

    async def _delistings(self, comparison: Comparison, run: _Run) -> dict[str, Ticker]:
        """Return the vendor's records of the vanished symbols, by symbol, as far as there is time for requests."""

        async def ask(record: SymbolRecord) -> Ticker | None:
            try:
                return await self.vendor.find_delisted(record.symbol)
            except FiblakeError as error:
                logger.warning("no delisting", extra={"symbol": record.symbol, "reason": str(error)})
                return None

        delistings: dict[str, Ticker] = {}
        for records in chunks(comparison.vanished, ASKED_AT_ONCE):
            if run.late:
                break
            answers = await asyncio.gather(*(run.in_time(ask(record)) for record in records))
            delistings |= {record.symbol: ticker for record, ticker in zip(records, answers, strict=True) if ticker}
        return delistings

    # ----------------------------------------------------------------------------------------------------------- splits

    async def _splits(self, run: _Run) -> None:
        async with self.database.session_lock(SPLITS):
            await self._take_splits(run)

    async def _take_splits(self, run: _Run) -> None:
        """Store the vendor's splits: for each symbol that differs first the file, then its rows."""
        in_doubt = {symbol for key in await self.database.noted(SPLITS) if (symbol := parse_reference(key))}
        symbols = {record.symbol for record in await self.database.metadata()}
        stored = await self.database.splits()
        changes = split_changes(stored, await self.vendor.splits(), symbols, run.days.today, in_doubt)
        for split in changes.refused:
            logger.warning("split refused", extra={"symbol": split.symbol, "split": str(split)})
        for split in changes.repaired:
            logger.warning("split factor contradicts the ratios", extra={"symbol": split.symbol, "split": str(split)})
        run.done.splits_refused, run.done.splits_repaired = len(changes.refused), len(changes.repaired)
        for batch in chunks(changes.changed.items(), SPLITS_AT_ONCE):
            splits = dict(batch)
            keys = [splits_key(symbol) for symbol in splits]
            await self.database.note(SPLITS, keys)
            await put_splits(self.store, splits)
            await self.database.replace_splits(splits, Settled(SPLITS, keys))
            run.done.splits_changed += len(splits)

    # -------------------------------------------------------------------------------------------------------- dividends

    async def _dividends(self, run: _Run) -> None:
        """Store dividends, within half of the remaining time: details get the other half."""
        records = await self.database.metadata()
        of_type = {r.symbol for r in records if r.type is None or r.type in self.rules.universe_types}
        symbols = of_type & self.rules.only if self.rules.only else of_type
        fetcher = DividendFetcher(
            self.vendor, self.store, self.database, self.rules.dividends_days, self.rules.dividends_per_run
        )
        counts = await fetcher.refresh(symbols, run.now, run.days.today, run.in_half_the_time().in_time)
        run.done.dividends_changed, run.done.dividends_refused = counts.changed, counts.refused
        run.done.dividends_left, run.done.dividends_failed = counts.left, counts.failed

    # ---------------------------------------------------------------------------------------------------------- details

    async def _details(self, run: _Run) -> None:
        """Request details that are missing or old, in batches; the received ones are saved even if others failed.

        A ticker on which the vendor fails waits for the next run, and delays no other ticker. Raises the last error if
        whole batches fail one after the other: then the vendor is down.
        """
        stale_before = run.now - timedelta(days=self.rules.details_days)
        stored = await self.database.metadata()
        due = details_due(stored, self.rules.universe_types, stale_before, run.days.today)
        run.done.details_left, whole_batches_failed = len(due), 0
        for batch in chunks(due[: self.rules.details_per_run], ASKED_AT_ONCE):
            if run.late:
                return
            answers = await asyncio.gather(*(run.in_time(self._detailed(record, run.now)) for record in batch))
            records = [answer for answer in answers if isinstance(answer, SymbolRecord)]
            errors = [answer for answer in answers if isinstance(answer, FiblakeError)]
            await self.database.save_details(records)
            run.done.details += len(records)
            run.done.details_left -= len(records)
            run.done.details_failed += len(errors)
            whole_batches_failed = 0 if records else whole_batches_failed + 1
            if errors and whole_batches_failed == BATCHES_FAILED_AT_MOST:
                if isinstance(errors[-1], EntitlementError):
                    logger.error("no details at all", extra={"reason": str(errors[-1])})
                    return  # the plan has none, which is no failure
                raise errors[-1]

    async def _detailed(self, record: SymbolRecord, now: datetime) -> SymbolRecord | FiblakeError:
        try:
            details = await self.vendor.details(record.symbol)
        except BadRequestError as error:
            # This symbol will never have details: it must not delay the others.
            logger.warning("no details", extra={"symbol": record.symbol, "reason": str(error)})
            details = None
        except FiblakeError as error:
            logger.warning("no details", extra={"symbol": record.symbol, "reason": str(error)})
            return error
        return _with_details(record, details, now)

    # -------------------------------------------------------------------------------------------------------- histories

    async def _histories(self, run: _Run) -> None:
        """Request the history of each symbol without one, unless it was requested lately."""
        asked_before = run.now - timedelta(hours=self.rules.history_retry_hours)
        symbols_due = await self.database.history_due(self.rules.universe_types, asked_before)
        due = [symbol for symbol in symbols_due if not self.rules.only or symbol in self.rules.only]
        failed = 0
        for symbols in chunks(due, REQUESTS_AT_ONCE):
            bodies = [HistoryRequest(symbol=s, correlation_id=run.correlation_id).model_dump_json() for s in symbols]
            unsent = set(await asyncio.to_thread(self.histories.send, bodies))
            sent = [symbol for i, symbol in enumerate(symbols) if i not in unsent]
            await self.database.history_requested(sent, run.now)
            run.done.histories_requested += len(sent)
            failed += len(unsent)
        if failed:
            raise UpstreamError(
                f"the histories of {failed} of {len(due)} symbols could not be requested: SQS did not take the "
                f"messages for {self.histories.url}; the next run asks again"
            )


def _with_details(record: SymbolRecord, details: Details | None, now: datetime) -> SymbolRecord:
    """Return the record with the vendor's fields; fields that the vendor leaves out stay."""
    if details is None:
        return replace(record, details_at=now)
    sic_code = details.sic_code or record.sic_code
    return replace(
        record, details_at=now, list_date=details.list_date or record.list_date, sic_code=sic_code,
        sector=sector_of(sic_code), industry=details.sic_description or record.industry,
    )  # fmt: skip


def _without_doubtful_ends(comparison: Comparison, delistings: Mapping[str, Ticker]) -> Comparison:
    """Return the comparison; if the list has rows without a ticker, symbols vanish only if the vendor confirms it.

    A row without a ticker may be that of the missing symbol.
    """
    over = {*delistings, *comparison.successors}
    for record in comparison.vanished:
        if record.symbol not in over:
            logger.warning("symbol not listed, and kept: rows lack a ticker", extra={"symbol": record.symbol})
    return replace(comparison, vanished=[record for record in comparison.vanished if record.symbol in over])


def _log_changes(comparison: Comparison) -> None:
    """Log each handover in one line: it is rare, and splits the symbol's bars into two parts."""
    for symbol in comparison.twice:
        logger.warning("symbol listed twice", extra={"symbol": symbol})
    for record, ticker in comparison.doubtful:
        extra = {"symbol": record.symbol, "is": record.composite_figi, "listed": ticker.composite_figi}
        logger.warning("symbol listed with another FIGI", extra=extra)
    for record, ticker in comparison.handed_over:
        extra = {"symbol": record.symbol, "was": record.composite_figi, "is": ticker.composite_figi}
        logger.info("symbol handed over", extra=extra)
    for symbol, successor in comparison.successors.items():
        logger.info("symbol renamed", extra={"symbol": symbol, "is": successor})

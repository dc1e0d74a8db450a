"""Load dividends: new ones of all symbols in one request, the whole past of some symbols at a time.

Dividends are optional: a failure of the vendor is logged and counted, and stops nothing else. Each new dividend changes
the cumulative factors of all earlier dividends, so all dividends of a changed symbol are requested again.
"""

from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, TypeAlias

from fiblake.errors import FiblakeError, UpstreamError
from fiblake.lake import dividends_key, parse_reference
from fiblake.reference import Dividend
from services.fetcher.dividend_changes import DividendChanges, dividend_changes, dividends_due, symbols_with_news
from services.fetcher.reference_files import put_dividends
from services.fetcher.vendor import OutOfPlanError, Vendor
from shared.batching import chunks
from shared.database import DIVIDENDS, Database, Settled
from shared.objects import ObjectStore
from shared.telemetry import logger

RECENT: Final = timedelta(days=10)
"""The period that each run requests: a factor is known a day after the ex-date, and runs may fail for days."""
SYMBOLS_AT_ONCE: Final = 100
"""The dividends of this many symbols fill about one page."""
PLAN_DEPTH: Final = timedelta(days=729)
"""The depth of a plan of two years, which is requested if the vendor refuses a request without a first day."""
BATCHES_FAILED_AT_MOST: Final = 2

Answer: TypeAlias = list[Dividend] | FiblakeError
InTime = Callable[[Coroutine[Any, Any, Answer]], Awaitable[Answer | None]]
"""Waits for an answer; None: there was none in time, or it is too late for a request."""


@dataclass(slots=True)
class DividendCounts:
    """The result of a run for dividends."""

    changed: int = 0
    """Symbols."""
    refused: int = 0
    """Dividends (not symbols) that are invalid."""
    left: int = 0
    """Due symbols that are left for the next runs."""
    failed: int = 0
    """Requests that the vendor did not answer."""


@dataclass(frozen=True, slots=True)
class DividendFetcher:
    """The clients and settings for dividends; a symbol is requested again after `days`, `per_run` of them a run."""

    vendor: Vendor
    store: ObjectStore
    database: Database
    days: int
    per_run: int

    async def refresh(self, symbols: Collection[str], now: datetime, today: date, in_time: InTime) -> DividendCounts:
        """Update the dividends of these symbols, as far as there is time; return the counts.

        Symbols without an answer are counted and wait for the next run. Raises if S3 or the database fails.
        """
        async with self.database.session_lock(DIVIDENDS):
            return await self._refresh(symbols, now, today, in_time)

    async def _refresh(self, symbols: Collection[str], now: datetime, today: date, in_time: InTime) -> DividendCounts:
        counts = DividendCounts()
        in_doubt = {symbol for key in await self.database.noted(DIVIDENDS) if (symbol := parse_reference(key))}
        checked = {s: at for s, at in (await self.database.dividends_checked()).items() if s in symbols}
        stale_before = now - timedelta(days=self.days)
        counts.left = len(dividends_due(symbols, checked, in_doubt, stale_before))
        since = today - RECENT
        recent = await in_time(self._ask((), since))
        if not isinstance(recent, list):
            self._log_unanswered(recent, counts)
            return counts
        news = symbols_with_news(await self.database.dividends_since(since), recent, checked)
        due = dividends_due(symbols, checked, {*news, *in_doubt}, stale_before)
        counts.left = len(due)
        await self._take(due[: self.per_run], in_doubt, now, in_time, counts)
        return counts

    async def _take(
        self, due: Sequence[str], in_doubt: Collection[str], now: datetime, in_time: InTime, counts: DividendCounts
    ) -> None:
        """Request the dividends of these symbols in batches; a stored batch stays, also if a later one fails."""
        since: date | None = None
        failed_in_a_row = 0
        for batch in chunks(due, SYMBOLS_AT_ONCE):
            answer = await in_time(self._ask(batch, since))
            if isinstance(answer, OutOfPlanError) and since is None:
                since = now.date() - PLAN_DEPTH
                logger.warning("dividends of the plan's depth only", extra={"since": since, "reason": str(answer)})
                answer = await in_time(self._ask(batch, since))
            changes = await self._compare(batch, answer, in_doubt) if isinstance(answer, list) else answer
            if isinstance(changes, DividendChanges):
                await self._store(batch, changes, now, counts)
                failed_in_a_row = 0
                continue
            self._log_unanswered(changes, counts)
            failed_in_a_row += 1
            if changes is None or failed_in_a_row == BATCHES_FAILED_AT_MOST:
                return

    async def _ask(self, symbols: Sequence[str], since: date | None) -> Answer:
        try:
            return await self.vendor.dividends(symbols, since)
        except FiblakeError as error:
            return error

    async def _compare(
        self, batch: Sequence[str], answer: list[Dividend], in_doubt: Collection[str]
    ) -> DividendChanges | UpstreamError:
        stored = await self.database.dividends(batch)
        try:
            return dividend_changes(stored, answer, {symbol for symbol in batch if symbol in in_doubt})
        except UpstreamError as error:
            return error

    async def _store(
        self, batch: Sequence[str], changes: DividendChanges, now: datetime, counts: DividendCounts
    ) -> None:
        """Write the files of the symbols that differ, then rows; all symbols of the batch count as requested."""
        for dividend in changes.refused:
            logger.warning("dividend refused", extra={"symbol": dividend.symbol, "dividend": str(dividend)})
        keys = [dividends_key(symbol) for symbol in changes.changed]
        await self.database.note(DIVIDENDS, keys)
        await put_dividends(self.store, changes.changed)
        await self.database.replace_dividends(changes.changed, batch, now, Settled(DIVIDENDS, keys))
        counts.changed += len(changes.changed)
        counts.refused += len(changes.refused)
        counts.left -= len(batch)

    @staticmethod
    def _log_unanswered(error: FiblakeError | None, counts: DividendCounts) -> None:
        if error:
            counts.failed += 1
            logger.error("no dividends", extra={"reason": str(error)})

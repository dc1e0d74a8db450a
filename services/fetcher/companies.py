"""Load the companies of the past: the vendor's lists of past days become periods of symbol_metadata."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Final

from fiblake.calendar import TradingCalendar
from fiblake.errors import ConfigurationError, TransientError
from fiblake.lake import valid_symbol
from services.fetcher.company_periods import History, Period, take
from services.fetcher.identities import identities_of, merged
from services.fetcher.reference_files import put_identities, put_universe
from services.fetcher.tickers import Ticker
from services.fetcher.vendor import Vendor
from shared.batching import chunks
from shared.database import IDENTITIES, Database
from shared.objects import ObjectStore
from shared.telemetry import logger

KIND: Final = "companies"
"""The name of these runs in the table runs."""
ASKED_AT_ONCE: Final = 10
"""The number of simultaneous requests about single symbols; the client limits their rate."""
DAYS_BETWEEN_LISTS: Final = 31
"""The approximate number of days between two lists of all tickers; changes in between are requested by symbol."""

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class CompaniesReport:
    """The result of a run."""

    lists: int = 0
    companies: int = 0
    """Companies in the vendor's lists, counted once for each of their symbols."""
    delisted: int = 0
    """Of them, those that are no longer listed."""
    without_type: int = 0
    """Of them, those without a type; their bars are stored."""
    new: int = 0
    """Records that symbol_metadata did not have."""
    changed: int = 0
    moved: int = 0
    """Of the changed: records that now begin on another day."""
    contradicted: int = 0
    """Companies that are left out because a stored record has another company for that time."""
    inexact: int = 0
    """First or last days that the vendor did not answer; the day of the next list is used."""
    identities_written: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CompaniesLoader:
    """Loads the companies of the past."""

    vendor: Vendor
    store: ObjectStore
    database: Database
    calendar: TradingCalendar
    clock: Callable[[], datetime]

    async def load(self, first: date, show: Progress) -> CompaniesReport:
        """Load the companies of each symbol since `first`: identity files first, then all records in one transaction.

        An interrupted run changes nothing; run it again. Raises UpstreamError if one of the vendor's lists cannot be
        read, ConfigurationError if there is no session to request.
        """
        started, report = time.perf_counter(), CompaniesReport()
        closed = self.calendar.last_closed(self.clock())
        days = list_days(self.calendar, first, closed)
        if len(days) < 2:  # noqa: PLR2004 (a beginning and an end)
            raise ConfigurationError(f"fewer than two sessions from {first} to {closed}: name an earlier first day")
        history = History()
        for number, day in enumerate(days):
            show(f"tickers of {day}", number, len(days))
            history.add_list(day, _usable(await self.vendor.tickers(day)))
        history.add_delisted(_usable(await self.vendor.delisted_tickers()), self.calendar)
        await self._settle(history.periods, report, show)
        async with self.database.session_lock(IDENTITIES):
            await self._store(history, days[0], report)
        report.lists, report.companies = len(days), len(history.periods)
        report.delisted = sum(period.ends is not None for period in history.periods)
        report.without_type = sum(period.company.type is None for period in history.periods)
        report.seconds = round(time.perf_counter() - started, 3)
        return report

    async def _settle(self, periods: Sequence[Period], report: CompaniesReport, show: Progress) -> None:
        """Request the first and last days that the lists leave open."""
        open_days = [
            *((period, True) for period in periods if period.not_before),
            *((period, False) for period in periods if period.not_after and period.ends is None),
        ]
        requests = 0
        for batch in chunks(open_days, ASKED_AT_ONCE):
            show("first and last days of companies", requests, len(open_days))
            answers = await asyncio.gather(*(self._boundary(period, starts=starts) for period, starts in batch))
            report.inexact += answers.count(False)
            requests += len(batch)
        _keep_apart(periods, self.calendar)

    async def _boundary(self, period: Period, *, starts: bool) -> bool:
        """Return the first or the last session in which the company had the symbol, and whether the vendor answered."""
        edge, other = (period.first, period.not_before) if starts else (period.last, period.not_after)
        inside, outside = self.calendar.ordinal(edge), self.calendar.ordinal(other or edge)
        answered = True
        try:
            while abs(inside - outside) > 1:
                middle = (inside + outside) // 2
                if await self._bore(period, self.calendar.session(middle)):
                    inside = middle
                else:
                    outside = middle
        except TransientError as error:
            logger.warning("day unknown", extra={"symbol": period.company.symbol, "reason": str(error)})
            answered = False
        if starts:
            period.begins = self.calendar.session(inside)
        else:
            period.ends = self.calendar.session(inside)
        return answered

    async def _bore(self, period: Period, session: date) -> bool:
        return any(period.is_of(ticker) for ticker in await self.vendor.listed_as(period.company.symbol, session))

    async def _store(self, history: History, first: date, report: CompaniesReport) -> None:
        stored_records = await self.database.metadata()
        taken = take(stored_records, history, self.clock())
        for period in taken.contradicted:
            extra = {"symbol": period.company.symbol, "from": str(period.begins), "to": str(period.ends)}
            logger.warning("company left out: another one is known to have borne the symbol", extra=extra)
        records = merged([r for r in stored_records if (r.symbol, r.valid_from) not in taken.moved], taken.records)
        report.identities_written = len(await put_identities(self.store, identities_of(records)))
        await put_universe(self.store, records, first)
        await self.database.save_metadata(taken.records, taken.moved)
        report.contradicted, report.moved = len(taken.contradicted), len(taken.moved)
        report.new = len(records) - len(stored_records)
        report.changed = len(taken.records) - report.new


def list_days(calendar: TradingCalendar, first: date, last: date) -> list[date]:
    """Return the sessions whose lists are requested: the first one, about one in each month, and the last one."""
    sessions = calendar.between(first, last)
    days = sessions[:1]
    for session in sessions[1:]:
        if session - days[-1] >= timedelta(days=DAYS_BETWEEN_LISTS) or session == sessions[-1]:
            days.append(session)
    return days


def _usable(tickers: Iterable[Ticker]) -> list[Ticker]:
    return [ticker for ticker in tickers if valid_symbol(ticker.symbol)]


def _keep_apart(periods: Sequence[Period], calendar: TradingCalendar) -> None:
    """End a company's period before the next one's with the same symbol: the vendor may list both for a day."""
    ordered = sorted(periods, key=lambda period: (period.company.symbol, period.begins))
    for older, newer in pairwise(ordered):
        if older.company.symbol == newer.company.symbol and older.ends and older.ends >= newer.begins:
            older.ends = max(older.begins, calendar.session(calendar.ordinal(newer.begins) - 1))

"""Load one symbol's whole history: one range request, one range file, and its rows."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from fiblake.errors import EntitlementError, FiblakeError, NotFoundError
from fiblake.symbols import BEGINNING, SymbolRecord
from services.fetcher.doubts import settle_bars
from services.fetcher.gaps import Asked
from services.fetcher.identities import rename_day
from services.fetcher.intake import Intake, Stopwatch, Stored, add_bars, log_stored
from services.fetcher.listing import since_listing, split_ratios
from services.fetcher.sifting import StoredState, classify_bars
from services.fetcher.tickers import TickerChange
from services.fetcher.validation import VendorBar
from services.fetcher.vendor import BadRequestError, OutOfPlanError, PendingError
from shared.database import Settled, history_scope
from shared.events import HistoryRequest, parse
from shared.outcomes import catch_errors
from shared.queues import ReceivedMessage
from shared.telemetry import logger


@dataclass(frozen=True, slots=True)
class HistoryFetcher:
    """Loads histories; no session before `earliest` is requested (a plan may not include it).

    `types`: for a symbol of several companies, only the bars of companies of these types, or without a type, are loaded
    (None: of all). A symbol without any such company was named by a person, and is loaded, too.
    """

    intake: Intake
    earliest: date | None
    types: frozenset[str] | None = None

    async def load(self, symbol: str, sessions_asked: Asked, closed: date) -> Stored:
        """Store the symbol's bars from the first requested session to the last, or all up to session `closed`.

        "All" means the bars of the known companies of the symbol whose history is not loaded, each in its time: other
        bars of the ticker may be of unknown companies. If the first day of a company is unknown, `since_listing`
        decides about bars before its listing date. The result is one file. Loading again is harmless. A part does not
        count as loaded, and a history without bars is requested again: the symbol may not have traded yet, or the
        vendor may have lost its bars. Raises NotFoundError if symbol_metadata does not have the symbol and no first
        session is given.
        """
        async with self.intake.database.session_lock(history_scope(symbol)):
            return await self._load(symbol, sessions_asked, closed)

    async def _load(self, symbol: str, sessions_asked: Asked, closed: date) -> Stored:
        intake, watch, scope = self.intake, Stopwatch(), history_scope(symbol)
        with watch.measure("database"):
            await settle_bars(intake, scope)
            companies = await self._companies(symbol)
            begins, listed = (
                (sessions_asked.first, None) if sessions_asked.first else await self._beginning(symbol, companies)
            )
            start = max(filter(None, [begins, self.earliest]))
            closed = closed if sessions_asked.anything else min(closed, _last_day(companies))
            splits = (await intake.database.splits(symbol)).get(symbol, [])
        with watch.measure("vendor"):
            bars = await self._bars(symbol, start, min(sessions_asked.last or closed, closed), listed)
        past = StoredState(split_ratios=split_ratios(symbol, bars, splits))
        bars, decided = since_listing(bars, listed, past.split_ratios, intake.jump_limit, intake.calendar)
        if not sessions_asked.anything:
            bars = [bar for bar in bars if any(_bore(company, bar.session) for company in companies)]
        sifted = classify_bars(bars, intake.calendar, past, intake.jump_limit, intake.clock())
        rows = sifted.rows
        key = intake.bronze.range_key(symbol, rows[0]["timestamp"], rows[-1]["timestamp"]) if rows else ""
        with watch.measure("database"):
            await intake.database.note(scope, [key] if rows else [])
        with watch.measure("s3"):
            await add_bars(intake, sifted, key, symbol)
        written_at = intake.clock()
        with watch.measure("database"):
            await intake.database.store(rows, Settled(scope))
            if rows and not sessions_asked.anything:
                sessions = [row["timestamp"] for row in rows]
                await intake.database.history_loaded(symbol, written_at, _first_sessions(companies, sessions))
        return log_stored(
            Stored(
                symbol, len(rows), 0, len(sifted.refused), 0, tuple(sifted.flagged), written_at, watch.seconds, decided
            )
        )  # fmt: skip

    async def load_unless_there(self, request: HistoryRequest, closed: date) -> Stored | None:
        """Load the history of a message; None if it is already loaded, which happens when the queue is long."""
        companies = await self._companies(request.symbol)
        if companies and all(company.history_loaded_at for company in companies) and request.first is None:
            return None
        return await self.load(request.symbol, Asked(request.first), closed)

    async def _companies(self, symbol: str) -> Sequence[SymbolRecord]:
        companies = await self.intake.database.companies(symbol)
        ours = [c for c in companies if self.types is None or c.type is None or c.type in self.types]
        return ours or companies

    async def _bars(self, symbol: str, first: date, last: date, listed: date | None) -> list[VendorBar]:
        """Request the bars; before the day is over, the vendor may refuse a whole range that includes it.

        Such a session is also pending for the OHLCV fetcher, which fetches it later. If the plan does not include
        `first`, the request begins with the listing date.
        """
        try:
            return await self.intake.vendor.daily_range(symbol, first, last) if first <= last else []
        except PendingError:
            calendar = self.intake.calendar
            before = calendar.session(calendar.ordinal_on_or_after(last) - 1)
            return await self.intake.vendor.daily_range(symbol, first, before) if first <= before else []
        except OutOfPlanError:
            if listed is None or not first < listed <= last:
                raise
            return await self.intake.vendor.daily_range(symbol, listed, last)

    async def _beginning(self, symbol: str, companies: Sequence[SymbolRecord]) -> tuple[date, date | None]:
        """Return the first possible day of the companies to load, and the listing date.

        The listing date is None if the identities have the first day.
        """
        if not companies:
            raise NotFoundError(
                f"symbol_metadata does not know {symbol}: run the metadata fetcher (`fiblake metadata`), or say from "
                "which session on its bars are to be loaded (--from)"
            )
        company = _due(companies)[0]
        if company.valid_from > BEGINNING or company.valid_to is not None:
            return company.valid_from, None
        renamed = rename_day(symbol, await self._ticker_changes(symbol))
        return max(filter(None, [company.valid_from, renamed])), company.list_date

    async def _ticker_changes(self, symbol: str) -> list[TickerChange]:
        """Request the changes of ticker; they are optional, so a plan or vendor without them is no failure."""
        try:
            return await self.intake.vendor.ticker_changes(symbol)
        except (EntitlementError, BadRequestError) as error:
            logger.warning("no ticker changes", extra={"symbol": symbol, "reason": str(error)})
            return []


def _due(companies: Sequence[SymbolRecord]) -> Sequence[SymbolRecord]:
    """Return the companies whose history is not loaded; the last one if all are loaded."""
    return [company for company in companies if company.history_loaded_at is None] or companies[-1:]


def _last_day(companies: Sequence[SymbolRecord]) -> date:
    return _due(companies)[-1].valid_to or date.max


def _bore(company: SymbolRecord, session: date) -> bool:
    return company.valid_from <= session <= (company.valid_to or date.max)


def _first_sessions(companies: Sequence[SymbolRecord], sessions: Sequence[date]) -> dict[date, date | None]:
    """Return the first session of each company that has one, by its `valid_from`."""
    own = {company.valid_from: [day for day in sessions if _bore(company, day)] for company in companies}
    return {valid_from: days[0] for valid_from, days in own.items() if days}


def load_requested(
    runner: asyncio.Runner, fetcher: HistoryFetcher, messages: Iterable[ReceivedMessage], closed: date
) -> tuple[list[Stored], dict[str, FiblakeError]]:
    """Load the history of each message; return the counts, and the errors by message id."""
    outcomes = {m.id: catch_errors(_requested, runner, fetcher, m, closed) for m in messages}
    stored = [outcome for outcome in outcomes.values() if isinstance(outcome, Stored)]
    return stored, {i: outcome for i, outcome in outcomes.items() if isinstance(outcome, FiblakeError)}


def _requested(
    runner: asyncio.Runner, fetcher: HistoryFetcher, message: ReceivedMessage, closed: date
) -> Stored | None:
    return runner.run(fetcher.load_unless_there(parse(HistoryRequest, message.body), closed))

"""How bars get in: session by session, whole, S3 first, then rows and watermark together."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from services.fetcher.gaps import missing_sessions
from services.fetcher.massive import MassiveClient, PendingError
from services.fetcher.settings import FetchEvent
from services.fetcher.validation import VendorBar, faults
from shared.bars import BRONZE, bar_row, encode
from shared.calendar import TradingCalendar
from shared.database import Database, SessionCounts
from shared.lake import Bronze, quarantine_key
from shared.objects import ObjectStore
from shared.telemetry import logger


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of the bars of one request."""

    what: str
    """The session, or the backfilled symbol."""
    stored: int
    quarantined: int
    outside_universe: int
    written_at: datetime
    """When the last of the objects was in S3 (UTC)."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a run did, and the sessions whose data the vendor does not have yet: no failure, the next run asks again."""

    done: list[Stored]
    pending: list[date]


@dataclass(frozen=True, slots=True)
class Fetcher:
    """What fetching works with."""

    vendor: MassiveClient
    store: ObjectStore
    bronze: Bronze
    database: Database
    calendar: TradingCalendar
    universe: frozenset[str]
    first_session: date | None
    clock: Callable[[], datetime]

    async def fetch(self, event: FetchEvent) -> Fetched:
        """Fetch what `event` asks for; what was done before an error stays done, the next run goes on from there."""
        now = event.now(self.clock())
        if event.backfill:
            last = self.calendar.last_closed(now)
            return Fetched([await self._backfill(symbol, event.backfill_from, last) for symbol in event.backfill], [])
        sessions = missing_sessions(self.calendar, await self.database.watermark(), self.first_session, now)
        done: list[Stored] = []
        try:
            for session in sessions:
                done.append(await self._session(session))  # noqa: PERF401 (kept if a later one is pending)
        except PendingError as error:
            logger.info("session pending", extra={"session": str(sessions[len(done)]), "reason": str(error)})
        return Fetched(done, sessions[len(done) :])

    async def _session(self, session: date) -> Stored:
        """Store one session whole: date files, then rows and watermark in one transaction."""
        bars = await self.vendor.grouped_daily(session)
        wanted = [bar for bar in bars if not self.universe or bar.symbol in self.universe]
        rows, refused = await self._split(wanted)
        files = [(self.bronze.date_key(row["symbol"], session), _file([row])) for row in rows]
        await asyncio.to_thread(self.store.put_many, files)
        written_at = self.clock()
        counts = SessionCounts(len(rows), refused, len(bars) - len(wanted), flagged=0)
        await self.database.store_session(rows, session, counts, self.calendar)
        return _logged(Stored(session.isoformat(), len(rows), refused, counts.outside_universe, written_at))

    async def _backfill(self, symbol: str, first: date, last: date) -> Stored:
        """Store one symbol's history as one range file and its rows."""
        rows, refused = await self._split(await self.vendor.daily_range(symbol, first, last))
        if rows:
            key = self.bronze.range_key(symbol, rows[0]["timestamp"], rows[-1]["timestamp"])
            await asyncio.to_thread(self.store.put, key, _file(rows))
            await self.database.store(rows)
        return _logged(Stored(symbol, len(rows), refused, 0, self.clock()))

    async def _split(self, bars: Iterable[VendorBar]) -> tuple[list[dict[str, Any]], int]:
        """Give the rows of the bars that may enter, in order; put the others into quarantine with their reasons."""
        now = self.clock()
        rows, refused = [], []
        known: set[tuple[str, date]] = set()
        for bar in sorted(bars, key=lambda bar: (bar.session, bar.symbol)):
            reasons = faults(bar, self.calendar)
            if (bar.symbol, bar.session) in known:
                # A second row of one key would make Postgres refuse the whole session, for ever.
                reasons.append("the vendor reported this session twice")
            if reasons:
                refused.append((bar, "; ".join(reasons)))
            else:
                known.add((bar.symbol, bar.session))
                rows.append(_row(bar, now))
        if refused:
            await asyncio.to_thread(self.store.put_many, _quarantined(refused, now))
        return rows, len(refused)


def _row(bar: VendorBar, now: datetime) -> dict[str, Any]:
    prices = (bar.open, bar.high, bar.low, bar.close)
    return bar_row(bar.symbol, bar.session, *prices, bar.volume, bar.vwap, bar.trades, now)


def _file(rows: Sequence[dict[str, Any]]) -> bytes:
    return encode(pa.Table.from_pylist(list(rows), schema=BRONZE))


def _quarantined(refused: Sequence[tuple[VendorBar, str]], now: datetime) -> list[tuple[str, bytes]]:
    """Give one file a symbol and session, with the bars as the vendor reported them and the reason."""
    files: dict[str, list[dict[str, Any]]] = {}
    for bar, reason in refused:
        row = {**asdict(bar), "reason": reason, "ingested_at": now}
        files.setdefault(quarantine_key(bar.symbol, bar.session), []).append(row)
        logger.warning("bar quarantined", extra={"symbol": bar.symbol, "session": str(bar.session), "reason": reason})
    return [(key, encode(pa.Table.from_pylist(rows))) for key, rows in files.items()]


def _logged(result: Stored) -> Stored:
    logger.info("bars stored", extra=asdict(result))
    return result

"""Store sessions: one by one, oldest first, each whole; S3 first, then rows, ledger and watermark together."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Final

from fiblake.errors import ConfigurationError, TransientError, UpstreamError
from services.fetcher.doubts import settle_all_bars, settle_bars
from services.fetcher.gaps import Asked, Plan, plan
from services.fetcher.intake import Intake, Stopwatch, Stored, bars_file, log_stored, put_bars
from services.fetcher.settings import FetchEvent
from services.fetcher.sifting import ClassifiedBars, StoredState, classify_bars
from services.fetcher.validation import VendorBar
from services.fetcher.vendor import PendingError
from shared.database import SessionCounts, session_scope
from shared.telemetry import logger

FAILURES_IN_A_ROW: Final = 2
"""After this many failures in a row, the vendor or S3 is probably down."""
CLOSES_SINCE: Final = timedelta(days=14)
"""How far back a symbol's previous close is searched."""
MIN_SYMBOLS_TO_CHECK: Final = 100
"""From this many symbols on, an answer with bars of fewer than half of them counts as short."""


Progress = Callable[[str, int, int], None]
"""Called with the name of the next step, the finished amount, and the total."""


def no_progress(_what: str, _done: int, _all: int) -> None:
    """Report no progress."""


class IncompleteError(TransientError):
    """Some sessions could not be stored; the other ones are stored, and the next run fetches the rest."""


@dataclass(slots=True)
class Fetched:
    """The result of a run."""

    done: list[Stored] = field(default_factory=list)
    """Missing sessions that were stored."""
    looked_at_again: list[Stored] = field(default_factory=list)
    """Stored sessions that were requested again; bars that differ were written."""
    pending: list[date] = field(default_factory=list)
    """Sessions that the vendor does not deliver yet: no failure, the next run requests them again."""
    failed: dict[date, str] = field(default_factory=dict)
    """Sessions that could not be stored, with the reason."""
    left: list[date] = field(default_factory=list)
    """Missing sessions for which there was no time."""


@dataclass(frozen=True, slots=True)
class Universe:
    """The symbols to store: those of these types in symbol_metadata; only those in `only`, if it names any."""

    types: frozenset[str]
    only: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches sessions."""

    intake: Intake
    universe: Universe
    first_session: date | None
    look_back: int
    deadline: datetime | None = None

    async def fetch(self, event: FetchEvent, show: Progress = no_progress, result: Fetched | None = None) -> Fetched:
        """Fetch the sessions of `event`, or all missing ones; call `show` for each.

        Sessions that were stored before an error stay stored, and are in `result`, if the caller passes one. No session
        is started after the deadline. If a session could not be stored, IncompleteError is raised after all others
        were tried; a permanent error (a wrong key, no database) is raised at once.
        """
        planned = await self._plan(event)
        result = Fetched() if result is None else result
        failures = 0
        sessions = [*planned.missing, *planned.again]
        turn = deque(sessions)
        while turn:
            if self.deadline and self.intake.clock() >= self.deadline:
                result.left = [session for session in turn if session in planned.missing]
                break
            session = turn.popleft()
            show(session.isoformat(), len(sessions) - len(turn) - 1, len(sessions))
            try:
                async with self.intake.database.session_lock(session):
                    stored = await self._session(session)
            except PendingError as error:
                logger.info("session pending", extra={"session": str(session), "reason": str(error)})
                result.pending.append(session)
                continue
            except TransientError as error:
                logger.warning("session failed", extra={"session": str(session), "reason": str(error)})
                result.failed[session] = str(error)
                failures += 1
                # The watermark starts with the first stored session: an earlier session would then be missing.
                if not (result.done or await self.intake.database.watermark()):
                    break
                if failures == FAILURES_IN_A_ROW:
                    # Old sessions that always fail must not stop today's session: it is tried before giving up.
                    turn = deque(day for day in turn if day == planned.missing[-1])
                continue
            failures = 0
            (result.done if session in planned.missing else result.looked_at_again).append(stored)
        if result.failed or result.left:
            raise IncompleteError(_sentence(result))
        return result

    async def _plan(self, event: FetchEvent) -> Plan:
        calendar, database = self.intake.calendar, self.intake.database
        now = event.now(self.intake.clock())
        closed = calendar.last_closed(now)
        start = self.first_session or await database.watermark()
        sessions_asked = Asked(event.first, event.last, event.again)
        doubtful = set() if event.symbols else await settle_all_bars(self.intake)
        stored = await database.stored_sessions(min(filter(None, [start, sessions_asked.first, closed])), closed)
        recent = await database.stored_sessions(closed - 2 * timedelta(days=max(self.look_back, 1) + 5), closed)
        planned = plan(calendar, sessions_asked, stored | recent, start, self.look_back if event.look_back else 0, now)
        return replace(planned, again=sorted({*planned.again, *(doubtful & (stored | recent))}))

    async def _session(self, session: date) -> Stored:
        """Store one session whole: date files, then rows, ledger and watermark in one transaction."""
        intake, watch = self.intake, Stopwatch()
        with watch.measure("database"):
            wanted = await self._universe(session)
            past = await self._past(session, await settle_bars(intake, session_scope(session)))
        with watch.measure("vendor"):
            bars = await intake.vendor.grouped_daily(session)
        _check_not_short(session, bars, wanted & past.closes.keys())
        ours = [bar for bar in bars if bar.symbol in wanted or self._nameless(bar)]
        sifted = classify_bars(ours, intake.calendar, past, intake.jump_limit, intake.clock())
        files = [(intake.bronze.date_key(row["symbol"], session), bars_file([row])) for row in sifted.rows]
        with watch.measure("database"):
            await intake.database.note(session_scope(session), [key for key, _ in files])
        with watch.measure("s3"):
            await put_bars(intake, sifted, files, str(session))
        written_at = intake.clock()
        counts = SessionCounts(
            bars=len(sifted.rows) + sifted.unchanged, quarantined=len(sifted.refused),
            outside_universe=len(bars) - len(ours), flagged=len(sifted.flagged),
        )  # fmt: skip
        with watch.measure("database"):
            await intake.database.store_session(sifted.rows, session, counts, intake.calendar)
        return log_stored(_stored(str(session), sifted, counts, written_at, watch))

    async def _universe(self, session: date) -> set[str]:
        """Return the symbols to store in `session`; raise ConfigurationError if there are none."""
        symbols = await self.intake.database.universe(self.universe.types, session)
        wanted = symbols & self.universe.only if self.universe.only else symbols
        if not wanted:
            types = ", ".join(sorted(self.universe.types))
            only = " that UNIVERSE names" if self.universe.only else ""
            raise ConfigurationError(
                f"symbol_metadata knows no symbol of type {types}{only} in {session}: run the metadata fetcher first "
                "(`fiblake metadata`), or set UNIVERSE_TYPES right"
            )
        return wanted

    async def _past(self, session: date, unknown: set[str]) -> StoredState:
        """Read the stored state; the files of `unknown` symbols cannot be read, so their bars are not compared."""
        database = self.intake.database
        stored = await database.bars(session)
        rows = {(symbol, session): row for symbol, row in stored.items() if symbol not in unknown}
        since = session - CLOSES_SINCE
        closes = {symbol: close for symbol, (_, close) in (await database.last_closes(since, session)).items()}
        ratios = await database.split_ratios(since, session)
        return StoredState(rows, closes, {(symbol, session): ratio for symbol, ratio in ratios.items()})

    @staticmethod
    def _nameless(bar: VendorBar) -> bool:
        """Return whether the bar has no ticker. It may be of the universe, so it goes to quarantine."""
        return bar.symbol == ""


def _check_not_short(session: date, bars: Sequence[VendorBar], expected: set[str]) -> None:
    """Raise UpstreamError if fewer than half of the symbols that traded lately have a bar: the answer is short.

    For few symbols there is no check: some do not trade every day.
    """
    came = len(expected & {bar.symbol for bar in bars})
    if len(expected) >= MIN_SYMBOLS_TO_CHECK and 2 * came < len(expected):
        raise UpstreamError(
            f"the vendor has bars of {came} of the {len(expected)} symbols that traded in the days before {session}, "
            "fewer than half: it is not taken as whole on such an answer"
        )


def _stored(what: str, sifted: ClassifiedBars, counts: SessionCounts, written_at: datetime, watch: Stopwatch) -> Stored:
    return Stored(
        what, len(sifted.rows), sifted.unchanged, len(sifted.refused), counts.outside_universe,
        tuple(sifted.flagged), written_at, watch.seconds,
    )  # fmt: skip


def _sentence(result: Fetched) -> str:
    reasons = [f"{session}: {reason}" for session, reason in result.failed.items()]
    if result.left:
        reasons.append(f"{len(result.left)} from {result.left[0]} on: there was no time for them")
    sessions_done = ", ".join(stored_session.what for stored_session in result.done) or "none"
    return f"sessions left for the next run: {'; '.join(reasons)} (stored in this one: {sessions_done})"

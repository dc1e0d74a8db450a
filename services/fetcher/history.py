"""How one symbol's whole history gets in: one range request, one range file, and its rows."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from services.fetcher.gaps import Asked
from services.fetcher.identities import renamed_on
from services.fetcher.intake import Intake, Stopwatch, Stored, bars_file, logged, put_bars
from services.fetcher.massive import PendingError
from services.fetcher.sifting import Past, sift
from services.fetcher.validation import VendorBar
from shared.errors import FiblakeError, NotFoundError
from shared.events import HistoryRequest, parse
from shared.outcomes import attempt
from shared.queues import Received
from shared.reference import Split
from shared.symbols import BEGINNING


@dataclass(frozen=True, slots=True)
class HistoryFetcher:
    """What loading histories works with; `earliest`: no session before it is asked for (a plan may not give them)."""

    intake: Intake
    earliest: date | None

    async def load(self, symbol: str, asked: Asked, closed: date) -> Stored:
        """Store the symbol's bars from the first session asked for to the last, or all up to session `closed`.

        All begins when the symbol became the present company's: earlier bars under the same ticker may be another's. It
        is one file, however long; doing it again is harmless. A part of it does not count as loaded, nor does a history
        without any bars, which is asked for again: the symbol may not have traded yet, or the vendor may have lost
        them. Raises NotFoundError if symbol_metadata does not know the symbol and no first session is given.
        """
        intake, watch = self.intake, Stopwatch()
        with watch.timed("database"):
            start = max(filter(None, [asked.first or await self._beginning(symbol), self.earliest]))
            splits = (await intake.database.splits(symbol)).get(symbol, [])
        with watch.timed("vendor"):
            bars = await self._bars(symbol, start, min(asked.last or closed, closed))
        past = Past(split_ratios=_ratios(symbol, bars, splits))
        sifted = sift(bars, intake.calendar, past, intake.jump_limit, intake.clock())
        rows = sifted.rows
        files = []
        if rows:
            key = intake.bronze.range_key(symbol, rows[0]["timestamp"], rows[-1]["timestamp"])
            files = [(key, bars_file(rows))]
        with watch.timed("s3"):
            await put_bars(intake, sifted, files, symbol)
        written_at = intake.clock()
        with watch.timed("database"):
            await intake.database.store(rows)
            if rows and not asked.anything:
                await intake.database.history_loaded(symbol, written_at, rows[0]["timestamp"])
        return logged(
            Stored(symbol, len(rows), 0, len(sifted.refused), 0, tuple(sifted.flagged), written_at, watch.seconds)
        )

    async def load_unless_there(self, request: HistoryRequest, closed: date) -> Stored | None:
        """Load what a message asks for; None if it was asked for twice, as happens when the queue is long."""
        known = await self.intake.database.current(request.symbol)
        if known and known.history_loaded_at and request.first is None:
            return None
        return await self.load(request.symbol, Asked(request.first), closed)

    async def _bars(self, symbol: str, first: date, last: date) -> list[VendorBar]:
        """Ask the vendor, which before the day is over may give nothing of a range that reaches into it.

        Such a session is pending for the OHLCV fetcher as well, which brings it.
        """
        try:
            return await self.intake.vendor.daily_range(symbol, first, last) if first <= last else []
        except PendingError:
            calendar = self.intake.calendar
            before = calendar.session(calendar.ordinal_on_or_after(last) - 1)
            return await self.intake.vendor.daily_range(symbol, first, before) if first <= before else []

    async def _beginning(self, symbol: str) -> date:
        """Give the first day on which the symbol was the present company's, as well as it is known."""
        known = await self.intake.database.current(symbol)
        if known is None:
            raise NotFoundError(
                f"symbol_metadata does not know {symbol}: run the metadata fetcher (`fiblake metadata`), or say from "
                "which session on its bars are to be loaded (--from)"
            )
        if known.valid_from > BEGINNING:
            return known.valid_from
        renamed = renamed_on(symbol, await self.intake.vendor.ticker_changes(symbol))
        return max(filter(None, [known.valid_from, known.list_date, renamed]))


def load_requested(
    runner: asyncio.Runner, fetcher: HistoryFetcher, messages: Iterable[Received], closed: date
) -> tuple[list[Stored], dict[str, FiblakeError]]:
    """Load the history each message asks for; give what was stored, and the errors by message id."""
    outcomes = {m.id: attempt(lambda m=m: _requested(runner, fetcher, m, closed)) for m in messages}  # type: ignore[misc]
    stored = [outcome for outcome in outcomes.values() if isinstance(outcome, Stored)]
    return stored, {i: outcome for i, outcome in outcomes.items() if isinstance(outcome, FiblakeError)}


def _requested(runner: asyncio.Runner, fetcher: HistoryFetcher, message: Received, closed: date) -> Stored | None:
    return runner.run(fetcher.load_unless_there(parse(HistoryRequest, message.body), closed))


def _ratios(symbol: str, bars: Iterable[VendorBar], splits: Iterable[Split]) -> Mapping[tuple[str, date], float]:
    """Give what the splits between a bar and the one before it make of a price, for the bars where there are any."""
    sessions = sorted({bar.session for bar in bars})
    ratios: dict[tuple[str, date], float] = {}
    for split in splits:
        after = next((session for session in sessions if session >= split.execution_date), None)
        if after:
            place = (symbol, after)
            ratios[place] = ratios.get(place, 1.0) * split.split_from / split.split_to
    return ratios

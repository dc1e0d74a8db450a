"""Resample: recompute an event's buckets from daily bars, and join them into month files.

The bars come from the event's own tail if it reaches back far enough, else from data.parquet. The rows carry the
version of the data.parquet that they come from, and the greater version wins (`silver_join.py`), in whatever order
events arrive.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

from fiblake.aggregate import Bars, Market
from fiblake.buckets import bucket_start, first_to_recompute, window_start
from fiblake.calendar import TradingCalendar
from fiblake.errors import FiblakeError, NotFoundError, UpstreamError
from fiblake.lake import Bronze, Month
from fiblake.rules import NUMBER_COLUMNS
from services.resampler import checkpoint
from services.resampler.full import FullResampler
from services.resampler.month_files import MonthFiles, OtherCalendarError
from services.resampler.months import Changes, Months, Recomputed
from shared.batching import chunks
from shared.events import SYMBOLS_PER_EVENT, ConsolidationComplete, SilverUpdated, Tail, parse
from shared.objects import ObjectStore, StoredObject
from shared.outcomes import catch_errors
from shared.queues import ReceivedMessage, Topic
from shared.telemetry import emit_metrics, log_correlation_merge, logger

SYMBOLS_AT_ONCE: Final = 64
MONTHS_NOT_LISTED: Final = 4
"""A listing takes longer than reading this many month files that may be absent."""
MARGIN: Final = timedelta(days=2)
CUT_ANEW_BYTES: Final = 1 << 30
"""Memory for the buckets of all symbols when the calendar has changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """The part of a completion event that the resampler uses."""

    symbol: str
    changed_from: date
    correlation_id: str = ""
    put_at: datetime | None = None
    """When the oldest file behind this change was put."""
    version: datetime | None = None
    last_session: date | None = None
    tail: Tail | None = None

    @classmethod
    def of(cls, event: ConsolidationComplete) -> "Change":
        """Return the change of an event."""
        return cls(
            event.symbol, event.changed_from, event.correlation_id, event.put_at, event.version, event.last_session,
            event.tail,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _SymbolBars:
    """A symbol's bars from the first bucket on that must be recomputed."""

    bars: Bars
    first: int
    last: int
    """The ordinal of the symbol's last bar."""


@dataclass(slots=True)
class _Work:
    """The recomputed buckets of a batch of changes, in rounds of distinct symbols; rounds are joined one by one."""

    rounds: list[Recomputed] = field(default_factory=list)
    errors: dict[str, FiblakeError] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)
    """The ordinal of each symbol's first bucket."""
    last: int = 0
    """The ordinal of the last bar."""


@dataclass(frozen=True, slots=True)
class Resampler:
    """The clients and settings of one interval's resampler."""

    store: ObjectStore
    bronze: Bronze
    calendar: TradingCalendar
    updated: Topic
    interval: int
    retention_years: int
    adjusted: bool = True
    """Whether splits are applied; else silver is as traded."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def resample(self, changes: Sequence[Change], now: datetime) -> dict[str, FiblakeError]:
        """Bring the interval's table up to date with the changes; return the errors by symbol.

        When this returns, the other symbols are in the month files, the checkpoint, and a SilverUpdated event.
        """
        outcome = catch_errors(self._resample, changes, now)
        return {change.symbol: outcome for change in changes} if isinstance(outcome, FiblakeError) else outcome

    def _resample(self, changes: Sequence[Change], now: datetime) -> dict[str, FiblakeError]:
        work = self._recompute(changes, now.date())
        updated = sorted(work.cuts.keys() - work.errors.keys())
        if work.cuts:
            written = self._join(work, now.date())
            rows = sum(part.size for part in work.rounds)
            checkpoint.advance(self.store, self.interval, self.calendar.session(work.last), rows, now)
            if updated:
                self._publish(updated, work.cuts, changes)
                self._measure(updated, rows, written, changes)
        return work.errors

    def _recompute(self, changes: Sequence[Change], today: date) -> _Work:
        """Compute the buckets that the changes touch, from tails, or from data.parquet, which is read once a symbol."""
        work = _Work()
        window = window_start(self.calendar, today, self.retention_years, self.interval)
        to_read: dict[str, date] = {}
        rounds: list[dict[str, _SymbolBars]] = []
        for change in changes:
            tailed = self._bars_of_tail(change, window)
            if tailed is None:
                to_read[change.symbol] = min(change.changed_from, to_read.get(change.symbol, change.changed_from))
            else:
                round_ = next((round_ for round_ in rounds if change.symbol not in round_), None)
                if round_ is None:
                    rounds.append(round_ := {})
                round_[change.symbol] = tailed
        for round_ in rounds:
            self._add(work, [list(round_.values())])
        self._add(work, self._read(to_read, window, work.errors))
        return work

    def _add(self, work: _Work, parts: Iterable[list[_SymbolBars]]) -> None:
        """Cut bars of distinct symbols into buckets, and add them as one round."""
        months, recomputed = Months.of(self.calendar), Recomputed(self.calendar, self.adjusted)
        for part in parts:
            market = Market.of([tailed.bars for tailed in part])
            buckets = months.sorted(market.buckets(self.interval), self.interval)
            recomputed.take(market, [tailed.first for tailed in part], buckets)
            for tailed in part:
                symbol = tailed.bars.symbol
                work.cuts[symbol] = min(tailed.first, work.cuts.get(symbol, tailed.first))
                work.last = max(work.last, tailed.last)
        if recomputed.symbols:
            work.rounds.append(recomputed)

    def _bars_of_tail(self, change: Change, window: int) -> _SymbolBars | None:
        """Return the bars of a change's tail; None if it is incomplete or contradicts itself (read data.parquet).

        It is complete if it holds the bar before the change, and every bar of the first bucket to be recomputed.
        """
        tail, ordinal_of = change.tail, self.calendar.ordinal_of
        if tail is None or change.version is None or not tail.timestamp or tail.timestamp[-1] != change.last_session:
            return None
        before = bisect_left(tail.timestamp, change.changed_from) - 1
        if before < 0 and tail.tail_from > self.calendar.session(0):
            return None
        try:
            if before >= 0:
                changed = ordinal_of[tail.timestamp[before]]
            else:
                changed = self.calendar.ordinal_on_or_after(change.changed_from)
            first = max(window, bucket_start(changed, self.interval))
            begin = self.calendar.session(first)
            rows = bisect_left(tail.timestamp, begin)
            columns = {name: getattr(tail, name)[rows:] for name in NUMBER_COLUMNS}
            bars = Bars.of_columns(change.symbol, change.version, tail.timestamp[rows:], columns, self.calendar)
            last = ordinal_of[change.last_session]
        except KeyError:  # not a session: reading data.parquet raises the error that names it
            return None
        return None if begin < tail.tail_from else _SymbolBars(bars, first, last)

    def _read(
        self, changed: Mapping[str, date], window: int, errors: dict[str, FiblakeError]
    ) -> Iterator[list[_SymbolBars]]:
        """Read each symbol's data.parquet, some at a time, while the next ones are downloaded."""
        parts = list(chunks(changed, SYMBOLS_AT_ONCE))
        keys = [[self.bronze.data_key(symbol) for symbol in part] for part in parts]
        for part, objects in zip(parts, self.store.get_groups(keys), strict=True):
            pairs = zip(part, objects, strict=True)
            outcomes = [catch_errors(self._bars_of_data, s, changed[s], stored, window) for s, stored in pairs]
            errors |= {s: o for s, o in zip(part, outcomes, strict=True) if isinstance(o, FiblakeError)}
            yield [outcome for outcome in outcomes if isinstance(outcome, _SymbolBars)]

    def _bars_of_data(self, symbol: str, changed_from: date, stored: StoredObject | None, window: int) -> _SymbolBars:
        """Return the symbol's bars from the first bucket on that must be recomputed."""
        if stored is None:
            raise NotFoundError(f"{symbol} has no data.parquet: consolidate it first")
        bars = Bars.read(
            stored.data, symbol, stored.last_modified, self.calendar, adjust="splits" if self.adjusted else "raw"
        )
        # A file whose name has a session after the calendar's end changes no bar: it counts as one of the last session.
        changed = self.calendar.ordinal_on_or_after(min(changed_from, self.calendar.session(-1)))
        first = max(window, first_to_recompute(bars.ordinals, changed, self.interval))
        return _SymbolBars(bars.since(first), first, int(bars.ordinals[-1]))

    def _join(self, work: _Work, today: date) -> int:
        """Join the recomputed buckets into the month files; return how many files were written."""
        files, months = MonthFiles(self.store, self.calendar, self.interval), Months.of(self.calendar)
        filled = {months.month(number) for part in work.rounds for number in part.filled().tolist()}
        cut = Month.of(self.calendar.session(min(work.cuts.values())))
        existing = self._months_from(cut, max({cut, *filled}), files, today)
        joined = sorted({*existing, *filled})
        changes = Changes.of(months, work.rounds)
        try:
            return files.join(joined, changes, existing)
        except OtherCalendarError as error:
            self._cut_anew(error.month, files)
            return files.join(joined, changes, joined)

    def _months_from(self, cut: Month, last: Month, files: MonthFiles, today: date) -> list[Month]:
        """Return the months from `cut` on that have a file; if the month of the cut has none, also the last one before.

        The calendar of that file is the calendar of the buckets at the cut. No bucket begins after today, so the daily
        change needs no listing: it may read a file that is absent. Clocks may differ by MARGIN.
        """
        numbers = Months.of(self.calendar)
        end = max(last, Month.of(min(today + MARGIN, self.calendar.session(-1))))
        near = range(numbers.number(cut), numbers.number(end) + 1)
        if len(near) <= MONTHS_NOT_LISTED and files.exists(cut):
            return [numbers.month(number) for number in near]
        listed = files.existing()
        first = max((month for month in listed if month <= cut), default=cut)
        return [month for month in listed if month >= first]

    def _cut_anew(self, month: Month, files: MonthFiles) -> None:
        """Compute all symbols again, from the first month that another calendar cut."""
        first = month
        for earlier in reversed([candidate for candidate in files.existing() if candidate < month]):
            if files.is_cut_alike(earlier):
                break
            first = earlier
        logger.warning("calendar changed", extra={"interval": self.interval, "month": f"{first.year}-{first.month:02}"})
        full = FullResampler(self.store, self.bronze, self.calendar, self.updated, 0, self.adjusted, CUT_ANEW_BYTES)
        full.cut_anew(self.interval, first, self.clock())

    def _publish(self, symbols: Sequence[str], cuts: Mapping[str, int], changes: Sequence[Change]) -> None:
        correlation: dict[str, str] = {}
        for change in changes:
            own = correlation.setdefault(change.symbol, change.correlation_id)
            log_correlation_merge(change.symbol, change.correlation_id, own)
        days = {symbol: self.calendar.session(cuts[symbol]) for symbol in symbols}
        events = [
            SilverUpdated(
                interval=self.interval, changed_from=min(days[s] for s in some), symbols=tuple(some),
                correlation_id=correlation[some[0]],
            )
            for some in chunks(symbols, SYMBOLS_PER_EVENT)
        ]  # fmt: skip
        if self.updated.publish(events):
            raise UpstreamError("SNS did not take the SilverUpdated event")
        for symbol in symbols:
            extra = {"symbol": symbol, "interval": self.interval, "correlation_id": correlation[symbol]}
            logger.info("resampled", extra={**extra, "changed_from": days[symbol].isoformat()})

    def _measure(self, symbols: Sequence[str], rows: int, months: int, changes: Sequence[Change]) -> None:
        emit_metrics(interval=self.interval, SymbolsResampled=len(symbols), RowsComputed=rows, MonthsWritten=months)
        updated = set(symbols)
        oldest = min((c.put_at for c in changes if c.put_at and c.symbol in updated), default=None)
        if oldest:
            # S3's instant of a put is rounded to seconds, so a quick chain could seem to end before it.
            seconds = max(0.0, (self.clock() - oldest).total_seconds())
            emit_metrics(interval=self.interval, PutToSilverSeconds=seconds)


def resample_batch(resampler: Resampler, messages: Sequence[ReceivedMessage], now: datetime) -> dict[str, FiblakeError]:
    """Resample what the messages name; return the errors by message id. A symbol that fails fails all its messages."""
    outcomes = {m.id: catch_errors(parse, ConsolidationComplete, m.body) for m in messages}
    events = {i: outcome for i, outcome in outcomes.items() if isinstance(outcome, ConsolidationComplete)}
    errors = {i: outcome for i, outcome in outcomes.items() if isinstance(outcome, FiblakeError)}
    failures = resampler.resample([Change.of(event) for event in events.values()], now)
    return errors | {i: failures[e.symbol] for i, e in events.items() if e.symbol in failures}

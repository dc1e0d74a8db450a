"""Find the company of each symbol in the past, from the vendor's lists of successive days (pure).

The vendor's lists are requested for some days only. They decide which companies were listed. A day of delisting counts
only if it is between two lists that leave the day open. The days that remain open are requested one by one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Final

from fiblake.calendar import TradingCalendar, close_of
from fiblake.symbols import BEGINNING, SymbolRecord
from services.fetcher.identities import another_company, record_of
from services.fetcher.tickers import Ticker

_ONE_DAY: Final = timedelta(days=1)
_FILLED: Final = ("name", "type", "exchange", "currency", "composite_figi", "share_class_figi")
"""Fields that an older list may have and a newer one leave out."""


@dataclass(slots=True)
class Period:
    """A company had a symbol in the lists from `first` to `last`."""

    company: Ticker
    not_before: date | None
    """The previous list, in which the company did not have it (None: there is no earlier list)."""
    first: date
    last: date
    not_after: date | None = None
    """The next list, in which the company no longer had it (None: there is no later list)."""
    begins: date = BEGINNING
    """First session; the calendar's if the company is in the first list."""
    ends: date | None = None
    """Last session; None if the company is in the last list."""

    def is_of(self, ticker: Ticker) -> bool:
        """Return whether the ticker may be the same company."""
        return not another_company(self.company, ticker)


@dataclass(slots=True)
class History:
    """The periods of successive lists; lists are added oldest first."""

    periods: list[Period] = field(default_factory=list)
    _open: dict[str, Period] = field(default_factory=dict)
    _days: list[date] = field(default_factory=list)
    """The days of the lists, oldest first."""

    def add_list(self, day: date, listed: Iterable[Ticker]) -> None:
        """Add the list of all tickers that were active on a session."""
        rows: dict[str, list[Ticker]] = {}
        for ticker in listed:
            rows.setdefault(ticker.symbol, []).append(ticker)
        for symbol in self._open.keys() - rows.keys():
            self._open.pop(symbol).not_after = day
        for symbol, of_symbol in rows.items():
            period = self._open.get(symbol)
            ticker = _chosen(of_symbol, period)
            if period and period.is_of(ticker):
                period.last, period.company = day, _merged(period.company, ticker)
                continue
            if period:
                period.not_after = day
            self._open[symbol] = Period(ticker, self._days[-1] if self._days else None, day, day)
            self.periods.append(self._open[symbol])
        self._days.append(day)

    def add_delisted(self, delisted: Iterable[Ticker], calendar: TradingCalendar) -> None:
        """Add the days of delisting: as a period's end, or as the only fact about a company between two lists."""
        of_symbol: dict[str, list[Period]] = {}
        for period in self.periods:
            of_symbol.setdefault(period.company.symbol, []).append(period)
        for ticker in sorted(delisted, key=lambda ticker: (ticker.symbol, ticker.delisted or BEGINNING)):
            if ticker.delisted is None or not self._days[0] < ticker.delisted < self._days[-1]:
                continue
            last = calendar.session(calendar.ordinal_on_or_after(ticker.delisted + _ONE_DAY) - 1)
            if last <= self._days[0]:
                continue  # delisted after the first list's session and before the next one: that list decides
            periods = of_symbol.setdefault(ticker.symbol, [])
            own = [p for p in periods if p.is_of(ticker) and p.first <= last <= (p.not_after or date.max)]
            if own:
                _end(own[-1], ticker, last)
            elif not any(p.first <= last <= p.last for p in periods):
                before = max(day for day in self._days if day < last)
                periods.append(Period(ticker, before, last, last, min(day for day in self._days if day > last)))
                _end(periods[-1], ticker, last)
                self.periods.append(periods[-1])

    def by_symbol(self) -> dict[str, list[Period]]:
        """Return each symbol's periods, oldest first."""
        periods_found: dict[str, list[Period]] = {}
        for period in sorted(self.periods, key=lambda period: period.first):
            periods_found.setdefault(period.company.symbol, []).append(period)
        return periods_found


def _end(period: Period, ticker: Ticker, last: date) -> None:
    """Set a period's end to a day of delisting, if the lists leave the end open."""
    if period.not_after and period.last <= last < period.not_after:
        period.ends, period.company = last, _merged(period.company, ticker)


@dataclass(frozen=True, slots=True)
class Taken:
    """The changes of symbol_metadata."""

    records: list[SymbolRecord]
    """New records, and those that change."""
    moved: dict[tuple[str, date], date]
    """The new `valid_from` of records, by symbol and the old one."""
    contradicted: list[Period]
    """Periods in which another company had the symbol, according to a stored record; they are left out."""


def take(stored: Iterable[SymbolRecord], history: History, now: datetime) -> Taken:
    """Return the changes of the stored records by the periods.

    If a stored record may be of the period's company and has a common day with the period, the period sets the record's
    first day. The end of a stored record stays. A period without such a record is a new record, unless stored records
    cover its time.
    """
    records: dict[str, list[SymbolRecord]] = {}
    for record in stored:
        records.setdefault(record.symbol, []).append(record)
    taken = Taken([], {}, [])
    for symbol, periods in history.by_symbol().items():
        _take_symbol(records.get(symbol, []), periods, taken, now)
    return taken


def _take_symbol(stored: Sequence[SymbolRecord], periods: Sequence[Period], taken: Taken, now: datetime) -> None:
    unmatched = sorted(stored, key=lambda record: record.valid_from)
    settled: list[SymbolRecord] = []
    rest: list[Period] = []
    for period in reversed(periods):
        own = [record for record in unmatched if _may_be(record, period)]
        if not own:
            rest.append(period)
            continue
        record = own[-1]
        unmatched.remove(record)
        begins = period.begins
        if any(_overlap(other, begins, record.valid_from) for other in [*unmatched, *settled]):
            begins = record.valid_from
        seen = min(record.first_seen, close_of(period.first))
        settled.append(replace(_filled(record, period.company), valid_from=begins, first_seen=seen))
        if begins != record.valid_from:
            taken.moved[record.symbol, record.valid_from] = begins
    for period in rest:
        if any(_overlap(record, period.begins, period.ends) for record in [*unmatched, *settled]):
            taken.contradicted.append(period)
            continue
        settled.append(_record(period, now))
    taken.records.extend(record for record in settled if record not in stored)


def _record(period: Period, now: datetime) -> SymbolRecord:
    record = record_of(period.company, period.begins, close_of(period.first))
    if period.ends is None:
        return replace(record, last_seen=now)
    seen = close_of(period.last)
    return replace(record, valid_to=period.ends, delisted_date=period.ends, active=False, last_seen=seen)


def _may_be(record: SymbolRecord, period: Period) -> bool:
    """Return whether the record may be of the period's company: one that still has the symbol is in the last list."""
    is_over = record.valid_to is None and period.not_after is not None
    return not is_over and not another_company(record, period.company) and _overlap(record, period.begins, period.ends)


def _overlap(record: SymbolRecord, begins: date, ends: date | None) -> bool:
    return record.valid_from <= (ends or date.max) and begins <= (record.valid_to or date.max)


def _filled(record: SymbolRecord, ticker: Ticker) -> SymbolRecord:
    """Return the record with missing fields filled from the list."""
    missing = {name: getattr(ticker, name) for name in _FILLED if getattr(record, name) is None}
    return replace(record, **missing)


def _merged(older: Ticker, newer: Ticker) -> Ticker:
    """Return the ticker with the newer list's fields; fields that it leaves out stay."""
    return replace(newer, **{name: getattr(older, name) for name in _FILLED if getattr(newer, name) is None})


def _chosen(rows: Sequence[Ticker], period: Period | None) -> Ticker:
    """Choose one of a list's rows of a symbol: that of the company that had it before, if there is one."""
    return min(rows, key=lambda row: (period is not None and not period.is_of(row), row.composite_figi or "~"))

"""Find the company of each symbol, and its first session, from the vendor's list and the stored records (pure).

Companies are distinguished by their composite FIGI, else by that of the share class, else by their times. No record is
ever deleted. A symbol's records follow one another in time and do not overlap; only the last one may be without an end.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Final
from zlib import crc32

from fiblake.calendar import TradingCalendar, exchange_day
from fiblake.errors import UpstreamError
from fiblake.reference import Identity
from fiblake.symbols import BEGINNING, SymbolRecord
from services.fetcher.tickers import Ticker, TickerChange

NEWS_LATE_BY: Final = timedelta(days=90)
"""The longest time of a symbol in the vendor's list after its delisting; an older date is another company's."""
HANDOVER_AFTER: Final = 3
"""Sessions for which a symbol must be listed with another FIGI before it counts as handed over, if nothing else says
so: the vendor lists some tickers twice for a few days, with two FIGIs in changing order."""

BACK_WITHIN: Final = NEWS_LATE_BY
"""A symbol that comes back after a longer time is a new listing, whatever its company is."""

_ONE_DAY: Final = timedelta(days=1)

Pair = tuple[SymbolRecord, Ticker]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The state of the symbols, by their last record and the vendor's list."""

    new: list[Ticker] = field(default_factory=list)
    """Never seen before."""
    kept: list[Pair] = field(default_factory=list)
    """Still of the same company; its name or exchange may have changed."""
    back: list[Pair] = field(default_factory=list)
    """It had vanished, and is listed again; after BACK_WITHIN it is a new listing (see `without_undecided`)."""
    handed_over: list[Pair] = field(default_factory=list)
    """Listed with another company's FIGI."""
    doubtful: list[Pair] = field(default_factory=list)
    """The same, but perhaps by the vendor's mistake (see `without_undecided`): the symbol stays with its company."""
    twice: list[str] = field(default_factory=list)
    """Symbols that are listed more than once; the row with the known FIGI counts."""
    vanished: list[SymbolRecord] = field(default_factory=list)
    """No longer listed."""
    renamed: frozenset[str] = frozenset()
    """The new and handed-over symbols whose company is stored with another symbol."""

    @property
    def unsettled(self) -> list[str]:
        """Symbols whose new company began on a day that only the vendor knows, the most important ones first."""
        symbols = [ticker.symbol for ticker in [*(ticker for _, ticker in self.handed_over), *self.new]]
        handed_over = {ticker.symbol for _, ticker in self.handed_over}
        return sorted(symbols, key=lambda symbol: symbol not in handed_over | self.renamed)

    @property
    def vanished_by_figi(self) -> dict[str | None, SymbolRecord]:
        """Return the vanished records by their company, if it is known."""
        return {record.composite_figi: record for record in self.vanished if record.composite_figi}

    @property
    def successors(self) -> dict[str, str]:
        """Return, by vanished symbol, the present symbol of its company, if it is known."""
        listed = [*self.new, *(ticker for _, ticker in self.handed_over)]
        by_figi = {ticker.composite_figi: ticker.symbol for ticker in listed if ticker.composite_figi}
        return {r.symbol: by_figi[r.composite_figi] for r in self.vanished if r.composite_figi in by_figi}


@dataclass(frozen=True, slots=True)
class Days:
    """The day of a run in the exchange's time zone, and the sessions around it."""

    today: date
    closed: date
    """The last session that has closed."""
    session: date
    """The first session that is not before today: the next one to fetch, or the one just fetched."""
    calendar: TradingCalendar

    @classmethod
    def of(cls, calendar: TradingCalendar, now: datetime) -> "Days":
        """Return the days of a run at `now`."""
        today = exchange_day(now)
        session = calendar.session(calendar.ordinal_on_or_after(today))
        return cls(today, calendar.last_closed(now), session, calendar)

    def before(self, session: date) -> date:
        """Return the session before `session`."""
        return self.calendar.session(self.calendar.ordinal(session) - 1)


def compare(stored: Iterable[SymbolRecord], listed: Iterable[Ticker]) -> Comparison:
    """Compare the vendor's list of active tickers with all records.

    Raises UpstreamError if fewer than half of the active symbols are listed: such a list is not used.
    """
    last = {record.symbol: record for record in sorted(stored, key=lambda record: record.valid_from)}
    rows: dict[str, list[Ticker]] = {}
    for ticker in listed:
        rows.setdefault(ticker.symbol, []).append(ticker)
    tickers = {symbol: _chosen(of_symbol, last.get(symbol)) for symbol, of_symbol in rows.items()}
    _check_complete([symbol for symbol, record in last.items() if record.valid_to is None], tickers)
    comparison = Comparison(
        twice=[symbol for symbol, of_symbol in rows.items() if len(of_symbol) > 1],
        vanished=[r for s, r in last.items() if r.valid_to is None and s not in tickers],
    )
    for symbol, ticker in tickers.items():
        if symbol not in last:
            comparison.new.append(ticker)
            continue
        record = last[symbol]
        if another_company(record, ticker):
            comparison.handed_over.append((record, ticker))
        else:
            (comparison.kept if record.valid_to is None else comparison.back).append((record, ticker))
    elsewhere: dict[str | None, set[str]] = {}
    for record in last.values():
        elsewhere.setdefault(record.composite_figi, set()).add(record.symbol)
    renamed = [
        s for s in comparison.unsettled if (figi := tickers[s].composite_figi) and elsewhere.get(figi, set()) - {s}
    ]
    return replace(comparison, renamed=frozenset(renamed))


def without_undecided(
    comparison: Comparison, beginnings: Mapping[str, date], days: Days, unanswered: Collection[str] = ()
) -> Comparison:
    """Return the comparison with only the decided changes; for the others the stored record stays until a later run.

    A symbol with another FIGI is handed over if the vendor names the day of the change, if its old company has vanished
    or its new one has left another symbol, or if it has been listed so for HANDOVER_AFTER sessions. A renamed company
    whose day of change the vendor did not answer (`unanswered`) keeps its old symbol for the same time.
    """
    kept_figis = {record.composite_figi for record, _ in comparison.kept}

    def handed_over(record: SymbolRecord, ticker: Ticker) -> bool:
        moved = ticker.symbol in comparison.renamed and ticker.composite_figi not in kept_figis
        begins = _change(record, beginnings.get(ticker.symbol))
        return record.valid_to is not None or moved or begins is not None or _unseen_for(record, days)

    by_figi = comparison.vanished_by_figi
    waiting = {
        ticker.symbol for ticker in comparison.new
        if ticker.symbol in unanswered and ticker.composite_figi in by_figi
        and not _unseen_for(by_figi[ticker.composite_figi], days)
    }  # fmt: skip
    returned = [pair for pair in comparison.back if days.today - (pair[0].valid_to or days.today) > BACK_WITHIN]
    return replace(
        comparison, handed_over=[*(pair for pair in comparison.handed_over if handed_over(*pair)), *returned],
        back=[pair for pair in comparison.back if pair not in returned],
        doubtful=[*comparison.doubtful, *(pair for pair in comparison.handed_over if not handed_over(*pair))],
        new=[ticker for ticker in comparison.new if ticker.symbol not in waiting],
        vanished=[record for record in comparison.vanished if comparison.successors.get(record.symbol) not in waiting],
    )  # fmt: skip


def another_company(company: SymbolRecord | Ticker, other: SymbolRecord | Ticker) -> bool:
    """Return whether the two are different companies: by the composite FIGI, or the share class's if one is missing.

    If neither can be compared, return False: the times decide.
    """
    if company.composite_figi and other.composite_figi:
        return company.composite_figi != other.composite_figi
    return (
        bool(company.share_class_figi and other.share_class_figi) and company.share_class_figi != other.share_class_figi
    )


def first_session_under(symbol: str, changes: Iterable[TickerChange], days: Days) -> date | None:
    """Return the first session in which the company had `symbol`, by the vendor's changes of ticker; None: unknown."""
    dates = [change.date for change in changes if change.symbol == symbol and change.date <= days.today]
    if not dates or max(dates) < BEGINNING:
        return None
    return days.calendar.session(days.calendar.ordinal_on_or_after(max(dates)))


def rename_day(symbol: str, changes: Iterable[TickerChange]) -> date | None:
    """Return the day on which a company changed from another symbol to this one; None if it did not."""
    by_day = sorted(changes, key=lambda change: change.date)
    others = [change.date for change in by_day if change.symbol != symbol]
    taken = [change.date for change in by_day if change.symbol == symbol]
    return max(taken) if taken and others and min(others) < max(taken) else None


def last_day_of(record: SymbolRecord, ticker: Ticker | None, days: Days) -> date:
    """Return the last day of a vanished symbol: the vendor's one, unless it is of another company, or unknown."""
    day = ticker.delisted if ticker else None
    if ticker is None or day is None or another_company(record, ticker):
        return max(days.closed, record.valid_from)
    earliest = max(record.valid_from, exchange_day(record.last_seen) - NEWS_LATE_BY)
    return day if day >= earliest else max(days.closed, record.valid_from)


def updated(
    comparison: Comparison, beginnings: Mapping[str, date], ends: Mapping[str, date], days: Days, now: datetime
) -> list[SymbolRecord]:
    """Return the new and changed records; `beginnings` and `ends` are the vendor's days, by symbol.

    Without the vendor's day, a handed-over symbol, or a new symbol of a company that had another one, begins with the
    first session after the old one was last seen: before that it may have been another company's. Any other new symbol
    begins with its first bar. Undecided changes are left out (`without_undecided`).
    """
    comparison = without_undecided(comparison, beginnings, days)
    by_figi = comparison.vanished_by_figi
    records = [_with_vendors_fields(record, ticker, now) for record, ticker in [*comparison.kept, *comparison.back]]
    for ticker in comparison.new:
        unknown = _after(by_figi.get(ticker.composite_figi), days) if ticker.symbol in comparison.renamed else BEGINNING
        records.append(record_of(ticker, beginnings.get(ticker.symbol, unknown), now))
    for record, ticker in comparison.handed_over:
        records += _handed_over(record, ticker, beginnings.get(ticker.symbol), days, now)
    successors = comparison.successors
    for record in comparison.vanished:
        begins = beginnings.get(successors.get(record.symbol, ""))
        end = days.before(begins) if begins and begins > record.valid_from else ends[record.symbol]
        records.append(_over(record, end))
    return records


def changed(pair: Pair) -> bool:
    """Return whether the vendor changed a field of a symbol that is still of the same company."""
    record, ticker = pair
    return _with_vendors_fields(record, ticker, record.last_seen) != record


def identities_of(records: Iterable[SymbolRecord]) -> dict[str, tuple[Identity, ...]]:
    """Return the companies of each symbol, oldest first."""
    identities_by_symbol: dict[str, list[Identity]] = {}
    for r in sorted(records, key=lambda r: r.valid_from):
        identities_by_symbol.setdefault(r.symbol, []).append(
            Identity(r.symbol, r.valid_from, r.valid_to, r.composite_figi, r.name)
        )
    return {symbol: tuple(identities) for symbol, identities in identities_by_symbol.items()}


def merged(stored: Iterable[SymbolRecord], records: Iterable[SymbolRecord]) -> list[SymbolRecord]:
    """Return all records as they will be after `records` are saved."""
    by_key = {(record.symbol, record.valid_from): record for record in [*stored, *records]}
    return list(by_key.values())


def details_due(
    records: Iterable[SymbolRecord], types: Collection[str], stale_before: datetime, today: date
) -> list[SymbolRecord]:
    """Return the current records whose details are missing or from before `stale_before`: the universe's first.

    Records without details come first, then the oldest. Equal ones have another order each day, so that symbols
    on which the vendor always fails do not block the others.
    """
    due = [r for r in records if r.valid_to is None and (r.details_at is None or r.details_at < stale_before)]
    details_at = {r.symbol: r.details_at.timestamp() if r.details_at else 0.0 for r in due}
    turn = {r.symbol: crc32(f"{today} {r.symbol}".encode()) for r in due}
    return sorted(due, key=lambda r: (r.type not in types, details_at[r.symbol], turn[r.symbol], r.symbol))


def _check_complete(active: Sequence[str], tickers: Mapping[str, Ticker]) -> None:
    back = sum(symbol in tickers for symbol in active)
    if 2 * back < len(active):
        raise UpstreamError(
            f"the vendor lists {back} of the {len(active)} symbols that were active, fewer than half: nothing is "
            "deactivated on such a list; if it is right, set the symbols inactive in symbol_metadata"
        )


def _handed_over(
    record: SymbolRecord, ticker: Ticker, begins: date | None, days: Days, now: datetime
) -> list[SymbolRecord]:
    start = _change(record, begins) or _after(record if record.valid_to is None else None, days)
    if start <= record.valid_from:
        # The last company took the symbol in this same session: the vendor has corrected itself.
        return [record_of(ticker, record.valid_from, now)]
    last = days.before(start)
    return [_over(record, min(record.valid_to or last, last)), record_of(ticker, start, now)]


def _chosen(rows: Sequence[Ticker], stored: SymbolRecord | None) -> Ticker:
    """Choose one of the vendor's rows of a symbol: the same one in any order."""
    figi = stored.composite_figi if stored else None
    return min(rows, key=lambda row: (figi is None or row.composite_figi != figi, row.composite_figi or "~"))


def _change(record: SymbolRecord, begins: date | None) -> date | None:
    """Return the vendor's day of a handover, or None if it is of another one: before the record, or long ago."""
    earliest = _seen_on(record) - NEWS_LATE_BY
    return begins if begins and begins > record.valid_from and begins >= earliest else None


def _seen_on(record: SymbolRecord) -> date:
    return exchange_day(record.last_seen)


def _unseen_for(record: SymbolRecord, days: Days) -> bool:
    """Return whether HANDOVER_AFTER sessions have begun since the record's company was last listed with the symbol."""
    return len(days.calendar.between(_seen_on(record) + _ONE_DAY, days.today)) >= HANDOVER_AFTER


def _after(record: SymbolRecord | None, days: Days) -> date:
    """Return the first session after the record was last seen, or the run's session if it is earlier."""
    if record is None:
        return days.session
    return min(days.session, days.calendar.session(days.calendar.ordinal_on_or_after(_seen_on(record) + _ONE_DAY)))


def _over(record: SymbolRecord, end: date) -> SymbolRecord:
    return replace(record, valid_to=end, delisted_date=end, active=False)


def _with_vendors_fields(record: SymbolRecord, ticker: Ticker, now: datetime) -> SymbolRecord:
    """Return the record with the vendor's fields; fields that the vendor leaves out stay."""
    return replace(
        record, valid_to=None, delisted_date=None, active=True, last_seen=now,
        composite_figi=ticker.composite_figi or record.composite_figi,
        share_class_figi=ticker.share_class_figi or record.share_class_figi,
        name=ticker.name or record.name, exchange=ticker.exchange or record.exchange,
        type=ticker.type or record.type, currency=ticker.currency or record.currency,
    )  # fmt: skip


def record_of(ticker: Ticker, valid_from: date, now: datetime) -> SymbolRecord:
    """Return the record of a company that has the symbol since `valid_from` and was first listed at `now`."""
    return SymbolRecord(
        symbol=ticker.symbol, valid_from=valid_from, valid_to=None, composite_figi=ticker.composite_figi,
        share_class_figi=ticker.share_class_figi, name=ticker.name or None, industry=None, sector=None, sic_code=None,
        exchange=ticker.exchange or None, type=ticker.type or None, currency=ticker.currency or None, list_date=None,
        delisted_date=None, active=True, first_seen=now, last_seen=now,
    )  # fmt: skip

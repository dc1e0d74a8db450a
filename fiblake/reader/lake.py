"""The queries of a researcher: bars of symbols, panels of sessions by symbols, splits, sessions.

Two sources return the same rows. Bars of few symbols are cut from their data.parquet, one GET for each symbol, by the
code that cuts silver. Bars of many symbols come from silver's month files, one GET for each month. `_reads_silver`
selects the source.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from importlib import import_module
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from fiblake.adjustment import Adjustment
from fiblake.aggregate import SILVER, Bars, Market, version_numbers
from fiblake.bars import Consolidated
from fiblake.buckets import bucket_start
from fiblake.calendar import Days, TradingCalendar, exchange_day, lake_calendar
from fiblake.decoding import decoding
from fiblake.errors import ContractError, NotFoundError
from fiblake.lake import (
    INTERVALS,
    UNIVERSE_KEY,
    Bronze,
    Month,
    check_known,
    check_symbol,
    dividends_key,
    revisions_key,
    splits_key,
    tag_key,
)
from fiblake.objects import ObjectReader, StoredObject
from fiblake.reader.faults import check_type, refuse_missing, using
from fiblake.reader.months import SilverTable
from fiblake.reader.panel import NUMBERS, pivot
from fiblake.reader.result import Result, require_package, with_metadata
from fiblake.reference import DIVIDENDS, SPLITS, read_dividends, read_splits
from fiblake.revisions import known_at, read_revisions
from fiblake.tags import check_tag, past_instant, read_tag
from fiblake.universe import read_universe

Day = date | datetime | str | np.datetime64
"""A day in the forms that a caller may use: also the text 2015-01-02, or pandas' Timestamp."""
Instant = datetime | str
"""An instant in the forms that a caller may use, or the name of a tag."""
Symbols = str | Iterable[str]
Source = Literal["auto", "bronze", "silver"]

DAILY: Final = 1
KNOWN_INTERVALS: Final = (DAILY, *INTERVALS)
ADJUSTMENTS: Final[tuple[Adjustment, ...]] = ("splits", "raw", "total")
SOURCES: Final = ("auto", "bronze", "silver")
COLUMNS: Final = tuple(name for name in SILVER.names if name not in {"adjusted", "version"})
"""The columns of `bars`. Whether prices are adjusted is the same for all rows, and is in the metadata."""
ROWS: Final = pa.schema([SILVER.field(name) for name in COLUMNS])
SYMBOLS_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Request:
    """A request for bars; `symbols` None: all symbols of the lake."""

    symbols: tuple[str, ...] | None
    interval: int
    first: date
    last: date
    adjust: Adjustment
    complete: bool
    as_of: datetime | None
    """Read the lake as it was known at this instant; None: the present lake."""


@dataclass(frozen=True)
class Lake:
    """A lake, read only. Make one with `fiblake.open`."""

    store: ObjectReader
    bronze: Bronze = field(default_factory=Bronze)
    cache: Path | None = None
    """The folder for copies of month files; None: the user's cache folder."""
    calendar: TradingCalendar = field(default_factory=lake_calendar, repr=False)
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC), repr=False)

    def __repr__(self) -> str:
        return f"<fiblake.Lake: s3://{self.store.bucket}>"

    def symbols(self) -> list[str]:
        """Return the symbols that have bars, sorted: one request to S3 for 1,000 symbols."""
        return self.bronze.symbols_in(self.store.folders(f"{self.bronze.prefix}/"))

    def sessions(self, start: Day | None = None, end: Day | None = None) -> Days:
        """Return the trading sessions from `start` (default 1962-01-02) to `end` (default: the last closed session)."""
        first = _day(start, "start") if start is not None else self.calendar.session(0)
        last = _day(end, "end") if end is not None else self.calendar.last_closed(self.clock())
        return np.array(self.calendar.between(first, last), dtype="datetime64[D]")

    def splits(self, symbol: str) -> Result:
        """Return a symbol's splits, sorted by execution date.

        `historical_adjustment_factor` is cumulative: prices before the split are multiplied by it to compare them with
        today's prices. Raises NotFoundError for an unknown symbol.
        """
        return self._reference_rows(symbol, splits_key, read_splits, SPLITS, "execution_date")

    def dividends(self, symbol: str) -> Result:
        """Return a symbol's cash dividends, sorted by ex-date, including announced ones."""
        return self._reference_rows(symbol, dividends_key, read_dividends, DIVIDENDS, "ex_dividend_date")

    def universe(self, day: Day) -> Result:
        """Return the companies that were listed on a day, sorted by symbol, including companies delisted later.

        `type` is null if the vendor does not state it. For a day before `known_since` (in the metadata) the result has
        only companies that still existed at `known_since`. Raises NotFoundError if the lake has no companies.
        """
        stored = self.store.find(UNIVERSE_KEY)
        if stored is None:
            raise NotFoundError(f"the lake has no {UNIVERSE_KEY}: `fiblake metadata` writes it")
        universe, when = read_universe(stored.data), _day(day, "day")
        facts = {"day": when.isoformat(), "known_since": universe.known_since.isoformat()}
        return Result(with_metadata(universe.listed_on(when), as_of=self.clock().isoformat(), **facts), "symbol")

    def _reference_rows(
        self, symbol: str, key_of: Callable[[str], str], read: Callable[[bytes, str], Sequence[object]],
        schema: pa.Schema, index: str,
    ) -> Result:  # fmt: skip
        check_type("symbol", symbol, str, example="'AAPL'")
        stored = self.store.find(key_of(symbol))
        if stored is None:
            self._check_known([symbol])
        records = read(stored.data, symbol) if stored else ()
        columns = {name: [getattr(record, name) for record in records] for name in schema.names}
        table = pa.Table.from_pydict(columns, schema=schema)
        return Result(with_metadata(table, as_of=self.clock().isoformat()), index)

    def bars(
        self, symbols: Symbols | None = None, interval: str = "1d", start: Day | None = None, end: Day | None = None,
        *, adjust: Adjustment = "splits", complete: bool = False, as_of: Instant | None = None,
        source: Source = "auto",
    ) -> Result:  # fmt: skip
        """Return bars of one symbol, of several, or of all (None), sorted by symbol and `ts`.

        Prices are in USD, volumes in shares. The columns are those of silver without `adjusted` and `version`.

        `interval` is 1d, or an interval of silver, for example 3d. `start` and `end` limit `ts`, the first session of a
        bucket; both are inclusive. `adjust="splits"` makes prices and volumes comparable across splits, "total" also
        makes prices comparable across dividends, and "raw" returns both as traded. `complete` leaves out buckets that
        may still get a bar. `as_of` returns bars, splits and companies as they were known at an instant, or at a tag.
        `source` selects the files ("bronze" or "silver"); "auto" selects those that need the fewest requests.

        Raises NotFoundError for symbols that the lake does not have, with the nearest existing ones, and ContractError
        for an invalid option or a file that cannot be used.
        """
        request = self._request(symbols, interval, start, end, adjust, as_of, complete=complete)
        rows = (
            self._from_silver(request, COLUMNS) if self._reads_silver(request, source) else self._from_bronze(request)
        )
        return Result(self._described(rows, request))

    def panel(
        self, column: str, interval: str = "1d", symbols: Symbols | None = None, start: Day | None = None,
        end: Day | None = None, *, adjust: Adjustment = "splits", complete: bool = False,
        as_of: Instant | None = None, source: Source = "auto",
    ) -> Result:  # fmt: skip
        """Return one column of bars as a table of sessions by symbols; null: no bar.

        `column` is open, high, low, close or volume. A row is a bucket, and `ts` its first session by the calendar. In
        a bucket with a handover it shows the new company (`bars` has both). Options and errors are those of `bars`.
        """
        check_type("column", column, str, example="'close'")
        if column not in NUMBERS:
            raise ContractError(f"column {column!r} is none of {', '.join(NUMBERS)}")
        request = self._request(symbols, interval, start, end, adjust, as_of, complete=complete)
        if self._reads_silver(request, source):
            rows = self._from_silver(request, ("symbol", "ts", column, "is_complete"), by_bucket=True)
        else:
            rows = self._from_bronze(request, by_bucket=True)
        table = pivot(rows, column, request.interval, self.calendar, request.symbols)
        return Result(self._described(table, request, column=column))

    def sql(self, query: str, symbols: Symbols | None = None) -> Result:
        """Return the result of one SELECT, in DuckDB's SQL, over the tables of `fiblake query`.

        The tables are bronze, silver_3d to silver_34d, metadata, splits, dividends, universe and manifest. For a large
        lake, name the needed `symbols`, so that fewer files of bronze are read. Raises ContractError if
        the query, or a file that it reads, cannot be used, or if two columns have one name.
        """
        check_type("query", query, str, example="'SELECT * FROM silver_3d'")
        require_package("duckdb")
        views = import_module("fiblake.reader.views")  # imports DuckDB, which the other methods do not need
        files_hint = "this query reads the lake's tables only: join files of your own to its result"
        names = views.views_named_in(query, files_hint, distinct_columns=True)
        tables = views.open_views(self.store, self.bronze, names, _named(symbols) or (), lambda _: None, self.cache)
        with tables.connection:
            rows = tables.answer(lambda connection: connection.sql(query).to_arrow_table())
        if tables.unreadable:
            faults = "; ".join(f"{key}: {fault}" for key, fault in tables.unreadable.items())
            raise ContractError(f"files of the lake cannot be read: {faults}; `fiblake reconcile` says what to do")
        index = next((name for name in ("ts", "timestamp") if name in rows.column_names), None)
        return Result(with_metadata(rows, as_of=self.clock().isoformat()), index)

    def _request(  # noqa: PLR0917
        self, symbols: Symbols | None, interval: str, start: Day | None, end: Day | None, adjust: Adjustment,
        as_of: Instant | None, *, complete: bool,
    ) -> Request:  # fmt: skip
        names = {f"{number}d": number for number in KNOWN_INTERVALS}
        check_type("interval", interval, str, example="'1d' or '3d'")
        check_type("adjust", adjust, str, example=" or ".join(map(repr, ADJUSTMENTS)))
        check_type("complete", complete, bool, np.bool_, example="True or False")
        if interval not in names:
            raise ContractError(f"interval {interval!r} is none of {', '.join(names)}")
        if adjust not in ADJUSTMENTS:
            raise ContractError(f"adjust={adjust!r} is none of {', '.join(ADJUSTMENTS)}")
        first = _day(start, "start") if start is not None else self.calendar.session(0)
        last = _day(end, "end") if end is not None else self.calendar.session(-1)
        if start is not None and end is not None and first > last:
            raise ContractError(f"start {first} lies behind end {last}: swap them")
        instant = self._instant(as_of) if as_of is not None else None
        return Request(_named(symbols), names[interval], first, last, adjust, complete, instant)

    def _instant(self, as_of: Instant) -> datetime:
        """Return the instant of an option: without a time zone it is UTC; a name is looked up as a tag."""
        if isinstance(as_of, str) and as_of[:1].isalpha():
            stored = self.store.find(tag_key(check_tag(as_of)))
            if stored is None:
                raise NotFoundError(f"there is no tag {as_of}: make one with `fiblake tag {as_of}`")
            return read_tag(stored.data, as_of, self.clock())
        with decoding(f"as_of={as_of!r} is no instant", "write it as 2026-03-01T12:00Z, or name a tag"):
            return past_instant(as_of, self.clock())

    def _reads_silver(self, request: Request, source: str) -> bool:
        """Return whether month files are read.

        They are read if there are fewer of them than symbols. They hold no daily bars, no bars as traded, and no past
        versions.
        """
        check_type("source", source, str, example=" or ".join(map(repr, SOURCES)))
        if source not in SOURCES:
            raise ContractError(f"source={source!r} is none of {', '.join(SOURCES)}")
        has_silver = request.interval != DAILY and request.adjust == "splits" and request.as_of is None
        if source == "silver" and not has_silver:
            request_text = (
                f"{request.interval}d bars with adjust={request.adjust!r}{' as of then' if request.as_of else ''}"
            )
            raise ContractError(f'silver has no {request_text}: leave out source="silver"')
        if source != "auto" or not has_silver or request.symbols is None:
            return has_silver and source != "bronze"
        last = min(request.last, self.clock().date())
        months = (last.year - request.first.year) * 12 + last.month - request.first.month + 1
        return len(request.symbols) > months

    def _from_bronze(self, request: Request, *, by_bucket: bool = False) -> pa.Table:
        """Cut the bars of each symbol's data.parquet into buckets."""
        symbols = request.symbols if request.symbols is not None else tuple(self.symbols())
        keys = [self.bronze.data_key(symbol) for symbol in symbols]
        parts, missing = [ROWS.empty_table()], []
        for names, objects in self._objects(symbols, keys):
            missing += [symbol for symbol, stored in zip(names, objects, strict=True) if stored is None]
            stored_of = {symbol: stored for symbol, stored in zip(names, objects, strict=True) if stored}
            parts.append(self._cut(stored_of, request, by_bucket=by_bucket))
        if missing and request.symbols is not None:
            refuse_missing(self.store, self.bronze, missing)
        return pa.concat_tables(parts)

    def _objects(
        self, symbols: Sequence[str], keys: Sequence[str]
    ) -> Iterator[tuple[Sequence[str], list[StoredObject | None]]]:
        """Read objects in groups; the next group is requested while one is processed."""
        starts = range(0, len(symbols), SYMBOLS_AT_ONCE)
        parts = [slice(start, start + SYMBOLS_AT_ONCE) for start in starts]
        for part, objects in zip(parts, self.store.get_groups([keys[part] for part in parts]), strict=True):
            yield symbols[part], objects

    def _cut(self, objects: dict[str, StoredObject], request: Request, *, by_bucket: bool) -> pa.Table:
        read = self._read if request.as_of is None else self._read_as_of
        first = bucket_start(self._ordinal(request.first), request.interval)
        market = Market.of([bars.since(first) for bars in read(objects, request)])
        buckets = market.buckets(request.interval)
        begins = buckets.begins - buckets.begins % request.interval if by_bucket else buckets.begins
        wanted = (begins >= self._ordinal(request.first)) & (begins < self._ordinal_after(request.last))
        if request.complete:
            wanted &= buckets.is_complete
        names, versions = pa.array(market.symbols, pa.string()), version_numbers(market.versions)
        table = buckets.taken(np.flatnonzero(wanted)).table(
            names, versions, self.calendar, adjusted=request.adjust != "raw"
        )
        return table.select(list(COLUMNS))

    def _read(self, objects: dict[str, StoredObject], request: Request) -> list[Bars]:
        many = []
        for symbol, stored in objects.items():
            with using(stored.key):
                many.append(Bars.read(stored.data, symbol, stored.last_modified, self.calendar, adjust=request.adjust))
        return many

    def _read_as_of(self, objects: dict[str, StoredObject], request: Request) -> list[Bars]:
        """Return each symbol's bars as known at `as_of`; revisions are read only for symbols that changed since."""
        instant = request.as_of or self.clock()
        whole = {}
        for symbol, file in objects.items():
            with using(file.key):
                whole[symbol] = Consolidated.decode(file.data, symbol, file.last_modified)
                if whole[symbol].adopted and file.last_modified <= instant:
                    # Another program's rows are not checked yet: refuse what the present lake refuses.
                    Bars.read(file.data, symbol, file.last_modified, self.calendar, adjust="raw")
        changed = [symbol for symbol, stored in whole.items() if stored.last_updated > instant]
        # After data.parquet: a writer stores superseded rows in the revisions before it writes the new version.
        revisions = dict(zip(changed, self.store.get_many([revisions_key(s) for s in changed]), strict=True))
        many, absent = [], []
        for symbol, stored in whole.items():
            revised = revisions.get(symbol)
            with using(revisions_key(symbol), ""):  # the error itself names the remedy
                rows = read_revisions(revised.data if revised else None, symbol)
            with using(objects[symbol].key):
                table, reference = known_at(stored, rows, instant)
                if table.num_rows:
                    many.append(Bars.of(symbol, table, self.calendar, reference, adjust=request.adjust))
                else:
                    absent.append(symbol)
        if absent and request.symbols is not None:
            raise NotFoundError(
                f"the lake had no bars of {', '.join(absent)} at {instant.isoformat()}: name a later instant"
            )
        return many

    def _from_silver(self, request: Request, columns: Sequence[str], *, by_bucket: bool = False) -> pa.Table:
        """Read month files; symbols whose silver is as traded (old rows, or such a stack) are cut from bronze."""
        silver = SilverTable(self.store, self.calendar, request.interval, self.cache)
        begin = min(bucket_start(self._ordinal(request.first), request.interval), len(self.calendar.sessions) - 1)
        rows, as_traded = silver.read(
            columns, request.symbols, Month.of(self.calendar.session(begin)), Month.of(request.last)
        )
        starts = silver.bucket_starts(rows) if by_bucket else silver.ordinals(rows)
        wanted = (starts >= self._ordinal(request.first)) & (starts < self._ordinal_after(request.last))
        if request.complete:
            wanted &= rows["is_complete"].to_numpy()
        rows = rows.filter(pa.array(wanted))
        if request.symbols is not None:
            absent = sorted(set(request.symbols) - set(rows["symbol"].unique().to_pylist()) - set(as_traded))
            data_files = self.store.versions([self.bronze.data_key(symbol) for symbol in absent])
            if missing := [symbol for symbol, etag in zip(absent, data_files, strict=True) if etag is None]:
                refuse_missing(self.store, self.bronze, missing)
        if as_traded:
            again = Request(
                tuple(as_traded), request.interval, request.first, request.last, "splits", request.complete, None
            )
            rows = pa.concat_tables([rows, self._from_bronze(again, by_bucket=by_bucket).select(list(columns))])
            rows = rows.sort_by([("symbol", "ascending"), ("ts", "ascending")])
        return rows

    def _ordinal(self, day: date) -> int:
        """Return the ordinal of the first session on or after a day; after the calendar's end, the next free one."""
        return int(np.searchsorted(self.calendar.sessions, np.datetime64(day, "D")))

    def _ordinal_after(self, day: date) -> int:
        return int(np.searchsorted(self.calendar.sessions, np.datetime64(day, "D"), side="right"))

    def _check_known(self, symbols: Sequence[str]) -> None:
        check_known(symbols, self.symbols())

    def _described(self, table: pa.Table, request: Request, **facts: str) -> pa.Table:
        return with_metadata(
            table,
            interval=f"{request.interval}d",
            adjust=request.adjust,
            as_of=(request.as_of or self.clock()).isoformat(),
            **facts,
        )


def _named(symbols: Symbols | None) -> tuple[str, ...] | None:
    """Return the requested symbols, sorted and without duplicates; None: all."""
    if symbols is None:
        return None
    check_type("symbols", symbols, str, Iterable, example="'AAPL' or ['AAPL', 'MSFT']")
    names = [symbols] if isinstance(symbols, str) else list(symbols)
    if not names:
        raise ContractError("no symbol is named: name one or more, or None for all")
    for name in names:
        check_type("a name in symbols", name, str, example="'AAPL'")
    return tuple(sorted({check_symbol(name) for name in names}))


def _day(value: Day, name: str) -> date:
    """Return the day of an option; an instant with a time zone is converted to the exchange's time zone first."""
    with decoding(f"{name}={value!r} is no day", "write it as 2015-01-02"):
        if isinstance(value, str):
            return date.fromisoformat(value)
        if isinstance(value, datetime) and value.tzinfo:
            value = exchange_day(value)
        if not isinstance(value, date | np.datetime64):
            raise ContractError(f"it is of type {type(value).__name__}")
        day: date | None = np.array([value], dtype="datetime64[D]").item()
        if not isinstance(day, date):
            raise ContractError("it is empty, or outside the years 1 to 9999")
        return day

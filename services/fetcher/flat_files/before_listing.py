"""Find a company's own bars among the unclaimed bars before its recorded first day.

The recorded day comes from the vendor and may be years late. Earlier bars wait in bronze/unclaimed. After all files are
loaded, they are checked by the rule of histories (`listing.since_listing`): bars without a gap up to the company's
first bar, and without a price jump there, are the company's. They are stored as bars, and the record gets an earlier
first day. Bars of another known company's time are never used.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fiblake.bars import BRONZE, decode, encode
from fiblake.calendar import TradingCalendar
from fiblake.lake import UNCLAIMED_PREFIX, is_unclaimed
from fiblake.reference import Split
from fiblake.rules import NUMBER_COLUMNS
from fiblake.symbols import BEGINNING, SymbolRecord
from services.fetcher.flat_files.chunk import UNCLAIMED_ROWS
from services.fetcher.flat_files.stored import StoredFiles
from services.fetcher.listing import since_listing, split_ratios
from services.fetcher.range_files import with_stored
from services.fetcher.validation import VendorBar, faults
from shared.batching import chunks
from shared.objects import ObjectStore, StoredObject

MOST_ROWS: Final = 100_000
"""The number of unclaimed rows that are checked at once; the rows of one ticker stay together."""
_TICKERS: Final = pa.schema([UNCLAIMED_ROWS.field("ticker")])
_EPOCH: Final = date(1970, 1, 1)
_GONE_BEFORE: Final = date.min
_REMEDY: Final = "move it away; `fiblake load flatfiles --again` reads its rows again"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """Bars of a company from before its recorded first day, which are in range files now."""

    record: SymbolRecord
    sessions: npt.NDArray[np.int32]
    """Days since 1970, rising; the company begins with the first one now."""
    decided: str

    @property
    def first(self) -> date:
        """The company's new first session."""
        return _EPOCH + timedelta(days=int(self.sessions[0]))


@dataclass(frozen=True, slots=True)
class Judge:
    """The data for the check of unclaimed bars: the lake's files, all companies, splits and the rules."""

    stored: StoredFiles
    records: Sequence[SymbolRecord]
    splits: Mapping[str, Sequence[Split]]
    jump_limit: float
    calendar: TradingCalendar

    def put_bars_before_listing(self, *, is_ours: Callable[[SymbolRecord], bool]) -> list[Found]:
        """Put the unclaimed bars of our companies with a later recorded first day into range files.

        Bars of another company's time are left. Memory holds about MOST_ROWS of the unclaimed rows at once.
        """
        candidates: dict[str, list[tuple[SymbolRecord, date]]] = {}
        for record, ended in _candidates(self.records):
            if is_ours(record):
                candidates.setdefault(record.symbol, []).append((record, ended))
        unclaimed = UnclaimedRows.count(self.stored, candidates.keys())
        finds: list[Found] = []
        symbols = sorted(unclaimed.rows)
        for group in chunks(symbols, len(symbols), MOST_ROWS, unclaimed.rows.__getitem__):
            rows = unclaimed.read(group)
            files: dict[str, Callable[[StoredObject | None], bytes | None]] = {}
            for record, ended in (candidate for symbol in group for candidate in candidates[symbol]):
                mine = [row for row in rows[record.symbol] if ended < row["session"] < record.valid_from]
                bars, decided = self._own_bars(record, mine)
                if bars.num_rows:
                    sessions = bars["timestamp"].cast(pa.int32()).to_numpy()
                    find = Found(record, sessions, decided)
                    key = self.stored.bronze.range_key(record.symbol, find.first, bars["timestamp"][-1].as_py())
                    files[key] = partial(with_stored, key, record.symbol, bars)
                    finds.append(find)
            for error in self.stored.store.update_many(files).values():
                raise error
        return finds

    def _own_bars(self, record: SymbolRecord, rows: Sequence[Row]) -> tuple[pa.Table, str]:
        """Return the rows that are bars of the company (schema BRONZE, by session), and the decision."""
        bars = {row["session"]: _bar(record.symbol, row["session"], row) for row in rows}
        bars = {session: bar for session, bar in bars.items() if not faults(bar, self.calendar)}
        own = self._first_bar(record) if bars else []
        if not own:
            return BRONZE.empty_table(), ""
        judged: list[VendorBar] = [*bars.values(), *own]
        ratios = split_ratios(record.symbol, judged, self.splits.get(record.symbol, ()))
        company_bars, decided = since_listing(judged, record.valid_from, ratios, self.jump_limit, self.calendar)
        instants = {row["session"]: row["ingested_at"] for row in rows}
        sessions = sorted({bar.session for bar in company_bars} & bars.keys())
        return pa.Table.from_pylist([bars[day].row(instants[day]) for day in sessions], BRONZE), decided

    def _first_bar(self, record: SymbolRecord) -> list[VendorBar]:
        """Return the company's first bar since its recorded first day; None: it has none.

        A file's name has the session of its first bar, so few files must be read.
        """
        last = record.valid_to or date.max
        sources = self.stored.sources.get(record.symbol, ())
        soonest = min((source.first for source in sources if record.valid_from <= source.first <= last), default=last)
        for end in dict.fromkeys((soonest, last)):
            tables = self.stored.read({record.symbol: (record.valid_from, end)})
            table = pa.concat_tables([BRONZE.empty_table(), *tables.get(record.symbol, ())])
            since, until = (pa.scalar(day, pa.date32()) for day in (record.valid_from, end))
            inside = pc.and_(pc.greater_equal(table["timestamp"], since), pc.less_equal(table["timestamp"], until))
            own = table.filter(inside)
            if own.num_rows:
                order = [("timestamp", "ascending"), ("ingested_at", "descending")]
                row = own.sort_by(order).slice(0, 1).to_pylist()[0]
                return [_bar(record.symbol, row["timestamp"], row)]
        return []


def take_from_unclaimed(stored: StoredFiles, finds: Iterable[Found]) -> None:
    """Take the bars out of bronze/unclaimed; an empty file stays."""
    taken: dict[str, list[npt.NDArray[np.int32]]] = {}
    for find in finds:
        taken.setdefault(find.record.symbol, []).append(find.sessions)

    def without(data: bytes | None) -> bytes | None:
        if data is None:
            return None
        rows = decode(data, UNCLAIMED_ROWS, "the unclaimed rows", _REMEDY)
        stays = np.ones(rows.num_rows, dtype=np.bool_)
        sessions = rows["session"].cast(pa.int32()).to_numpy()
        for ticker, places in _places_by_ticker(rows):
            if ticker in taken:
                stays[places] = ~np.isin(sessions[places], np.concatenate(taken[ticker]))
        return None if stays.all() else encode(rows.filter(pa.array(stays)))

    for key in _unclaimed_keys(stored.store):
        stored.store.update(key, without)


@dataclass(frozen=True, slots=True)
class UnclaimedRows:
    """The number of unclaimed rows of some tickers, and their files."""

    store: ObjectStore
    rows: Mapping[str, int]
    keys: Mapping[str, Sequence[str]]

    @classmethod
    def count(cls, stored: StoredFiles, tickers: Collection[str]) -> "UnclaimedRows":
        """Count the rows of these tickers, one file at a time."""
        rows: Counter[str] = Counter()
        keys: dict[str, list[str]] = {}
        for key in _unclaimed_keys(stored.store):
            file = stored.store.find(key)
            if file is None:
                continue
            column = decode(file.data, _TICKERS, key, _REMEDY)["ticker"]
            for ticker, count in zip(*map(pa.Array.to_pylist, column.value_counts().flatten()), strict=True):
                if ticker in tickers:
                    rows[ticker] += count
                    keys.setdefault(ticker, []).append(key)
        return cls(stored.store, rows, keys)

    def read(self, tickers: Sequence[str]) -> dict[str, list[Row]]:
        """Return the rows of these tickers."""
        wanted = pa.array(tickers, pa.string())
        rows: dict[str, list[Row]] = {ticker: [] for ticker in tickers}
        for key in sorted({key for ticker in tickers for key in self.keys[ticker]}):
            file = self.store.find(key)
            if file is None:
                continue
            table = decode(file.data, UNCLAIMED_ROWS, key, _REMEDY)
            for row in table.filter(pc.is_in(table["ticker"], value_set=wanted)).to_pylist():
                rows[row["ticker"]].append(row)
        return rows


def _unclaimed_keys(store: ObjectStore) -> list[str]:
    """Return the keys of all unclaimed rows; the audit names other objects there."""
    return [info.key for info in store.list_objects(f"{UNCLAIMED_PREFIX}/") if is_unclaimed(info.key)]


def _places_by_ticker(rows: pa.Table) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
    """Yield each ticker of a table with the places of its rows."""
    encoded = rows["ticker"].combine_chunks().dictionary_encode()
    codes = np.asarray(encoded.indices.to_numpy(), dtype=np.intp)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(encoded.dictionary)))
    starts = np.concatenate([[0], ends[:-1]])
    for ticker, start, end in zip(encoded.dictionary.to_pylist(), starts, ends, strict=True):
        yield ticker, order[start:end]


def _candidates(records: Sequence[SymbolRecord]) -> list[tuple[SymbolRecord, date]]:
    """Return the records that begin on a day, each with the last day of the company before."""
    last: dict[str, date] = {}
    candidates = []
    for record in sorted(records, key=lambda record: (record.symbol, record.valid_from)):
        if record.valid_from > BEGINNING:
            candidates.append((record, last.get(record.symbol, _GONE_BEFORE)))
        last[record.symbol] = record.valid_to or date.max
    return candidates


def _bar(symbol: str, session: date, row: Row) -> VendorBar:
    numbers = {name: row[name] for name in NUMBER_COLUMNS}
    return VendorBar(symbol, session, **numbers, vwap=None, trades=row["trades"])

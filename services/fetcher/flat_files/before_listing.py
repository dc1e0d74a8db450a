"""Bars from before the day on which a company is said to begin, and whether they are its own.

The day is a label, and the vendor's labels may be years late. Such bars wait in bronze/unclaimed. Once all files are
loaded, they are judged by the rule that histories are judged by (`listing.since_listing`): bars without a gap up to the
company's first bar, and without a jump in price there, are the company's. They become bars, and its record begins
earlier. No bar of another known company's time is taken.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from fiblake.bars import BRONZE, decode, encode
from fiblake.calendar import TradingCalendar
from fiblake.lake import UNCLAIMED_PREFIX
from fiblake.reference import Split
from fiblake.rules import NUMBER_COLUMNS
from fiblake.symbols import BEGINNING, SymbolRecord
from services.fetcher.flat_files.chunk import UNCLAIMED_ROWS
from services.fetcher.flat_files.stored import StoredFiles
from services.fetcher.listing import since_listing, split_ratios
from services.fetcher.range_files import with_stored
from services.fetcher.validation import VendorBar, faults

_GONE_BEFORE: Final = date.min
_REMEDY: Final = "move it away; `fiblake load flatfiles --again` reads its rows again"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """Bars of a company from before the day on which it was said to begin."""

    record: SymbolRecord
    bars: pa.Table
    """Schema BRONZE, by session."""
    decided: str

    @property
    def first(self) -> date:
        """The session with which the company begins now."""
        first: date = self.bars["timestamp"][0].as_py()
        return first


def find_bars_before_listing(
    stored: StoredFiles, records: Sequence[SymbolRecord], splits: Mapping[str, Sequence[Split]], jump_limit: float,
    calendar: TradingCalendar, *, is_ours: Callable[[SymbolRecord], bool],
) -> list[Found]:  # fmt: skip
    """Return the unclaimed bars that belong to companies which are said to begin later, of those that are ours.

    `records` are all companies: no bar of the time of another one is taken.
    """
    candidates = [(record, ended) for record, ended in _candidates(records) if is_ours(record)]
    rows = _unclaimed_rows(stored, {record.symbol for record, _ in candidates})
    finds = []
    for record, ended in candidates:
        mine = [row for row in rows.get(record.symbol, ()) if ended < row["session"] < record.valid_from]
        bars = {row["session"]: _bar(record.symbol, row["session"], row) for row in mine}
        bars = {session: bar for session, bar in bars.items() if not faults(bar, calendar)}
        if not bars:
            continue
        own = _first_bar(stored, record)
        judged: list[VendorBar] = [*bars.values(), *own]
        ratios = split_ratios(record.symbol, judged, splits.get(record.symbol, ()))
        own_bars, decided = since_listing(judged, record.valid_from, ratios, jump_limit, calendar)
        sessions = {bar.session for bar in own_bars if own} & bars.keys()
        if sessions:
            instants = {row["session"]: row["ingested_at"] for row in mine}
            rows_kept = [bars[session].row(instants[session]) for session in sorted(sessions)]
            finds.append(Found(record, pa.Table.from_pylist(rows_kept, BRONZE), decided))
    return finds


def put_bars(stored: StoredFiles, finds: Iterable[Found]) -> None:
    """Put the bars into range files: they are the latest version of the company's bars of those sessions."""
    files = {}
    for find in finds:
        symbol = find.record.symbol
        key = stored.bronze.range_key(symbol, find.first, find.bars["timestamp"][-1].as_py())
        files[key] = partial(with_stored, key, symbol, find.bars)
    for error in stored.store.update_many(files).values():
        raise error


def take_from_unclaimed(stored: StoredFiles, finds: Iterable[Found]) -> None:
    """Take the bars out of bronze/unclaimed; a file that is left empty stays, and says so."""
    taken = pa.array(
        [f"{find.record.symbol} {day}" for find in finds for day in find.bars["timestamp"].to_pylist()], pa.string()
    )

    def without(data: bytes | None) -> bytes | None:
        if data is None:
            return None
        rows = decode(data, UNCLAIMED_ROWS, "the unclaimed rows", _REMEDY)
        place = pc.binary_join_element_wise(rows["ticker"], rows["session"].cast(pa.string()), " ")
        is_taken = pc.is_in(place, value_set=taken)
        return encode(rows.filter(pc.invert(is_taken))) if pc.any(is_taken).as_py() else None

    for info in stored.store.listed(f"{UNCLAIMED_PREFIX}/"):
        stored.store.update(info.key, without)


def _candidates(records: Sequence[SymbolRecord]) -> list[tuple[SymbolRecord, date]]:
    """Return the records that begin on a day, each with the last day of the company before."""
    last: dict[str, date] = {}
    candidates = []
    for record in sorted(records, key=lambda record: (record.symbol, record.valid_from)):
        if record.valid_from > BEGINNING:
            candidates.append((record, last.get(record.symbol, _GONE_BEFORE)))
        last[record.symbol] = record.valid_to or date.max
    return candidates


def _unclaimed_rows(stored: StoredFiles, symbols: Iterable[str]) -> dict[str, list[Row]]:
    wanted = pa.array(sorted(symbols), pa.string())
    rows: dict[str, list[Row]] = {}
    for info in stored.store.listed(f"{UNCLAIMED_PREFIX}/"):
        file = stored.store.find(info.key)
        if file is None:
            continue
        table = decode(file.data, UNCLAIMED_ROWS, info.key, _REMEDY)
        for row in table.filter(pc.is_in(table["ticker"], value_set=wanted)).to_pylist():
            rows.setdefault(row["ticker"], []).append(row)
    return rows


def _first_bar(stored: StoredFiles, record: SymbolRecord) -> list[VendorBar]:
    """Return the company's first bar since the day on which it is said to begin; none: it has none."""
    tables = stored.read({record.symbol: (record.valid_from, record.valid_to or date.max)})
    table = pa.concat_tables([BRONZE.empty_table(), *tables.get(record.symbol, ())])
    own = table.filter(pc.greater_equal(table["timestamp"], pa.scalar(record.valid_from)))
    if own.num_rows == 0:
        return []
    row = own.sort_by([("timestamp", "ascending"), ("ingested_at", "descending")]).slice(0, 1).to_pylist()[0]
    return [_bar(record.symbol, row["timestamp"], row)]


def _bar(symbol: str, session: date, row: Row) -> VendorBar:
    numbers = {name: row[name] for name in NUMBER_COLUMNS}
    return VendorBar(symbol, session, **numbers, vwap=None, trades=row["trades"])

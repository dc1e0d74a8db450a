"""Many sessions of all tickers in memory, cut by ticker into bars, refused rows and unclaimed rows (pure).

Rows are gathered in the files' order and sorted by ticker once, a column at a time, so that memory holds each of them
once. A ticker's bars are then a slice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fiblake.bars import BRONZE, DAILY
from fiblake.lake import valid_symbol
from fiblake.rules import broken_rules, unbroken
from services.fetcher.flat_files.days import NO_COUNT, NUMBERS, Day, DayFile
from services.fetcher.validation import VendorBar

BYTES_PER_ROW: Final = 110
"""The memory of a chunk's row, including its place in the order and the files in work."""
_CODES_OF_16_BITS: Final = 1 << 16
NO_SESSION: Final = "was no session of the exchange"
TWICE: Final = "the file has another bar of this ticker before this one"
UNCLAIMED: Final = "no company is known to have borne the ticker in this session"
NOT_A_SYMBOL: Final = "the ticker cannot be a symbol"

UNCLAIMED_ROWS: Final = pa.schema(
    [
        pa.field("ticker", pa.string(), nullable=False),
        pa.field("session", pa.date32(), nullable=False),
        *(pa.field(name, pa.float64()) for name in NUMBERS),
        pa.field("trades", pa.int64()),
        pa.field("ingested_at", BRONZE.field("ingested_at").type, nullable=False),
        pa.field("reason", pa.string()),
        pa.field("file", pa.string()),
    ]
)
"""Rows that belong to no known company, as in the day files, with the reason why they are not stored."""

Claims = Mapping[str, Sequence[tuple[date, date]]]
"""By ticker: the first and the last day of each of its companies."""
Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Days = npt.NDArray[np.datetime64]


@dataclass(slots=True)
class TickerBars:
    """The result of one ticker's rows of a chunk."""

    ticker: str
    bars: pa.Table
    """Schema BRONZE, by session; empty if none is to be stored."""
    refused: list[tuple[VendorBar, str]] = field(default_factory=list)
    """Bars that break a rule, with the reason, for quarantine."""
    unclaimed: pa.Table | None = None
    """Rows that belong to no known company, as in the files, with the reason."""


class Chunk:
    """Rows of successive sessions, in arrays of a fixed size; `cut` takes them out by ticker, once."""

    def __init__(self, most_rows: int) -> None:
        self.files: list[DayFile] = []
        self.rows = 0
        self.bad_lines: list[tuple[str, str]] = []
        """(file, line with its reason)"""
        self._codes = np.empty(most_rows, dtype=np.int32)
        self._days = np.empty(most_rows, dtype=np.uint16)
        self._numbers = {name: np.empty(most_rows, dtype=np.float64) for name in NUMBERS}
        self._trades = np.empty(most_rows, dtype=np.int64)
        self._code_of: dict[str, int] = {}
        self._last_tickers: list[str] = []
        self._lookup = np.empty(0, dtype=np.int32)

    def has_room_for(self, day: Day) -> bool:
        """Return whether the day's rows fit in; an empty chunk accepts any day, and grows if necessary."""
        return not self.files or self.rows + len(day.codes) <= len(self._codes)

    def add(self, day: Day) -> None:
        """Append the rows of a day, which must be of a later session than those before."""
        first, last = self.rows, self.rows + len(day.codes)
        if last > len(self._codes):
            self._codes, self._days = np.resize(self._codes, last), np.resize(self._days, last)
            self._numbers = {name: np.resize(column, last) for name, column in self._numbers.items()}
            self._trades = np.resize(self._trades, last)
        if day.tickers != self._last_tickers:
            code_of = self._code_of
            codes = [code_of.setdefault(ticker, len(code_of)) for ticker in day.tickers]
            self._lookup, self._last_tickers = np.array(codes, dtype=np.int32), day.tickers
        self._codes[first:last] = self._lookup[day.codes]
        self._days[first:last] = len(self.files)
        for name in NUMBERS:
            self._numbers[name][first:last] = day.numbers[name]
        self._trades[first:last] = day.trades
        self.rows = last
        self.files.append(day.file)
        self.bad_lines += [(day.file.key, line) for line in day.bad_lines]

    def cut(self, sessions: frozenset[date], claims: Claims | None) -> Iterator[TickerBars]:
        """Yield the result of each ticker, sorted by name; the chunk is empty afterwards.

        `sessions` are the days that were sessions; `claims` None: every ticker that can be a symbol is stored.
        """
        names = sorted(self._code_of)
        starts = self._sort(names)
        days = np.array([file.session for file in self.files], dtype="datetime64[D]")
        good = unbroken(self._numbers)
        good &= np.array([file.session in sessions for file in self.files])[self._days]
        repeated = np.zeros(self.rows, dtype=np.bool_)
        repeated[1:] = self._days[1:] == self._days[:-1]
        repeated[starts[:-1][starts[:-1] < self.rows]] = False
        good &= ~repeated
        table = self._table(days)
        for name, start, end in zip(names, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            if start == end:
                continue
            if not valid_symbol(name):
                rows = self._as_reported(name, np.arange(start, end), NOT_A_SYMBOL)
                yield TickerBars(name, BRONZE.empty_table(), unclaimed=rows)
                continue
            claimed = None if claims is None else _within(days[self._days[start:end]], claims.get(name, ()))
            yield self._bars_of(name, table.slice(start, end - start), start, good[start:end], claimed, sessions)

    def _sort(self, names: Sequence[str]) -> Places:
        """Sort all columns by ticker, then session; return where each ticker of `names` begins, and the end."""
        ranks = np.empty(len(names), dtype=np.uint16 if len(names) <= _CODES_OF_16_BITS else np.int32)
        ranks[[self._code_of[name] for name in names]] = np.arange(len(names), dtype=ranks.dtype)
        rank = ranks[self._codes[: self.rows]]
        del self._codes
        order = np.argsort(rank, kind="stable")  # of 16 bits, numpy sorts by radix
        counts = np.bincount(rank, minlength=len(names))
        self._days = self._days[: self.rows][order]
        for name in NUMBERS:
            self._numbers[name] = self._numbers[name][: self.rows][order]
        self._trades = self._trades[: self.rows][order]
        return np.concatenate([[0], np.cumsum(counts)])

    def _table(self, days: Days) -> pa.Table:
        """Return all rows as columns of BRONZE, without the two that are the same for a whole ticker."""
        instants = np.array([file.last_modified.replace(tzinfo=None) for file in self.files], dtype="datetime64[us]")
        columns = {name: pa.array(column) for name, column in self._numbers.items()}
        columns["timestamp"] = pa.array(days[self._days])
        columns["ingested_at"] = pa.array(instants[self._days], type=BRONZE.field("ingested_at").type)
        columns["trades"] = pa.array(self._trades, mask=self._trades == NO_COUNT)
        return pa.table(columns)

    def _bars_of(  # noqa: PLR0917
        self, ticker: str, rows: pa.Table, start: int, good: Flags, claimed: Flags | None, sessions: frozenset[date]
    ) -> TickerBars:  # fmt: skip
        result = TickerBars(ticker, BRONZE.empty_table())
        stored = good if claimed is None else good & claimed
        if claimed is not None and not claimed.all():
            result.unclaimed = self._as_reported(ticker, start + np.flatnonzero(~claimed), UNCLAIMED)
        suspects = ~good if claimed is None else ~good & claimed
        if suspects.any():
            stored = stored.copy()
            for place in (start + np.flatnonzero(suspects)).tolist():
                reasons = self._reasons(place, start, sessions)
                if reasons:
                    result.refused.append((self._vendor_bar(ticker, place), "; ".join(reasons)))
                elif not self._repeats(place, start):
                    stored[place - start] = True
        if not stored.all():
            rows = rows.filter(pa.array(stored))
        if rows.num_rows:
            result.bars = _bars(ticker, rows)
        return result

    def _reasons(self, row: int, start: int, sessions: frozenset[date]) -> list[str]:
        """Return every reason why a row may not be stored; a row that repeats the row before has none."""
        reasons = broken_rules({name: float(self._numbers[name][row]) for name in NUMBERS})
        session = self.files[self._days[row]].session
        if session not in sessions:
            reasons.append(f"{session} {NO_SESSION}")
        if self._repeats(row, start) and self._values(row) != self._values(row - 1):
            reasons.append(TWICE)
        return reasons

    def _repeats(self, row: int, start: int) -> bool:
        return row > start and bool(self._days[row] == self._days[row - 1])

    def _values(self, row: int) -> tuple[float, ...]:
        return (*(float(self._numbers[name][row]) for name in NUMBERS), int(self._trades[row]))

    def _vendor_bar(self, ticker: str, row: int) -> VendorBar:
        trades = int(self._trades[row])
        numbers: dict[str, Any] = {name: float(self._numbers[name][row]) for name in NUMBERS}
        session = self.files[self._days[row]].session
        return VendorBar(ticker, session, **numbers, trades=None if trades == NO_COUNT else trades)

    def _as_reported(self, ticker: str, places: Places, reason: str) -> pa.Table:
        """Return rows as in the files, with the reason why they are not stored."""
        files = [self.files[day] for day in self._days[places].tolist()]
        trades = self._trades[places]
        columns = {
            "ticker": pa.repeat(ticker, len(places)),
            "session": [file.session for file in files],
            **{name: self._numbers[name][places] for name in NUMBERS},
            "trades": pa.array(trades, mask=trades == NO_COUNT),
            "ingested_at": [file.last_modified for file in files],
            "reason": pa.repeat(reason, len(places)),
            "file": [file.key for file in files],
        }
        return pa.table([columns[name] for name in UNCLAIMED_ROWS.names], schema=UNCLAIMED_ROWS)


def _bars(ticker: str, rows: pa.Table) -> pa.Table:
    """Return rows as a table of BRONZE; a column that day files do not have is null."""
    count = rows.num_rows
    columns = dict(zip(rows.column_names, rows.columns, strict=True))
    columns |= {"symbol": pa.repeat(ticker, count), "interval": pa.repeat(DAILY, count)}
    nulls = {field.name: pa.nulls(count, field.type) for field in BRONZE if field.nullable}
    return pa.Table.from_arrays([(nulls | columns)[name] for name in BRONZE.names], schema=BRONZE)


def _within(days: Days, periods: Sequence[tuple[date, date]]) -> Flags:
    inside = np.zeros(len(days), dtype=np.bool_)
    for first, last in periods:
        inside |= (days >= np.datetime64(first, "D")) & (days <= np.datetime64(last, "D"))
    return inside

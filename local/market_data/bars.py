"""Which bars are replayed? Those of a folder's files, by symbol and by session, in arrays: there may be millions."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from shared.errors import ConfigurationError

SUFFIXES: Final = (".csv", ".csv.gz", ".parquet")
_NUMBERS: Final = ("open", "high", "low", "close", "volume", "vwap", "trades")
_OPTIONAL: Final = ("vwap", "trades")
_OTHER_NAMES: Final = {"ticker": "symbol", "date": "session", "timestamp": "session"}
_SCHEMA: Final = pa.schema(
    [("symbol", pa.string()), ("session", pa.date32()), *((name, pa.float64()) for name in _NUMBERS)]
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One session of one symbol, prices as traded; a number that the file does not have is not a number."""

    symbol: str
    session: date
    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float
    trades: float


@dataclass(frozen=True, slots=True)
class Bars:
    """All bars, sorted by symbol and session."""

    places: Mapping[str, range]
    """Where each symbol's bars are; the symbols are sorted."""
    _symbols: Sequence[str]
    _days: npt.NDArray[np.datetime64]
    _numbers: npt.NDArray[np.float64]
    """One row a bar, one column a name of _NUMBERS."""
    _by_day: npt.NDArray[np.int64]
    """The bars' places, sorted by session."""
    _sorted_days: npt.NDArray[np.datetime64]

    @classmethod
    def read(cls, files: Iterable[Path]) -> "Bars":
        """Read the files; raise ConfigurationError if one is not of bars, or two hold the same one."""
        table = pa.concat_tables([_SCHEMA.empty_table(), *(_table(path) for path in files)])
        table = table.sort_by([("symbol", "ascending"), ("session", "ascending")])
        counts = table["symbol"].value_counts()  # in the order of the table
        symbols, numbers_of = counts.field("values").to_pylist(), counts.field("counts").to_pylist()
        ends = accumulate(numbers_of)
        places = {s: range(end - n, end) for s, n, end in zip(symbols, numbers_of, ends, strict=True)}
        days = table["session"].to_numpy().astype("datetime64[D]")
        for symbol, place in places.items():
            own = days[place.start : place.stop]
            twice = own[1:][own[1:] == own[:-1]]
            if len(twice):
                raise ConfigurationError(f"there are two bars of {symbol} on {twice[0]}: leave one of them out")
        numbers = np.column_stack([table[name].to_numpy() for name in _NUMBERS])
        by_day = np.argsort(days, kind="stable")
        return cls(places, list(places), days, numbers, by_day, days[by_day])

    def of_session(self, session: date) -> list[Bar]:
        """Give the session's bars, sorted by symbol."""
        first, end = _between(self._sorted_days, session, session)
        places = self._by_day[first:end]
        ends = [place.stop for place in self.places.values()]
        owners = np.searchsorted(ends, places, side="right")
        return [self._bar(self._symbols[owner], int(place)) for owner, place in zip(owners, places, strict=True)]

    def of_symbol(self, symbol: str, first: date, last: date) -> list[Bar]:
        """Give the symbol's bars from `first` to `last`, sorted by session; none if there is no such symbol."""
        place = self.places.get(symbol, range(0))
        begin, end = _between(self._days[place.start : place.stop], first, last)
        return [self._bar(symbol, place.start + n) for n in range(begin, end)]

    def first_session(self, symbol: str) -> date:
        """Give the session of the symbol's first bar."""
        return self._bar(symbol, self.places[symbol].start).session

    def _bar(self, symbol: str, place: int) -> Bar:
        return Bar(symbol, self._days[place].item(), *self._numbers[place].tolist())


def files_of(folder: Path, others: Container[str]) -> list[Path]:
    """List a folder's files of bars, at any depth, but for those of the `others`' names."""
    found = sorted(path for path in folder.rglob("*") if path.name.endswith(SUFFIXES) and path.name not in others)
    if not found:
        raise ConfigurationError(f"{folder} holds no bars: put files into it that end in {', '.join(SUFFIXES)}")
    return found


def _between(days: npt.NDArray[np.datetime64], first: date, last: date) -> tuple[int, int]:
    begin = np.searchsorted(days, np.datetime64(first), side="left")
    return int(begin), int(np.searchsorted(days, np.datetime64(last), side="right"))


def _table(path: Path) -> pa.Table:
    """Read one file as a table of _SCHEMA; raise ConfigurationError naming what is wrong with it."""
    try:
        table = _raw(path)
        names = [_OTHER_NAMES.get(name.lower(), name.lower()) for name in table.column_names]
        table = table.rename_columns(names)
        if "symbol" not in names:
            table = table.append_column(
                "symbol", pa.repeat(path.name.removesuffix(".gz").rpartition(".")[0], table.num_rows)
            )
        for name in _OPTIONAL:
            if name not in names:
                table = table.append_column(name, pa.nulls(table.num_rows))
        return table.select(_SCHEMA.names).cast(_SCHEMA)
    except (pa.ArrowException, KeyError) as error:
        raise ConfigurationError(f"{path} is not a file of daily bars: {error}") from error


def _raw(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.ParquetFile(path).read()
    # A symbol is text, also if all of them look like numbers or like truth.
    text = pyarrow.csv.ConvertOptions(
        column_types={name: pa.string() for name in ("symbol", "Symbol", "ticker", "Ticker")}
    )
    return pyarrow.csv.read_csv(path, convert_options=text)

"""The bars of a replayed folder, by symbol and session, in arrays (there may be millions)."""

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from fiblake.bars import BRONZE, VALUE_COLUMNS, ReportedBar
from fiblake.columns import check_years
from fiblake.decoding import TooLargeError, limit, open_parquet, oversize, too_large
from fiblake.errors import ConfigurationError, ContractError
from fiblake.lake import valid_symbol

SUFFIXES: Final = (".csv", ".csv.gz", ".parquet")
_OPTIONAL: Final = tuple(name for name in VALUE_COLUMNS if BRONZE.field(name).nullable)
_OTHER_NAMES: Final = {"ticker": "symbol", "date": "session", "timestamp": "session"}
_SCHEMA: Final = pa.schema(
    [("symbol", pa.string()), ("session", pa.date32()), *((name, pa.float64()) for name in VALUE_COLUMNS)]
)


@dataclass(frozen=True, slots=True)
class Bars:
    """All bars, sorted by symbol and session."""

    places: Mapping[str, range]
    """Where each symbol's bars are; the symbols are sorted."""
    _symbols: Sequence[str]
    _days: npt.NDArray[np.datetime64]
    _numbers: npt.NDArray[np.float64]
    """One row a bar, one column a name of VALUE_COLUMNS."""
    _by_day: npt.NDArray[np.int64]
    """The bars' places, sorted by session."""
    _sorted_days: npt.NDArray[np.datetime64]

    @classmethod
    def read(cls, files: Iterable[Path], folder: Path | None = None) -> "Bars":
        """Read the files, which are below `folder`.

        Raises ConfigurationError if a file has no bars, or if two files have the same bar.
        """
        table = pa.concat_tables([_SCHEMA.empty_table(), *(_table(path, folder) for path in files)])
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
        numbers = np.column_stack([table[name].to_numpy() for name in VALUE_COLUMNS])
        by_day = np.argsort(days, kind="stable")
        return cls(places, list(places), days, numbers, by_day, days[by_day])

    def of_session(self, session: date) -> list[ReportedBar]:
        """Return the session's bars, sorted by symbol."""
        first, end = _between(self._sorted_days, session, session)
        places = self._by_day[first:end]
        ends = [place.stop for place in self.places.values()]
        owners = np.searchsorted(ends, places, side="right")
        return [self._bar(self._symbols[owner], int(place)) for owner, place in zip(owners, places, strict=True)]

    def of_symbol(self, symbol: str, first: date, last: date) -> list[ReportedBar]:
        """Return the symbol's bars from `first` to `last`, sorted by session; none if there is no such symbol."""
        place = self.places.get(symbol, range(0))
        begin, end = _between(self._days[place.start : place.stop], first, last)
        return [self._bar(symbol, place.start + n) for n in range(begin, end)]

    def first_session(self, symbol: str) -> date:
        """Return the session of the symbol's first bar."""
        return self._bar(symbol, self.places[symbol].start).session

    def _bar(self, symbol: str, row: int) -> ReportedBar:
        numbers = dict(zip(VALUE_COLUMNS, self._numbers[row].tolist(), strict=True))
        unknown: dict[str, Any] = {name: None for name in _OPTIONAL if not math.isfinite(numbers[name])}
        return ReportedBar(symbol, self._days[row].item(), **(numbers | unknown))


def files_of(folder: Path, others: Container[str]) -> list[Path]:
    """List a folder's files of bars, at any depth, except those with the names of `others`.

    Names that begin with a dot or an underscore, of files and of folders, belong to tools
    (.ipynb_checkpoints, ._AAPL.csv, _SUCCESS): they are ignored. Raises ConfigurationError if there are no bars.
    """
    files = sorted(
        path for path in folder.rglob("*")
        if path.name.lower().endswith(SUFFIXES) and path.name not in others and path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )  # fmt: skip
    if not files:
        raise ConfigurationError(f"{folder} holds no bars: put files into it that end in {', '.join(SUFFIXES)}")
    return files


def _between(days: npt.NDArray[np.datetime64], first: date, last: date) -> tuple[int, int]:
    begin = np.searchsorted(days, np.datetime64(first), side="left")
    return int(begin), int(np.searchsorted(days, np.datetime64(last), side="right"))


def _table(path: Path, folder: Path | None) -> pa.Table:
    """Read one file as a table of _SCHEMA; raise ConfigurationError with its problem."""
    try:
        table = _raw(path)
        names = [_column(name) for name in table.column_names]
        twice = [name for name, count in Counter(names).items() if count > 1 and name in _SCHEMA.names]
        if twice:
            raise ConfigurationError(f"{path} has two columns for the {twice[0]} ({', '.join(table.column_names)})")
        table = table.rename_columns(names)
        if "symbol" not in names:
            table = table.append_column("symbol", pa.repeat(_symbol_of(path, folder), table.num_rows))
        for name in _OPTIONAL:
            if name not in names:
                table = table.append_column(name, pa.nulls(table.num_rows))
        table = table.select(_SCHEMA.names).cast(_SCHEMA)
        check_years(table)
    except TooLargeError as error:
        raise ConfigurationError(str(error)) from error
    except (pa.ArrowException, KeyError, OSError, UnicodeDecodeError, ContractError) as error:
        raise ConfigurationError(f"{path} is not a file of daily bars in UTF-8: {error}") from error
    named = [value for name, value in _folders(path, folder).items() if _column(name) == "symbol"]
    others = [symbol for symbol in table["symbol"].unique().to_pylist() if named and symbol != named[-1]]
    if others:
        raise ConfigurationError(f"{path} lies in the folder of {named[-1]} and holds bars of {others[0]!r}")
    for name in ("symbol", "session"):
        row = pc.index(pc.or_kleene(pc.is_null(table[name]), pc.equal(table[name].cast(pa.string()), "")), True).as_py()
        if row >= 0:
            raise ConfigurationError(f"{path}: row {row + 1} has no {name}")
    return table


def _column(name: str) -> str:
    name = name.strip().lower()
    return _OTHER_NAMES.get(name, name)


def _symbol_of(path: Path, folder: Path | None) -> str:
    """Return the symbol of a file without a column for it: its folder's (symbol=AAPL), or else the file's own name."""
    hive = _folders(path, folder)
    named = [value for name, value in hive.items() if _column(name) == "symbol"]
    if hive and not named:
        raise ConfigurationError(
            f"{path} has no column symbol, and its folders ({', '.join(hive)}) name none: add the column, or put the "
            "file below a folder symbol=NAME"
        )
    name = path.stem if path.suffix.lower() == ".gz" else path.name
    symbol = named[-1] if named else name.rpartition(".")[0]
    if not valid_symbol(symbol):
        raise ConfigurationError(
            f"{path} has no column symbol, and {symbol!r} cannot be one: add the column, or name the file (or a folder "
            "symbol=NAME) for its symbol"
        )
    return symbol


def _folders(path: Path, folder: Path | None) -> dict[str, str]:
    """Return the values that hive-like folders (symbol=AAPL) between `folder` and the file name, unquoted."""
    parts = path.relative_to(folder).parts[:-1] if folder else ()
    return {name: unquote(value) for name, _, value in (part.partition("=") for part in parts) if value}


def _raw(path: Path) -> pa.Table:
    """Read one file's columns, as far as they are of bars; raise TooLargeError beyond the limit of one object."""
    if path.suffix.lower() == ".parquet":
        if error := oversize(str(path), path.stat().st_size):
            raise error
        data = path.read_bytes()
        names = [name for name in open_parquet(data, str(path), ()).names if _column(name) in _SCHEMA.names]
        return open_parquet(data, str(path), names).read(names)
    with pyarrow.csv.open_csv(path) as reader:
        header = reader.schema.names
    # A symbol is text, even if all of them look like numbers or booleans, and whatever the header's case.
    kinds = {name: _SCHEMA.field(_column(name)).type for name in header if _column(name) in {"symbol", *VALUE_COLUMNS}}
    wanted = [name for name in header if _column(name) in _SCHEMA.names]
    options = pyarrow.csv.ConvertOptions(column_types=kinds, include_columns=wanted)
    batches, size = [], 0
    one_block = pyarrow.csv.ReadOptions(use_threads=False, block_size=1 << 18)  # nothing is read ahead
    with pyarrow.csv.open_csv(path, one_block, convert_options=options) as reader:
        for batch in reader:
            batches.append(batch)
            size += batch.nbytes
            if size > limit():
                raise too_large(str(path), f"is {size:,} bytes or more once it is read", limit())
        return pa.Table.from_batches(batches, reader.schema)

"""Bars for backtesters: zipline's csvdir, Lean's daily zips, and a frame for each symbol for backtrader or vectorbt.

Each function takes a result of `Lake.bars`. Backtesters count whole shares. Adjusted volumes have fractions of a share,
and traded volumes may have them. They are rounded to the nearest whole number, a half to the even one.
"""

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from fiblake.decoding import decoding
from fiblake.errors import ContractError
from fiblake.reader.result import Result

if TYPE_CHECKING:
    import pandas as pd

_PRICES: Final = ("open", "high", "low", "close")
_LEAN_SCALE: Final = 10_000
"""Lean's prices are whole numbers of a hundredth of a cent."""
_MIDNIGHT: Final = "%Y%m%d 00:00"
_NUMBERS: Final = pa.schema([(name, pa.float64()) for name in (*_PRICES, "volume")])
_COLUMNS: Final = pa.schema([("symbol", pa.string()), ("ts", pa.date32()), *_NUMBERS])
_BOUND: Final = 2.0**63
"""Every number must be below this bound, because volumes become 64-bit integers."""
_REMEDY: Final = "give it a result of `bars`"


def write_csvdir(bars: Result, folder: Path | str) -> list[Path]:
    """Write zipline's csvdir, one `folder/daily/SYMBOL.csv` for each symbol; return the files.

    Prices are those of `bars`. The columns dividend and split are 0 and 1, so that zipline adjusts nothing again.
    """
    rows_of = _daily_rows(bars, "zipline")
    file_of = _files_of(rows_of, lambda symbol: Path(folder) / "daily" / f"{symbol}.csv")
    return [_write_csv(file_of[symbol], rows) for symbol, rows in rows_of.items()]


def write_lean(bars: Result, folder: Path | str) -> list[Path]:
    """Write Lean's daily equity data: `folder/equity/usa/daily/symbol.zip`; return the files.

    Lean applies splits and dividends itself, from its factor files, so pass bars as traded (adjust="raw").
    """
    rows_of = _daily_rows(bars, "Lean")
    file_of = _files_of(rows_of, lambda symbol: Path(folder) / "equity/usa/daily" / f"{symbol.lower()}.zip")
    return [_write_zip(file_of[symbol], rows) for symbol, rows in rows_of.items()]


def frames(bars: Result) -> "dict[str, pd.DataFrame]":
    """Return a DataFrame for each symbol, indexed by session: open, high, low, close, volume, openinterest (always 0).

    backtrader's PandasData accepts a frame; vectorbt accepts a column of one.
    """
    whole = {}
    for symbol, rows in _by_symbol(_checked(bars)):
        frame = Result(rows.select(["ts", *_PRICES, "volume"])).to_pandas()
        whole[symbol] = frame.assign(openinterest=0)
    return whole


def _daily_rows(bars: Result, program: str) -> dict[str, pa.Table]:
    """Return each symbol's rows; raise ContractError unless they are daily bars, before a file is written."""
    table = _checked(bars)
    interval = bars.metadata.get("interval")
    if interval != "1d":
        raise ContractError(f"{program} takes daily bars, and these are of interval {interval}: name interval='1d'")
    return dict(_by_symbol(table))


def _files_of(symbols: Iterable[str], file_of: Callable[[str], Path]) -> dict[str, Path]:
    """Return the file of each symbol; raise ContractError if two symbols differ only in case.

    Lean's file names are in lower case, and many file systems store one file for both names.
    """
    symbol_of: dict[str, str] = {}
    for symbol in symbols:
        other = symbol_of.setdefault(symbol.lower(), symbol)
        if other != symbol:
            raise ContractError(
                f"{other} and {symbol} differ only in case and would share one file: write them into two folders"
            )
    return {symbol: file_of(symbol) for symbol in symbol_of.values()}


def _checked(bars: Result) -> pa.Table:
    """Return the columns that are exported, sorted by symbol and session; raise ContractError unless they are bars."""
    table = bars.table
    if missing := [name for name in _COLUMNS.names if table.column_names.count(name) != 1]:
        raise ContractError(f"the rows need one column {missing[0]!r}: {_REMEDY}")
    table = table.select(_COLUMNS.names)
    for number, field in enumerate(_COLUMNS):
        with decoding(f"column {field.name!r} cannot be exported", _REMEDY):
            values = table[field.name].cast(field.type)
            _check_values(values, is_number=field.name in _NUMBERS.names)
            table = table.set_column(number, field, values)
    return table.sort_by([("symbol", "ascending"), ("ts", "ascending")])


def _check_values(values: pa.ChunkedArray, *, is_number: bool) -> None:
    """Raise ContractError, with the first such value, if a value is missing, or a number not finite or too large."""
    if values.null_count:
        raise ContractError("it has a row without a value")
    if is_number and len(faults := values.filter(pc.invert(pc.less(pc.abs(values), _BOUND)))):
        raise ContractError(f"it holds {faults[0].as_py()}, and only numbers below 2^63 are exported")


def _by_symbol(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Return each symbol's rows, with whole volumes; rows are sorted by symbol."""
    volume = pc.round(table["volume"], round_mode="half_to_even").cast(pa.int64())
    table = table.set_column(table.column_names.index("volume"), "volume", volume)
    start = 0
    for counted in pc.value_counts(table["symbol"].combine_chunks()):
        size = counted["counts"].as_py()
        yield counted["values"].as_py(), table.slice(start, size)
        start += size


def _write_csv(path: Path, rows: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file)
        writer.writerow(["date", *_PRICES, "volume", "dividend", "split"])
        writer.writerows([*row, 0.0, 1.0] for row in _values(rows))
    return path


def _write_zip(path: Path, rows: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for day, *prices, volume in _values(rows):
        writer.writerow([day.strftime(_MIDNIGHT), *(round(price * _LEAN_SCALE) for price in prices), volume])
    entry = zipfile.ZipInfo(f"{path.stem}.csv", (1980, 1, 1, 0, 0, 0))  # the same bars make the same bytes
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(entry, text.getvalue(), zipfile.ZIP_DEFLATED)
    return path


def _values(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(rows[name].to_pylist() for name in ("ts", *_PRICES, "volume")), strict=True)

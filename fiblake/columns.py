"""Convert a column that another program wrote: its type, and checks of its values (pure)."""

import math
from collections.abc import Collection
from datetime import date
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fiblake.decoding import decoding
from fiblake.errors import ContractError

NO_SESSION: Final = date.min
"""The value of a missing session; no calendar has this day."""
_DAYS: Final = (-719_162, 2_932_896)
"""The first and the last possible date (years 1 to 9999), in days since 1970-01-01."""
_DAY_SECONDS: Final = 86_400
_PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_INT64: Final = 2**63
_DOUBLE: Final = pa.float64()
_STRING: Final = pa.string().id
_AS_THEY_ARE: Final = {pa.int32().id, pa.int64().id, pa.bool_().id}
"""Types whose values and nulls are all valid."""
_IN_TIME: Final = {pa.date32().id, pa.timestamp("us", "UTC").id}
"""The types of days and instants in our own tables."""


def convert_column(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return a column as the type of `field`; raise ContractError with column, row and value if that is impossible.

    In a nullable column NaN becomes null. Days and instants that already have the right type are not checked here:
    `check_years` does that.
    """
    kind = field.type
    if column.type == kind and (kind.id in _AS_THEY_ARE or not (field.nullable or kind.id == _STRING)):
        return column
    with decoding(f"column {field.name!r} cannot be read as {field.type}"):
        if pa.types.is_date32(field.type) or pa.types.is_timestamp(field.type):
            return _in_time(column, field)
        if pa.types.is_float64(field.type):
            return _numbers(column, field)
        if pa.types.is_integer(field.type):
            return _whole_numbers(column, field)
        column = column if column.type == field.type else column.cast(field.type)
        if pa.types.is_string(field.type):
            column.validate(full=True)  # Arrow accepts any bytes as text
        return column


def filled(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return a column with NaN for each null number and NO_SESSION for each null session: rules of bars refuse both."""
    if not column.null_count:
        return column
    return column.fill_null(pa.scalar(NO_SESSION if pa.types.is_date32(field.type) else float("nan"), field.type))


def _in_time(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return days or instants; finer parts (the time of a day, nanoseconds) are cut off."""
    kind = column.type
    if _is_text(kind):
        column = column.cast(field.type)
    elif not (pa.types.is_date(kind) or pa.types.is_timestamp(kind) or pa.types.is_null(kind)):
        raise ContractError(f"it is {kind}: write days or instants, a number could mean anything")
    _check_years(column)
    return column if column.type == field.type else column.cast(field.type, safe=False)


def check_years(table: pa.Table, columns: Collection[str] | None = None) -> None:
    """Raise ContractError with column and row if a day or an instant is outside the years 1 to 9999.

    Only `columns` are checked (None: all).
    """
    for name in table.column_names if columns is None else columns:
        column = table[name]
        kind = column.type
        if kind.id in _IN_TIME:
            with decoding(f"column {name!r} cannot be read as {kind}"):
                _check_years(column)


def _check_years(column: pa.ChunkedArray) -> None:
    """Raise ContractError if a value is outside the years 1 to 9999; a value in a wrong unit usually is."""
    kind = column.type
    if pa.types.is_null(kind):
        return
    first, last = _DAYS
    if not pa.types.is_date32(kind):
        unit = "ms" if pa.types.is_date(kind) else kind.unit
        per_day = _DAY_SECONDS * _PER_SECOND[unit]
        first, last = first * per_day, (last + 1) * per_day - 1
        if first < -_INT64:
            return  # nanoseconds cover the years up to 2262 only
    extremes = pc.min_max(column)
    lowest, highest = extremes["min"].value, extremes["max"].value
    if lowest is None or (first <= lowest and highest <= last):
        return
    wrong = lowest if lowest < first else highest
    raw = column.cast(pa.int32() if pa.types.is_date32(kind) else pa.int64())
    row = raw.index(wrong).as_py() + 1
    raise ContractError(
        f"row {row} holds {wrong}, which as {kind} is outside the years 1 to 9999: "
        "write the file again in the unit that the column declares"
    )


def _numbers(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_decimal(kind):
        column = column.cast(pa.string())  # through text, which is parsed as the nearest number
    elif not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind) or _is_text(kind)):
        raise ContractError(f"it is {kind}: write numbers")
    # A whole number beyond 2^53 becomes the nearest number, like a decimal.
    is_whole = pa.types.is_integer(column.type)
    column = column if column.type == field.type else column.cast(field.type, safe=not is_whole)
    return _without_nan(column) if field.nullable else column


def _whole_numbers(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type) or pa.types.is_uint64(column.type):
        column = _where_whole(column) if field.nullable else column
    elif pa.types.is_boolean(column.type) or pa.types.is_temporal(column.type):
        raise ContractError(f"it is {column.type}: write whole numbers")
    return column if column.type == field.type else column.cast(field.type)


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.type == _DOUBLE and not math.isnan(pc.sum(column).as_py() or 0.0):
        return column  # a fast check: a sum with NaN is NaN
    nan = pc.is_nan(column)
    return pc.if_else(nan, pa.scalar(None, column.type), column) if pc.any(nan).as_py() else column


def _where_whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column with null for each value that is no whole number of 64 bits, as in the vendor's answers."""
    numbers = column if column.type == _DOUBLE else column.cast(_DOUBLE, safe=False)
    is_whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less(pc.abs(numbers), float(_INT64)))
    return pc.if_else(is_whole, column, pa.scalar(None, column.type))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))

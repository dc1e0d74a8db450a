"""The result of a query: an Arrow table with metadata, and its conversions to pandas, polars and others."""

from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from fiblake.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

_OWN: Final = b"fiblake."
_UNIT: Final = "ns"
"""The unit of days and instants in pandas, whatever the default of its version is."""


@dataclass(frozen=True, slots=True)
class Result:
    """Rows of the lake.

    pandas, polars, DuckDB and pyarrow accept it without a conversion, through the Arrow PyCapsule interface.
    """

    table: pa.Table
    """The rows. The schema's metadata are those of `metadata`, with the prefix `fiblake.` before each name."""
    index: str | None = "ts"
    """The column that is the index in pandas; None: pandas' default index."""

    @property
    def metadata(self) -> dict[str, str]:
        """The description of the rows: interval, adjust, as_of (the instant at which the lake was read), and so on."""
        own = (self.table.schema.metadata or {}).items()
        return {key.removeprefix(_OWN).decode(): value.decode() for key, value in own if key.startswith(_OWN)}

    def to_pandas(self) -> "pd.DataFrame":
        """Return a DataFrame, indexed by session; texts are categories, and the metadata are in `attrs`.

        Decimals, such as a query's sums, become int64 if they are whole numbers in its range, and otherwise float64. A
        column with days or instants outside the range of nanoseconds (before 1677, after 2262) keeps its unit.
        """
        too_far = require_package("pandas").errors.OutOfBoundsDatetime
        table = _without_decimals(self.table)
        frame: pd.DataFrame = table.to_pandas(date_as_object=False, strings_to_categorical=True)
        for name, kind in frame.dtypes.items():
            if kind.kind == "M":
                with suppress(too_far):
                    frame[name] = frame[name].dt.as_unit(_UNIT)
        if self.index is not None:
            frame = frame.set_index(self.index)
        frame.attrs.update(self.metadata)
        return frame

    def to_polars(self) -> "pl.DataFrame":
        """Return a polars DataFrame."""
        frame: pl.DataFrame = require_package("polars").from_arrow(self.table)
        return frame

    def to_arrow(self) -> pa.Table:
        """Return the pyarrow Table."""
        return self.table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in self.metadata.items())
        return f"<fiblake.Result: {len(self):,} rows of {', '.join(self.table.column_names[:20])}; {facts}>"


def with_metadata(table: pa.Table, **facts: str) -> pa.Table:
    """Return the table with these metadata."""
    return table.replace_schema_metadata({_OWN + name.encode(): value.encode() for name, value in facts.items()})


def _without_decimals(table: pa.Table) -> pa.Table:
    """Return the table with decimals and all-null columns as int64 or float64: pandas would make Python objects."""
    for number, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type) or pa.types.is_null(field.type):
            table = table.set_column(number, field.name, _as_numbers(table[number]))
    return table


def _as_numbers(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_decimal(values.type) and values.type.scale == 0:
        with suppress(pa.ArrowInvalid):  # a value is too large for int64
            return values.cast(pa.int64())
    return values.cast(pa.float64())


def require_package(package: str) -> Any:  # noqa: ANN401 (a module)
    """Import an optional package; raise ConfigurationError with the name of the extra if it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigurationError(
            f"this needs {package}, which is not installed: pip install 'fiblake[{package}]'"
        ) from error

import importlib
from datetime import date
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from fiblake import Lake, Result
from fiblake.errors import ConfigurationError
from tests.fakes import LAKE, MemoryObjectStore, bar, consolidated


@pytest.fixture
def result() -> Result:
    store = MemoryObjectStore()
    for symbol in ("AAPL", "MSFT"):
        store.lay(LAKE.data_key(symbol), consolidated(*(bar(f"2025-11-{day}", symbol=symbol) for day in (18, 19, 20))))
    return Lake(store).bars(["AAPL", "MSFT"], "3d")


def test_pandas_gets_an_index_of_sessions_and_no_column_of_objects(result: Result) -> None:
    frame = result.to_pandas()
    assert isinstance(frame.index, pd.DatetimeIndex)
    assert (frame.index.name, frame.index.dtype) == ("ts", np.dtype("datetime64[ns]"))
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    numbers = dict.fromkeys(["open", "high", "low", "close", "volume"], "float64")
    assert "object" not in kinds.values()
    assert kinds | {
        "symbol": "category", **numbers, "bars": "int32", "last_date": "datetime64[ns]", "is_complete": "bool",
    } == kinds  # fmt: skip
    assert frame.attrs == result.metadata
    assert frame.attrs["interval"] == "3d"
    assert len(frame) == len(result)


def answer_of(query: str) -> Result:
    with duckdb.connect() as connection:
        return Result(connection.sql(query).to_arrow_table(), None)


def test_pandas_gets_numbers_for_the_decimals_of_a_query() -> None:
    frame = answer_of(
        "SELECT sum(bars) AS n, sum(part) AS p, 1e300 AS big, NULL AS nothing "
        "FROM (VALUES (2::INTEGER, 0.5::DECIMAL(38, 20)), (3, NULL)) AS rows(bars, part)"
    )
    whole = answer_of("SELECT 36893488147419103232::HUGEINT AS huge, 2.00 AS price, NULL::HUGEINT AS none").to_pandas()
    values = frame.to_pandas()
    assert {name: str(kind) for name, kind in values.dtypes.items()} == {
        "n": "int64", "p": "float64", "big": "float64", "nothing": "float64",
    }  # fmt: skip
    assert values.iloc[0, :2].tolist() == [5, 0.5]
    assert {name: str(kind) for name, kind in whole.dtypes.items()} == dict.fromkeys(whole, "float64")
    assert whole.iloc[0, :2].tolist() == [2.0**65, 2.0]
    assert isinstance(frame.table["n"][0], pa.Decimal128Scalar)  # Arrow keeps them exactly


def test_pandas_gets_days_that_nanoseconds_cannot_hold() -> None:
    frame = answer_of("SELECT DATE '9999-12-31' AS far, DATE '0500-01-01' AS old, DATE '2025-11-18' AS day").to_pandas()
    assert frame["day"].dtype == np.dtype("datetime64[ns]")
    assert frame["far"].dt.strftime("%Y-%m-%d").tolist() == ["9999-12-31"]
    assert [frame[name].dtype.kind for name in ("far", "old")] == ["M", "M"]
    assert frame["old"].dt.year.tolist() == [500]


def test_arrow_polars_and_duckdb_take_it_as_it_is(result: Result) -> None:
    assert pa.table(result).equals(result.table)
    reader = pa.RecordBatchReader.from_stream(result)
    assert reader.read_all().equals(result.table)
    with duckdb.connect() as connection:
        assert connection.sql("SELECT sum(bars) FROM result").fetchall() == [(6,)]


def test_what_is_not_installed_is_an_error_that_names_the_extra(
    result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def missing(name: str) -> Any:  # noqa: ANN401 (a module)
        if name in {"polars", "pandas"}:
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr("fiblake.reader.result.import_module", missing)
    with pytest.raises(
        ConfigurationError, match=r"needs polars, which is not installed: pip install 'fiblake\[polars\]'"
    ):
        result.to_polars()
    with pytest.raises(ConfigurationError, match=r"fiblake\[pandas\]"):
        result.to_pandas()


def test_it_says_what_it_is(result: Result) -> None:
    text = repr(result)
    assert "rows of symbol, ts, open" in text
    assert "interval=3d" in text
    assert result.to_arrow()["ts"][0].as_py() <= date(2025, 11, 18)

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
    assert kinds == {
        "symbol": "category", **numbers, "bars": "int32", "last_date": "datetime64[ns]", "is_complete": "bool",
    }  # fmt: skip
    assert frame.attrs == result.metadata
    assert frame.attrs["interval"] == "3d"
    assert len(frame) == len(result)


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

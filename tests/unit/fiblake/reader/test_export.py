import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from fiblake import Lake, Result
from fiblake.errors import ContractError
from fiblake.export import frames, write_csvdir, write_lean
from fiblake.reader.result import with_metadata
from tests.fakes import LAKE, MemoryObjectStore, bar, consolidated

DAYS = (date(2025, 11, 18), date(2025, 11, 19))
EXPORTS: tuple[Callable[[Result, Path], object], ...] = (write_csvdir, write_lean, lambda bars, _: frames(bars))


@pytest.fixture
def lake() -> Lake:
    store = MemoryObjectStore()
    for symbol, close in (("AAPL", 10.25), ("BRK.B", 500.00005)):
        rows = [
            bar(day, close, symbol=symbol, volume=volume) for day, volume in zip(DAYS, (1000.5, 1001.5), strict=True)
        ]
        store.lay(LAKE.data_key(symbol), consolidated(*rows))
    return Lake(store)


@pytest.fixture
def bars(lake: Lake) -> Result:
    return lake.bars(None, "1d", adjust="raw")


def test_zipline_gets_a_csv_a_symbol_with_whole_volumes(bars: Result, tmp_path: Path) -> None:
    files = write_csvdir(bars, tmp_path)
    assert files == [tmp_path / "daily/AAPL.csv", tmp_path / "daily/BRK.B.csv"]
    assert files[0].read_text().splitlines() == [
        "date,open,high,low,close,volume,dividend,split",
        "2025-11-18,9.75,11.25,9.5,10.25,1000,0.0,1.0",
        "2025-11-19,9.75,11.25,9.5,10.25,1002,0.0,1.0",
    ]


def test_lean_gets_a_zip_a_symbol_with_prices_in_hundredths_of_a_cent(bars: Result, tmp_path: Path) -> None:
    files = write_lean(bars, tmp_path)
    assert files == [tmp_path / "equity/usa/daily/aapl.zip", tmp_path / "equity/usa/daily/brk.b.zip"]
    with zipfile.ZipFile(files[0]) as archive:
        assert archive.namelist() == ["aapl.csv"]
        assert archive.read("aapl.csv").decode().splitlines() == [
            "20251118 00:00,97500,112500,95000,102500,1000", "20251119 00:00,97500,112500,95000,102500,1002",
        ]  # fmt: skip
    first = files[1].read_bytes()
    assert write_lean(bars, tmp_path)[1].read_bytes() == first


def test_backtrader_and_vectorbt_get_a_frame_a_symbol(bars: Result) -> None:
    of = frames(bars)
    assert list(of) == ["AAPL", "BRK.B"]
    frame = of["AAPL"]
    assert frame.columns.tolist() == ["open", "high", "low", "close", "volume", "openinterest"]
    assert frame.index.tolist() == [pd.Timestamp(day) for day in DAYS]
    assert frame["volume"].tolist() == [1000, 1002]
    assert {kind.kind for kind in frame.dtypes} == {"f", "i"}


@pytest.mark.parametrize("write", [write_csvdir, write_lean])
def test_what_is_not_daily_is_refused_before_a_file_is_written(lake: Lake, tmp_path: Path, write: object) -> None:
    with pytest.raises(ContractError, match="takes daily bars, and these are of interval 3d: name interval='1d'"):
        write(lake.bars("AAPL", "3d"), tmp_path / "x")  # type: ignore[operator]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("write", [write_csvdir, write_lean])
def test_symbols_that_differ_only_in_case_are_refused_before_a_file_is_written(
    tmp_path: Path, write: Callable[[Result, Path], object]
) -> None:
    store = MemoryObjectStore()
    for symbol in ("AAPL", "BCPC", "BCpC"):
        store.lay(LAKE.data_key(symbol), consolidated(bar(DAYS[0], 10.0, symbol=symbol)))
    bars = Lake(store).bars(None, "1d", adjust="raw")
    with pytest.raises(ContractError, match="BCPC and BCpC differ only in case and would share one file"):
        write(bars, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert list(frames(bars)) == ["AAPL", "BCPC", "BCpC"]


@pytest.mark.parametrize("export", EXPORTS)
def test_what_is_no_result_of_bars_is_refused_with_the_column(
    lake: Lake, tmp_path: Path, export: Callable[[Result, Path], object]
) -> None:
    for result in (lake.panel("close"), lake.splits("AAPL")):
        with pytest.raises(ContractError, match=r"the rows need one column '(symbol|ts)': give it a result of `bars`"):
            export(result, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize(
    "case",
    [
        ("volume", 1e19, r"it holds 1e\+19, and only numbers below 2\^63 are exported"),
        ("volume", float("nan"), "it holds nan"), ("close", float("inf"), "it holds inf"),
        ("high", None, "it has a row without a value"), ("ts", None, "it has a row without a value"),
        ("open", -1e300, r"it holds -1e\+300"), ("low", "cheap", "ArrowInvalid"),
    ],
)  # fmt: skip
def test_a_value_that_no_backtester_can_use_is_refused_with_its_column(
    bars: Result, tmp_path: Path, export: Callable[[Result, Path], object], case: tuple[str, object, str]
) -> None:
    column, value, fault = case
    values = [value, *bars.table[column].to_pylist()[1:]]
    if isinstance(value, str):
        values = [str(item) for item in values]
    table = bars.table.set_column(bars.table.column_names.index(column), column, pa.array(values))
    with pytest.raises(ContractError, match=rf"column '{column}' cannot be exported: {fault}.*; give it a result of"):
        export(Result(table), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_rows_in_another_order_reach_their_symbols(bars: Result) -> None:
    shuffled = frames(Result(with_metadata(bars.table.take([3, 0, 2, 1]), interval="1d")))
    for symbol, frame in frames(bars).items():
        pd.testing.assert_frame_equal(shuffled[symbol], frame)

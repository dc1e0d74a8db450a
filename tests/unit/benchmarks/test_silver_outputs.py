from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.silver_outputs import differences
from fiblake.aggregate import aggregate
from fiblake.bars import encode
from fiblake.lake import INTERVALS, Month, silver_key
from tests.unit.resampler.daily import SESSIONS, bars, numbered, nyse

MONTH = Month(1962, 1)


def lay(root: Path, change: Callable[[pa.Table], pa.Table] = lambda table: table) -> Path:
    for n in INTERVALS:
        path = root / silver_key(n, MONTH)
        path.parent.mkdir(parents=True)
        path.write_bytes(encode(change(aggregate([bars("AAPL", numbered(SESSIONS[:20]))], n, nyse(), adjusted=True))))
    return root


def with_column(name: str, value: Callable[[Any], Any]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        values = pa.array([value(old) for old in table[name].to_pylist()], table.schema.field(name).type)
        return table.set_column(place, table.schema.field(name), values)

    return change


def test_two_that_say_the_same_do_not_differ(tmp_path: Path) -> None:
    assert differences(lay(tmp_path / "a"), lay(tmp_path / "b")) == []


def test_prices_may_differ_by_what_rounding_does(tmp_path: Path) -> None:
    other = lay(tmp_path / "b", with_column("close", lambda price: price * (1 + 1e-12)))
    assert differences(lay(tmp_path / "a"), other) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("close", lambda price: price * 1.000001),
        ("volume", lambda volume: volume + 1),
        ("is_complete", lambda _: False),
    ],
)
def test_any_other_difference_is_named(tmp_path: Path, name: str, value: Callable[[Any], Any]) -> None:
    sentences = differences(lay(tmp_path / "a"), lay(tmp_path / "b", with_column(name, value)))
    assert sentences == [f"silver_{n}d: column {name} differs" for n in INTERVALS][: len(sentences)]
    assert sentences


def test_a_missing_file_or_row_is_named(tmp_path: Path) -> None:
    first, second = lay(tmp_path / "a"), lay(tmp_path / "b")
    (second / silver_key(3, MONTH)).unlink()
    path = second / silver_key(5, MONTH)
    path.write_bytes(encode(pq.ParquetFile(path).read().slice(1)))
    assert differences(first, second) == [
        "silver_3d: 1 month files are in one of the two only", "silver_5d: 4 and 3 rows",
    ]  # fmt: skip

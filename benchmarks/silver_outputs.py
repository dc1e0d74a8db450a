"""Compare two contestants' silver tables: prices to 1e-9, everything else exactly."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.resample_full import COLUMNS
from fiblake.lake import INTERVALS, silver_prefix

PRICES: Final = ("open", "high", "low", "close")
TOLERANCE: Final = 1e-9


def differences(first: Path, other: Path) -> list[str]:
    """Return sentences about the differences between the silver tables in two folders; empty if they are equal."""
    return [fault for n in INTERVALS for fault in _of_interval(n, first, other)]


def _of_interval(n: int, first: Path, other: Path) -> list[str]:
    names = [_files(root, n) for root in (first, other)]
    if names[0] != names[1]:
        return [f"silver_{n}d: {len(set(names[0]) ^ set(names[1]))} month files are in one of the two only"]
    first_table, other_table = (_table(root, names[0]) for root in (first, other))
    if first_table.num_rows != other_table.num_rows:
        return [f"silver_{n}d: {first_table.num_rows} and {other_table.num_rows} rows"]
    return [
        f"silver_{n}d: column {name} differs"
        for name in COLUMNS
        if not _same(name, first_table[name], other_table[name])
    ]


def _files(root: Path, n: int) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in (root / silver_prefix(n)).rglob("*.parquet"))


def _table(root: Path, names: list[str]) -> pa.Table:
    tables = [pq.ParquetFile(root / name).read(columns=list(COLUMNS)) for name in names]
    target = pa.schema([(name, _plain(tables[0].schema.field(name).type, name)) for name in COLUMNS])
    return pa.concat_tables([table.select(COLUMNS).cast(target) for table in tables])


def _plain(kind: pa.DataType, name: str) -> pa.DataType:
    # Writers may use timestamps for dates and large strings for strings.
    if name in {"ts", "last_date"}:
        return pa.date32()
    return pa.string() if name == "symbol" else pa.int64() if name == "bars" else kind


def _same(name: str, first_table: Any, other_table: Any) -> bool:  # noqa: ANN401 (columns)
    if name in PRICES:
        return bool(np.allclose(first_table.to_numpy(), other_table.to_numpy(), rtol=TOLERANCE, atol=0))
    return bool(first_table.combine_chunks().equals(other_table.combine_chunks()))

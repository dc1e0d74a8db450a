from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fiblake.aggregate import SILVER, SILVER_CALENDAR, decode_silver
from fiblake.bars import OLDEST_VERSION, encode
from fiblake.errors import ContractError
from tests.fakes import bar, parquet

VERSION = datetime(2020, 1, 1, tzinfo=UTC)
BUCKET = dict.fromkeys(SILVER.names) | {
    "symbol": "AAPL", "ts": date(2025, 11, 17), "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0,
    "bars": 3, "last_date": date(2025, 11, 19), "is_complete": True, "adjusted": True, "version": VERSION,
}  # fmt: skip


def written(columns: dict[str, Any]) -> bytes:
    """Write a file as another program would."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def test_silver_is_read_as_it_was_written() -> None:
    rows = pa.Table.from_pylist([BUCKET, BUCKET | {"adjusted": False}], schema=SILVER)
    assert decode_silver(encode(rows), "it").equals(rows)


def test_a_month_files_own_metadata_is_read_with_it() -> None:
    rows = pa.Table.from_pylist([BUCKET], schema=SILVER).replace_schema_metadata({SILVER_CALENDAR: "2025-11-20 ab"})
    assert decode_silver(encode(rows), "it").schema.metadata[SILVER_CALENDAR] == b"2025-11-20 ab"


@pytest.mark.parametrize("version", [None, pa.array([None], pa.timestamp("us", "UTC"))], ids=["no column", "null"])
def test_silver_rows_without_a_version_have_the_oldest_there_is(version: pa.Array | None) -> None:
    columns = {name: pa.array([value], SILVER.field(name).type) for name, value in BUCKET.items()}
    columns = {name: column for name, column in (columns | {"version": version}).items() if column is not None}
    assert decode_silver(written(columns), "it").to_pylist() == [BUCKET | {"version": OLDEST_VERSION}]


@pytest.mark.parametrize("adjusted", [None, pa.array([None], pa.bool_())], ids=["no column", "null"])
def test_silver_that_does_not_say_whether_it_is_adjusted_is_as_traded(adjusted: pa.Array | None) -> None:
    columns = {name: pa.array([value], SILVER.field(name).type) for name, value in BUCKET.items()}
    columns = {name: column for name, column in (columns | {"adjusted": adjusted}).items() if column is not None}
    rows = decode_silver(written(columns), "it")
    assert rows.schema.equals(SILVER)
    assert rows.to_pylist() == [BUCKET | {"adjusted": False}]


def test_what_is_no_silver_is_refused() -> None:
    with pytest.raises(ContractError, match="the month file cannot be read"):
        decode_silver(parquet(bar("2025-11-19")), "the month file")

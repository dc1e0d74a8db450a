"""A lake in memory: bronze is put into it, silver is read from it, and the expected silver is computed."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fiblake.aggregate import SILVER, decode_silver
from fiblake.bars import read_prices
from fiblake.calendar import nyse
from fiblake.errors import ContractError
from fiblake.lake import Month, parse_silver_key, silver_prefix
from services.resampler.resample import Change, Resampler
from tests.fakes import LAKE, FakeTopic, MemoryObjectStore
from tests.unit.resampler.daily import (
    NO_FACTS,
    NOW,
    ORDINAL,
    SESSIONS,
    SLOW_COLUMNS,
    Daily,
    Facts,
    data_parquet,
    slow_silver,
)


def resampler(
    store: MemoryObjectStore, interval: int, topic: FakeTopic | None = None, retention_years: int = 0,
    *, adjusted: bool = True,
) -> Resampler:  # fmt: skip
    return Resampler(store, LAKE, nyse(), topic or FakeTopic(), interval, retention_years, adjusted)


def lay(store: MemoryObjectStore, symbol: str, days: Mapping[date, Daily], facts: Facts = NO_FACTS) -> None:
    """Let `days` be the symbol's consolidated bars, and `facts` its splits and handovers: a new version."""
    key = LAKE.data_key(symbol)
    version = version_of(store, symbol)
    later = version + timedelta(microseconds=1) if version else NOW
    store.lay(key, data_parquet(symbol, days, facts.reference(), later))


def version_of(store: MemoryObjectStore, symbol: str) -> datetime | None:
    """The version of the symbol's data.parquet; None if there is none that can be read."""
    data = store.peek(LAKE.data_key(symbol))
    try:
        return read_prices(data, symbol, NOW)[2] if data else None
    except ContractError:
        return None


def silver(store: MemoryObjectStore, interval: int) -> list[dict[str, Any]]:
    """Read the table's SLOW_COLUMNS, by symbol and bucket; check that each file has its month's buckets, in order."""
    return [{name: row[name] for name in SLOW_COLUMNS} for row in versioned_silver(store, interval)]


def versioned_silver(store: MemoryObjectStore, interval: int) -> list[dict[str, Any]]:
    """The same with all columns."""
    rows: list[dict[str, Any]] = []
    for key in store.keys(silver_prefix(interval)):
        inside = decode_silver(store.peek(key) or b"", key).to_pylist()
        month = parse_silver_key(interval, key)
        assert {Month.of(bucket_start(row["ts"], interval)) for row in inside} <= {month}
        assert inside == sorted(inside, key=_place)
        rows += inside
    return sorted(rows, key=_place)


def silver_frame(store: MemoryObjectStore, interval: int) -> pd.DataFrame:
    """Read the whole table with pandas, without the services; check what `silver` checks.

    It is for tables of many files: `silver` takes three times as long.
    """
    files = {key: _read_alone(store.peek(key) or b"") for key in store.keys(silver_prefix(interval))}
    table = pa.concat_tables(files.values())
    assert table.schema.equals(SILVER)
    frame = table.to_pandas()
    starts = {ts: bucket_start(ts, interval) for ts in frame["ts"].unique()}
    months = [month for key, rows in files.items() for month in [parse_silver_key(interval, key)] * rows.num_rows]
    assert [Month.of(starts[ts]) for ts in frame["ts"]] == months
    in_order = frame.assign(month=months).sort_values(["month", "symbol", "ts"], kind="stable")
    assert in_order.index.is_monotonic_increasing
    return frame


def _read_alone(data: bytes) -> pa.Table:
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).replace_schema_metadata(None)


def bucket_start(ts: date, interval: int) -> date:
    """The first session of the bucket of a row with this `ts`."""
    return SESSIONS[ORDINAL[ts] // interval * interval]


def whole_silver(
    bronze: Mapping[str, Mapping[date, Daily]], interval: int, facts: Mapping[str, Facts] | None = None
) -> list[dict[str, Any]]:
    """Return the expected table: everything recomputed from all of bronze."""
    facts_of = facts or {}
    rows = [
        row
        for symbol, days in bronze.items()
        if days
        for row in slow_silver(symbol, days, interval, facts_of.get(symbol, NO_FACTS))
    ]
    return sorted(rows, key=_place)


def changed(*symbols: str, since: date) -> list[Change]:
    return [Change(symbol, since) for symbol in symbols]


def _place(row: dict[str, Any]) -> tuple[str, date]:
    return row["symbol"], row["ts"]

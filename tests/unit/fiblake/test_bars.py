import json
import math
import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.adjustment import NO_REFERENCE, Reference
from fiblake.aggregate import SILVER
from fiblake.bars import BRONZE, MANIFEST, Consolidated, decode, encode, read_bars, read_prices
from fiblake.calendar import nyse
from fiblake.errors import ContractError
from fiblake.reference import read_splits
from fiblake.source_log import SourceVersion
from shared.source_files import bars_of_source
from tests.fakes import LAKE, NOON, bar, later, parquet, table

MODIFIED = datetime(2020, 1, 1, tzinfo=UTC)
NANOSECONDS = 1_704_171_600_000_000_000
ROW = bar("2025-11-19", 7.25, vwap=7.5, trades=3)


def written(columns: dict[str, Any]) -> bytes:
    """Write a file as another program would."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def columns(**changed: Any) -> dict[str, Any]:  # noqa: ANN401 (arrays)
    """Return ROW's columns, some of them changed; None leaves one out."""
    all_columns = {name: pa.array([value], BRONZE.field(name).type) for name, value in ROW.items()} | changed
    return {name: column for name, column in all_columns.items() if column is not None}


def read(**changed: Any) -> dict[str, Any]:  # noqa: ANN401
    rows = read_bars(written(columns(**changed)), "AAPL", MODIFIED)
    assert rows.schema.equals(BRONZE)
    (row,) = rows.to_pylist()
    return dict(row)


def test_what_is_written_is_read() -> None:
    assert read() == ROW
    assert read_bars(parquet(ROW), "AAPL", MODIFIED).to_pylist() == [ROW]


def test_consolidated_bars_survive_with_their_log_and_last_update() -> None:
    log = {"bronze/raw_ohlcv/symbol=AAPL/date=2025-11-19.parquet": SourceVersion('"an etag"', NOON, stamped=True)}
    before = Consolidated(table(bar("2025-11-18"), ROW), log, later(5))
    after = Consolidated.decode(before.encode(), "AAPL", MODIFIED)
    assert (after.bars.equals(before.bars), after.log, after.last_updated) == (True, log, later(5))
    assert (after.first_session, after.last_session) == (date(2025, 11, 18), date(2025, 11, 19))


def test_the_log_is_parquets_own_metadata_for_anyone_to_see() -> None:
    data = Consolidated(table(ROW), {"key": SourceVersion("etag", NOON)}, NOON).encode()
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata.metadata
    assert json.loads(metadata[b"fiblake.merged"]) == {"key": ["etag", NOON.isoformat(), False]}
    assert metadata[b"fiblake.last_updated"].decode() == NOON.isoformat()


SPLIT = Reference(((date(2005, 2, 28), 0.5),), (date(2003, 1, 2),))


def test_the_reference_travels_in_the_metadata_and_the_bars_stay_byte_for_byte_what_they_were() -> None:
    plain = Consolidated(table(ROW), {"key": SourceVersion("etag", NOON)}, NOON)
    split = Consolidated(table(ROW), {"key": SourceVersion("etag", NOON)}, NOON, SPLIT)
    assert Consolidated.decode(split.encode(), "AAPL", MODIFIED).reference == SPLIT
    assert Consolidated.decode(plain.encode(), "AAPL", MODIFIED).reference == NO_REFERENCE
    assert pages(split.encode()) == pages(plain.encode())
    metadata = pq.ParquetFile(pa.BufferReader(plain.encode())).metadata.metadata
    assert metadata.keys() == {b"fiblake.merged", b"fiblake.last_updated"}


def pages(data: bytes) -> bytes:
    """Return a Parquet file's column data: all bytes before its footer, whose length is in the last bytes."""
    return data[: -8 - int.from_bytes(data[-8:-4], "little")]


def test_withdrawals_travel_in_the_metadata() -> None:
    withdrawn = {date(2025, 11, 20): later(5), date(2025, 11, 18): NOON}
    data = Consolidated(table(ROW), {}, NOON, withdrawn=withdrawn).encode()
    assert Consolidated.decode(data, "AAPL", MODIFIED).withdrawn == withdrawn
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata.metadata
    assert list(json.loads(metadata[b"fiblake.withdrawn"]).items()) == [
        ("2025-11-18", NOON.isoformat()),
        ("2025-11-20", later(5).isoformat()),
    ]


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"soon": "now"}', b'{"2025-11-18": 5}', b'{"2025-11-18": "soon"}'])
def test_withdrawals_that_cannot_be_read_are_an_error_and_never_none(text: bytes) -> None:
    data = encode(table(ROW).replace_schema_metadata({b"fiblake.merged": b"{}", b"fiblake.withdrawn": text}))
    with pytest.raises(ContractError, match=r"data.parquet of AAPL carries a log that cannot be read"):
        Consolidated.decode(data, "AAPL", MODIFIED)


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", b'{"splits": [["soon", 1]], "handovers": []}'])
def test_a_reference_that_cannot_be_read_is_an_error_and_never_none(text: bytes) -> None:
    data = encode(table(ROW).replace_schema_metadata({b"fiblake.merged": b"{}", b"fiblake.reference": text}))
    with pytest.raises(ContractError, match=r"data\.parquet of AAPL carries a log that cannot be read"):
        Consolidated.decode(data, "AAPL", MODIFIED)


def test_a_data_parquet_of_another_program_has_an_empty_log_and_its_objects_age() -> None:
    stored = Consolidated.decode(parquet(ROW), "AAPL", MODIFIED)
    assert (stored.log, stored.last_updated) == ({}, MODIFIED)


def test_a_log_that_cannot_be_read_is_an_error_and_never_an_empty_log() -> None:
    data = encode(table(ROW).replace_schema_metadata({b"fiblake.merged": b"{"}))
    with pytest.raises(ContractError, match=r"data\.parquet of AAPL carries a log that cannot be read"):
        Consolidated.decode(data, "AAPL", MODIFIED)


@pytest.mark.parametrize("version", ["9999-12-31T23:59:59.999999+00:00", "9999-01-01T00:00:00+00:00"])
def test_a_version_that_none_can_follow_is_refused(version: str) -> None:
    data = encode(table(ROW).replace_schema_metadata({b"fiblake.merged": b"{}", b"fiblake.last_updated": version}))
    with pytest.raises(ContractError, match="cannot be read: ValueError no version can follow"):
        Consolidated.decode(data, "AAPL", MODIFIED)


def test_encoding_keeps_the_tables_metadata() -> None:
    data = encode(table(ROW).replace_schema_metadata({b"some": b"thing"}))
    assert pq.ParquetFile(pa.BufferReader(data)).metadata.metadata[b"some"] == b"thing"


def test_every_column_has_the_codec_that_every_engine_reads() -> None:
    """Trino, and with it Athena, refuses LZ4 as Arrow writes it (LZ4_RAW)."""
    group = pq.ParquetFile(pa.BufferReader(parquet(bar("2025-11-19")))).metadata.row_group(0)
    assert {group.column(number).compression for number in range(len(BRONZE))} == {"SNAPPY"}
    as_differences = {
        group.column(number).path_in_schema
        for number in range(group.num_columns)
        if "DELTA_BINARY_PACKED" in group.column(number).encodings
    }
    assert as_differences == {"timestamp", "trades", "ingested_at"}


def test_the_same_bars_are_the_same_bytes() -> None:
    assert parquet(ROW) == parquet(ROW)


def test_extra_columns_are_ignored() -> None:
    assert read(otc=[True], __index_level_0__=[5], nested=[{"a": 1}]) == ROW


def test_columns_may_stand_in_any_order() -> None:
    backwards = dict(reversed(columns().items()))
    assert read_bars(written(backwards), "AAPL", MODIFIED).to_pylist() == [ROW]


@pytest.mark.parametrize("name", ["vwap", "trades"])
def test_a_missing_nullable_column_is_null(name: str) -> None:
    assert read(**{name: None}) == ROW | {name: None}


def test_missing_symbol_interval_and_ingestion_are_filled_in() -> None:
    assert read(symbol=None, interval=None, ingested_at=None) == ROW | {"ingested_at": MODIFIED}
    nulls = {"symbol": pa.array([None], pa.string()), "ingested_at": pa.array([None], pa.timestamp("us", "UTC"))}
    assert read(**nulls) == ROW | {"ingested_at": MODIFIED}


@pytest.mark.parametrize(
    "timestamp",
    [
        pa.array([datetime(2025, 11, 19)], pa.timestamp("ns")),  # noqa: DTZ001 (as pandas writes it)
        pa.array([datetime(2025, 11, 19, 5, tzinfo=UTC)], pa.timestamp("ms", "UTC")),
        pa.array([datetime(2025, 11, 19, 13, 30)], pa.timestamp("us")),  # noqa: DTZ001
        pa.array(["2025-11-19"]),
        pa.array([date(2025, 11, 19)], pa.date64()),
    ],
    ids=["pandas", "UTC", "time of day", "text", "date64"],
)
def test_a_session_may_be_written_in_many_ways(timestamp: pa.Array) -> None:
    assert read(timestamp=timestamp) == ROW


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("volume", pa.array([1_000], pa.int64())),
        ("close", pa.array([7.25], pa.float32())),
        ("trades", pa.array([3.0], pa.float64())),
        ("trades", pa.array([3], pa.int32())),
        ("symbol", pa.array(["AAPL"]).dictionary_encode()),
        ("symbol", pa.array(["AAPL"], pa.large_string())),
        ("ingested_at", pa.array([NOON], pa.timestamp("ns", "UTC"))),
        ("ingested_at", pa.array([NOON.replace(tzinfo=None)], pa.timestamp("us"))),
    ],
)
def test_a_type_that_loses_nothing_is_converted(name: str, column: pa.Array) -> None:
    assert read(**{name: column}) == ROW


@pytest.mark.parametrize("name", ["timestamp", "open", "high", "low", "close", "volume"])
def test_a_needed_column_may_not_be_missing_and_what_is_null_in_it_breaks_a_rule(name: str) -> None:
    with pytest.raises(ContractError, match=f"it cannot be read as bars: it has no column '{name}'"):
        read(**{name: None})
    null = {name: pa.array([None], BRONZE.field(name).type)}
    assert str(read(**null)[name]) == ("0001-01-01" if name == "timestamp" else "nan")
    consolidated = Consolidated(pa.table(columns(**null)), {}, NOON).encode()
    for reader in (read_prices, Consolidated.decode):
        with pytest.raises(
            ContractError, match=f"data.parquet of AAPL cannot be read as bars: it has nulls in column '{name}'"
        ):
            reader(consolidated, "AAPL", MODIFIED)


def test_all_faults_of_a_file_are_named_at_once() -> None:
    expected = (
        "it cannot be read as bars: column 'close' cannot be read as double: .*'seven'.*; "
        "it has no column 'volume'; it holds rows whose symbol is 'MSFT'"
    )
    with pytest.raises(ContractError, match=expected):
        read(close=["seven"], volume=None, symbol=["MSFT"])


def test_what_is_no_number_in_a_column_that_may_be_null_is_null() -> None:
    assert read(vwap=[math.nan], trades=[math.nan]) == ROW | {"vwap": None, "trades": None}
    assert read_bars(parquet(ROW | {"vwap": math.nan}), "AAPL", MODIFIED).to_pylist() == [ROW | {"vwap": None}]


@pytest.mark.parametrize("name", ["symbol", "interval"])
def test_a_file_with_the_right_types_and_another_constant_is_refused(name: str) -> None:
    with pytest.raises(ContractError, match=f"rows whose {name} is 'other'"):
        read_bars(parquet(ROW | {name: "other"}), "AAPL", MODIFIED)


@pytest.mark.parametrize(
    "odd", [pa.array([3.5]), pa.array([1e300]), pa.array([-math.inf]), pa.array([2**64 - 1], pa.uint64())]
)
def test_a_number_of_trades_that_is_none_costs_no_bar(odd: pa.Array) -> None:
    assert read(trades=odd) == ROW | {"trades": None}
    assert read(trades=pa.array([7.0])) == ROW | {"trades": 7}


@pytest.mark.parametrize("volume", [2**53 + 1, 2**63 - 1])
def test_a_whole_number_beyond_that_of_a_double_becomes_the_nearest_one(volume: int) -> None:
    assert read(volume=pa.array([volume]))["volume"] == float(volume)


@pytest.mark.parametrize("scale", [2, 6, 12])
@given(price=st.decimals(min_value=0, max_value=100_000, places=2))
def test_a_decimal_price_becomes_the_nearest_number(scale: int, price: Decimal) -> None:
    assert read(close=pa.array([price], pa.decimal128(30, scale)))["close"] == float(price)


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("timestamp", pa.array([20_240_102], pa.int32()), "it is int32: write days or instants"),
        (
            "timestamp",
            pa.array([NANOSECONDS], pa.timestamp("us")),
            "row 1 holds 1704171600000000000, which as timestamp",
        ),
        ("timestamp", pa.array([NANOSECONDS], pa.timestamp("ms")), "is outside the years 1 to 9999"),
        ("timestamp", pa.array([10**15], pa.int64()).cast(pa.date64()), "is outside the years 1 to 9999"),
        ("timestamp", pa.array([3_000_000], pa.int32()).cast(pa.date32()), "row 1 holds 3000000, which as date32"),
        ("ingested_at", pa.array([NANOSECONDS], pa.timestamp("us", "UTC")), "is outside the years 1 to 9999"),
        ("ingested_at", pa.array([1_704_171_600], pa.int64()), "it is int64: write days or instants"),
        ("open", pa.array([True]), "it is bool: write numbers"),
        ("open", pa.array([[1.0]]), "it has lists or records in column 'open'"),
        ("trades", pa.array([True]), "it is bool: write whole numbers"),
        ("interval", pa.array([b"\xe91d"]), "it holds rows whose interval is"),
    ],
)
def test_a_column_of_another_kind_is_named_with_what_is_wrong(name: str, column: pa.Array, reason: str) -> None:
    source = LAKE.parse_source(LAKE.date_key("AAPL", date(2025, 11, 19)))
    with pytest.raises(ContractError, match=f"column '{name}'|whose {name} is") as caught:
        bars_of_source(written(columns(**{name: column})), source, later(), nyse(), NOON.date())
    assert reason in str(caught.value)


def text_of(raw: bytes) -> pa.Array:
    """Return one text whose bytes may not be UTF-8."""
    offsets = pa.py_buffer(struct.pack("ii", 0, len(raw)))
    return pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(raw)])


def test_text_that_is_not_utf8_is_named_by_its_column() -> None:
    with pytest.raises(ContractError, match="column 'symbol' cannot be read as text: UnicodeDecodeError"):
        read(symbol=text_of(b"N\xe9S"))
    rows: dict[str, Any] = {name: [1.0] for name in ("split_from", "split_to", "historical_adjustment_factor")}
    rows |= {"symbol": ["AAPL"], "execution_date": [date(2020, 1, 2)], "adjustment_type": ["x"], "id": text_of(b"\xe9")}
    with pytest.raises(ContractError, match="the splits of AAPL cannot be read: column 'id' cannot be read as string"):
        read_splits(written(rows), "AAPL")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("merged", "[]"), ("merged", "7"), ("merged", '{"key": 7}'), ("merged", "[" * 10_000), ("last_updated", "soon"),
        ("last_updated", "\udcff"), ("reference", "[1]"), ("reference", '{"splits": 7, "handovers": []}'),
        ("reference", '{"splits": [["2020-01-02", "NaN"]], "handovers": []}'),
        ("reference", '{"splits": [["2020-01-02", -1]], "handovers": []}'),
        ("reference", '{"splits": [], "handovers": [20200102]}'),
    ],
)  # fmt: skip
def test_metadata_of_another_kind_says_what_cannot_be_read_and_how_to_go_on(name: str, text: str) -> None:
    metadata = {b"fiblake.merged": b"{}"} | {f"fiblake.{name}".encode(): text.encode(errors="surrogateescape")}
    data = encode(table(ROW).replace_schema_metadata(metadata))
    with pytest.raises(
        ContractError, match=r"^data\.parquet of AAPL carries a log that cannot be read: .*; restore its"
    ):
        Consolidated.decode(data, "AAPL", MODIFIED)


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("symbol", ["MSFT"], "whose symbol is 'MSFT'"),
        ("symbol", ["aapl"], "whose symbol is 'aapl'"),
        ("interval", ["1h"], "whose interval is '1h'"),
        ("close", ["seven"], "cannot be read as bars"),
        ("timestamp", ["last week"], "cannot be read as bars"),
        ("timestamp", [20_000], "cannot be read as bars"),
    ],
)
def test_bars_of_another_kind_are_refused(name: str, column: list[Any], reason: str) -> None:
    with pytest.raises(ContractError, match=reason):
        read(**{name: column})


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no Parquet", parquet(ROW)[:-1], parquet(ROW)[4:]])
def test_what_is_no_parquet_is_refused(data: bytes) -> None:
    with pytest.raises(ContractError, match="it cannot be read as bars"):
        read_bars(data, "AAPL", MODIFIED)
    with pytest.raises(ContractError, match="the manifest cannot be read"):
        decode(data, MANIFEST, "the manifest")


@pytest.mark.parametrize("schema", [BRONZE, SILVER, MANIFEST])
def test_an_empty_table_survives(schema: pa.Schema) -> None:
    assert decode(encode(schema.empty_table()), schema, "it").equals(schema.empty_table())


def test_another_table_in_its_place_is_refused() -> None:
    with pytest.raises(ContractError, match="the month file cannot be read"):
        decode(parquet(ROW), SILVER, "the month file")

"""The stored form of a bar: Arrow schemas, and the conversion of tables to Parquet bytes and back.

Bronze has one row for each session of one symbol, with prices as traded. Readers are lenient (extra columns are
ignored, missing nullable ones are null), writers are strict.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fiblake.adjustment import NO_REFERENCE, Reference
from fiblake.columns import check_years, convert_column, filled
from fiblake.decoding import (
    MAKE_ANEW,
    ParquetBytes,
    check_readable,
    check_rows,
    decoding,
    limit,
    open_parquet,
    parquet_metadata,
    read_json,
)
from fiblake.errors import ContractError
from fiblake.lake import LATEST_VERSION, MANIFEST_KEY
from fiblake.rules import NUMBER_COLUMNS
from fiblake.source_log import SourceVersion, log_of_json, log_to_json

DAILY: Final = "1d"

BRONZE: Final = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("timestamp", pa.date32(), nullable=False),
        pa.field("open", pa.float64(), nullable=False),
        pa.field("high", pa.float64(), nullable=False),
        pa.field("low", pa.float64(), nullable=False),
        pa.field("close", pa.float64(), nullable=False),
        pa.field("volume", pa.float64(), nullable=False),
        pa.field("vwap", pa.float64()),
        pa.field("trades", pa.int64()),
        pa.field("interval", pa.string(), nullable=False),
        pa.field("ingested_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""A daily bar: `timestamp` is the session, prices are USD as traded, `volume` is shares (fractions occur).

Column lists, the order of merging, comparisons and the table in Postgres are derived from this schema
(`tests/unit/test_bar_columns.py`). A new column must follow `trades` and be nullable: older files do not have it.
"""

KEY_COLUMNS: Final = ("symbol", "timestamp", "interval")
"""The columns that identify a bar."""

VALUE_COLUMNS: Final = tuple(name for name in BRONZE.names if name not in {*KEY_COLUMNS, "ingested_at"})
"""The columns with the values of a bar; the fields of ReportedBar beside symbol and session."""
TIE_ORDER: Final = ("close", *(name for name in VALUE_COLUMNS if name != "close"))
"""The order of rows of one session and instant: the greater row wins, whichever came first. Every value is compared.
"""

PRICES: Final = pa.schema([BRONZE.field(name) for name in ("timestamp", *NUMBER_COLUMNS)])
"""The part of BRONZE that buckets need: reading it takes a fifth of the time of reading all columns."""

KNOWN_AT: Final = pa.field("known_at", pa.timestamp("us", tz="UTC"))
"""A further column of data.parquet: the first version that held the bar with these values."""

OLDEST_VERSION: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""The version of silver rows without one: every data.parquet is newer."""

MANIFEST: Final = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("last_consolidated_date", pa.date32(), nullable=False),
        pa.field("row_count", pa.int64(), nullable=False),
        pa.field("last_updated", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

_REQUIRED: Final = ("timestamp", *NUMBER_COLUMNS)
_REPEATED: Final = ("symbol", "interval")
_SKIPPED_BY: Final = (*_REPEATED, "timestamp", "ts")
_AS_DICTIONARY: Final = (*_REPEATED, "version")
_AS_DIFFERENCES: Final = tuple(
    f.name for f in [*BRONZE, KNOWN_AT] if not (pa.types.is_string(f.type) or pa.types.is_floating(f.type))
)
"""Columns of days, instants and counts: neighbours are close, so their differences are smaller and faster to read."""
_OWN_METADATA: Final = b"fiblake."
_LOG: Final = b"fiblake.merged"
_RELEASED: Final = b"fiblake.released"
_LAST_UPDATED: Final = b"fiblake.last_updated"
_REFERENCE: Final = b"fiblake.reference"
_WITHDRAWN: Final = b"fiblake.withdrawn"
_KNOWN: Final = b"fiblake.known"
_RESTORE: Final = "restore its last version that can be read (the bucket keeps versions)"


@dataclass(frozen=True, slots=True)
class ReportedBar:
    """A bar as it was reported, with the reported session; it may break any rule.

    A missing number is NaN, or None if the column may be null.
    """

    symbol: str
    session: date
    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float | None = None
    trades: int | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "ReportedBar":
        """Return the bar of a row of BRONZE; missing columns are null."""
        values: dict[str, Any] = {name: row.get(name) for name in VALUE_COLUMNS}
        return cls(row["symbol"], row["timestamp"], **values)

    def values(self) -> dict[str, Any]:
        """Return the bar's numbers by VALUE_COLUMNS."""
        return {name: getattr(self, name) for name in VALUE_COLUMNS}

    def row(self, ingested_at: datetime) -> dict[str, Any]:
        """Return the bar as a row of BRONZE."""
        key = {"symbol": self.symbol, "timestamp": self.session, "interval": DAILY}
        row = key | self.values() | {"ingested_at": ingested_at}
        return {name: row[name] for name in BRONZE.names}


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns to read of a file of bars, made once: pyarrow takes as long to make them as to open a file."""

    schema: pa.Schema
    fields: Sequence[pa.Field]
    """The fields of `schema`."""
    varying: pa.Schema
    """The fields whose values differ from row to row. Only these are read of a file that this module wrote."""

    @classmethod
    def of(cls, schema: pa.Schema) -> "_Layout":
        """Return the layout of a schema."""
        fields = tuple(schema)
        return cls(schema, fields, pa.schema([field for field in fields if field.name not in _REPEATED]))


_AS_BARS: Final = _Layout.of(BRONZE)
_AS_STORED: Final = _Layout.of(BRONZE.append(KNOWN_AT))
"""BRONZE as data.parquet holds it."""
_AS_PRICES: Final = _Layout.of(PRICES)


@dataclass(frozen=True, slots=True)
class Known:
    """The first version of each statement of a data.parquet (`fiblake/revisions.py`)."""

    bars: pa.ChunkedArray
    """The first version of each bar (type of KNOWN_AT, no nulls)."""
    reference: datetime
    withdrawn: Mapping[date, datetime] = field(default_factory=dict)
    """The first version of each withdrawal, by session."""


@dataclass(frozen=True, slots=True)
class Consolidated:
    """A symbol's data.parquet: its bars, and the log of the source files merged into them.

    `bars` has schema BRONZE, sorted by `timestamp`, one row for each session. `log` maps a source file's key to its
    merged version. `last_updated` is the object's version: it grows with each conditional write, whatever the writers'
    clocks say. `reference` has the splits, handovers and dividends to apply; the bars stay as traded.
    """

    bars: pa.Table
    log: dict[str, SourceVersion]
    last_updated: datetime
    reference: Reference = NO_REFERENCE
    adopted: bool = False
    """Whether another program wrote it: it has no log, and its bars were never checked or announced."""
    withdrawn: Mapping[date, datetime] = field(default_factory=dict)
    """Session -> instant: a bar of that session that was ingested at or before the instant must not be in `bars`."""
    known: Known | None = None
    """None: an older file without this information."""

    @property
    def first_session(self) -> date:
        """The first session with a bar."""
        return cast("date", self.bars["timestamp"][0].as_py())

    @property
    def last_session(self) -> date:
        """The last session with a bar."""
        return cast("date", self.bars["timestamp"][-1].as_py())

    def encode(self) -> bytes:
        """Return the object's bytes: Parquet, with the log and the reference in its key-value metadata."""
        metadata = {_LOG: json.dumps(log_to_json(self.log)), _LAST_UPDATED: self.last_updated.isoformat()}
        if self.reference != NO_REFERENCE:
            metadata[_REFERENCE] = self.reference.to_json()
        if self.withdrawn:
            withdrawn = {session.isoformat(): until.isoformat() for session, until in sorted(self.withdrawn.items())}
            metadata[_WITHDRAWN] = json.dumps(withdrawn)
        what = f"data.parquet of {self.bars['symbol'][0]}" if self.bars.num_rows else "data.parquet"
        if self.known is None:
            return encode(self.bars, metadata, what=what)
        since = {session.isoformat(): version.isoformat() for session, version in sorted(self.known.withdrawn.items())}
        metadata[_KNOWN] = json.dumps({"reference": self.known.reference.isoformat(), "withdrawn": since})
        return encode(self.bars.append_column(KNOWN_AT, self.known.bars), metadata, what=what)

    @classmethod
    def decode(cls, data: bytes, symbol: str, last_modified: datetime) -> "Consolidated":
        """Read an object's bytes; a data.parquet of another program has an empty log and no reference.

        Its rows are not checked either: a null becomes NaN, or NO_SESSION.
        """
        file = _open(data, f"data.parquet of {symbol}", BRONZE)
        metadata = file.metadata
        log = _log(metadata, symbol)
        with decoding(f"data.parquet of {symbol} carries a log that cannot be read", _RESTORE):
            last_updated = _last_updated(metadata, last_modified)
            reference = _reference(metadata)
            withdrawn = _withdrawn(metadata)
        adopted = _LOG not in metadata
        says_since = _KNOWN in metadata and KNOWN_AT.name in file.names and not adopted
        table = _bars(file, symbol, last_modified, _AS_STORED if says_since else _AS_BARS, with_gaps=adopted)
        bars = table.select(BRONZE.names) if says_since else table
        if bars.num_rows and not adopted:  # bars of another program are checked one by one later
            with decoding(f"data.parquet of {symbol} cannot be read", _RESTORE):
                # Bars are sorted, so all sessions are between the first and the last.
                sessions = bars["timestamp"]
                _ = [sessions[place].as_py() for place in (0, -1)]
                check_years(bars, ["ingested_at"])
        known_since = _read_known(metadata, table, symbol) if says_since else None
        return cls(bars, log, last_updated, reference, adopted, withdrawn, known_since)


def read_log(tail: bytes, symbol: str) -> dict[str, SourceVersion] | None:
    """Return the log of a data.parquet (empty: no log) from its last bytes; None if they do not hold the whole footer.

    Raises ContractError if the log cannot be read.
    """
    metadata = parquet_metadata(tail)
    return None if metadata is None else _log(metadata, symbol)


def read_prices(data: bytes, symbol: str, last_modified: datetime) -> tuple[pa.Table, Reference, datetime]:
    """Read the input of buckets from a data.parquet: bars (schema PRICES), the reference to apply, the version.

    The version of another program's file is `last_modified`. Raises like `read_bars`, and also if a value is null.
    """
    file = _open(data, f"data.parquet of {symbol}", PRICES)
    with decoding(f"data.parquet of {symbol} carries metadata that cannot be read", _RESTORE):
        reference, version = _reference(file.metadata), _last_updated(file.metadata, last_modified)
    return _bars(file, symbol, None, _AS_PRICES, with_gaps=False), reference, version


def read_bars(data: bytes, symbol: str, last_modified: datetime) -> pa.Table:
    """Read a source file's bytes as bars of `symbol` (schema BRONZE, order as stored).

    Without the column `ingested_at`, bars take `last_modified`. A null price or volume becomes NaN, a null session
    NO_SESSION. Raises ContractError, with all problems, if the bytes are not Parquet, a needed column is missing, a
    type cannot be converted, or a row is of another symbol or another interval. The error calls the file "it": only
    the caller knows its key, and adds it.
    """
    return _bars(_open(data, "it", BRONZE), symbol, last_modified, _AS_BARS, with_gaps=True)


def latest_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, from rows (BRONZE) of one symbol, the row of each session that wins a merge, sorted by session."""

    def rank(row: dict[str, Any]) -> tuple[Any, ...]:
        values = [row[name] for name in TIE_ORDER]
        return (row["timestamp"], row["ingested_at"], *((value is not None, value or 0) for value in values))

    return list({row["timestamp"]: row for row in sorted(rows, key=rank)}.values())


def released(table: pa.Table, by: str) -> pa.Table:
    """Mark the bars of a source file as released by a person, although they break rules of prices."""
    return table.replace_schema_metadata({_RELEASED: by})


def is_released(data: bytes) -> bool:
    """Return whether a source file's bytes have that mark."""
    return _RELEASED in open_parquet(data, "the file").metadata


def encode(
    table: pa.Table, metadata: Mapping[bytes, str] | None = None, *, what: str = "the file", allowed: int | None = None
) -> bytes:
    """Return `table` as Parquet bytes, with Parquet's own key-value metadata (None: that of the table's schema).

    Raises TooLargeError, which names `what`, if a reader with the limit `allowed` (None: that of one object) would
    refuse the bytes: what is written can be read.

    Every engine reads Snappy; Trino refuses LZ4 as Arrow writes it. Only columns by which readers skip have statistics
    (docs/performance.md).
    """
    sink = pa.BufferOutputStream()
    names = table.column_names
    # Arrow's own copy of the schema is left out (Parquet's types suffice). The metadata are in it, so add them here.
    with pq.ParquetWriter(
        sink, table.schema, compression="snappy", store_schema=False,
        use_dictionary=[name for name in _AS_DICTIONARY if name in names],
        write_statistics=[name for name in _SKIPPED_BY if name in names],
        column_encoding={name: "DELTA_BINARY_PACKED" for name in _AS_DIFFERENCES if name in names},
    ) as writer:  # fmt: skip
        writer.write_table(table)
        writer.add_key_value_metadata((table.schema.metadata or {}) if metadata is None else metadata)
    data = cast("bytes", sink.getvalue().to_pybytes())
    check_readable(data, table, what, allowed)
    return data


def encode_rows(
    rows: Sequence[Mapping[str, Any]], schema: pa.Schema, what: str = "the file", allowed: int | None = None
) -> bytes:
    """Return rows as Parquet bytes that `decode_rows` reads again; raise TooLargeError as `encode` does."""
    with decoding(f"{what} is not written, because it could not be read again"):
        check_rows(len(rows), len(schema), "it", allowed or limit())
    return encode(pa.Table.from_pylist(list(rows), schema=schema), what=what, allowed=allowed)


def decode(data: bytes, schema: pa.Schema, what: str, remedy: str = MAKE_ANEW, allowed: int | None = None) -> pa.Table:
    """Read Parquet bytes of one of our own tables, with our own metadata, a missing nullable column as nulls.

    Raises ContractError, which names `what`, if they are anything else, or need more memory than `allowed` (None: the
    limit of one object).
    """
    with decoding(f"{what} cannot be read", remedy):
        file = open_parquet(data, "it", schema.names, allowed=allowed)
        table = file.read(schema.names)
        stored = dict(zip(table.column_names, table.columns, strict=True))
        columns = [_own_column(stored.get(field.name), field, table.num_rows) for field in schema]
        own_metadata = {name: value for name, value in file.metadata.items() if name.startswith(_OWN_METADATA)}
        table = pa.Table.from_arrays(columns, schema=schema.with_metadata(own_metadata or None))
        check_years(
            table, [field.name for field in schema if not field.nullable]
        )  # `convert_column` checked the others
        return table


def decode_rows(
    data: bytes, schema: pa.Schema, what: str, remedy: str = MAKE_ANEW, allowed: int | None = None
) -> list[dict[str, Any]]:
    """Read Parquet bytes of one of our own small tables as rows; raise as `decode` does."""
    table = decode(data, schema, what, remedy, allowed)
    check_rows(table.num_rows, len(schema), what, allowed or limit())
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def decode_manifest(data: bytes) -> pa.Table:
    """Read the manifest (schema MANIFEST); raise ContractError as `decode` does."""
    return decode(data, MANIFEST, MANIFEST_KEY)


def _last_updated(metadata: Mapping[bytes, bytes], last_modified: datetime) -> datetime:
    text = metadata.get(_LAST_UPDATED)
    version = datetime.fromisoformat(text.decode()).astimezone(UTC) if text else last_modified
    if version >= LATEST_VERSION:
        raise ValueError(f"no version can follow {version}")
    return version


def _log(metadata: Mapping[bytes, bytes], symbol: str) -> dict[str, SourceVersion]:
    with decoding(f"data.parquet of {symbol} carries a log that cannot be read", _RESTORE):
        return log_of_json(read_json(metadata.get(_LOG, b"{}"), "it"))


def _reference(metadata: dict[bytes, bytes]) -> Reference:
    text = metadata.get(_REFERENCE)
    return Reference.from_json(text.decode()) if text else NO_REFERENCE


def _withdrawn(metadata: Mapping[bytes, bytes]) -> dict[date, datetime]:
    value = read_json(metadata.get(_WITHDRAWN, b"{}"), "it")
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} in the place of an object")
    instants = {date.fromisoformat(session): datetime.fromisoformat(until) for session, until in value.items()}
    return {session: until.astimezone(UTC) for session, until in instants.items()}


def _read_known(metadata: Mapping[bytes, bytes], table: pa.Table, symbol: str) -> Known:
    with decoding(f"data.parquet of {symbol} does not say since when its bars are known", _RESTORE):
        check_years(table, [KNOWN_AT.name])
        facts = read_json(metadata[_KNOWN], "it")
        since = {date.fromisoformat(day): _instant(version) for day, version in facts["withdrawn"].items()}
        column = table[KNOWN_AT.name]
        if column.null_count:
            column = pc.coalesce(column, table["ingested_at"])
        return Known(column, _instant(facts["reference"]), since)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _own_column(column: pa.ChunkedArray | None, field: pa.Field, rows: int) -> pa.ChunkedArray | pa.Array:
    if column is None:
        if not field.nullable:
            raise ContractError(f"it has no column {field.name!r}")
        return pa.nulls(rows, field.type)
    column = convert_column(column, field)
    if column.null_count and not field.nullable:
        raise ContractError(f"it has nulls in column {field.name!r}")
    return column


def _open(data: bytes, what: str, schema: pa.Schema) -> ParquetBytes:
    return open_parquet(data, what, schema.names, kind="bars")


def _bars(
    file: ParquetBytes, symbol: str, last_modified: datetime | None, layout: _Layout, *, with_gaps: bool
) -> pa.Table:
    """Read and check the columns of `layout`; `with_gaps`: required values may be null."""
    names, schema = file.names, layout.schema
    constants = {"symbol": symbol, "interval": DAILY}
    with decoding(f"{file.what} cannot be read as bars"):
        # A column that the file's own statistics prove to be one value need not be read.
        unproven = [name for name in constants if name in names and not _is_all(file, name, constants[name])]
        wanted = dict.fromkeys((*schema.names, *unproven))
        table = file.read([name for name in wanted if name in names and (name in unproven or name not in constants)])
        if not (unproven or with_gaps) and table.schema == layout.varying:  # as this module writes it
            return _with_constants(table, constants, schema)
        if table.schema == schema:
            return _table_of_right_types(table, constants)
        return _conformed(table, constants | {"ingested_at": last_modified}, layout, with_gaps=with_gaps)


def _table_of_right_types(table: pa.Table, constants: Mapping[str, str]) -> pa.Table:
    """Return a table of the right types, with null for NaN; raise ContractError if a constant has another value.

    A file with these types has no null in a required column, because Parquet cannot store one.
    """
    faults = [fault for name, value in constants.items() if (fault := _other_value(table[name], name, value))]
    if faults:
        raise ContractError("; ".join(faults))
    for place, own in enumerate(table.schema):
        column = table.column(place)
        if own.nullable and (without_nan := convert_column(column, own)) is not column:
            table = table.set_column(place, own, without_nan)
    return table


def _with_constants(table: pa.Table, constants: Mapping[str, str], schema: pa.Schema) -> pa.Table:
    """Return a table with the other columns of `schema` and these constant ones."""
    if len(schema) == table.num_columns:
        return table
    columns = iter(table.columns)
    rows = table.num_rows
    arrays = [pa.repeat(constants[name], rows) if name in constants else next(columns) for name in schema.names]
    return pa.Table.from_arrays(arrays, schema=schema)


def _is_all(file: ParquetBytes, name: str, value: str) -> bool:
    """Return whether a column's statistics prove that all its rows are `value`."""
    if file.is_small:
        return False  # reading the column is faster
    own, text = [chunk for chunk in file.chunks if chunk.column == name], value.encode()
    return bool(own) and all(chunk.least == text == chunk.greatest for chunk in own)


def _conformed(table: pa.Table, defaults: Mapping[str, object], layout: _Layout, *, with_gaps: bool) -> pa.Table:
    """Convert a table to `layout`; raise ContractError with all problems."""
    columns = dict(zip(table.column_names, table.columns, strict=True))
    outcomes = [_outcome(columns, table.num_rows, field, defaults, with_gaps=with_gaps) for field in layout.fields]
    outcomes += [_other_value(columns[name], name, str(defaults[name])) for name in _REPEATED if name in columns]
    faults = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if faults:
        raise ContractError("; ".join(faults))
    return pa.Table.from_arrays(outcomes[: len(layout.fields)], schema=layout.schema)


def _outcome(
    columns: Mapping[str, pa.ChunkedArray], rows: int, field: pa.Field, defaults: Mapping[str, object],
    *, with_gaps: bool,
) -> pa.ChunkedArray | pa.Array | str:  # fmt: skip
    """Return a column, or a sentence that describes its problem."""
    name = field.name
    default = defaults.get(name)
    if name in _REPEATED or (name not in columns and name not in _REQUIRED):
        return pa.repeat(pa.scalar(default, field.type), rows)
    if name not in columns:
        return f"it has no column {name!r}"
    column = columns[name]
    if with_gaps or column.type != field.type:  # otherwise it has the type that this module writes
        try:
            column = convert_column(column, field)
        except ContractError as error:
            return str(error)
    if default is not None and column.null_count:
        return column.fill_null(pa.scalar(default, field.type))
    if name not in _REQUIRED or not column.null_count:
        return column
    return filled(column, field) if with_gaps else f"it has nulls in column {name!r}"


def _other_value(column: pa.ChunkedArray, name: str, value: str) -> str | None:
    """Return a sentence with another value that a column holds; None: it holds no other."""
    try:
        with decoding(f"column {name!r} cannot be read as text"):
            values = column if len(column) == 1 else pc.unique(column)
            others = [other for other in values.to_pylist() if other not in {value, None}]
    except ContractError as error:
        return str(error)
    return f"it holds rows whose {name} is {str(others[0])[:40]!r}" if others else None

"""Decode a day file: one session's gzipped CSV, bounded in memory; a bad row affects no other row (pure)."""

import csv
import io
import re
import zlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from fiblake.decoding import decoding
from fiblake.errors import ContractError
from fiblake.rules import unbroken

TICKER: Final = "ticker"
NUMBERS: Final = ("open", "high", "low", "close", "volume")
TRADES: Final = "transactions"
_NEEDED: Final = (TICKER, *NUMBERS)
_DAY: Final = re.compile(r"(?:.*/)?(\d{4}-\d{2}-\d{2})\.csv\.gz")
_GZIP: Final = 31
"""The window size that makes zlib expect a gzip header."""
_BLOCK_BYTES: Final = 16 << 20
_COUNT: Final = re.compile(rb"\d{1,18}")
_LONGEST_HEADER: Final = 10_000
_NOT_UTF8: Final = "\N{REPLACEMENT CHARACTER}"
MAX_BROKEN: Final = 20_000
"""A day file with more broken rows is refused: quarantine has one object for each session, which must be readable."""
NO_COUNT: Final = -1
"""The value of an unknown number of trades."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DayFile:
    """One day file at its source."""

    session: date
    """The session in the file's name. The rows' own `window_start` is not read: the vendor's is wrong in some files."""
    key: str
    etag: str
    size: int
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class Day:
    """One session's bars of all tickers, as traded: arrays of equal length, in the file's order."""

    file: DayFile
    tickers: list[str]
    """The file's tickers, each once."""
    codes: npt.NDArray[np.int32]
    """Each row's ticker, by its place in `tickers`."""
    numbers: dict[str, Floats]
    """`NUMBERS`: prices in USD, volume in shares; NaN where the file has no number."""
    trades: npt.NDArray[np.int64]
    """Number of trades, or NO_COUNT."""
    bad_lines: list[str] = field(default_factory=list)
    """Lines that are not valid rows, each with the reason."""


def session_of(key: str) -> date | None:
    """Return the session that a day file's key names, or None if the key is not `.../YYYY-MM-DD.csv.gz`."""
    match = _DAY.fullmatch(key)
    try:
        return date.fromisoformat(match[1]) if match else None
    except ValueError:
        return None


def day_file(key: str, etag: str, size: int, last_modified: datetime) -> DayFile | None:
    """Return the day file of `key`, or None if the key names no session."""
    session = session_of(key)
    return DayFile(session, key, etag, size, last_modified.astimezone(UTC)) if session else None


def decode_day(file: DayFile, data: bytes, most_bytes: int) -> Day:
    """Decode the file's bytes.

    A line that cannot be read is left out. Raises ContractError, naming the file and what to do, if the bytes are not
    gzip, are more than `most_bytes` when unpacked, or are no CSV with the columns `ticker, open, high, low, close,
    volume`.
    """
    text = _unpacked(file, data, most_bytes)
    bad_lines: list[str] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        bad_lines.append(f"{row.actual_columns} columns instead of {row.expected_columns}: {row.text[:200]}")
        return "skip"

    header = _header(file, text)
    wanted = [*_NEEDED, *([TRADES] if TRADES in header else [])]
    with decoding(f"{file.key}: cannot be read as CSV", "get the file again"):
        try:
            table = _read(text, wanted, None, numbers=True)
        except pa.ArrowInvalid:
            table = _read_leniently(text, wanted, skip, bad_lines)
    ticker = table[TICKER].unify_dictionaries().combine_chunks()
    codes = np.asarray(ticker.indices.to_numpy(), dtype=np.int32)
    numbers = {name: np.asarray(table[name].to_numpy(), dtype=np.float64) for name in NUMBERS}
    _check_broken(file, codes, numbers)
    counts = table[TRADES] if TRADES in wanted else pa.repeat(NO_COUNT, table.num_rows)
    trades = np.asarray(pc.fill_null(counts, NO_COUNT).to_numpy(zero_copy_only=False), dtype=np.int64)
    return Day(file, ticker.dictionary.to_pylist(), codes, numbers, np.maximum(trades, NO_COUNT), bad_lines)


def _unpacked(file: DayFile, data: bytes, most_bytes: int) -> bytes:
    """Return the text; a gzip file may have several members."""
    parts: list[bytes] = []
    size = 0
    remaining = data
    try:
        while remaining:
            member = zlib.decompressobj(wbits=_GZIP)
            part = member.decompress(remaining, most_bytes - size + 1)
            size += len(part)
            if size > most_bytes:
                raise ContractError(
                    f"{file.key}: is more than {most_bytes:,} bytes when unpacked, the limit for a day file "
                    f"(FLAT_FILE_MAX_BYTES); {len(data):,} bytes as stored. Look at the file, or raise the limit"
                )
            if not member.eof:
                raise ContractError(f"{file.key}: the gzip data end too early; get the file again")
            parts.append(part)
            remaining = member.unused_data
    except zlib.error as error:
        raise ContractError(f"{file.key}: is not gzip ({error}); get the file again") from error
    return b"".join(parts)


def _header(file: DayFile, text: bytes) -> list[str]:
    line = text.partition(b"\n")[0][:_LONGEST_HEADER]
    with decoding(f"{file.key}: its header cannot be read as CSV", "get the file again"):
        names = next(csv.reader([line.decode("utf-8-sig", "replace").rstrip("\r")]), [])
    missing = [name for name in _NEEDED if name not in names]
    twice = [name for name in (*_NEEDED, TRADES) if names.count(name) > 1]
    if missing or twice:
        fault = f"no column {', '.join(missing)}" if missing else f"two columns {twice[0]}"
        raise ContractError(
            f"{file.key}: has {fault} (its header: {', '.join(names)[:200]}); "
            "a day file has the columns ticker, volume, open, close, high, low, window_start, transactions"
        )
    return names


def _check_broken(file: DayFile, codes: npt.NDArray[np.int32], numbers: dict[str, Floats]) -> None:
    """Raise ContractError if more rows break a rule than quarantine takes of a file."""
    if len(codes) <= MAX_BROKEN:
        return  # always true of the vendor's files
    repeated = len(codes) - len(np.unique(codes))
    broken = len(codes) - int(np.count_nonzero(unbroken(numbers))) + repeated
    if broken > MAX_BROKEN:
        raise ContractError(
            f"{file.key}: up to {broken:,} of {len(codes):,} rows break a rule or repeat a ticker, more than the "
            f"{MAX_BROKEN:,} that quarantine takes of a file; get the file again"
        )


def _read(text: bytes, names: list[str], skip: object, *, numbers: bool) -> pa.Table:
    kinds: dict[str, pa.DataType] = {name: pa.float64() if numbers else pa.binary() for name in names}
    kinds[TRADES] = pa.int64() if numbers else pa.binary()
    kinds[TICKER] = pa.dictionary(pa.int32(), pa.string()) if numbers else pa.binary()
    return pa_csv.read_csv(
        io.BytesIO(text),
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=max(_BLOCK_BYTES, len(text))),
        parse_options=pa_csv.ParseOptions(invalid_row_handler=skip),
        convert_options=pa_csv.ConvertOptions(
            column_types=kinds,
            include_columns=names,
            # A ticker may be called NA or NULL.
            strings_can_be_null=False,
        ),
    )


def _read_leniently(text: bytes, names: list[str], skip: object, bad_lines: list[str]) -> pa.Table:
    """Read a file with rows that cannot be converted: those rows go to `bad_lines`, the others are returned."""
    good_rows: list[dict[str, object]] = []
    # The reader cannot return a line that has too few columns and is not UTF-8.
    readable = text.decode("utf-8", "replace").encode()
    for row in _read(readable, names, skip, numbers=False).to_pylist():
        try:
            good_rows.append(_converted(row))
        except ValueError as error:
            bad_lines.append(f"{error}: {row}"[:300])
    kinds = {name: pa.float64() for name in names} | {TICKER: pa.string(), TRADES: pa.int64()}
    table = pa.Table.from_pylist(good_rows, schema=pa.schema([(name, kinds[name]) for name in names]))
    return table.set_column(names.index(TICKER), TICKER, table[TICKER].dictionary_encode())


def _converted(row: dict[str, bytes]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in row.items():
        if name == TICKER:
            values[name] = ticker = value.decode()
            if _NOT_UTF8 in ticker:
                raise ValueError("the ticker is not UTF-8")
        elif name == TRADES:
            # As in the vendor's API: no bar is lost with a field that it does not need.
            values[name] = int(value) if _COUNT.fullmatch(value) else None
        else:
            values[name] = float(value) if value else None
    return values

"""Decode foreign bytes: a size limit is checked first, and every failure is a ContractError.

A reader that uses this module never gets an error of a library, and no file can use more memory than the limit. What
our own services write is checked by the same arithmetic before the write (`check_readable`, `write_json`), so that no
object of ours is too large to be read again.
"""

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fiblake.errors import ConfigurationError, ContractError, FiblakeError
from fiblake.parquet_pages import Chunk, chunks_of, page_sizes

LIMIT_VARIABLE: Final = "READ_LIMIT_MB"
"""The setting: the limit of memory, in megabytes, for one decoded object of the lake."""
DEFAULT_LIMIT_MB: Final = 32
"""A symbol's bars since 1962 are 2 MB."""
MARKET_SHARE: Final = 3
"""A table of all symbols (`fiblake.lake.holds_all_symbols`) may use this multiple of the limit: 96 MB.

A month file of 60,000 symbols with 8 buckets each is 46 MB (96 bytes a row), a session of 60,000 rows in quarantine
is 72 MB as rows (12 values of 100 bytes). 96 MB are a month of 125,000 symbols.
"""
MEGABYTE: Final = 1_000_000
MAX_PARTS: Final = 512
"""The maximum of row groups in a file, and of columns in a row group: each uses memory before any is read."""
VALUE_BYTES: Final = 8
ROW_VALUE_BYTES: Final = 100
"""The memory of a value in a row that is a Python dict."""
SMALL_BYTES: Final = 4_096
"""This many bytes hold at most 32 MB, in the codec with the best compression."""
JSON_GROWTH: Final = 4
"""JSON text becomes many small objects, which need several times its memory, so its limit is smaller by this factor."""
FOOTER_SHARE: Final = 8
"""A Parquet file's footer may use this part of the limit: its entries need many times their size in memory."""
SHOWN: Final = 300
"""The number of characters of a library's message in an error."""
MAKE_ANEW: Final = "move it away: `fiblake adopt`, and make it again: `fiblake reconcile --fix`"
"""The remedy if one of our files (month file, manifest, checkpoint, record) cannot be read and blocks a new one."""
_TEXTS: Final = {kind.id for kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())}
_TEXT_LIKE: Final = _TEXTS | {pa.dictionary(pa.int32(), pa.string()).id}
_MAGIC: Final = b"PAR1"
_FOOTER_TAIL: Final = 8


class TooLargeError(ContractError):
    """An object needs more memory than the limit; the reason has both sizes and the setting."""


@cache
def limit() -> int:
    """Return the limit of memory for one decoded object, in bytes, from the environment (READ_LIMIT_MB).

    This is the only setting that entry points do not pass on, so that no caller can forget the limit. Raises
    ConfigurationError if it is not a whole number above 0.
    """
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_MB)
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigurationError(f"{LIMIT_VARIABLE} is {text[:40]!r}: set it to a whole number of megabytes above 0")
    return int(text) * MEGABYTE


def market_limit() -> int:
    """Return the limit of memory for a decoded table of all symbols, in bytes."""
    return limit() * MARKET_SHARE


class Decoding:
    """See `decoding`. It is a class because a generator takes four times as long, and there are many files."""

    __slots__ = ("_failure", "_remedy")

    def __init__(self, failure: str, remedy: str) -> None:
        self._failure, self._remedy = failure, remedy

    def __enter__(self) -> None:
        """Enter the block."""

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> None:
        """Convert the block's error into a ContractError."""
        match error:
            case None:
                return
            case TooLargeError():
                raise TooLargeError(f"{self._failure}: {error}") from error
            case ContractError():
                raise ContractError(_sentence(self._failure, str(error), self._remedy)) from error
            case Exception() if not isinstance(error, FiblakeError):
                message = " ".join(str(error).split())[:SHOWN]
                cause = f"{type(error).__name__} {message}"
                raise ContractError(_sentence(self._failure, cause, self._remedy)) from error


def decoding(failure: str, remedy: str = "") -> Decoding:
    """Convert errors of the block into a ContractError that begins with `failure` and ends with `remedy`.

    `failure` names the object, or the field ("the manifest cannot be read"); blocks may be nested. Our errors other
    than ContractError pass unchanged; TooLargeError has its own remedy.
    """
    return Decoding(failure, remedy)


def _sentence(failure: str, cause: str, remedy: str) -> str:
    return "; ".join(filter(None, [f"{failure}: {cause}", remedy]))


def oversize(what: str, size: int, allowed: int | None = None) -> TooLargeError | None:
    """Return the error of an object whose stored `size` exceeds `allowed` (None: the limit); None: it may be read."""
    allowed = allowed or limit()
    return too_large(what, f"is {size:,} bytes", allowed) if size > allowed else None


def too_large(what: str, measured: str, allowed: int) -> TooLargeError:
    """Return the error with the measured size, the limit, and the way to raise it."""
    return TooLargeError(
        f"{what} {measured}, more than the {allowed:,} that are allowed: split or shrink it, "
        f"or raise {LIMIT_VARIABLE} (now {limit() // MEGABYTE})"
    )


def read_json(data: bytes, what: str) -> Any:  # noqa: ANN401 (whatever the text says)
    """Return the value of a JSON text; raise ContractError, which names `what`, if it is too large or no JSON."""
    _check_json(data, what)
    with decoding(f"{what} is no JSON"):
        return json.loads(data)


def write_json(value: object, what: str, indent: int | None = None) -> bytes:
    """Return a value as JSON text; raise TooLargeError if `read_json` would refuse it."""
    return checked_json(json.dumps(value, indent=indent).encode(), what)


def checked_json(data: bytes, what: str) -> bytes:
    """Return a JSON text before it is written; raise TooLargeError if `read_json` would refuse it."""
    with decoding(_unreadable(what)):
        _check_json(data, "it")
    return data


def json_limit() -> int:
    """Return the limit of the bytes of a JSON text."""
    return limit() // JSON_GROWTH


def _check_json(data: bytes, what: str) -> None:
    if len(data) > json_limit():
        raise too_large(what, f"is {len(data):,} bytes of JSON", json_limit())


def _unreadable(what: str) -> str:
    return f"{what} is not written, because it could not be read again"


@dataclass(frozen=True)
class ParquetBytes:
    """A Parquet file in memory whose footer passed the checks. The pages of the columns to read are checked, too."""

    data: bytes
    what: str
    file: pq.ParquetFile
    names: Sequence[str]
    kinds: Sequence[pa.DataType]
    """The columns' types, in the order of their names."""
    footer: pq.FileMetaData
    rows: int
    is_small: bool
    """Whether it is so small that it cannot exceed the limit; then the further checks would only take time."""
    allowed: int
    """The limit of its memory, in bytes."""

    @classmethod
    def of(cls, data: bytes, what: str, file: pq.ParquetFile, allowed: int) -> "ParquetBytes":
        """Read repeatedly used values from the library once, because it builds them at each call."""
        schema, footer = file.schema_arrow, file.metadata
        rows = footer.num_rows
        is_small = rows <= 1 and len(data) <= SMALL_BYTES
        return cls(data, what, file, schema.names, schema.types, footer, rows, is_small, allowed)

    @cached_property
    def metadata(self) -> dict[bytes, bytes]:
        """The key-value metadata of the file."""
        return self.footer.metadata or {}

    @cached_property
    def chunks(self) -> Sequence[Chunk]:
        """The footer's description of each column in each row group; raises the errors of `chunks_of`."""
        return chunks_of(self.data)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read columns, in one thread: many files are read at once, and no thread of Arrow should hold our bytes.

        Texts whose repetitions might exceed the limit stay dictionaries. Raises TooLargeError, or the errors of
        `chunks_of`, for the pages of these columns.
        """
        if not self.is_small:
            self._check_pages(columns)
        wanted = zip(self.names, self.kinds, strict=True)
        texts = [name for name, kind in wanted if name in columns and kind.id in _TEXT_LIKE and self._may_explode(name)]
        if not texts:
            return self.file.read(columns=columns, use_threads=False)
        file = pq.ParquetFile(pa.BufferReader(self.data), metadata=self.footer, pre_buffer=False, read_dictionary=texts)
        table = file.read(columns=columns, use_threads=False)
        for name in texts:
            size = sum(_text_bytes(chunk) for chunk in table[name].chunks)
            if size > self.allowed:
                raise too_large(self.what, f"has {size:,} bytes of text in column {name!r}", self.allowed)
        return table

    def check(self) -> None:
        """Raise TooLargeError if `read` would refuse the file's columns."""
        self._check_pages(self.names)
        self.read([name for name, kind in zip(self.names, self.kinds, strict=True) if kind.id in _TEXT_LIKE])

    def _check_pages(self, columns: Collection[str]) -> None:
        """Raise TooLargeError if the columns' pages are larger than the limit, by their own headers."""
        size = 0
        for page in page_sizes(self.data, [chunk for chunk in self.chunks if chunk.column in columns]):
            size += page.size
            if size > self.allowed:
                measured = f"is more than {size:,} bytes uncompressed, whatever its footer says"
                raise too_large(self.what, measured, self.allowed)

    def _may_explode(self, name: str) -> bool:
        """Return whether a column's texts might exceed the limit; raise TooLargeError if that is unknown."""
        if self.rows <= 1:
            return False  # no larger than its page
        size = longest = 0
        for page in page_sizes(self.data, [chunk for chunk in self.chunks if chunk.column == name]):
            size += page.size * page.growth
            longest = max(longest, page.size)
            if size > self.allowed:
                raise too_large(self.what, f"may be {size:,} bytes of text in column {name!r}", self.allowed)
        return self.rows * longest > self.allowed


def _text_bytes(chunk: pa.Array) -> int:
    """Return the bytes of a dictionary array's texts when each is stored separately."""
    if not (pa.types.is_dictionary(chunk.type) and chunk.type.value_type.id in _TEXTS):
        return int(chunk.nbytes)
    lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
    return pc.sum(lengths.take(chunk.indices)).as_py() or 0


def parquet_metadata(tail: bytes) -> dict[bytes, bytes] | None:
    """Return the key-value metadata of a Parquet file from its last bytes; None if they hold less than its footer."""
    try:
        return open_parquet(tail, "the file", ()).metadata
    except ContractError:
        return None


def parquet_rows(data: bytes) -> int:
    """Return the rows of a table of all symbols by its footer; 0 if it cannot be read."""
    try:
        return open_parquet(data, "the file", (), allowed=market_limit()).rows
    except ContractError:
        return 0


def open_parquet(
    data: bytes, what: str, columns: Collection[str] | None = None, kind: str = "Parquet", allowed: int | None = None
) -> ParquetBytes:
    """Open Parquet bytes to read `columns` (None: all); raise ContractError if they fail a check.

    `kind` is the expected kind of file, for the error. `allowed` is the limit of its memory (None: that of one object).
    """
    allowed = allowed or limit()
    footer = int.from_bytes(data[-_FOOTER_TAIL:-4], "little") if data[-4:] == _MAGIC else 0
    if footer > allowed // FOOTER_SHARE:
        raise too_large(what, f"has a footer of {footer:,} bytes", allowed // FOOTER_SHARE)
    with decoding(f"{what} cannot be read as {kind}"):
        try:
            file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, thrift_container_size_limit=MAX_PARTS)
        except OSError as error:
            if "Exceeded size limit" in str(error):
                raise ContractError(f"it has more than {MAX_PARTS} columns, row groups or entries") from error
            raise
        opened = ParquetBytes.of(data, what, file, allowed)
        _check_parquet(opened, columns)
    return opened


def _check_parquet(file: ParquetBytes, columns: Collection[str] | None) -> None:
    """Raise ContractError if the columns cannot be read, or exceed the limit according to the footer."""
    what, footer = file.what, file.footer
    names = [name for name in file.names if columns is None or name in columns]
    if len(set(names)) < len(names):
        raise ContractError("it has two columns of one name: leave one of them out")
    for name, kind in zip(file.names, file.kinds, strict=True):
        if kind.num_fields and (columns is None or name in columns):
            raise ContractError(f"it has lists or records in column {name!r}: write one plain value a row")
    size = file.rows * len(names) * VALUE_BYTES
    if size > file.allowed:
        raise too_large(what, f"has {file.rows:,} rows of {len(names)} columns ({size:,} bytes)", file.allowed)
    size = sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))
    if size > file.allowed:
        raise too_large(what, f"is {size:,} bytes uncompressed", file.allowed)


def check_readable(data: bytes, table: pa.Table, what: str, allowed: int | None = None) -> None:
    """Raise TooLargeError if a reader with the limit `allowed` would refuse `data`, the bytes of `table`.

    The reader's own checks decide. They are left out if the table is so small that none of them can fail: no column
    repeats a text, and bytes and values take a small part of the limit.
    """
    allowed = allowed or limit()
    # The size of the buffers is at least that of the values, and takes a hundredth of the time of `nbytes`.
    largest = max(len(data), table.get_total_buffer_size(), table.num_rows * table.num_columns * VALUE_BYTES)
    if largest <= allowed // FOOTER_SHARE and not any(pa.types.is_dictionary(kind) for kind in table.schema.types):
        return
    with decoding(_unreadable(what)):
        oversized = oversize("it", len(data), allowed)
        if oversized:
            raise oversized
        open_parquet(data, "it", allowed=allowed).check()


def check_rows(rows: int, columns: int, what: str, allowed: int) -> None:
    """Raise TooLargeError if this many rows would exceed `allowed` as Python dicts."""
    size = rows * columns * ROW_VALUE_BYTES
    if size > allowed:
        raise too_large(what, f"has {rows:,} rows ({size:,} bytes)", allowed)

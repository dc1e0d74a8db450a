"""How bytes that somebody else wrote are decoded: checked against a limit first, and every failure is a ContractError.

A reader that goes through this module never meets an error of a library's, and no file can take more memory than the
limit allows.
"""

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import ConfigurationError, ContractError, FiblakeError

LIMIT_VARIABLE: Final = "READ_LIMIT_MB"
"""The setting: how many megabytes of memory one object of the lake may take once it is decoded."""
DEFAULT_LIMIT_MB: Final = 32
"""A symbol's bars since 1962 are 2 MB, all symbols' buckets of a month 12 MB (20,000 symbols)."""
MEGABYTE: Final = 1_000_000
MAX_PARTS: Final = 512
"""Row groups of a file, and columns of a row group, at the most: each costs memory before any is read."""
VALUE_BYTES: Final = 8
JSON_GROWTH: Final = 4
"""Text of JSON becomes many small objects, which need several times its memory: so it may be that much smaller."""
FOOTER_SHARE: Final = 8
"""A Parquet file's footer may be this part of the limit: its entries need many times their size in memory."""
SHOWN: Final = 300
"""Characters of a library's message that are kept."""
MAKE_ANEW: Final = "move it away: `fiblake adopt`, and make it anew: `fiblake reconcile --fix`"
"""How to go on if a file of ours cannot be read and keeps a new one out: month file, manifest, checkpoint, record."""
_MAGIC: Final = b"PAR1"
_FOOTER_TAIL: Final = 8


class TooLargeError(ContractError):
    """An object needs more memory than one may; the reason says how much, and which setting allows more."""


@cache
def limit() -> int:
    """Return how many bytes one object may take once decoded, by the environment (READ_LIMIT_MB).

    It is the one setting that is not passed on from an entry point: a limit that a caller can forget is none.
    """
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_MB)
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigurationError(f"{LIMIT_VARIABLE} is {text[:40]!r}: set it to a whole number of megabytes above 0")
    return int(text) * MEGABYTE


@contextmanager
def decoding(failure: str, remedy: str = "") -> Iterator[None]:
    """Turn whatever the block raises into a ContractError that begins with `failure` and ends with `remedy`.

    `failure` names the object, or the field ("the manifest cannot be read"); blocks may be nested. Errors of ours other
    than ContractError pass, and so does TooLargeError, which says all of this itself.
    """
    try:
        yield
    except TooLargeError:
        raise
    except ContractError as error:
        raise ContractError(_sentence(failure, str(error), remedy)) from error
    except FiblakeError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())[:SHOWN]
        raise ContractError(_sentence(failure, f"{type(error).__name__} {message}", remedy)) from error


def _sentence(failure: str, cause: str, remedy: str) -> str:
    return "; ".join(filter(None, [f"{failure}: {cause}", remedy]))


def check_size(what: str, size: int) -> None:
    """Raise TooLargeError if an object of `size` bytes, as it is stored, exceeds the limit."""
    if size > limit():
        raise too_large(what, f"is {size:,} bytes", limit())


def too_large(what: str, measured: str, allowed: int) -> TooLargeError:
    """Return the error that says what was measured, what is allowed, and how to allow more."""
    return TooLargeError(
        f"{what} {measured}, more than the {allowed:,} that are allowed: split or shrink it, "
        f"or raise {LIMIT_VARIABLE} (now {limit() // MEGABYTE})"
    )


def read_json(data: bytes, what: str) -> Any:  # noqa: ANN401 (whatever the text says)
    """Return what a JSON text says; raise ContractError, naming `what`, if it is too large or no JSON."""
    allowed = limit() // JSON_GROWTH
    if len(data) > allowed:
        raise too_large(what, f"is {len(data):,} bytes of JSON", allowed)
    with decoding(f"{what} cannot be read"):
        return json.loads(data)


@dataclass(frozen=True, slots=True)
class ParquetBytes:
    """A Parquet file in memory that passed the checks: it may be read."""

    data: bytes
    file: pq.ParquetFile
    schema: pa.Schema

    def read(self, columns: Sequence[str], texts: Sequence[str] = ()) -> pa.Table:
        """Read columns, in one thread: many files are read at once, and none of Arrow's threads keeps our bytes.

        Those named in `texts` are read as dictionaries, so that a text that is repeated takes its memory once.
        """
        file = self.file
        if texts:
            file = pq.ParquetFile(
                pa.BufferReader(self.data), metadata=file.metadata, pre_buffer=False, read_dictionary=texts
            )
        return file.read(columns=columns, use_threads=False)

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """The key-value metadata of the file."""
        return self.file.metadata.metadata or {}


def parquet_metadata(tail: bytes) -> dict[bytes, bytes] | None:
    """Return the key-value metadata of a Parquet file from its last bytes; None if they hold less than its footer."""
    try:
        return open_parquet(tail, "the file", ()).metadata
    except ContractError:
        return None


def open_parquet(data: bytes, what: str, columns: Collection[str] | None = None, kind: str = "Parquet") -> ParquetBytes:
    """Open Parquet bytes of which `columns` (None: all) are to be read; raise ContractError if they may not be.

    `kind` says in an error what the bytes should have been.
    """
    footer = int.from_bytes(data[-_FOOTER_TAIL:-4], "little") if data[-4:] == _MAGIC else 0
    if footer > limit() // FOOTER_SHARE:
        raise too_large(what, f"has a footer of {footer:,} bytes", limit() // FOOTER_SHARE)
    with decoding(f"{what} cannot be read as {kind}"):
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, thrift_container_size_limit=MAX_PARTS)
        schema = file.schema_arrow
        _check_parquet(file.metadata, schema, what, columns)
    return ParquetBytes(data, file, schema)


def _check_parquet(metadata: pq.FileMetaData, schema: pa.Schema, what: str, columns: Collection[str] | None) -> None:
    """Raise ContractError if reading the columns would take more than the limit, by what the footer says."""
    fields = [field for field in schema if columns is None or field.name in columns]
    if len({field.name for field in fields}) < len(fields):
        raise ContractError("it has two columns of one name: leave one of them out")
    for field in fields:
        if pa.types.is_nested(field.type):
            raise ContractError(f"it has lists or records in column {field.name!r}: write one plain value a row")
    size = metadata.num_rows * len(fields) * VALUE_BYTES
    if size > limit():
        raise too_large(what, f"has {metadata.num_rows:,} rows of {len(fields)} columns ({size:,} bytes)", limit())
    size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if size > limit():
        raise too_large(what, f"is {size:,} bytes uncompressed", limit())

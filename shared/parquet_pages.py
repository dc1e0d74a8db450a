"""How large a Parquet file's pages really are: by their own headers, which decide what a reader allocates (pure).

A footer may say less than is there. A page's header cannot: Arrow decompresses a page into as many bytes as its header
says, and refuses one that gives more or less. Headers are in Thrift's compact protocol (parquet.thrift).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pyarrow.parquet as pq

_BOOLEANS: Final = (1, 2)
_BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 3, 7, 8, 9, 10, 11, 12
_NUMBERS: Final = (4, 5, 6)
_LONG_LIST: Final = 15
_MAX_DEPTH: Final = 8
_SIZE, _STORED = 2, 3
"""Fields of a page header: bytes once decompressed, and as stored."""
_DATA_PAGES: Final = {5: 2, 8: 4}
"""Fields of a page header that hold a data page's, and the field of the encoding in each."""
_DELTA_BYTE_ARRAY: Final = 7
"""The encoding in which a value is so many bytes of the one before and a few more: small pages, large values."""

Record = dict[int, Any]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Thrift's compact protocol over bytes; raises IndexError or ValueError where it is something else."""

    data: bytes

    def record(self, at: int, depth: int = 0) -> tuple[Record, int]:
        """Read a struct; return its fields by number, and where it ends."""
        if depth > _MAX_DEPTH:
            raise ValueError("records in records")
        fields: Record = {}
        number = 0
        while kind := self.data[at] & 0x0F:
            step = self.data[at] >> 4
            at += 1
            if step:
                number += step
            else:
                number, at = self._number(at)
            fields[number], at = self._value(kind, at, depth)
        return fields, at + 1

    def _value(self, kind: int, at: int, depth: int) -> tuple[Any, int]:
        if kind in _BOOLEANS:
            return kind == 1, at
        if kind in _NUMBERS:
            return self._number(at)
        if kind == _STRUCT:
            return self.record(at, depth + 1)
        if kind == _BINARY:
            size, at = self._varint(at)
            return None, at + size
        if kind in {_BYTE, _DOUBLE}:
            return None, at + (1 if kind == _BYTE else 8)
        if kind in {_LIST, _SET}:
            return self._list(at, depth)
        raise ValueError(f"type {kind} in a page's header")

    def _list(self, at: int, depth: int) -> tuple[None, int]:
        kind, size = self.data[at] & 0x0F, self.data[at] >> 4
        at += 1
        if size == _LONG_LIST:
            size, at = self._varint(at)
        for _ in range(size):
            _, at = self._value(kind, at + (kind in _BOOLEANS), depth + 1)
        return None, at

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self.data[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:  # noqa: PLR2004 (the highest bit says that more follows)
                return value, at

    def _number(self, at: int) -> tuple[int, int]:
        value, at = self._varint(at)
        return (value >> 1) ^ -(value & 1), at


class Page(NamedTuple):
    """A page as its header describes it."""

    size: int
    """Bytes once it is decompressed."""
    growth: int
    """How many times that its values may take in memory."""


def page_sizes(data: bytes, metadata: pq.FileMetaData, columns: Collection[int]) -> Iterator[Page]:
    """Return the pages of these columns (by their places).

    Raises IndexError or ValueError if a page's header cannot be read.
    """
    reader = _Reader(data)
    for group in range(metadata.num_row_groups):
        for place in columns:
            chunk = metadata.row_group(group).column(place)
            starts = [start for start in (chunk.data_page_offset, chunk.dictionary_page_offset) if start]
            at = min(starts, default=len(data))  # without a page
            end = min(at + chunk.total_compressed_size, len(data))
            while at < end:
                header, at = reader.record(at)
                if header[_SIZE] < 0 or header[_STORED] < 0:
                    raise ValueError("a page of less than no bytes")
                yield Page(header[_SIZE], _growth(header))
                at += header[_STORED]


def _growth(header: Record) -> int:
    for field, encoding in _DATA_PAGES.items():
        page = header.get(field)
        if page and page.get(encoding) == _DELTA_BYTE_ARRAY:
            return max(1, int(page[1]))
    return 1

"""How large a Parquet file's pages really are: by their own headers, which decide what a reader allocates (pure).

A footer may say less than is there. A page's header cannot: Arrow decompresses a page into as many bytes as its header
says, and refuses one that gives more or less. Headers are in Thrift's compact protocol (parquet.thrift).
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

_BOOLEANS: Final = (1, 2)
_BINARY, _LIST, _SET, _STRUCT = 8, 9, 10, 12
_NUMBERS: Final = (4, 5, 6)
_FIXED: Final = {1: 0, 2: 0, 3: 1, 7: 8}
"""Bytes of the types whose values always take as many: truth, a byte, a double."""
_LONG_LIST: Final = 15
_MORE: Final = 0x80
"""The bit that says that a number goes on."""
_MAX_DEPTH: Final = 8
_TAIL: Final = 8
_ROW_GROUPS, _COLUMNS, _META_DATA, _PATH = 4, 1, 3, 3
_STORED_BYTES, _DATA_PAGE, _DICTIONARY_PAGE, _STATISTICS = 7, 9, 11, 12
_GREATEST, _LEAST = 5, 6
_DATA_PAGES: Final = {5: 2, 8: 4}
"""Fields of a page header that hold a data page's, and the field of the encoding in each."""
_DELTA_BYTE_ARRAY: Final = 7
"""The encoding in which a value is so many bytes of the one before and a few more: small pages, large values."""
_PLAIN_START: Final = b"\x15\x00\x15"
"""How the header of a data page begins: its type, and the field of its size."""
_SMALL_HEADER: Final = 24
"""Bytes that the rest of a header takes; no page that grows large when it is decompressed is smaller."""
_SIZE, _STORED, _GROWTH = 2, 3, 0
"""Fields of a page header: bytes once decompressed, and as stored. The last is none of Parquet's."""


class Page(NamedTuple):
    """A page as its header describes it."""

    size: int
    """Bytes once it is decompressed."""
    growth: int
    """How many times that its values may take in memory."""


class Chunk(NamedTuple):
    """A column's part of a row group, as the footer describes it."""

    column: str
    start: int
    end: int
    least: bytes | None
    greatest: bytes | None


def chunks_of(data: bytes) -> list[Chunk]:
    """Read the footer of a Parquet file; raise IndexError, ValueError or KeyError if it is none.

    Not by way of the library: of a column whose description is damaged it ends the process.
    """
    footer = data[len(data) - _TAIL - int.from_bytes(data[-_TAIL:-4], "little") : -_TAIL]
    chunks: list[Chunk] = []
    for number, kind, at in _fields(footer, 0):
        if number == _ROW_GROUPS and kind == _LIST:
            _, count, group = _list_head(footer, at)
            for _ in range(count):
                group = _row_group(footer, group, chunks, len(data))
            break
    return chunks


def _row_group(footer: bytes, at: int, chunks: list[Chunk], size: int) -> int:
    """Add a row group's parts of columns to `chunks`; return where its description ends."""
    number = 0
    while head := footer[at]:
        number, at = _next_field(footer, at, number)
        if number == _COLUMNS and head & 0x0F == _LIST:
            _, count, at = _list_head(footer, at)
            for _ in range(count):
                at = _column(footer, at, chunks, size)
        else:
            at = _skip(footer, at, head & 0x0F, 0)
    return at + 1


def _column(footer: bytes, at: int, chunks: list[Chunk], size: int) -> int:
    number = 0
    while head := footer[at]:
        number, at = _next_field(footer, at, number)
        if number == _META_DATA and head & 0x0F == _STRUCT:
            at = _chunk(footer, at, chunks, size)
        else:
            at = _skip(footer, at, head & 0x0F, 0)
    return at + 1


def _chunk(footer: bytes, at: int, chunks: list[Chunk], size: int) -> int:
    numbers: dict[int, int] = {}
    path, texts, number = "", dict[int, bytes](), 0
    while head := footer[at]:  # written out, because it is done for each column of each file
        kind = head & 0x0F
        if head > 0x0F:  # noqa: PLR2004 (the high half says how much further the field's number is)
            number, at = number + (head >> 4), at + 1
        else:
            number, at = _next_field(footer, at, number)
        if kind in _NUMBERS:
            value = shift = 0
            while (byte := footer[at]) >= _MORE:
                value |= (byte & 0x7F) << shift
                at, shift = at + 1, shift + 7
            numbers[number] = (value | byte << shift) >> 1
            at += 1
            continue
        if number == _PATH and kind == _LIST:
            path = _path(footer, at)
        elif number == _STATISTICS and kind == _STRUCT:
            texts = {field: _text(footer, inside) for field, of, inside in _fields(footer, at) if of == _BINARY}
        at = _skip(footer, at, kind, 0)
    starts = [numbers[field] for field in (_DATA_PAGE, _DICTIONARY_PAGE) if numbers.get(field)]
    start = min(starts, default=size)  # without a page
    end = min(start + numbers[_STORED_BYTES], size)
    chunks.append(Chunk(path, start, end, texts.get(_LEAST), texts.get(_GREATEST)))
    return at + 1


def _path(footer: bytes, at: int) -> str:
    _, count, at = _list_head(footer, at)
    names = []
    for _ in range(count):
        size, at = _varint(footer, at)
        names.append(footer[at : at + size].decode())
        at += size
    return ".".join(names)


def _next_field(data: bytes, at: int, number: int) -> tuple[int, int]:
    """Return the number of the field that begins here, and where its value is."""
    step = data[at] >> 4
    if step:
        return number + step, at + 1
    return _zigzag(data, at + 1), _skip(data, at + 1, _NUMBERS[0], 0)


def page_sizes(data: bytes, chunks: Iterable[Chunk]) -> Iterator[Page]:
    """Return the pages of these parts of columns; raise IndexError or ValueError if a header cannot be read."""
    for chunk in chunks:
        at = chunk.start
        while at < chunk.end:
            if page := _only_page(data, at, chunk.end):
                yield page
                break
            header, at = _header(data, at)
            if header[_SIZE] < 0 or header[_STORED] < 0:
                raise ValueError("a page of less than no bytes")
            yield Page(header[_SIZE], header[_GROWTH])
            at += header[_STORED]


def _header(data: bytes, at: int) -> tuple[dict[int, int], int]:
    """Read a page's header; return what is needed of it, and where it ends."""
    header = {_GROWTH: 1}
    for field, kind, place in _fields(data, at):
        if field in {_SIZE, _STORED}:
            header[field] = _zigzag(data, place)
        elif field in _DATA_PAGES and kind == _STRUCT:
            page = {number: _zigzag(data, inside) for number, of, inside in _fields(data, place) if of in _NUMBERS}
            if page.get(_DATA_PAGES[field]) == _DELTA_BYTE_ARRAY:
                header[_GROWTH] = max(1, page[1])
    return header, _skip(data, at, _STRUCT, 0)


def _fields(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Return the fields of a record: number, type, and where the value is."""
    number = 0
    while head := data[at]:
        number, at = _next_field(data, at, number)
        yield number, head & 0x0F, at
        at = _skip(data, at, head & 0x0F, 0)


def _skip(data: bytes, at: int, kind: int, depth: int) -> int:  # noqa: C901, PLR0912 (quick, and so written out)
    """Return where a value ends."""
    if kind in _NUMBERS:
        while data[at] >= _MORE:
            at += 1
        return at + 1
    if kind == _BINARY:
        size, at = _varint(data, at)
        return at + size
    if depth > _MAX_DEPTH:
        raise ValueError("records in records")
    if kind == _STRUCT:
        while head := data[at]:
            at += 1
            if not head >> 4:
                at = _skip(data, at, _NUMBERS[0], depth)
            if head & 0x0F in _NUMBERS:
                while data[at] >= _MORE:
                    at += 1
                at += 1
            else:
                at = _skip(data, at, head & 0x0F, depth + 1)
        return at + 1
    if kind in {_LIST, _SET}:
        of, count, at = _list_head(data, at)
        for _ in range(count):
            if of in _NUMBERS and data[at] < _MORE:
                at += 1
            else:
                at = at + 1 if of in _BOOLEANS else _skip(data, at, of, depth + 1)
        return at
    return at + _FIXED[kind]


def _list_head(data: bytes, at: int) -> tuple[int, int, int]:
    kind, count = data[at] & 0x0F, data[at] >> 4
    at += 1
    if count == _LONG_LIST:
        count, at = _varint(data, at)
    return kind, count, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := data[at]) >= _MORE:
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | byte << shift, at + 1


def _zigzag(data: bytes, at: int) -> int:
    value, _ = _varint(data, at)
    return (value >> 1) ^ -(value & 1)


def _text(data: bytes, at: int) -> bytes:
    size, at = _varint(data, at)
    return data[at : at + size]


def _only_page(data: bytes, at: int, end: int) -> Page | None:
    """Return a data page after which its column has no room for another one, quickly; None: read its whole header."""
    if data[at : at + 3] != _PLAIN_START:
        return None
    sizes = []
    at += 2
    for _ in range(2):
        at += 1
        value = shift = 0
        while data[at] >= _MORE:
            value |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
        sizes.append((value | data[at] << shift) >> 1)
        at += 1
        if len(sizes) == 1 and data[at] != _PLAIN_START[2]:
            return None
    rest = end - at - sizes[1]
    return Page(sizes[0], 1) if 0 <= rest < _SMALL_HEADER else None

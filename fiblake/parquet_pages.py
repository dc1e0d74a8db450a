"""The real sizes of a Parquet file's pages, from their own headers, which determine a reader's memory (pure).

A footer may state too small sizes. A page's header cannot: Arrow decompresses a page into the number of bytes in its
header, and refuses a page with more or fewer. Headers are in Thrift's compact protocol (parquet.thrift).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

_BOOLEANS: Final = (1, 2)
_BINARY, _LIST, _SET, _STRUCT = 8, 9, 10, 12
_NUMBERS: Final = (4, 5, 6)
_FIXED: Final = {1: 0, 2: 0, 3: 1, 7: 8}
"""Bytes of the types with values of a fixed size: bool, byte, double."""
_LONG_LIST: Final = 15
_MORE: Final = 0x80
"""The bit that marks a further byte of a number."""
_MAX_DEPTH: Final = 8
_TAIL: Final = 8
_SCHEMA, _ROW_GROUPS, _COLUMNS, _META_DATA, _PATH = 2, 4, 1, 3, 3
_STORED_BYTES, _DATA_PAGE, _DICTIONARY_PAGE, _STATISTICS = 7, 9, 11, 12
_GREATEST, _LEAST = 5, 6
_DATA_PAGES: Final = {5: 2, 8: 4}
"""Fields of a page header with the header of a data page, and the field of the encoding in each."""
_DELTA_BYTE_ARRAY: Final = 7
"""The encoding in which a value shares a prefix with the one before: small pages, large values."""
_SIZE, _STORED, _GROWTH = 2, 3, 0
"""Fields of a page header: bytes once decompressed, and as stored. The last one is not a field of Parquet."""


_HEADS: Final[list[bytes]] = []
"""The beginnings of footers that were read, up to the end of the schema: files of one schema share these bytes."""
_MAX_HEADS: Final = 8
_LONGEST_HEAD: Final = 4_096


def _matcher(pattern: bytes) -> Callable[[bytes, int], re.Match[bytes] | None]:
    """Return a function that matches a pattern with our own signs at a place (spaces are ignored).

    @ is a number, ~ a text of at most 32 bytes, X an entry of encodings, Y a list of at most two numbers.
    """
    text = b"|".join(re.escape(bytes([size])) + b".{%d}" % size for size in range(33))
    signs = {b" ": b"", b"X": rb"\x15@\x15@\x15@\x00", b"Y": rb"(?:\x06|\x16@|&@@)", b"~": b"(?:%b)" % text}
    for sign, meaning in (signs | {b"@": rb"[\x80-\xff]{0,8}[\x00-\x7f]"}).items():
        pattern = pattern.replace(sign, meaning)
    return re.compile(pattern, re.DOTALL).match


_COLUMN: Final = _matcher(
    rb"&@\x1c \x15@ \x19(?:\x15@|%@@|5@@@|E@@@@) \x19\x18(~) \x15@ \x16@ \x16@ \x16(@) &(@) (?:&(@))?"
    rb"( (?(4)\x1c|<) (?:\x18~\x18~\x16|6)@ (?:\((~)\x18(~)[\x11\x12][\x11\x12])? \x00 )?"
    rb"(?(5)\x19|(?(4)\)|I)) (?:\x1cX|,XX|<XXX) (?:< (?:\x16@\x19|\))Y \x19Y \x00)? \x00\x00"
)
"""A column's part of a row group as Arrow describes it, for which `_column` takes five times as long.

Groups: path, bytes as stored, place of the data pages, of the dictionary, statistics, their greatest and least text.
Each byte that begins a field or ends a record stands for itself, so nothing else that is well-formed can match.
"""
_PAGE: Final = _matcher(
    rb"\x15[\x00\x04] \x15(@) \x15(@)"
    rb"(?:, \x15@ \x15[\x00-\x0d\x0f-\x7f] \x15@ \x15@"
    rb" (?:\x1c (?: (?:\x18~\x18~\x16|6)@ (?:\(~\x18~[\x11\x12][\x11\x12])? )? \x00)?"
    rb"|L \x15@ \x15@ [\x11\x12]?) \x00\x00"
)
"""The header of a page of data in any encoding but _DELTA_BYTE_ARRAY (twice 7), or of a dictionary, as Arrow writes it.

Groups: bytes once decompressed, and as stored.
"""


class Page(NamedTuple):
    """A page as its header describes it."""

    size: int
    """Bytes after decompression."""
    growth: int
    """The factor by which its values may need more memory than that."""


class Chunk(NamedTuple):
    """A column's part of a row group, as the footer describes it."""

    column: str
    start: int
    end: int
    least: bytes | None
    greatest: bytes | None


def chunks_of(data: bytes) -> list[Chunk]:
    """Read the footer of a Parquet file; raise IndexError, ValueError or KeyError if it is none.

    The library is not used, because a damaged description of a column makes it end the process.
    """
    footer = data[len(data) - _TAIL - int.from_bytes(data[-_TAIL:-4], "little") : -_TAIL]
    chunks: list[Chunk] = []
    for number, kind, at in _fields_after_schema(footer):
        if number == _ROW_GROUPS and kind == _LIST:
            _, count, group = _list_head(footer, at)
            for _ in range(count):
                group = _row_group(footer, group, chunks, len(data))
            break
    return chunks


def _fields_after_schema(footer: bytes) -> Iterator[tuple[int, int, int]]:
    """Return the fields of a footer, without those up to the schema if they are byte for byte as in one read before."""
    for head in _HEADS:
        if footer.startswith(head):
            yield from _fields(footer, len(head), _SCHEMA)
            return
    for number, kind, at in _fields(footer, 0):
        if number == _SCHEMA:
            end = _skip(footer, at, kind, 0)
            if end <= min(len(footer), _LONGEST_HEAD):
                _HEADS.insert(0, footer[:end])
                del _HEADS[_MAX_HEADS:]
        yield number, kind, at


def _row_group(footer: bytes, at: int, chunks: list[Chunk], size: int) -> int:
    """Add a row group's parts of columns to `chunks`; return where its description ends."""
    number = 0
    while head := footer[at]:
        number, at = _next_field(footer, at, number)
        if number == _COLUMNS and head & 0x0F == _LIST:
            _, count, at = _list_head(footer, at)
            for _ in range(count):
                if match := _COLUMN(footer, at):
                    chunks.append(_matched_chunk(match, size))
                    at = match.end()
                else:
                    at = _column(footer, at, chunks, size)
        else:
            at = _skip(footer, at, head & 0x0F, 0)
    return at + 1


def _matched_chunk(match: re.Match[bytes], size: int) -> Chunk:
    path, stored, data_page, dictionary, _, greatest, least = match.groups()
    start = _half(data_page)
    if dictionary and (place := _half(dictionary)):
        start = min(start or place, place)
    start = start or size  # without a page
    end = start + _half(stored)
    column = path[1:].decode()
    if greatest is None:
        return Chunk(column, start, min(size, end), None, None)
    return Chunk(column, start, min(size, end), least[1:], greatest[1:])


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
    while head := footer[at]:  # inlined for speed, because it runs for each column of each file
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
            if (match := _PAGE(data, at)) and not (data[match.start(1)] | data[match.start(2)]) & 1:
                yield Page(_half(match[1]), 1)
                at = match.end() + _half(match[2])
                continue
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


def _fields(data: bytes, at: int, number: int = 0) -> Iterator[tuple[int, int, int]]:
    """Return the fields of a record that follow field `number`: number, type, and where the value is."""
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


def _half(varint: bytes) -> int:
    """Return half of a number that is written as a varint: the number meant, if it is not negative."""
    match len(varint):  # nearly all have one, two or three bytes
        case 1:
            return varint[0] >> 1
        case 2:
            return (varint[0] & 0x7F | varint[1] << 7) >> 1
        case 3:
            return (varint[0] & 0x7F | (varint[1] & 0x7F) << 7 | varint[2] << 14) >> 1
    value, _ = _varint(varint, 0)
    return value >> 1

"""Decompression bombs: small files that become large when they are read, one for each kind and reader.

Run as a program it reads each by its reader and writes, as JSON, what each ended with and the largest memory it took:
it is a separate process, because the peak of memory lasts as long as a process.
"""

import asyncio
import gzip
import io
import json
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq

from fiblake.aggregate import SILVER, decode_silver
from fiblake.bars import BRONZE, MANIFEST, Consolidated, decode_manifest, decode_rows, encode, read_prices
from fiblake.calendar import nyse
from fiblake.decoding import MARKET_SHARE, market_limit
from fiblake.errors import FiblakeError
from fiblake.reader.views import check_of
from fiblake.reference import IDENTITIES, SPLITS, read_identities, read_splits
from local.market_data.bars import Bars
from shared.checkpoints import read_checkpoint
from shared.cleanup import with_run
from shared.quarantine import read_quarantined
from shared.source_files import bars_of_source
from tests.fakes import LAKE
from tests.unit.fetcher.vendor import Vendor, client_of, coded

NOW = datetime(2025, 11, 20, 12, tzinfo=UTC)
SESSION = date(2025, 11, 19)
SOURCE = LAKE.parse_source(LAKE.date_key("AAPL", SESSION))
LARGEST = 500_000
"""Bytes of a bomb."""
GZIP_HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255])
"""Compressed with deflate, without a name or an instant, on an unknown system."""
VALUES = {pa.float64(): 10.0, pa.date32(): SESSION, pa.int64(): 1, pa.int32(): 1, pa.bool_(): True}

Reader = Callable[[bytes], object]


def replay(data: bytes, suffix: str) -> object:
    with NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        return Bars.read([Path(file.name)])


def answer(data: bytes, coding: str = "identity") -> object:
    """Let the vendor's client receive this answer."""

    async def ask() -> object:
        async with client_of(Vendor([coded(data, coding)])) as client:
            return await client.grouped_daily(SESSION)

    with patch("services.fetcher.massive.ATTEMPTS", 1):
        return asyncio.run(ask())


PARQUET_READERS: dict[str, tuple[pa.Schema, Reader]] = {
    "source file": (BRONZE, lambda data: bars_of_source(data, SOURCE, NOW, nyse(), NOW.date())),
    "data.parquet": (BRONZE, lambda data: Consolidated.decode(data, "AAPL", NOW)),
    "prices": (BRONZE, lambda data: read_prices(data, "AAPL", NOW)),
    "manifest": (MANIFEST, decode_manifest),
    "splits": (SPLITS, lambda data: read_splits(data, "AAPL")),
    "identities": (IDENTITIES, lambda data: read_identities(data, "AAPL")),
    "copy for a query": (BRONZE, check_of("bronze")),
    "Parquet to replay": (BRONZE, lambda data: replay(data, ".parquet")),
}
MARKET_READERS: dict[str, tuple[pa.Schema, Reader]] = {
    "month file": (SILVER, lambda data: decode_silver(data, "silver/month.parquet")),
    "month file for a query": (SILVER, check_of("silver_3d")),
    "quarantine": (BRONZE, lambda data: read_quarantined("bronze/quarantine/x.parquet", "", data)),
    "archive": (BRONZE, lambda data: decode_rows(data, BRONZE, "archive/x.parquet", allowed=market_limit())),
}
"""Readers of tables of all symbols, which may be larger."""
JSON_READERS: dict[str, Reader] = {
    "checkpoint": lambda data: read_checkpoint(data, "processing_metadata/silver_3d_checkpoint.json"),
    "record of clean-ups": lambda data: with_run(data, "run", NOW, {}),
    "log": lambda data: Consolidated.decode(
        encode(BRONZE.empty_table().replace_schema_metadata({b"fiblake.merged": data})), "AAPL", NOW
    ),
    "vendor's answer": answer,
}
TEXT_READERS: dict[str, Reader] = {
    "bars to replay": lambda data: replay(data, ".csv"),
    "compressed bars to replay": lambda data: replay(data, ".csv.gz"),
    "vendor's compressed answer": lambda data: answer(data, "gzip"),
    "vendor's answer, compressed twice": lambda data: answer(data, "gzip, gzip"),
}


def rows_of(schema: pa.Schema, count: int, text: str = "AAPL") -> pa.Table:
    """Return this many equal rows; their texts are in memory once."""
    rows = pa.repeat(pa.scalar(0, pa.int32()), count)
    columns = []
    for field in schema:
        if field.type == pa.string():
            columns.append(pa.DictionaryArray.from_arrays(rows, pa.array([text])))
        else:
            columns.append(pa.repeat(pa.scalar(VALUES.get(field.type, NOW), field.type), count))
    return pa.Table.from_arrays(columns, names=schema.names)


def written(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def zipped(piece: bytes, times: int, head: bytes = b"", tail: bytes = b"") -> bytes:
    """Return `head`, this many times `piece`, and `tail` as one gzip member. The piece is compressed once only."""
    checksum = zlib.crc32(head)
    for _ in range(times):
        checksum = zlib.crc32(piece, checksum)
    size = len(head) + len(piece) * times + len(tail)
    packed = [_deflated(head, zlib.Z_FULL_FLUSH), _deflated(piece, zlib.Z_FULL_FLUSH) * times]
    end = struct.pack("<LL", zlib.crc32(tail, checksum), size)
    return b"".join([GZIP_HEADER, *packed, _deflated(tail, zlib.Z_FINISH), end])


def _deflated(data: bytes, flush: int) -> bytes:
    packer = zlib.compressobj(5, wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush(flush)


def with_footer_that_lies(data: bytes) -> bytes:
    """Make the footer say that the file's row groups are small; the pages stay as they are."""
    metadata = pq.read_metadata(io.BytesIO(data))
    footer_at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[footer_at:-8]
    for group in range(metadata.num_row_groups):
        sizes = [metadata.row_group(group).total_byte_size]
        sizes += [metadata.row_group(group).column(c).total_uncompressed_size for c in range(metadata.num_columns)]
        for size in sizes:
            footer = footer.replace(varint(size), varint(1, len(varint(size))))
    return data[:footer_at] + footer + data[-8:]


def varint(value: int, length: int = 0) -> bytes:
    """Return a number in Thrift's compact protocol (zigzag), padded to a length."""
    value <<= 1
    parts = []
    while value >= 0x80 or len(parts) + 1 < length:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def of_schema(schema: pa.Schema, times: int) -> Iterator[tuple[str, bytes]]:
    """Return the possible bombs of this schema, each with its name, for a reader with `times` the limit."""
    yield "rows without number", written(rows_of(schema, times * 1_200_000), compression="zstd")
    yield "a text repeated", written(rows_of(schema, times * 400, "x" * 100_000), compression="zstd")
    wide: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "data_page_size": 1 << 30}
    texts = rows_of(schema, times * 400, "y" * 100_000).cast(pa.schema([(field.name, field.type) for field in schema]))
    large = written(texts, **wide)
    yield "large when unpacked", large
    yield "a footer that lies", with_footer_that_lies(large)
    encodings = {field.name: "DELTA_BYTE_ARRAY" for field in schema if field.type == pa.string()}
    yield "a text on another", written(texts, column_encoding=encodings, use_dictionary=False, compression="none")
    yield "columns without number", written(pa.table({f"c{number}": [1] for number in range(2_000)}))


def is_replayed(name: str) -> bool:
    """Return whether the market-data replay, a separate process, reads a bomb."""
    return " to replay " in name


def lay_bombs(folder: Path) -> list[str]:
    """Write each bomb as a file named for its reader; return their names."""
    for readers, times in ((PARQUET_READERS, 1), (MARKET_READERS, MARKET_SHARE)):
        made: dict[str, list[tuple[str, bytes]]] = {}
        for reader, (schema, _) in readers.items():
            if str(schema) not in made:
                made[str(schema)] = list(of_schema(schema, times))
            for kind, data in made[str(schema)]:
                (folder / f"{reader} {kind}").write_bytes(data)
    for reader in JSON_READERS:
        (folder / f"{reader} deep").write_bytes(b"[" * LARGEST)
        (folder / f"{reader} wide").write_bytes(b"[" + b"{}," * (LARGEST // 3) + b"{}]")
        (folder / f"{reader} large").write_bytes(b'"' + b"x" * 9_000_000 + b'"')
    head, line = "symbol,session,open,high,low,close,volume\n", "AAPL,2025-11-19,10,11,9,10,1000\n"
    (folder / "bars to replay columns without number").write_text("symbol,session" + ",open" * (LARGEST // 5))
    replayed = "compressed bars to replay"
    lines = zipped((line * 12_000).encode(), 100, head.encode())
    (folder / f"{replayed} rows without number").write_bytes(lines)
    (folder / f"{replayed} a line without end").write_bytes(zipped(b"x" * 4_000_000, 100))
    blanks = zipped(b" " * 4_000_000, 100, b"[", b"]")
    (folder / "vendor's compressed answer large when unpacked").write_bytes(blanks)
    (folder / "vendor's answer, compressed twice large when unpacked").write_bytes(gzip.compress(blanks))
    return sorted(path.name for path in folder.iterdir())


def ending(name: str, data: bytes) -> str:
    """Read a bomb with its reader; return the error."""
    tables = PARQUET_READERS | MARKET_READERS
    readers = {kind: reader for kind, (_, reader) in tables.items()} | JSON_READERS | TEXT_READERS
    reader = readers[max((kind for kind in readers if name.startswith(f"{kind} ")), key=len)]
    try:
        reader(data)
    except FiblakeError as error:
        return f"{type(error).__name__}: {error}"
    return "read"


def main(files: list[Path]) -> None:
    """Read bombs; write the error of each, and the peak of memory."""
    ends = {path.name: ending(path.name, path.read_bytes()) for path in files}
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    sys.stdout.write(json.dumps({"ends": ends, "megabytes": int(line.split()[1]) / 1_000}))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])

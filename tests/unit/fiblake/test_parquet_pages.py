import random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake import parquet_pages
from fiblake.aggregate import SILVER
from fiblake.bars import BRONZE, MANIFEST, encode
from fiblake.parquet_pages import chunks_of, page_sizes
from tests.fakes import NOON
from tests.unit.shared.hostile import DAYS, corrupted

COUNT = 400
"""Corruptions of each file."""


def own_file(schema: pa.Schema, rows: int, symbol: str, *, gaps: bool) -> bytes:
    """Return a file of ours with this many rows."""
    values = {pa.string(): symbol, pa.date32(): DAYS[0], pa.timestamp("us", "UTC"): NOON, pa.bool_(): True}
    table = pa.Table.from_pylist(
        [
            {
                field.name: None if gaps and field.nullable and row % 3 else values.get(field.type, row * 1_000)
                for field in schema
            }
            for row in range(rows)
        ],
        schema=schema,
    )
    return encode(table)


own_files = st.builds(
    own_file, st.sampled_from([BRONZE, SILVER, MANIFEST]), st.integers(1, 400),
    st.text("ABC.", min_size=1, max_size=16), gaps=st.booleans(),
)  # fmt: skip


def outcome(data: bytes) -> object:
    """Return the content of the footer and the page headers, or the type of the error if they cannot be read."""
    try:
        chunks = chunks_of(data)
        return chunks, [list(page_sizes(data, [chunk])) for chunk in chunks]
    except (IndexError, ValueError, KeyError) as error:
        return type(error)


def without_patterns(data: bytes) -> object:
    """Return the same, read field by field."""
    with pytest.MonkeyPatch.context() as patch:
        for pattern in ("_COLUMN", "_PAGE"):
            patch.setattr(parquet_pages, pattern, no_match)
        patch.setattr(parquet_pages, "_HEADS", [])
        return outcome(data)


def no_match(_data: bytes, _at: int) -> None:
    """Match nothing."""


@given(own_files)
def test_a_file_of_ours_is_read_by_the_patterns_as_it_is_field_by_field(data: bytes) -> None:
    assert outcome(data) == without_patterns(data)


@pytest.mark.parametrize("schema", [BRONZE, SILVER, MANIFEST])
@pytest.mark.parametrize("rows", [1, 300])
def test_no_column_and_no_page_of_ours_is_read_field_by_field(
    schema: pa.Schema, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("read field by field")

    data = own_file(schema, rows, "AAPL", gaps=False)
    monkeypatch.setattr(parquet_pages, "_column", forbidden)
    monkeypatch.setattr(parquet_pages, "_header", forbidden)
    assert [chunk.column for chunk in chunks_of(data)] == schema.names
    assert len(list(page_sizes(data, chunks_of(data)))) >= len(schema)


@pytest.mark.parametrize("schema", [BRONZE, SILVER])
@pytest.mark.parametrize("place", ["anywhere", "in the footer", "one byte in the footer"])
def test_a_corrupted_file_is_read_by_the_patterns_as_it_is_field_by_field(schema: pa.Schema, place: str) -> None:
    data = own_file(schema, 30, "AAPL", gaps=True)
    chance = random.Random(place)  # noqa: S311 (no secret)
    for _ in range(COUNT):
        bad = with_fault(data, place, chance)
        assert outcome(bad) == without_patterns(bad), bad


def with_fault(data: bytes, place: str, chance: random.Random) -> bytes:
    footer_at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if place == "anywhere":
        return corrupted(data[:-8], chance) + data[-8:]
    if place == "in the footer":
        return data[:footer_at] + corrupted(data[footer_at:-8], chance) + data[-8:]
    at = chance.randrange(footer_at, len(data) - 8)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def test_heads_that_are_kept_are_few_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []
    monkeypatch.setattr(parquet_pages, "_HEADS", heads)
    for number in range(20):
        schema = pa.schema([pa.field(f"c{number}", pa.int64())])
        assert [chunk.column for chunk in chunks_of(own_file(schema, 1, "A", gaps=False))] == [f"c{number}"]
    chunks_of(own_file(pa.schema([pa.field("x" * 5_000, pa.int64())]), 1, "A", gaps=False))
    assert len(heads) == 8
    assert max(map(len, heads)) < 200

"""The companies that were listed on a day, including companies delisted later: a small Parquet file of the fetcher.

The file is a copy of the names and times in the table symbol_metadata, so that a reader needs no database.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fiblake.bars import decode, encode
from fiblake.calendar import exchange_day
from fiblake.decoding import decoding
from fiblake.lake import UNIVERSE_KEY
from fiblake.symbols import BEGINNING, SymbolRecord

UNIVERSE: Final = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("valid_from", pa.date32(), nullable=False),
        pa.field("valid_to", pa.date32()),
        pa.field("composite_figi", pa.string()),
        pa.field("share_class_figi", pa.string()),
        pa.field("name", pa.string()),
        pa.field("type", pa.string()),
        pa.field("exchange", pa.string()),
    ]
)
"""A company and its symbol, from session `valid_from` to session `valid_to` (null: until now).

`valid_from` is the calendar's first session if the company had the symbol before the first requested day. `type` is
null if the vendor does not state it; such companies are included.
"""
_KNOWN_SINCE: Final = b"fiblake.known_since"


@dataclass(frozen=True, slots=True)
class Universe:
    """All known companies, by symbol and time (schema UNIVERSE).

    Companies that were delisted before `known_since` are unknown: for earlier days the result has only survivors.
    """

    companies: pa.Table
    known_since: date

    def listed_on(self, day: date) -> pa.Table:
        """Return the companies that were listed on `day`, by symbol."""
        begun = pc.less_equal(self.companies["valid_from"], pa.scalar(day))
        still = pc.fill_null(pc.greater_equal(self.companies["valid_to"], pa.scalar(day)), fill_value=True)
        return self.companies.filter(pc.and_(begun, still))


def universe_of(records: Iterable[SymbolRecord], known_since: date) -> Universe:
    """Return the records of symbol_metadata as a universe."""
    rows = [
        {
            "symbol": r.symbol, "valid_from": _listed_from(r, known_since), "valid_to": r.valid_to,
            "composite_figi": r.composite_figi, "share_class_figi": r.share_class_figi, "name": r.name, "type": r.type,
            "exchange": r.exchange,
        }
        for r in sorted(records, key=lambda r: (r.symbol, r.valid_from))
    ]  # fmt: skip
    return Universe(pa.Table.from_pylist(rows, schema=UNIVERSE), known_since)


def universe_file(universe: Universe) -> bytes:
    """Return a universe as the bytes of its file."""
    metadata = {_KNOWN_SINCE: universe.known_since.isoformat().encode()}
    return encode(universe.companies.replace_schema_metadata(metadata), what=UNIVERSE_KEY)


def read_universe(data: bytes) -> Universe:
    """Read the file; raise ContractError if it is not a valid one."""
    remedy = "delete it and run `fiblake metadata`, which writes it again"
    table = decode(data, UNIVERSE, UNIVERSE_KEY, remedy)
    with decoding(f"{UNIVERSE_KEY} does not say since when companies are known", remedy):
        known_since = date.fromisoformat(table.schema.metadata[_KNOWN_SINCE].decode())
    return Universe(table.replace_schema_metadata(None), known_since)


def _listed_from(record: SymbolRecord, known_since: date) -> date:
    """Return the first day of the company.

    If it is unknown, and the company was not in the first list, it is the day of the first bar, or else of the first
    listing.
    """
    seen = exchange_day(record.first_seen)
    if record.valid_from > BEGINNING or seen <= known_since:
        return record.valid_from
    begins = min(record.history_from or seen, seen)
    return min(begins, record.valid_to) if record.valid_to else begins

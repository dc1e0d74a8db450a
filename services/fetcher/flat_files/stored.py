"""The stored bars of the tickers that are loaded: a flat row with less information than a stored bar is not written.

Flat files have no vwap. The order of merging cannot express that such a row loses to an older bar with the same prices
and a vwap: with a third row of other prices in between, each of the three would win over another one, and the order of
arrival would decide. So such a row is not written.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fiblake.bars import BRONZE, read_bars
from fiblake.errors import ContractError
from fiblake.lake import Bronze, SourceFile
from shared.batching import chunks
from shared.objects import ObjectStore
from shared.telemetry import logger

FILES_AT_ONCE: Final = 256
"""The number of stored files in memory at once: a lake without clean-up has thousands of date files for a symbol."""
_SAME: Final = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """The files of bars that were in bronze when the run began, by symbol."""

    store: ObjectStore
    bronze: Bronze
    sources: Mapping[str, Sequence[SourceFile]]
    consolidated: frozenset[str]
    """Symbols that had a data.parquet."""

    @classmethod
    def list_all(cls, store: ObjectStore, bronze: Bronze) -> "StoredFiles":
        """List them: one request for 1,000 files."""
        sources: dict[str, list[SourceFile]] = {}
        consolidated = set()
        for info in store.list_objects(f"{bronze.prefix}/"):
            if bronze.is_source(info.key):
                source = bronze.parse_source(info.key)
                sources.setdefault(source.symbol, []).append(source)
            elif bronze.is_consolidated(info.key):
                consolidated.add(bronze.symbol_of(info.key))
        return cls(store, bronze, sources, frozenset(consolidated))

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols that had bars."""
        return self.consolidated | self.sources.keys()

    def new_bars(self, bars: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """Return, by symbol, the bars without those whose stored bar has the same values and more."""
        spans = {
            symbol: (table["timestamp"][0].as_py(), table["timestamp"][-1].as_py())
            for symbol, table in bars.items() if table.num_rows
        }  # fmt: skip
        stored = self.read(spans)
        return {symbol: without_poorer(table, stored.get(symbol, ())) for symbol, table in bars.items()}

    def has(self, symbol: str, key: str) -> bool:
        """Return whether the file existed when the run began."""
        return any(source.key == key for source in self.sources.get(symbol, ()))

    def read(self, spans: Mapping[str, tuple[date, date]]) -> dict[str, list[pa.Table]]:
        """Return the stored bars of symbols that have any between two sessions, from all files that may hold some.

        Each data.parquet is read last, because it holds what a clean-up deletes in between. Memory holds FILES_AT_ONCE
        files, and the rows of those before.
        """
        sources = [
            source for symbol, (first, last) in spans.items() for source in self.sources.get(symbol, ())
            if source.first <= last and first <= source.last
        ]  # fmt: skip
        symbols = sorted({source.symbol for source in sources} | (self.consolidated & spans.keys()))
        keys = [(source.key, source.symbol) for source in sources]
        keys += [(self.bronze.data_key(symbol), symbol) for symbol in symbols]
        tables: dict[str, list[pa.Table]] = {}
        for batch in chunks(keys, FILES_AT_ONCE):
            for symbol, of_symbol in self._read(batch).items():
                # One table instead of many: a table of a single row takes a hundred times the memory of the row.
                tables.setdefault(symbol, []).append(pa.concat_tables(of_symbol).combine_chunks())
        return tables

    def _read(self, keys: Sequence[tuple[str, str]]) -> dict[str, list[pa.Table]]:
        """Read files, each with its symbol, and return the tables by symbol."""
        tables: dict[str, list[pa.Table]] = {}
        objects = self.store.get_many([key for key, _ in keys])
        for (_, symbol), stored in zip(keys, objects, strict=True):
            if stored is None:
                continue
            try:
                bars = read_bars(stored.data, symbol, stored.last_modified)
            except ContractError as error:  # the consolidation refuses it, with this reason
                logger.warning("stored file not read", extra={"key": stored.key, "reason": str(error)})
                continue
            tables.setdefault(symbol, []).append(bars)
        return tables


def without_poorer(bars: pa.Table, stored: Iterable[pa.Table]) -> pa.Table:
    """Return the bars without those whose session has a stored bar with the same prices, the same volume, and a vwap.

    Only the bar that was ingested last counts: replaced bars are ignored.
    """
    stored_rows = pa.concat_tables([BRONZE.empty_table(), *stored])
    if stored_rows["vwap"].null_count == stored_rows.num_rows:
        return bars
    stored_rows = stored_rows.sort_by([("timestamp", "ascending"), ("ingested_at", "ascending")])
    session = stored_rows["timestamp"].combine_chunks()
    is_last = pc.not_equal(session.slice(0, len(session) - 1), session.slice(1))
    latest = stored_rows.filter(pa.concat_arrays([is_last, pa.array([True])]))
    latest = latest.filter(pc.is_valid(latest["vwap"]))
    place = pc.index_in(bars["timestamp"], value_set=latest["timestamp"].combine_chunks())
    same = pc.and_(pc.is_valid(place), pc.is_null(bars["vwap"]))
    for name in _SAME:
        same = pc.and_(same, pc.fill_null(pc.equal(bars[name], latest[name].take(place)), fill_value=False))
    return bars.filter(pc.invert(same))

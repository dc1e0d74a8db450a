"""Reads silver's month files: each version once, with a copy in the user's cache."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fiblake.aggregate import SILVER, SILVER_CALENDAR, check_sessions, decode_silver
from fiblake.buckets import is_cut_by
from fiblake.calendar import Ordinals, TradingCalendar
from fiblake.decoding import MAKE_ANEW
from fiblake.lake import Month, parse_silver_key, silver_prefix
from fiblake.objects import ObjectInfo, ObjectReader
from fiblake.reader.cache import copies, read_copy
from fiblake.reader.faults import using

AT_ONCE: Final = 4
CUT_ANEW: Final = "another trading calendar cut it: update fiblake, or compute silver again: `fiblake resample --full`"
_FLAGS: Final = ("adjusted", "version")


@dataclass(frozen=True, slots=True)
class SilverTable:
    """One interval's table."""

    store: ObjectReader
    calendar: TradingCalendar
    interval: int
    cache: Path | None

    def read(
        self, columns: Sequence[str], symbols: Sequence[str] | None, first: Month, last: Month
    ) -> tuple[pa.Table, list[str]]:
        """Return the adjusted rows of the files from `first` to `last`, and the symbols that are stored as traded.

        The rows are sorted by symbol and `ts`. A symbol with any row as traded has no rows in the result.
        """
        months = {info.key: (parse_silver_key(self.interval, info.key), info.etag) for info in self._listed()}
        versions = {key: etag for key, (month, etag) in months.items() if month and first <= month <= last}
        files = copies(self.store, versions, lambda _: None, self.cache)
        wanted = pa.array(symbols, pa.string()) if symbols is not None else None
        names = [*columns, *_FLAGS]

        def decode(key: str, data: bytes) -> pa.Table:
            rows = decode_silver(data, key, names)
            stamp = (rows.schema.metadata or {}).get(SILVER_CALENDAR, b"").decode(errors="replace")
            with using(key, MAKE_ANEW if not stamp or is_cut_by(stamp, self.calendar) else CUT_ANEW):
                check_sessions(rows, self.calendar)
            if wanted is not None:
                rows = rows.filter(pc.is_in(rows["symbol"], value_set=wanted))
            return rows.replace_schema_metadata(None)

        def read(item: tuple[str, Path]) -> pa.Table | None:
            key, file = item
            return read_copy(self.store, key, file, partial(decode, key), self.cache)

        empty = pa.schema([SILVER.field(name) for name in names]).empty_table()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            parts = [part for part in pool.map(read, files.items()) if part is not None]
        rows = pa.concat_tables([empty, *parts])
        as_traded = rows.filter(pc.invert(rows["adjusted"]))["symbol"].unique()
        if len(as_traded):
            rows = rows.filter(pc.invert(pc.is_in(rows["symbol"], value_set=as_traded)))
        return self._last_versions(rows).select(list(columns)), sorted(as_traded.to_pylist())

    def ordinals(self, rows: pa.Table) -> Ordinals:
        """Return the ordinal of each row's `ts`."""
        return self.calendar.ordinals(rows["ts"].to_numpy().astype("datetime64[D]"))

    def bucket_starts(self, rows: pa.Table) -> Ordinals:
        """Return the ordinal of the first session of each row's bucket."""
        ordinals = self.ordinals(rows)
        return ordinals - ordinals % self.interval

    def _listed(self) -> list[ObjectInfo]:
        return self.store.list_objects(silver_prefix(self.interval))

    def _last_versions(self, rows: pa.Table) -> pa.Table:
        """Sort rows. While a row moves, two files have it: of two rows of one symbol and `ts`, keep the newer one."""
        rows = rows.sort_by([("symbol", "ascending"), ("ts", "ascending"), ("version", "ascending")]).combine_chunks()
        if rows.num_rows < 2:  # noqa: PLR2004 (nothing to compare)
            return rows
        size = rows.num_rows - 1
        same = [pc.equal(rows[name].slice(0, size), rows[name].slice(1)) for name in ("symbol", "ts")]
        repeated = np.append(pc.and_(*same).to_numpy(), [False])
        return rows.filter(pa.array(~repeated)) if repeated.any() else rows

"""A lake in memory: laying bronze into it, reading silver out of it, and what silver must be."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from services.resampler.resample import Change, Resampler
from shared.bars import SILVER, decode
from shared.calendar import nyse
from shared.lake import Month, parse_silver_key, silver_prefix
from tests.fakes import LAKE, FakeTopic, MemoryObjectStore
from tests.unit.resampler.daily import NO_FACTS, Daily, Facts, data_parquet, slow_silver


def resampler(
    store: MemoryObjectStore, interval: int, topic: FakeTopic | None = None, retention_years: int = 0,
    *, adjusted: bool = True,
) -> Resampler:  # fmt: skip
    return Resampler(store, LAKE, nyse(), topic or FakeTopic(), interval, retention_years, adjusted)


def lay(store: MemoryObjectStore, symbol: str, days: Mapping[date, Daily], facts: Facts = NO_FACTS) -> None:
    """Let `days` be the symbol's consolidated bars, and `facts` what is known of it beside them."""
    store.lay(LAKE.data_key(symbol), data_parquet(symbol, days, facts.reference()))


def silver(store: MemoryObjectStore, interval: int) -> list[dict[str, Any]]:
    """Read the whole table, by symbol and bucket; check on the way that each file holds its month, in order."""
    rows: list[dict[str, Any]] = []
    for key in store.keys(silver_prefix(interval)):
        inside = decode(store.peek(key) or b"", SILVER, key).to_pylist()
        month = parse_silver_key(interval, key)
        assert {Month.of(row["ts"]) for row in inside} <= {month}
        assert inside == sorted(inside, key=_place)
        rows += inside
    return sorted(rows, key=_place)


def whole_silver(
    bronze: Mapping[str, Mapping[date, Daily]], interval: int, facts: Mapping[str, Facts] | None = None
) -> list[dict[str, Any]]:
    """Give what the table must be: everything recomputed from all of bronze."""
    known = facts or {}
    rows = [
        row
        for symbol, days in bronze.items()
        if days
        for row in slow_silver(symbol, days, interval, known.get(symbol, NO_FACTS))
    ]
    return sorted(rows, key=_place)


def changed(*symbols: str, since: date) -> list[Change]:
    return [Change(symbol, since) for symbol in symbols]


def _place(row: dict[str, Any]) -> tuple[str, date]:
    return row["symbol"], row["ts"]

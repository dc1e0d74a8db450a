"""What is written can be read again: with 60,000 symbols, and with any limit.

A writer checks its bytes by the arithmetic of the readers. An object that would be too large is refused before the
write, with its name, the size, the limit and the setting.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.aggregate import SILVER, decode_silver
from fiblake.bars import BRONZE, DAILY, Consolidated, ReportedBar, decode, decode_manifest, decode_rows, encode
from fiblake.calendar import nyse
from fiblake.decoding import TooLargeError, limit, read_json
from fiblake.lake import (
    CLEANUP_RECORD_KEY,
    MANIFEST_KEY,
    UNIVERSE_KEY,
    Month,
    archive_key,
    quarantine_key,
    silver_key,
)
from fiblake.reader.views import check_of
from fiblake.reference import (
    SPLITS,
    Dividend,
    Identity,
    Split,
    dividends_file,
    identities_file,
    read_dividends,
    read_identities,
    splits_file,
)
from fiblake.revisions import NO_REVISIONS, add_revisions, read_revisions
from fiblake.source_log import SourceVersion
from fiblake.universe import UNIVERSE, Universe, read_universe, universe_file
from services.consolidator.consolidate import Consolidation
from services.consolidator.manifest import with_symbols
from services.fetcher.flat_files.days import DayFile
from services.fetcher.flat_files.ledger import LEDGER_KEY, loaded_versions, record_loaded
from services.resampler.month_files import MonthFiles
from services.resampler.silver_join import Update
from services.vacuum.rows import Due, archive_rows
from shared.cleanup import with_run
from shared.quarantine import list_quarantined, quarantine_of_sessions
from tests.fakes import MemoryObjectStore

SYMBOLS = 60_000
BUCKETS = 8
"""The maximum of 3-session buckets in a month."""
NOW = datetime(2025, 11, 20, 12, tzinfo=UTC)
SESSION = date(2025, 11, 19)
MONTH = Month(2025, 10)
VALUES = {pa.float64(): 10.0, pa.date32(): SESSION, pa.int64(): 1, pa.int32(): 1, pa.bool_(): True}


def names(count: int) -> list[str]:
    return [f"SYMBOL{number:010}" for number in range(count)]


def table_of(schema: pa.Schema, symbols: list[str], rows: int = 1) -> pa.Table:
    """Return this many rows of each symbol; all other values are equal."""
    columns = []
    for field in schema:
        if field.name == "symbol":
            columns.append(pa.array(np.repeat(symbols, rows).tolist(), pa.string()))
        else:
            value = VALUES.get(field.type, DAILY if field.type == pa.string() else NOW)
            columns.append(pa.repeat(pa.scalar(value, field.type), len(symbols) * rows))
    return pa.Table.from_arrays(columns, schema=schema)


def buckets(symbols: list[str]) -> pa.Table:
    calendar = nyse()
    starts = [calendar.session(ordinal) for ordinal in range(0, calendar.sessions.size, 3)]
    days = [day for day in starts if Month.of(day) == MONTH]
    assert len(days) == BUCKETS
    rows = table_of(SILVER, symbols, len(days))
    return rows.set_column(1, SILVER.field("ts"), pa.array(days * len(symbols), pa.date32()))


class Months:
    """The changes of one month."""

    def __init__(self, rows: pa.Table, symbols: list[str]) -> None:
        first = nyse().ordinal_on_or_after(date(MONTH.year, MONTH.month, 1))
        cuts = np.full(len(symbols), first)
        self.update = Update(pa.array(symbols), np.full(len(symbols), 2 * 10**15), cuts, rows)

    def groups(self, months: list[Month], _workers: int) -> list[list[Month]]:
        return [[month] for month in months]

    def count_rows(self, months: list[Month]) -> int:
        return len(months) * self.update.rows.num_rows

    def updates(self, months: list[Month]) -> list[list[Update]]:
        return [[self.update] for _ in months]


def write_month_file(store: MemoryObjectStore, symbols: list[str]) -> str:
    files = MonthFiles(store, nyse(), 3)
    files.join([MONTH], Months(buckets(symbols), symbols), files.existing())
    return silver_key(3, MONTH)


class Rows:
    """Postgres with the rows of one session."""

    def __init__(self, symbols: list[str]) -> None:
        rows = table_of(BRONZE, symbols).to_pylist()
        self.rows = {row["symbol"]: row for row in rows}

    async def bars(self, _session: date) -> dict[str, Any]:
        return self.rows

    async def mark_archived(self, _session: date, _now: datetime) -> None:
        pass

    async def delete_bars(self, _session: date, rows: list[Any]) -> int:
        return len(rows)


def write_archive(store: MemoryObjectStore, symbols: list[str]) -> str:
    due = Due(SESSION, {SESSION: len(symbols)})
    retired = asyncio.run(archive_rows(Rows(symbols), store, due, 10_000, NOW))  # type: ignore[arg-type]
    for error in retired.faults.values():
        raise error
    assert retired.rows == len(symbols)
    return archive_key(SESSION)


def write_quarantine(store: MemoryObjectStore, symbols: list[str]) -> str:
    bars = [ReportedBar(symbol, SESSION, 1.0, 1.0, 1.0, -1.0, 0.0) for symbol in symbols]
    quarantine_of_sessions(store, ((bar, "close -1.0 is below 0", "day.csv.gz") for bar in bars), NOW)
    return quarantine_key("~", SESSION)


def write_manifest(store: MemoryObjectStore, symbols: list[str]) -> str:
    bars = table_of(BRONZE, ["AAPL"])
    stored = Consolidated(bars, {}, NOW)
    consolidations = [Consolidation(symbol, stored, "", (), SESSION, 0, (), None, ()) for symbol in symbols]
    store.update(MANIFEST_KEY, lambda data: with_symbols(data, consolidations))
    return MANIFEST_KEY


def write_universe(store: MemoryObjectStore, symbols: list[str]) -> str:
    store.put(UNIVERSE_KEY, universe_file(Universe(table_of(UNIVERSE, symbols), SESSION)))
    return UNIVERSE_KEY


def write_cleanup_record(store: MemoryObjectStore, symbols: list[str]) -> str:
    counts = {symbol: {"files": 20, "bytes": 100_000} for symbol in symbols}
    store.update(CLEANUP_RECORD_KEY, lambda data: with_run(data, "run", NOW, counts))
    return CLEANUP_RECORD_KEY


def read_month_file(store: MemoryObjectStore) -> int:
    stored = store.find(silver_key(3, MONTH))
    assert stored
    check_of("silver_3d")(stored.data)
    return len(decode_silver(stored.data, stored.key)["symbol"].unique())


def read_cleanup_record(store: MemoryObjectStore) -> int:
    return len(read_json(stored_bytes(store, CLEANUP_RECORD_KEY), "it")["runs"][0]["symbols"])


def stored_bytes(store: MemoryObjectStore, key: str) -> bytes:
    stored = store.find(key)
    assert stored
    return stored.data


Writer = Callable[[MemoryObjectStore, list[str]], str]
TABLES: dict[str, tuple[Writer, Callable[[MemoryObjectStore], int]]] = {
    "month file": (write_month_file, read_month_file),
    "archive": (write_archive, lambda store: decode(stored_bytes(store, archive_key(SESSION)), BRONZE, "it").num_rows),
    "quarantine": (write_quarantine, lambda store: len(list_quarantined(store))),
    "manifest": (write_manifest, lambda store: decode_manifest(stored_bytes(store, MANIFEST_KEY)).num_rows),
    "universe": (write_universe, lambda store: read_universe(stored_bytes(store, UNIVERSE_KEY)).companies.num_rows),
    "record of clean-ups": (write_cleanup_record, read_cleanup_record),
}


@pytest.fixture
def one_megabyte(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("READ_LIMIT_MB", "1")
    limit.cache_clear()
    yield
    limit.cache_clear()


@pytest.mark.parametrize("table", TABLES)
def test_a_lake_of_60000_symbols_works_with_the_default_limit(table: str) -> None:
    write, count = TABLES[table]
    store = MemoryObjectStore()
    write(store, names(SYMBOLS))
    assert count(store) == SYMBOLS


@pytest.mark.usefixtures("one_megabyte")
@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_could_not_be_read_again_is_not_written(table: str) -> None:
    write, count = TABLES[table]
    store = MemoryObjectStore()
    key = write(store, names(100))
    before = store.peek(key)
    with pytest.raises(TooLargeError) as caught:
        write(store, names(SYMBOLS // 2))
    reason = str(caught.value)
    assert reason.startswith(f"{key} is not written, because it could not be read again: it ")
    assert "that are allowed" in reason
    assert "raise READ_LIMIT_MB (now 1)" in reason
    assert store.peek(key) == before
    assert count(store) == 100


def write_log(count: int) -> bytes:
    version = SourceVersion('"0123456789abcdef0123456789abcdef"', NOW, stamped=True)
    log = {f"bronze/raw_ohlcv/symbol=AAPL/range=1962-01-02_{number:08}.parquet": version for number in range(count)}
    return Consolidated(table_of(BRONZE, ["AAPL"]), log, NOW).encode()


def write_revisions(count: int) -> bytes:
    instants = pa.array([NOW + timedelta(seconds=number) for number in range(count)], pa.timestamp("us", tz="UTC"))
    rows = table_of(NO_REVISIONS.schema, [""], count)
    return add_revisions(rows.set_column(1, NO_REVISIONS.schema.field("known_at"), instants), "AAPL")(None) or b""


SPLIT = Split("AAPL", SESSION, 1.0, 2.0, "forward_split", 0.5, "id")
IDENTITY = Identity("AAPL", SESSION, None, "BBG000000001", "Apple")
DIVIDEND = Dividend("AAPL", SESSION, 0.1, "USD", None, None, None, 4, "CD", 0.1, None, "id")
OF_ONE_SYMBOL: dict[str, tuple[Callable[[int], bytes], Callable[[bytes], object]]] = {
    "data.parquet of AAPL": (write_log, lambda data: Consolidated.decode(data, "AAPL", NOW)),
    "the file of revisions of AAPL": (write_revisions, lambda data: read_revisions(data, "AAPL")),
    "the splits of AAPL": (
        lambda count: splits_file([SPLIT] * count),
        lambda data: decode_rows(data, SPLITS, "the splits of AAPL"),
    ),
    "the identities of AAPL": (
        lambda count: identities_file([IDENTITY] * count),
        lambda data: read_identities(data, "AAPL"),
    ),
    "the dividends of AAPL": (
        lambda count: dividends_file([DIVIDEND] * count),
        lambda data: read_dividends(data, "AAPL"),
    ),
}


@pytest.mark.usefixtures("one_megabyte")
@pytest.mark.parametrize("what", OF_ONE_SYMBOL)
def test_the_largest_file_of_a_symbol_that_is_written_is_read_and_a_larger_one_is_refused(what: str) -> None:
    write, read = OF_ONE_SYMBOL[what]
    smallest_refused = bisect_left(range(20_000), 1, lo=1, key=lambda count: not is_written(write, count))
    assert smallest_refused < 20_000
    read(write(smallest_refused - 1))
    with pytest.raises(TooLargeError, match=f"^{what} is not written, .* allowed: .*raise READ_LIMIT_MB"):
        write(smallest_refused)


def is_written(write: Callable[[int], bytes], count: int) -> bool:
    try:
        write(count)
    except TooLargeError:
        return False
    return True


@pytest.mark.usefixtures("one_megabyte")
def test_the_ledger_of_day_files_is_not_written_if_it_could_not_be_read() -> None:
    store = MemoryObjectStore()
    days = [SESSION - timedelta(days=number) for number in range(5_000)]
    record_loaded(store, [DayFile(day, "key", "an ETag", 1, NOW) for day in days[:10]])
    with pytest.raises(TooLargeError, match=f"{LEDGER_KEY} is not written, .* allowed"):
        record_loaded(store, [DayFile(day, "key", "an ETag" * 10, 1, NOW) for day in days])
    assert len(loaded_versions(store)) == 10


TEXTS = pa.schema([("text", pa.string()), ("number", pa.float64())])


@pytest.mark.usefixtures("one_megabyte")
@given(
    rows=st.integers(0, 130_000), distinct=st.integers(1, 1_000), length=st.integers(0, 30_000),
    metadata=st.integers(0, 260_000), is_dictionary=st.booleans(),
)  # fmt: skip
def test_whatever_is_written_is_read_again(
    *, rows: int, distinct: int, length: int, metadata: int, is_dictionary: bool
) -> None:
    texts = pa.array([f"{number:0{length}}" for number in range(min(distinct, 8_000_000 // max(1, length)))])
    if is_dictionary:
        repeated = min(rows, 100_000_000 // max(1, length))
        places = pa.array(np.arange(repeated) % len(texts), pa.int32())
        column = pa.DictionaryArray.from_arrays(places, texts)
    else:
        column = texts.take(pa.array(np.arange(min(rows, 8_000_000 // max(1, length))) % len(texts)))
    table = pa.table({"text": column, "number": pa.repeat(1.5, len(column))})
    try:
        data = encode(table, {b"fiblake.x": "x" * metadata})
    except TooLargeError:
        return
    assert decode(data, TEXTS, "it").num_rows == len(column)

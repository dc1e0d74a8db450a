"""A bar is defined once, by the schema BRONZE: no place may leave out one of its columns."""

from dataclasses import fields
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest

from fiblake.adjustment import NO_REFERENCE
from fiblake.aggregate import SILVER
from fiblake.bars import BRONZE, DAILY, KEY_COLUMNS, PRICES, VALUE_COLUMNS, Consolidated, ReportedBar, encode, read_bars
from fiblake.calendar import nyse
from fiblake.lake import SourceFile
from fiblake.rules import NUMBER_COLUMNS
from services.consolidator.broken import quarantine_broken
from services.consolidator.merge import merge
from services.fetcher.sifting import StoredState, classify_bars
from services.fetcher.validation import VendorBar
from services.fetcher.wire import BarRow
from services.reconcile.silver import Grid, buckets
from shared.database import COLUMNS
from shared.quarantine import list_quarantined, quarantine
from shared.source_files import BrokenBar, SourceBars, bars_of_source
from tests.fakes import NOON, MemoryObjectStore, table

DAY = date(2025, 11, 19)
KEY = "ohlcv/symbol=AAPL/2025/11/19.parquet"
VARYING = [name for name in BRONZE.names if name not in KEY_COLUMNS]
STEPS = {pa.float64(): 0.25, pa.int64(): 1, pa.timestamp("us", "UTC"): timedelta(minutes=1)}
WHOLE = {"open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 1000.5}
OPTIONAL: dict[str, Any] = {
    name: pa.scalar(7, BRONZE.field(name).type).as_py() for name in VALUE_COLUMNS if name not in WHOLE
}
ROW = ReportedBar("AAPL", DAY, **WHOLE, **OPTIONAL).row(NOON)


def changed(name: str) -> dict[str, Any]:
    """Return ROW with another value in one column; it is still a valid bar."""
    return ROW | {name: ROW[name] + STEPS[BRONZE.field(name).type]}


def test_a_bar_has_a_field_for_each_column_in_the_order_of_the_schema() -> None:
    assert [field.name for field in fields(ReportedBar)] == ["symbol", "session", *VALUE_COLUMNS]
    assert list(ROW) == BRONZE.names
    assert [*VALUE_COLUMNS, "ingested_at"] == VARYING


def test_a_bar_comes_back_from_its_row_whole() -> None:
    bar = ReportedBar("AAPL", DAY, **WHOLE, **OPTIONAL)
    assert ReportedBar.of_row(bar.row(NOON)) == bar
    assert ROW["interval"] == DAILY


def test_the_numbers_that_every_bar_has_are_the_columns_that_may_not_be_null() -> None:
    required = [field.name for field in BRONZE if field.name in VALUE_COLUMNS and not field.nullable]
    assert list(NUMBER_COLUMNS) == required == list(WHOLE)
    assert PRICES.names == ["timestamp", *NUMBER_COLUMNS]


def test_the_table_in_postgres_takes_every_column() -> None:
    assert set(COLUMNS) == set(BRONZE.names)


@pytest.mark.parametrize("name", VARYING)
def test_of_two_bars_that_differ_in_one_column_the_same_one_wins_in_either_order(name: str) -> None:
    first, second = table(ROW), table(changed(name))
    assert merge(None, [first, second]).bars == merge(None, [second, first]).bars
    assert merge(first, [second]).bars == merge(second, [first]).bars


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_bar_with_a_value_wins_over_the_same_bar_without_it_in_either_order(name: str) -> None:
    value, null = table(ROW), table(ROW | {name: None})
    assert merge(null, [value]).bars == merge(value, [null]).bars == value


@pytest.mark.parametrize("name", VALUE_COLUMNS)
def test_a_bar_that_the_vendor_restated_in_one_column_is_written_again(name: str) -> None:
    past = StoredState(rows={("AAPL", DAY): ROW})
    same = classify_bars([VendorBar.of_row(ROW)], nyse(), past, 10.0, NOON)
    other = classify_bars([VendorBar.of_row(changed(name))], nyse(), past, 10.0, NOON)
    assert (same.unchanged, same.rows) == (1, [])
    assert (other.unchanged, other.rows) == (0, [changed(name)])


def test_the_vendors_row_fills_every_column() -> None:
    numbers = {name: 10 for name in BarRow.model_fields if name != "T"}
    bar = BarRow.model_validate(numbers).bar("AAPL", DAY)
    assert [name for name, value in bar.values().items() if value != 10] == []


@pytest.mark.parametrize("name", VALUE_COLUMNS)
def test_a_bar_in_quarantine_keeps_every_column_and_takes_the_place_of_one_that_differs(name: str) -> None:
    store = MemoryObjectStore()
    for row in (ROW, changed(name)):
        assert quarantine(store, [(ReportedBar.of_row(row), "why")], NOON) == 1
        assert [held.bar for held in list_quarantined(store)] == [ReportedBar.of_row(row)]
    assert quarantine(store, [(ReportedBar.of_row(changed(name)), "why")], NOON) == 0


@pytest.mark.parametrize("name", VALUE_COLUMNS)
def test_a_broken_bar_that_differs_from_the_stored_one_in_one_column_waits_in_quarantine(name: str) -> None:
    for row, waiting in ((ROW, 0), (changed(name), 1)):
        store = MemoryObjectStore()
        broken = BrokenBar(ReportedBar.of_row(row), NOON, "why")
        quarantine_broken(store, {KEY: SourceBars(table(), [broken])}, table(ROW), NOON)
        assert len(list_quarantined(store)) == waiting


@pytest.mark.parametrize("name", VALUE_COLUMNS)
def test_two_rows_of_a_session_that_differ_in_one_column_are_named(name: str) -> None:
    data = encode(table(ROW, changed(name)))
    source = bars_of_source(data, SourceFile(KEY, "AAPL", DAY, DAY), NOON + timedelta(days=1), nyse(), DAY)
    (sentence,) = source.rivals
    assert f"with {name} " in sentence


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_file_older_than_the_column_is_read_as_bars_without_a_value(name: str) -> None:
    data = encode(table(ROW).drop_columns([name]))
    assert read_bars(data, "AAPL", NOON).to_pylist() == [ROW | {name: None}]


def test_the_audit_compares_every_column_of_silver_but_the_symbol_and_the_version() -> None:
    stored = Consolidated(table(ROW), {}, NOON, NO_REFERENCE)
    rows = buckets(stored, 3, 0, Grid(nyse(), adjusted=True))
    assert [*rows] == [name for name in SILVER.names if name not in {"symbol", "version"}]

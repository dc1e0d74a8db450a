from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake import FiblakeError, Lake
from fiblake.adjustment import Payout
from fiblake.aggregate import decode_silver
from fiblake.bars import Consolidated, encode
from fiblake.errors import ContractError, NotFoundError
from fiblake.lake import (
    INTERVALS,
    UNIVERSE_KEY,
    Bronze,
    Month,
    dividends_key,
    revisions_key,
    silver_key,
    silver_prefix,
    splits_key,
)
from fiblake.reader import views
from fiblake.reader.cache import copies
from fiblake.reader.lake import COLUMNS
from fiblake.reference import dividends_file, splits_file
from fiblake.symbols import BEGINNING, SymbolRecord
from fiblake.universe import universe_file, universe_of
from tests.fakes import LAKE, MemoryObjectStore, bar, consolidated, dividend, table
from tests.fakes import splits as splits_of
from tests.unit.fiblake.reader.lakes import SOME, Contents, contents, lake_of, sessions
from tests.unit.resampler.daily import NOW, ORDINAL, SESSIONS, SLOW_COLUMNS, Facts, numbered
from tests.unit.resampler.silver_lake import bucket_start, whole_silver

UNKNOWN = ("composite_figi", "share_class_figi", "name", "industry", "sector", "sic_code", "exchange", "currency")
TEN_YEARS = SESSIONS[ORDINAL[date(2003, 3, 3)] : ORDINAL[date(2013, 2, 28)] + 1]


def store_of(lake: Lake) -> MemoryObjectStore:
    assert isinstance(lake.store, MemoryObjectStore)
    return lake.store


def rows_of(lake: Lake, *arguments: Any, **options: Any) -> list[dict[str, Any]]:  # noqa: ANN401 (those of `bars`)
    result: list[dict[str, Any]] = lake.bars(*arguments, **options).table.to_pylist()
    return result


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two symbols with ten years of bars; AAPL split its shares, and BRK.B was handed over."""
    some = {"AAPL": numbered(TEN_YEARS), "BRK.B": numbered(TEN_YEARS[100:])}
    facts = {"AAPL": Facts(((date(2010, 6, 1), 1, 7),)), "BRK.B": Facts(handovers=(date(2009, 5, 5),))}
    store = store_of(lake_of(Contents(some, facts), tmp_path_factory.mktemp("cache")))
    return {key: store.peek(key) or b"" for key in store.keys("")}


@pytest.fixture
def lake(objects: dict[str, bytes], tmp_path: Path) -> Lake:
    return lake_with(objects, tmp_path)


@pytest.fixture
def lake_of_2012(objects: dict[str, bytes], tmp_path: Path) -> Lake:
    """Return the lake with the month files of one year only, for tests of single files."""
    return lake_with({key: data for key, data in objects.items() if "/year=2012/" in key}, tmp_path)


def lake_with(objects: Mapping[str, bytes], cache: Path) -> Lake:
    store = MemoryObjectStore()
    for key, data in objects.items():
        store.lay(key, data)
    return Lake(store, cache=cache, clock=lambda: NOW)


# ------------------------------------------------------------------------------------------------- two ways, equal rows


@given(contents=contents, interval=st.sampled_from(INTERVALS), data=st.data(), complete=st.booleans())
def test_bars_cut_from_bronze_are_those_of_the_month_files_and_of_slow_arithmetic(
    *, contents: Contents, interval: int, data: st.DataObject, complete: bool
) -> None:
    symbols = data.draw(st.none() | st.lists(st.sampled_from(sorted(contents.bronze)), min_size=1))
    first, last = sorted(data.draw(st.tuples(sessions, sessions)))
    limits = {"start": first, "end": last, "complete": complete}
    with TemporaryDirectory() as folder:
        lake = lake_of(contents, Path(folder), [interval])
        bronze = lake.bars(symbols, f"{interval}d", source="bronze", **limits)  # type: ignore[arg-type]
        silver = lake.bars(symbols, f"{interval}d", source="silver", **limits)  # type: ignore[arg-type]
        panels = [
            lake.panel("close", f"{interval}d", symbols, source=source, **limits)  # type: ignore[arg-type]
            for source in ("bronze", "silver")
        ]
    assert bronze.table.equals(silver.table, check_metadata=False)
    assert panels[0].table.equals(panels[1].table, check_metadata=False)
    expected = [
        row
        for row in whole_silver(contents.bronze, interval, contents.facts)
        if (symbols is None or row["symbol"] in symbols)
        and first <= row["ts"] <= last
        and (row["is_complete"] or not complete)
    ]
    assert approximately(bronze.table.to_pylist()) == approximately(expected)
    cells = {
        (row["ts"], symbol): row[symbol]
        for row in panels[0].table.to_pylist()
        for symbol in panels[0].table.column_names[1:]
    }
    whole = [
        row
        for row in whole_silver(contents.bronze, interval, contents.facts)
        if (symbols is None or row["symbol"] in symbols)
        and first <= bucket_start(row["ts"], interval) <= last
        and (row["is_complete"] or not complete)
    ]
    latest = {(bucket_start(row["ts"], interval), row["symbol"]): row["close"] for row in whole}
    assert {place: value for place, value in cells.items() if value is not None} == pytest.approx(latest)


def approximately(rows: list[dict[str, Any]]) -> list[list[Any]]:
    numbers = ("open", "high", "low", "close", "volume")
    names = [name for name in COLUMNS if name in SLOW_COLUMNS]
    return [[round(row[name], 6) if name in numbers else row[name] for name in names] for row in rows]


def test_silver_that_is_as_traded_is_cut_from_bronze(tmp_path: Path) -> None:
    split = Contents({"AAPL": numbered(SOME), "MSFT": numbered(SOME)}, {"AAPL": Facts(((SOME[50], 1, 2),))})
    lake = lake_of(split, tmp_path, adjusted=False)
    silver = lake.bars(None, "3d", source="silver").table
    assert silver.equals(lake.bars(None, "3d", source="bronze").table, check_metadata=False)
    raw = lake.bars("AAPL", "3d", adjust="raw").table
    assert raw["close"][0].as_py() == pytest.approx(2 * silver["close"][0].as_py())


def test_daily_bars_are_adjusted_or_as_traded(lake: Lake) -> None:
    before, after = date(2010, 5, 28), date(2010, 6, 1)
    (raw,) = rows_of(lake, "AAPL", start=before, end=before, adjust="raw")
    (adjusted,) = rows_of(lake, "AAPL", start=before, end=before)
    assert (raw["close"], raw["volume"]) == (100.5 + ORDINAL[before], 10 * (100 + ORDINAL[before]))
    assert adjusted["close"] == pytest.approx(raw["close"] / 7)
    assert adjusted["volume"] == pytest.approx(raw["volume"] * 7)
    assert rows_of(lake, "AAPL", start=after, end=after) == rows_of(lake, "AAPL", start=after, end=after, adjust="raw")


def test_a_row_that_is_in_two_files_while_it_moves_is_returned_once(tmp_path: Path) -> None:
    lake = lake_of(Contents({"AAPL": numbered(SOME)}), tmp_path)
    store = store_of(lake)
    before = lake.bars("AAPL", "3d", source="silver").table
    store.lay(silver_key(3, Month(2013, 12)), store.peek(silver_key(3, Month(2013, 1))) or b"")
    assert lake.bars("AAPL", "3d", source="silver").table.equals(before, check_metadata=False)


# ---------------------------------------------------------------------------------------------------- requests, counted


def test_the_history_of_one_symbol_is_one_get(lake: Lake) -> None:
    for interval in ("1d", *(f"{n}d" for n in INTERVALS)):
        store_of(lake).journal.clear()
        assert len(lake.bars("AAPL", interval)) > 1
        assert store_of(lake).journal == [("get", LAKE.data_key("AAPL"))]


def test_a_panel_of_ten_years_is_one_get_a_month_file_once(lake: Lake) -> None:
    store = store_of(lake)
    files = store.keys(silver_prefix(21))
    assert len(files) > 100
    first = lake.panel("close", "21d")
    assert store.journal[0] == ("list", silver_prefix(21))
    assert sorted(store.done("get")) == files
    store.journal.clear()
    assert lake.panel("close", "21d").table.equals(first.table)
    assert store.journal == [("list", silver_prefix(21))]


def test_only_the_month_files_that_may_hold_a_row_are_read(lake: Lake) -> None:
    lake.panel("close", "3d", start="2012-02-01", end="2012-03-30")
    begin = SESSIONS[ORDINAL[date(2012, 2, 1)] // 3 * 3]
    months = [Month(begin.year, begin.month), Month(2012, 2), Month(2012, 3)]
    assert set(store_of(lake).done("get")) == {silver_key(3, month) for month in months}


def test_month_files_are_read_if_they_are_fewer_than_the_symbols(tmp_path: Path) -> None:
    many = [f"S{number}" for number in range(4)]
    lake = lake_of(Contents({symbol: numbered(SOME) for symbol in many}), tmp_path)
    for months, source in ((3, "silver/"), (4, "bronze/")):
        store_of(lake).journal.clear()
        lake.bars(many, "5d", start="2013-01-02", end=date(2013, months, 1))
        assert all(key.startswith(source) for key in store_of(lake).done("get"))
        assert store_of(lake).done("get")


# -------------------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    "day",
    [
        "2012-03-05", date(2012, 3, 5), datetime(2012, 3, 5, 23, 59), np.datetime64("2012-03-05"),  # noqa: DTZ001
        pd.Timestamp("2012-03-05"), datetime(2012, 3, 6, 2, tzinfo=UTC), np.datetime64("2012-03-05T10:00:00"),
    ],
)  # fmt: skip
def test_a_day_may_be_written_in_many_ways(lake: Lake, day: Any) -> None:  # noqa: ANN401 (any way)
    (row,) = rows_of(lake, "AAPL", start=day, end=day)
    assert row["ts"] == date(2012, 3, 5)


@pytest.mark.parametrize("day", ["yesterday", "2012", pd.NaT, np.datetime64("NaT"), 7, "2012-02-30"])
def test_what_is_no_day_is_refused_with_its_name(lake: Lake, day: Any) -> None:  # noqa: ANN401 (anything)
    with pytest.raises(ContractError, match=r"^end=.* is no day.*write it as 2015-01-02"):
        lake.bars("AAPL", end=day)


@pytest.mark.parametrize(
    ("as_of", "cause"),
    [
        (date(2012, 3, 5), "it is of type date, and says no time of day"),
        (np.datetime64("2012-03-05"), "it is of type datetime64, and says no time of day"),
        (pd.NaT, "it is empty"),
    ],
)
def test_what_is_no_instant_is_refused_in_plain_words(lake: Lake, as_of: Any, cause: str) -> None:  # noqa: ANN401 (anything)
    with pytest.raises(ContractError, match=rf"^as_of=.* is no instant: {cause}; write it as 2026-03-01T12:00Z"):
        lake.bars("AAPL", as_of=as_of)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("AAPL", "7d"), {}, r"interval '7d' is none of 1d, 3d, 5d, 8d, 13d, 21d, 34d"),
        (("AAPL",), {"adjust": "all"}, r"adjust='all' is none of splits, raw, total"),
        (("AAPL",), {"source": "gold"}, r"source='gold' is none of auto, bronze, silver"),
        (("AAPL",), {"source": "silver"}, r"silver has no 1d bars .* leave out source"),
        (("AAPL", "3d"), {"source": "silver", "adjust": "raw"}, r"silver has no 3d bars with adjust='raw'"),
        (("AAPL",), {"start": "2013-01-03", "end": "2013-01-02"}, r"start .* lies behind end .*: swap them"),
        (([],), {}, "no symbol is named"),
        (("../AAPL",), {}, "is not a symbol"),
    ],
)
def test_a_wrong_question_is_refused_before_anything_is_read(
    lake: Lake, arguments: tuple[Any, ...], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ContractError, match=sentence):
        lake.bars(*arguments, **options)
    assert store_of(lake).journal == []


def test_a_panel_of_what_is_no_number_is_refused(lake: Lake) -> None:
    with pytest.raises(ContractError, match="column 'adjusted' is none of open, high, low, close, volume"):
        lake.panel("adjusted")


@pytest.mark.parametrize("source", ["bronze", "silver"])
def test_an_unknown_symbol_is_named_with_the_nearest_one(lake: Lake, source: str) -> None:
    with pytest.raises(NotFoundError, match=r"no bars of AAPLE \(did you mean AAPL\?\)"):
        lake.bars(["AAPL", "AAPLE"], "21d", source=source)  # type: ignore[arg-type]


def test_a_symbol_without_bars_in_the_range_has_no_rows(lake: Lake) -> None:
    for source in ("bronze", "silver"):
        result = lake.bars("AAPL", "21d", end="1970-01-02", source=source)  # type: ignore[arg-type]
        assert len(result) == 0
        assert result.table.column_names == list(COLUMNS)
        assert lake.panel("close", "21d", "AAPL", end="1970-01-02", source=source).table.column_names == ["ts", "AAPL"]  # type: ignore[arg-type]


@pytest.mark.parametrize("limits", [{"start": "2031-01-01"}, {"end": "1950-01-01"}])
def test_a_range_outside_the_calendar_has_no_rows(lake: Lake, limits: dict[str, Any]) -> None:
    for interval in ("1d", "3d"):
        assert len(lake.bars("AAPL", interval, **limits)) == 0
        assert len(lake.panel("close", interval, **limits)) == 0
    assert len(lake.bars(None, "3d", start="2031-01-01", end="2032-01-01")) == 0


@pytest.mark.parametrize("source", ["bronze", "silver"])
def test_a_symbol_whose_first_bars_wait_to_be_consolidated_is_said_to_wait(lake: Lake, source: str) -> None:
    store_of(lake).lay(LAKE.date_key("NEW", date(2013, 2, 28)), b"")
    with pytest.raises(NotFoundError, match="NEW: the bars are not consolidated yet"):
        lake.bars(["AAPL", "NEW"], "3d", source=source)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="NEW: the bars are not consolidated yet"):
        lake.sql("SELECT 1 FROM bronze" if source == "bronze" else "SELECT 1 FROM silver_3d", ["AAPL", "NEW"])


def test_a_data_parquet_that_cannot_be_read_is_named_and_no_symbol_is_left_out(lake: Lake) -> None:
    store_of(lake).lay(LAKE.data_key("BAD"), b"no Parquet")
    with pytest.raises(FiblakeError, match=r"symbol=BAD/data\.parquet cannot be used"):
        lake.bars(None)


def test_a_bar_of_a_day_that_is_no_session_is_named_with_its_file(lake: Lake) -> None:
    store_of(lake).lay(LAKE.data_key("BAD"), consolidated(bar("2013-02-24", symbol="BAD")))
    with pytest.raises(ContractError, match=r"symbol=BAD/data\.parquet cannot be used: 2013-02-24 is not a session"):
        lake.bars("BAD")


@pytest.mark.parametrize("day", ["1961-12-29", "2099-01-02"])
def test_a_bar_of_a_day_outside_the_calendar_is_named_with_its_file(lake: Lake, day: str) -> None:
    store_of(lake).lay(LAKE.data_key("BAD"), consolidated(bar(day, symbol="BAD")))
    for as_of in (None, NOW):
        with pytest.raises(
            ContractError, match=rf"symbol=BAD/data\.parquet cannot be used: {day} is outside the trading calendar"
        ):
            lake.bars("BAD", as_of=as_of)


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (lambda rows: rows.take(pa.array([2, 0, 1])), "not sorted by session"),
        (lambda rows: pa.concat_tables([rows, rows.slice(2)]), "holds one twice"),
        (lambda rows: rows.set_column(5, "close", pa.array([1.0, None, 2.0])), "nulls in column 'close'"),
        (lambda rows: rows.slice(0, 0), "holds no bars"),
    ],
)
def test_rows_of_another_program_are_refused_as_of_an_instant_as_they_are_now(
    broken: Callable[[pa.Table], pa.Table], text: str
) -> None:
    rows = table(*(bar(day, 10.0 + number) for number, day in enumerate(SOME[:3])))
    sink = pa.BufferOutputStream()
    pq.write_table(broken(rows), sink)
    store = MemoryObjectStore()
    store.lay(LAKE.data_key("AAPL"), sink.getvalue().to_pybytes())
    now = datetime.now(UTC) + timedelta(days=1)
    lake = Lake(store, clock=lambda: now)
    for options in ({}, {"as_of": now - timedelta(hours=1)}):
        with pytest.raises(ContractError, match=text):
            lake.bars("AAPL", **options)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="name a later instant"):
        lake.bars("AAPL", as_of=datetime(2020, 1, 1, tzinfo=UTC))


def test_a_data_parquet_that_cannot_be_read_is_named_also_in_the_lake_of_an_instant(lake: Lake) -> None:
    store_of(lake).lay(LAKE.data_key("BAD"), b"no Parquet")
    with pytest.raises(ContractError, match=r"symbol=BAD/data\.parquet cannot be used: .*`fiblake reconcile`"):
        lake.bars("BAD", as_of=NOW)


def test_revisions_that_cannot_be_read_are_named_by_their_key(lake: Lake) -> None:
    store_of(lake).lay(revisions_key("AAPL"), b"no Parquet")
    with pytest.raises(ContractError, match=rf"^{revisions_key('AAPL')} cannot be used: .*; restore its last"):
        lake.bars("AAPL", as_of="2012-01-01")


def test_a_month_file_with_a_day_that_is_no_session_is_named(lake: Lake) -> None:
    key = silver_key(3, Month(2013, 2))
    rows = decode_silver(store_of(lake).peek(key) or b"", key)
    sunday = pa.array([date(2013, 2, 24)] * rows.num_rows, pa.date32())
    store_of(lake).lay(key, encode(rows.set_column(rows.column_names.index("ts"), "ts", sunday)))
    with pytest.raises(ContractError, match=rf"{key} cannot be used: 2013-02-24 is not a session .*fiblake reconcile"):
        lake.bars(None, "3d")


def test_the_metadata_say_what_the_rows_are(lake: Lake) -> None:
    assert lake.bars("AAPL", "21d", adjust="raw").metadata == {
        "interval": "21d", "adjust": "raw", "as_of": NOW.isoformat(),
    }  # fmt: skip
    assert lake.panel("close", "3d").metadata["column"] == "close"


def test_symbols_and_sessions(lake: Lake) -> None:
    assert lake.symbols() == ["AAPL", "BRK.B"]
    assert lake.sessions("2013-02-27", "2013-03-02").tolist() == [
        date(2013, 2, 27),
        date(2013, 2, 28),
        date(2013, 3, 1),
    ]
    assert lake.sessions()[[0, -1]].tolist() == [date(1962, 1, 2), date(2026, 3, 2)]


def test_splits_of_a_symbol_are_listed(lake: Lake) -> None:
    store_of(lake).lay(splits_key("AAPL"), splits_file(splits_of(("2010-06-01", 1, 7), ("2012-08-01", 1, 2))))
    frame = lake.splits("AAPL").to_pandas()
    assert frame.index.tolist() == [pd.Timestamp("2010-06-01"), pd.Timestamp("2012-08-01")]
    assert frame["historical_adjustment_factor"].tolist() == pytest.approx([1 / 14, 1 / 2])
    assert len(lake.splits("BRK.B")) == 0
    with pytest.raises(NotFoundError, match="did you mean AAPL"):
        lake.splits("AAPK")


def test_dividends_of_a_symbol_are_listed_and_applied_for_total_return(lake: Lake) -> None:
    store = store_of(lake)
    store.lay(dividends_key("AAPL"), dividends_file([dividend("2012-03-05", 10.0)]))
    frame = lake.dividends("AAPL").to_pandas()
    assert frame["cash_amount"].tolist() == [10.0]
    assert frame.index.tolist() == [pd.Timestamp("2012-03-05")]
    stored = Consolidated.decode(store.peek(LAKE.data_key("AAPL")) or b"", "AAPL", NOW)
    reference = replace(stored.reference, dividends=(Payout(date(2012, 3, 5), 10.0),))
    store.lay(LAKE.data_key("AAPL"), replace(stored, reference=reference).encode())
    before, after = date(2012, 3, 2), date(2012, 3, 5)
    splits_only, total = (
        rows_of(lake, "AAPL", start=before, end=after, adjust=adjust) for adjust in ("splits", "total")
    )
    assert total[0]["close"] == pytest.approx(splits_only[0]["close"] - 10)
    assert total[0]["volume"] == splits_only[0]["volume"]
    assert total[1] == splits_only[1]
    assert lake.bars("AAPL", "21d", adjust="total").metadata["adjust"] == "total"


def test_the_universe_of_a_day_has_companies_that_are_gone_and_says_since_when_it_is_known(lake: Lake) -> None:
    with pytest.raises(NotFoundError, match="`fiblake metadata` writes it"):
        lake.universe("2012-06-29")
    seen = datetime(2010, 1, 4, 12, tzinfo=UTC)
    gone, there = (
        SymbolRecord(
            symbol=symbol, valid_from=BEGINNING, valid_to=ended, type=kind, active=ended is None, first_seen=seen,
            last_seen=NOW, delisted_date=ended, list_date=None, **dict.fromkeys(UNKNOWN),
        )
        for symbol, ended, kind in (("GONE", date(2012, 6, 29), None), ("AAPL", None, "CS"))
    )  # fmt: skip
    store_of(lake).lay(UNIVERSE_KEY, universe_file(universe_of([gone, there], date(2010, 1, 4))))
    result = lake.universe("2012-06-29")
    assert result.table["symbol"].to_pylist() == ["AAPL", "GONE"]
    assert (result.metadata["known_since"], result.metadata["day"]) == ("2010-01-04", "2012-06-29")
    assert lake.universe(date(2012, 7, 2)).to_pandas().index.tolist() == ["AAPL"]


def test_a_query_is_answered_from_the_lakes_tables(lake: Lake) -> None:
    result = lake.sql("SELECT ts, close FROM silver_21d WHERE symbol = 'AAPL' AND is_complete ORDER BY ts")
    bars = lake.bars("AAPL", "21d", complete=True)
    assert result.table["ts"].to_pylist() == bars.table["ts"].to_pylist()
    assert result.to_pandas()["close"].tolist() == pytest.approx(bars.to_pandas()["close"].tolist())
    (row,) = lake.sql("SELECT count(*) AS n FROM bronze", "BRK.B").table.to_pylist()
    assert row == {"n": len(TEN_YEARS) - 100}
    assert lake.sql("SELECT 1 AS one").to_pandas().index.tolist() == [0]
    with pytest.raises(ContractError, match="one SELECT is taken, and nothing else"):
        lake.sql("DROP TABLE bronze")


def test_columns_of_one_name_are_refused_before_anything_is_read(lake: Lake) -> None:
    store_of(lake).lay(LAKE.data_key("BAD"), b"no Parquet")
    with pytest.raises(
        ContractError, match=r"columns of the query are named symbol, ts: give each .* of its own, with AS"
    ):
        lake.sql("SELECT symbol, volume AS ts, symbol, close AS ts FROM bronze")


def test_a_file_that_a_query_cannot_read_is_an_error_that_names_it(lake: Lake) -> None:
    store_of(lake).lay(LAKE.data_key("BAD"), b"no Parquet")
    with pytest.raises(
        ContractError, match=r"files of the lake cannot be read: .*symbol=BAD/data\.parquet: .*reconcile"
    ):
        lake.sql("SELECT count(*) FROM bronze")


@pytest.mark.parametrize("table", ["bronze", "silver_3d"])
def test_a_query_of_an_unknown_symbol_names_the_nearest_one(lake: Lake, table: str) -> None:
    with pytest.raises(NotFoundError, match=r"no bars of AAPLE \(did you mean AAPL\?\)"):
        lake.sql(f"SELECT count(*) FROM {table}", symbols=["AAPLE"])  # noqa: S608 (a name of ours)


@pytest.mark.parametrize("symbols", [None, "AAPL"])
def test_a_query_reads_bronze_below_the_lakes_prefix(lake: Lake, symbols: str | None) -> None:
    other = Bronze("other/bars")
    store_of(lake).lay(other.data_key("AAPL"), consolidated(bar("2013-02-28"), bar("2013-03-01")))
    result = replace(lake, bronze=other).sql("SELECT count(*) AS n FROM bronze", symbols)
    assert result.table.to_pylist() == [{"n": 2}]


def test_a_query_that_is_no_text_is_refused(lake: Lake) -> None:
    with pytest.raises(ContractError, match="half of a pair of surrogates"):
        lake.sql("SELECT '\ud83d'")


def test_a_query_of_a_file_of_this_machine_is_refused_without_a_word_of_the_command_line(lake: Lake) -> None:
    with pytest.raises(ContractError, match=r"no files of this machine are read: .*join files of your own") as error:
        lake.sql("SELECT * FROM read_text('/etc/passwd')")
    assert "--local-files" not in str(error.value)


# ------------------------------------------------------------------------------------------------------ copies of files


def copy_of(lake: Lake, key: str) -> Path:
    (file,) = ((lake.cache or Path()) / lake.store.bucket / key).glob("*.parquet")
    return file


ASKED: dict[str, Callable[[Lake], Any]] = {
    "bars": lambda lake: len(lake.bars(None, "21d")),
    "sql": lambda lake: lake.sql("SELECT count(*) AS n FROM silver_21d").table["n"][0].as_py(),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_copy_that_another_reader_removes_meanwhile_is_fetched_again(
    lake_of_2012: Lake, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Lake], int]
) -> None:
    rows = ask(lake_of_2012)
    key = silver_key(21, Month(2012, 3))
    other, removed = encode(decode_silver(store_of(lake_of_2012).peek(key) or b"", key).slice(1)), []

    def copies_of_then(*arguments: Any) -> Any:  # noqa: ANN401 (those of `copies`)
        """Return the copies; another reader then finds a newer version."""
        files = copies(*arguments)
        if not removed:
            store_of(lake_of_2012).lay(key, other)
            removed.append(files[key])
            copies(store_of(lake_of_2012), {key: "newer"}, lambda _: None, lake_of_2012.cache)
        return files

    monkeypatch.setattr("fiblake.reader.months.copies", copies_of_then)
    monkeypatch.setattr("fiblake.reader.views.copies", copies_of_then)
    assert ask(lake_of_2012) == rows - 1
    assert removed
    assert not removed[0].exists()
    assert ask(lake_of_2012) == rows - 1


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_copy_whose_object_is_gone_meanwhile_has_no_rows(
    lake_of_2012: Lake, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Lake], int]
) -> None:
    key = silver_key(21, Month(2012, 3))
    size = decode_silver(store_of(lake_of_2012).peek(key) or b"", key).num_rows
    rows = ask(lake_of_2012)

    def copies_of_then(*arguments: Any) -> Any:  # noqa: ANN401 (those of `copies`)
        files = copies(*arguments)
        files[key].unlink(missing_ok=True)
        store_of(lake_of_2012).take_away(key)
        return files

    monkeypatch.setattr("fiblake.reader.months.copies", copies_of_then)
    monkeypatch.setattr("fiblake.reader.views.copies", copies_of_then)
    assert ask(lake_of_2012) == rows - size


@pytest.mark.parametrize("damage", [b"", b"no Parquet"])
@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_damaged_copy_is_fetched_again_once_and_then_kept(
    lake_of_2012: Lake, ask: Callable[[Lake], int], damage: bytes
) -> None:
    rows = ask(lake_of_2012)
    key = silver_key(21, Month(2012, 3))
    copy_of(lake_of_2012, key).write_bytes(damage)
    store_of(lake_of_2012).journal.clear()
    assert ask(lake_of_2012) == rows
    assert store_of(lake_of_2012).done("get") == [key]
    assert ask(lake_of_2012) == rows
    assert store_of(lake_of_2012).done("get") == [key]
    assert copy_of(lake_of_2012, key).read_bytes() == store_of(lake_of_2012).peek(key)


def test_a_month_file_that_the_lake_itself_has_damaged_is_named(lake_of_2012: Lake) -> None:
    key = silver_key(21, Month(2012, 3))
    store_of(lake_of_2012).lay(key, b"no Parquet")
    for _ in range(2):
        with pytest.raises(ContractError, match=f"{key} .*fiblake reconcile"):
            lake_of_2012.bars(None, "21d")


def test_a_query_cannot_read_the_folder_that_duckdb_would_spill_to(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp/secret.txt").write_text("hush")
    with pytest.raises(ContractError, match="no files of this machine are read"):
        lake.sql("SELECT content FROM read_text('.tmp/secret.txt')")
    tables = views.open_views(lake.store, LAKE, set(), (), lambda _: None, tmp_path / "cache")
    with tables.connection as connection, pytest.raises(duckdb.PermissionException):
        connection.execute("FROM read_text('.tmp/secret.txt')")


def test_symbols_are_given_once_and_sorted(lake: Lake) -> None:
    twice = lake.bars(["BRK.B", "AAPL", "BRK.B"], "34d").table
    assert twice.equals(lake.bars(["AAPL", "BRK.B"], "34d").table)
    assert twice["symbol"].unique().to_pylist() == ["AAPL", "BRK.B"]

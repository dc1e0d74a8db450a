import json
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from cli import chart
from fiblake.aggregate import SILVER
from fiblake.bars import MANIFEST, Consolidated, encode
from fiblake.calendar import nyse
from fiblake.decoding import limit
from fiblake.lake import MANIFEST_KEY, Month, identities_key, silver_key, splits_key
from fiblake.reader import views
from fiblake.reader.views import schemas
from fiblake.reference import Identity, identities_file, reference_of, splits_file
from tests.fakes import LAKE, NOON, bar, consolidated, splits, table
from tests.unit.cli.conftest import FakeTarget, Run

DAY = date(2025, 11, 19)


def bucket(symbol: str, ts: date, close: float = 10.0) -> dict[str, object]:
    prices = {"open": 9.0, "high": 12.0, "low": 8.0, "close": close, "volume": 5.0}
    whole = {"bars": 21, "last_date": ts, "is_complete": True, "adjusted": True, "version": NOON}
    return {"symbol": symbol, "ts": ts, **prices, **whole}


@pytest.fixture(autouse=True)
def _lake(stack: FakeTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stack.outputs = {"SplitAdjusted": "true"}
    for symbol in ("AAPL", "MSFT"):
        stack.store.lay(
            LAKE.data_key(symbol), consolidated(bar("2025-11-18", 9, symbol=symbol), bar(DAY, symbol=symbol))
        )
    months = {10: date(2025, 10, 1), 11: date(2025, 11, 3)}
    for month, ts in months.items():
        rows = pa.Table.from_pylist([bucket("AAPL", ts), bucket("MSFT", ts)], schema=SILVER)
        stack.store.lay(silver_key(21, Month(2025, month)), encode(rows))
    manifest = [{"symbol": "AAPL", "last_consolidated_date": DAY, "row_count": 2, "last_updated": NOON}]
    stack.store.lay(MANIFEST_KEY, encode(pa.Table.from_pylist(manifest, schema=MANIFEST)))
    stack.store.lay(
        identities_key("AAPL"), identities_file([Identity("AAPL", date(1980, 12, 12), None, "FIGI", "Apple")])
    )


def answered(run: Run, *arguments: str) -> list[dict[str, object]]:
    result = run("query", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    rows: list[dict[str, object]] = json.loads(result.stdout)
    return rows


def test_bronze_silver_metadata_and_manifest_are_asked_in_one_query(run: Run) -> None:
    sql = """
    SELECT b.symbol, m.name, max(b.close) AS close, count(DISTINCT s.ts) AS buckets, any_value(f.row_count) AS rows
    FROM bronze b JOIN silver_21d s USING (symbol) JOIN metadata m USING (symbol) JOIN manifest f USING (symbol)
    GROUP BY ALL
    """
    assert answered(run, sql) == [{"symbol": "AAPL", "name": "Apple", "close": 10.0, "buckets": 2, "rows": 2}]


@pytest.mark.parametrize("view", ["splits", "dividends", "silver_3d", "silver_34d"])
def test_a_view_of_which_nothing_is_there_is_empty_and_has_its_columns(run: Run, view: str) -> None:
    assert answered(run, f"SELECT count(*) AS n FROM {view}") == [{"n": 0}]  # noqa: S608
    assert answered(run, f"SELECT {schemas()[view].names[-1]} FROM {view}") == []  # noqa: S608


def test_only_what_the_query_names_is_read_and_only_once_a_version(run: Run, stack: FakeTarget) -> None:
    sql = "SELECT count(*) AS n FROM silver_21d"
    assert answered(run, sql) == [{"n": 4}]
    first = stack.store.done("get")
    assert first == [silver_key(21, Month(2025, 10)), silver_key(21, Month(2025, 11))]
    assert answered(run, sql) == [{"n": 4}]
    assert stack.store.done("get") == first
    changed = encode(pa.Table.from_pylist([bucket("AAPL", date(2025, 11, 3), 99.0)], schema=SILVER))
    stack.store.lay(silver_key(21, Month(2025, 11)), changed)
    assert answered(run, "SELECT max(close) AS c FROM silver_21d") == [{"c": 99.0}]
    assert stack.store.done("get") == [*first, silver_key(21, Month(2025, 11))]


def test_symbols_limit_what_is_read_of_bronze(run: Run, stack: FakeTarget) -> None:
    assert answered(run, "SELECT DISTINCT symbol FROM bronze", "--symbols", "MSFT") == [{"symbol": "MSFT"}]
    assert stack.store.done("get") == [LAKE.data_key("MSFT")]
    assert stack.store.done("list") == []


def test_a_data_parquet_of_another_program_with_other_columns_is_read_beside_ours(run: Run, stack: FakeTarget) -> None:
    theirs = pa.table({"symbol": ["OTHER"], "timestamp": pa.array([DAY], pa.date32()), "close": [3.0], "note": ["x"]})
    stack.store.lay(LAKE.data_key("OTHER"), encode(theirs))
    rows = answered(run, "SELECT symbol, close, vwap FROM bronze WHERE symbol = 'OTHER'")
    assert rows == [{"symbol": "OTHER", "close": 3.0, "vwap": None}]


def test_rows_go_to_csv_and_parquet_files(run: Run, tmp_path: Path) -> None:
    csv, parquet = tmp_path / "rows.csv", tmp_path / "rows.parquet"
    sql = "SELECT symbol, close FROM bronze ORDER BY symbol, close"
    assert run("query", sql, "--csv", str(csv), "--parquet", str(parquet)).exit_code == 0
    for _ in range(2):  # an existing file is replaced
        assert csv.read_text().splitlines() == ["symbol,close", "AAPL,9.0", "AAPL,10.0", "MSFT,9.0", "MSFT,10.0"]
        assert run("query", sql, "--csv", str(csv)).exit_code == 0
    with duckdb.connect() as connection:
        assert len(connection.read_parquet(str(parquet)).fetchall()) == 4


def test_a_person_gets_a_table_and_a_note_if_there_is_more(run: Run) -> None:
    output = run("query", "SELECT symbol, close FROM bronze", "--rows", "3").stdout
    assert "AAPL" in output
    assert "3 of 4 rows" in output
    assert "--csv" in output
    assert "51" not in run("query", "FROM range(1, 51)").stdout
    assert "50 of 51 rows" in run("query", "FROM range(51)").stdout


def test_json_is_cut_by_rows_only_and_says_so(run: Run) -> None:
    assert len(answered(run, "FROM range(20_001)")) == 20_001
    assert answered(run, "FROM range(0)") == []
    result = run("query", "FROM range(51)", "--json", "--rows", "7")
    assert len(json.loads(result.stdout)) == 7
    assert "7 of 51 rows" in result.stderr


def test_columns_of_one_name_keep_their_own_values(run: Run) -> None:
    sql = "SELECT 1 AS a, 2 AS a, 3 AS A, 4 AS a_1"
    assert answered(run, sql) == [{"a": 1, "a_1": 2, "A": 3, "a_1_1": 4}]
    output = run("query", sql).stdout
    assert [cell for cell in output.split() if cell.isdigit()] == ["1", "2", "3", "4"]
    assert [cell for cell in output.split() if cell.startswith(("a", "A"))] == ["a", "a", "A", "a_1"]


def test_a_number_that_is_none_is_null_in_json(run: Run) -> None:
    sql = "SELECT 'nan'::DOUBLE AS x, 'inf'::DOUBLE AS y, ['nan'::DOUBLE] AS z, {'v': '-inf'::DOUBLE} AS s"
    result = run("query", sql, "--json")
    assert json.loads(result.stdout, parse_constant=pytest.fail) == [
        {"x": None, "y": None, "z": [None], "s": {"v": None}}
    ]
    assert "nan" in run("query", sql).stdout


def test_instants_are_text_in_utc(run: Run) -> None:
    """Without a further library for time zones."""
    assert answered(run, "SELECT last_updated FROM manifest") == [{"last_updated": "2025-11-20 12:00:00Z"}]
    nested = "SELECT [TIMESTAMPTZ '2025-11-20 12:00:00+02'] AS some, 1 AS one"
    assert answered(run, nested) == [{"some": "['2025-11-20 10:00:00+00']", "one": 1}]


def test_the_tables_may_be_listed_and_described(run: Run, stack: FakeTarget) -> None:
    assert {row["name"] for row in answered(run, "SHOW TABLES")} == set(schemas())
    assert stack.store.journal == []
    assert [row["column_name"] for row in answered(run, "DESCRIBE silver_21d")] == SILVER.names


def test_a_table_whose_name_the_query_hides_is_an_error_and_never_empty(run: Run) -> None:
    for sql in ("FROM query_table('manif' || 'est')", "SELECT count(*) FROM query_table('manif' || 'est')"):
        result = run("query", sql)
        assert result.exit_code == 2
        assert "must name manifest in plain letters" in " ".join(result.stderr.replace("│", " ").split())


def test_no_file_of_this_machine_is_read_unless_that_is_allowed(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n7\n")
    for sql in (f"FROM '{secret}'", f"FROM read_csv('{secret}')", f"FROM read_text('{secret}')", "FROM glob('/*')"):
        result = run("query", sql)
        assert result.exit_code == 2
        assert "--local-files" in result.stderr
        assert "7" not in result.stdout
    assert answered(run, f"SELECT a FROM '{secret}'", "--local-files") == [{"a": 7}]  # noqa: S608


def test_the_connection_to_the_lake_itself_reads_and_writes_no_other_file(stack: FakeTarget, tmp_path: Path) -> None:
    """Queries that pass the first check of their text."""
    secret, output = tmp_path / "secret.txt", tmp_path / "rows.csv"
    secret.write_text("hush")
    lake = views.open_views(stack.store, LAKE, {"bronze"}, (), lambda _: None, outputs=[output])
    with lake.connection as connection:
        assert lake.answer(lambda c: c.sql("SELECT count(*) FROM bronze").fetchall()) == [(4,)]
        for sql in (f"FROM read_text('{secret}')", f"COPY (SELECT 1) TO '{tmp_path}/other.csv'", "SET threads = 1"):
            with pytest.raises(duckdb.Error, match=r"disabled by configuration|locked"):
                connection.execute(sql)
        connection.sql("SELECT 1 AS a").write_csv(str(output))
    assert output.read_text().split() == ["a", "1"]


def test_a_file_that_would_need_more_memory_than_one_may_is_never_given_to_duckdb(run: Run, stack: FakeTarget) -> None:
    rows = pa.table({"symbol": pa.repeat("BIG", 3_000_000), "timestamp": pa.repeat(pa.scalar(DAY), 3_000_000)})
    stack.store.lay(LAKE.data_key("BIG"), encode(rows, allowed=1 << 30))
    for _ in range(2):
        result = run("query", "SELECT count(*) AS n FROM bronze", "--json")
        assert (result.exit_code, json.loads(result.stdout)) == (3, [{"n": 4}])
        assert f"{LAKE.data_key('BIG')} cannot be read, and its rows are missing: it" in result.stderr
        assert "has 3,000,000 rows of 2 columns (48,000,000 bytes), more than the 32,000,000" in result.stderr
        assert "that are allowed: split or shrink it, or raise READ_LIMIT_MB (now 32)" in result.stderr


def test_a_file_that_is_too_large_as_it_is_stored_costs_its_own_rows_and_is_named(
    run: Run, stack: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.store.lay(LAKE.data_key("BIG"), b"x" * 1_000_001)
    monkeypatch.setenv("READ_LIMIT_MB", "1")
    limit.cache_clear()
    try:
        result = run("query", "SELECT count(*) AS n FROM bronze", "--json")
    finally:
        monkeypatch.undo()
        limit.cache_clear()
    assert (result.exit_code, json.loads(result.stdout)) == (3, [{"n": 4}])
    assert f"{LAKE.data_key('BIG')} cannot be read" in result.stderr
    assert "1,000,001 bytes, more than the 1,000,000 that are allowed" in result.stderr


def test_a_file_that_cannot_be_read_costs_its_own_rows_and_is_named(run: Run, stack: FakeTarget) -> None:
    bad = {LAKE.data_key("BAD"): b"no Parquet", LAKE.data_key("ODD"): encode(pa.table({"close": ["seven"]}))}
    for key, data in bad.items():
        stack.store.lay(key, data)
    for _ in range(2):  # the second time from the copies
        result = run("query", "SELECT symbol, count(close) AS n FROM bronze GROUP BY 1 ORDER BY 1", "--json")
        assert result.exit_code == 3
        assert json.loads(result.stdout) == [{"symbol": "AAPL", "n": 2}, {"symbol": "MSFT", "n": 2}]
        assert all(f"{key} cannot be read" in result.stderr for key in bad)
    assert run("query", "FROM bronze", "--symbols", "AAPL").exit_code == 0


def test_a_damaged_page_is_found_as_well_as_a_damaged_footer(run: Run, stack: FakeTarget) -> None:
    data = bytearray(stack.store.peek(LAKE.data_key("MSFT")) or b"")
    data[4:200] = bytes(196)
    stack.store.lay(LAKE.data_key("MSFT"), bytes(data))
    result = run("query", "SELECT DISTINCT symbol FROM bronze", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (3, [{"symbol": "AAPL"}])


def test_a_query_that_fails_by_itself_is_exit_code_2(run: Run) -> None:
    result = run("query", "SELECT (symbol || 'x')::INT FROM bronze")
    assert result.exit_code == 2
    assert "Could not convert" in " ".join(result.stderr.replace("│", " ").split())


def test_a_place_that_cannot_be_written_is_exit_code_2_before_anything_is_read(
    run: Run, stack: FakeTarget, tmp_path: Path
) -> None:
    for option, place in (("--csv", tmp_path), ("--parquet", tmp_path / "none" / "x.parquet")):
        assert run("query", "FROM bronze", option, str(place)).exit_code == 2
    for place in (tmp_path / "none" / "x.png", tmp_path / "x.gif2"):
        assert run("chart", "AAPL", "1d", "-o", str(place)).exit_code == 2
    assert stack.store.journal == []


def test_a_cache_that_cannot_be_written_is_a_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    result = run("query", "FROM bronze")
    assert result.exit_code == 2
    assert "set XDG_CACHE_HOME" in result.stderr


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("SELEC 1", "does not understand"),
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELECT nothing FROM bronze", "nothing"),
        ("SELECT 1; SELECT 2", "one SELECT is taken"),
        ("COPY (SELECT 1) TO 'x.csv'", "one SELECT is taken"),
        ("INSTALL httpfs", "one SELECT is taken"),
    ],
)
def test_what_is_no_query_is_exit_code_2_before_anything_is_read(
    run: Run, stack: FakeTarget, sql: str, sentence: str
) -> None:
    result = run("query", sql)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.replace("│", " ").split())
    assert stack.store.journal == []


def test_a_chart_is_a_picture_of_the_last_bars(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "aapl.png"
    facts = json.loads(run("chart", "AAPL", "21d", "-o", str(file), "--json").stdout)
    first = nyse().session(nyse().ordinal(DAY) // 21 * 21).isoformat()
    assert facts == {
        "file": str(file), "bars": 1, "first": first, "last": first, "adjusted": True,
        "last_close": facts["last_close"], "splits": [],
    }  # fmt: skip
    assert file.read_bytes().startswith(b"\x89PNG")
    assert json.loads(run("chart", "AAPL", "1d", "-o", str(file), "--last", "1", "--json").stdout)["bars"] == 1


@pytest.mark.parametrize(
    ("adjusted", "closes", "how"),
    [("true", [5.0, 5.0], "adjusted for splits"), ("false", [10.0, 5.0], "as traded")],
)
def test_a_chart_says_what_it_draws_and_marks_the_split(  # noqa: PLR0917
    run: Run, stack: FakeTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    adjusted: str, closes: list[float], how: str,
) -> None:  # fmt: skip
    stack.outputs["SplitAdjusted"] = adjusted
    of_symbol = splits(("2025-11-19", 1, 2))
    stack.store.lay(splits_key("AAPL"), splits_file(of_symbol))
    reference = reference_of(tuple(of_symbol), ())
    rows = table(bar("2025-11-18", 10), bar(DAY, 5))
    stack.store.lay(LAKE.data_key("AAPL"), Consolidated(rows, {}, NOON, reference).encode())
    drawn: list[tuple[str, list[float], list[date]]] = []
    real = chart.draw

    def draw(title: str, bars: list[tuple[Any, ...]], output: Path, days: list[date], *, log: bool) -> None:
        drawn.append((title, [row[4] for row in bars], days))
        real(title, bars, output, days, log=log)

    monkeypatch.setattr(chart, "draw", draw)
    result = run("chart", "AAPL", "1d", "-o", str(tmp_path / "x.svg"), "--log")
    assert result.exit_code == 0
    title = f"AAPL, 1d, {how}, 2025-11-18 to 2025-11-19, last close 5 USD"
    assert drawn == [(title, closes, [date(2025, 11, 19)])]
    picture = (tmp_path / "x.svg").read_text()
    for text in ("split 2025-11-19", "USD, logarithmic", title):
        assert text in picture
    assert f"{title}: 2 bars, 1 split marked" in result.stdout


@pytest.mark.parametrize(
    ("count", "step", "labels"),
    [
        (9, 1, ["2024-01-02", "2024-01-03"]),
        (80, 1, ["2024-02", "2024-03", "2024-04"]),
        (400, 1, ["2024-04", "2024-07", "2024-10", "2025-01"]),
        (100, 21, ["2025", "2026", "2027"]),
    ],
)
def test_ticks_stand_at_months_quarters_or_years(count: int, step: int, labels: list[str]) -> None:
    first = nyse().ordinal(date(2024, 1, 2))
    days = [nyse().session(first - count * step * (step > 1) + place * step) for place in range(count)]
    ticks = chart._ticks(days)  # noqa: SLF001
    assert len(ticks) <= chart.TICKS
    if step == 1:
        assert list(ticks.values())[: len(labels)] == labels
    else:
        assert all(label.isdigit() and len(label) == 4 for label in ticks.values())


def test_a_body_of_a_logarithmic_chart_is_as_high_for_low_prices_as_for_high_ones() -> None:
    rows = [(date(2024, 1, 2), price, price, price, price, 1.0, True) for price in (1.0, 100.0)]
    axes = Figure().subplots()
    chart._candles(axes, rows, log=True)  # noqa: SLF001
    tops = [bar.get_height() / bar.get_y() for bar in axes.patches]
    assert tops[0] == pytest.approx(tops[1])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["GHOST", "21d"], "the lake has no bars of GHOST"),
        (["AAPL", "22d"], "'22d' is none of 1d, 3d"),
        (["../x", "21d"], "is not a symbol"),
    ],
)
def test_a_chart_of_what_is_not_there_is_exit_code_2(
    run: Run, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    result = run("chart", *arguments, "-o", str(tmp_path / "x.png"))
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("view", "stray"),
    [
        ("silver_21d", "silver/silver_21d/backup/data_21d_202511.parquet"),
        ("silver_21d", "silver/silver_21d/year=2025/month=11/data_21d_202511 (copy).parquet"),
        ("metadata", "bronze/identities/old/symbol=AAPL.parquet"),
        ("metadata", "bronze/identities/part-0.parquet"),
    ],
)
def test_a_copy_that_no_service_reads_is_in_no_view(view: str, stray: str, stack: FakeTarget, run: Run) -> None:
    key = silver_key(21, Month(2025, 11)) if view == "silver_21d" else identities_key("AAPL")
    before = answered(run, f"FROM {view}")
    for data in (stack.store.peek(key) or b"", b"junk"):
        stack.store.lay(stray, data)
        assert answered(run, f"FROM {view}") == before

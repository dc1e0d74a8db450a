import json
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from cli.tables import schemas
from shared.bars import MANIFEST, SILVER, encode
from shared.lake import MANIFEST_KEY, Month, identities_key, silver_key
from shared.reference import Identity, identities_file
from tests.fakes import LAKE, NOON, bar, consolidated
from tests.unit.cli.conftest import FakeTarget, Run

DAY = date(2025, 11, 19)


def bucket(symbol: str, ts: date, close: float = 10.0) -> dict[str, object]:
    prices = {"open": 9.0, "high": 12.0, "low": 8.0, "close": close, "volume": 5.0}
    whole = {"bars": 21, "last_date": ts, "is_complete": True, "adjusted": True}
    return {"symbol": symbol, "ts": ts, **prices, **whole}


@pytest.fixture(autouse=True)
def _lake(stack: FakeTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
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


@pytest.mark.parametrize("view", ["splits", "silver_3d", "silver_34d"])
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


def test_a_data_parquet_of_somebody_elses_with_other_columns_is_read_beside_ours(run: Run, stack: FakeTarget) -> None:
    theirs = pa.table({"symbol": ["OTHER"], "timestamp": pa.array([DAY], pa.date32()), "close": [3.0], "note": ["x"]})
    stack.store.lay(LAKE.data_key("OTHER"), encode(theirs))
    rows = answered(run, "SELECT symbol, close, vwap FROM bronze WHERE symbol = 'OTHER'")
    assert rows == [{"symbol": "OTHER", "close": 3.0, "vwap": None}]


def test_rows_go_to_csv_and_parquet_files(run: Run, tmp_path: Path) -> None:
    csv, parquet = tmp_path / "rows.csv", tmp_path / "rows.parquet"
    sql = "SELECT symbol, close FROM bronze ORDER BY symbol, close"
    assert run("query", sql, "--csv", str(csv), "--parquet", str(parquet)).exit_code == 0
    assert csv.read_text().splitlines() == ["symbol,close", "AAPL,9.0", "AAPL,10.0", "MSFT,9.0", "MSFT,10.0"]
    with duckdb.connect() as connection:
        assert len(connection.read_parquet(str(parquet)).fetchall()) == 4


def test_a_person_gets_a_table_and_is_told_if_there_is_more(run: Run) -> None:
    said = run("query", "SELECT symbol, close FROM bronze", "--rows", "3").stdout
    assert "AAPL" in said
    assert "--csv" in said


@pytest.mark.parametrize(
    ("sql", "said"),
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
    run: Run, stack: FakeTarget, sql: str, said: str
) -> None:
    result = run("query", sql)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert stack.store.journal == []


def test_a_chart_is_a_picture_of_the_last_bars(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "aapl.png"
    result = run("chart", "AAPL", "21d", "-o", str(file), "--json")
    assert json.loads(result.stdout) == {"file": str(file), "bars": 2, "first": "2025-10-01", "last": "2025-11-03"}
    assert file.read_bytes().startswith(b"\x89PNG")
    assert json.loads(run("chart", "AAPL", "1d", "-o", str(file), "--last", "1", "--json").stdout)["bars"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["GHOST", "21d"], "the lake has no 21d bars of GHOST"),
        (["AAPL", "22d"], "'22d' is none of 1d, 3d"),
        (["../x", "21d"], "is not a symbol"),
    ],
)
def test_a_chart_of_what_is_not_there_is_exit_code_2(run: Run, tmp_path: Path, arguments: list[str], said: str) -> None:
    result = run("chart", *arguments, "-o", str(tmp_path / "x.png"))
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())

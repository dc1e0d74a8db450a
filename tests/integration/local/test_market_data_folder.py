import gzip
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fiblake.bars import BRONZE, ReportedBar
from fiblake.errors import ConfigurationError
from local.market_data.bars import Bars, files_of
from local.market_data.reference import FILES, Company, Reference
from local.market_data.replay import folder
from tests.integration.market import replaying

FIRST, SECOND, THIRD = date(1962, 1, 2), date(1962, 1, 3), date(1962, 1, 4)
LAST = date(9999, 12, 31)
HEADER = "Ticker,Date,Open,High,Low,Close,Volume,Adj Close\n"


def closes(bars: Bars, symbol: str) -> list[float]:
    return [bar.close for bar in bars.of_symbol(symbol, date.min, LAST)]


def companies(path: Path) -> list[Company]:
    _, reference = folder(path)
    return reference.companies


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """A folder with bars of three symbols in three files of different kinds."""
    (tmp_path / "b.csv").write_text(f"{HEADER}BRK.B,1962-01-03,2,3,1,2.5,1000,0\nBRK.B,1962-01-02,1,2,1,1.5,999.5,0\n")
    content = "date,open,high,low,close,volume,vwap,trades\n1962-01-03,1,1,1,1,7,1.25,3\n"
    (tmp_path / "TRUE.csv.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "symbol=AAPL").mkdir()
    rows = [ReportedBar("AAPL", day, 1.0, 2.0, 1.0, 2.0, 10.0).row(pa.scalar(0)) for day in (SECOND, THIRD)]
    for row in rows:
        del row["ingested_at"]
    schema = pa.schema([field for field in BRONZE if field.name != "ingested_at"])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "symbol=AAPL/data.parquet")
    return tmp_path


def test_bars_are_read_from_files_of_every_kind_with_columns_by_either_name(prices: Path) -> None:
    bars, _ = folder(prices)
    assert list(bars.places) == ["AAPL", "BRK.B", "TRUE"]
    assert closes(bars, "BRK.B") == [1.5, 2.5]
    assert bars.of_symbol("TRUE", FIRST, LAST) == [ReportedBar("TRUE", SECOND, 1.0, 1.0, 1.0, 1.0, 7.0, 1.25, 3)]
    assert [(bar.symbol, bar.close) for bar in bars.of_session(SECOND)] == [
        ("AAPL", 2.0),
        ("BRK.B", 2.5),
        ("TRUE", 1.0),
    ]
    assert [bar.symbol for bar in bars.of_session(THIRD)] == ["AAPL"]
    assert bars.of_session(LAST) == bars.of_symbol("NONE", FIRST, LAST) == []


def test_without_a_list_each_symbol_is_a_common_stock_since_its_first_bar(prices: Path) -> None:
    replayed = companies(prices)
    assert [(company.ticker, company.listed, company.delisted) for company in replayed] == [
        ("AAPL", SECOND, None), ("BRK.B", FIRST, None), ("TRUE", SECOND, None),
    ]  # fmt: skip
    assert {company.fields["type"] for company in replayed} == {"CS"}
    figis = [company.fields[name] for company in replayed for name in ("composite_figi", "share_class_figi")]
    assert len(set(figis)) == 6
    assert {len(figi) for figi in figis} == {12}
    assert companies(prices) == replayed


def test_a_list_is_the_whole_truth_and_what_it_leaves_open_is_plausible(prices: Path) -> None:
    (prices / "tickers.csv").write_text(
        "ticker,type,delisted_date,list_date\nAAPL,ETF,,\nOLD,CS,1962-01-03,1950-01-02\n"
    )
    first, second = companies(prices)
    assert (first.ticker, first.fields["type"], first.fields["name"]) == ("AAPL", "ETF", "AAPL Inc.")
    assert (first.listed, first.delisted) == (None, None)
    assert [second.trades(day) for day in (FIRST, SECOND, None)] == [True, True, False]


def test_one_ticker_of_two_companies_is_distinguished_by_the_day(
    prices: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (prices / "tickers.csv").write_text(
        "ticker,name,list_date,delisted_date\nTRUE,Old Truth,1950-01-02,1962-01-03\nTRUE,New Truth,1962-01-04,\n"
    )
    (prices / "ticker_changes.csv").write_text("ticker,date,changed_to\nTRUE,1962-01-04,TRUE\nTRUE,1960-05-02,FALSE\n")
    (prices / "splits.csv").write_text("ticker,execution_date,split_from,split_to\nTRUE,1962-01-03,20,1\n")
    with replaying(tmp_path_factory.mktemp("market") / "port", prices) as market:
        tickers = "/v3/reference/tickers"
        [active] = market.get(tickers, ticker="TRUE")["results"]
        [inactive] = market.get(tickers, ticker="TRUE", active="false")["results"]
        assert (active["name"], active["active"]) == ("New Truth", True)
        assert (inactive["name"], inactive["active"]) == ("Old Truth", False)
        assert inactive["delisted_utc"] == "1962-01-03T00:00:00Z"
        assert market.get(f"{tickers}/TRUE")["results"]["name"] == "New Truth"
        assert market.get(f"{tickers}/TRUE", date="1962-01-02")["results"]["name"] == "Old Truth"
        events = market.get("/vX/reference/tickers/TRUE/events")["results"]["events"]
        assert [(event["date"], event["ticker_change"]["ticker"]) for event in events] == [
            ("1962-01-04", "TRUE"), ("1960-05-02", "FALSE"),
        ]  # fmt: skip
        [split] = market.get("/stocks/v1/splits")["results"]
        assert (split["adjustment_type"], split["historical_adjustment_factor"]) == ("reverse_split", 20.0)


def test_a_folders_dividends_are_announced_when_declared_and_paid_on_the_shares_of_their_day(
    prices: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (prices / "splits.csv").write_text(
        "ticker,execution_date,split_from,split_to\nBRK.B,1962-01-03,1,3\nBRK.B,1962-01-08,1,2\n"
    )
    (prices / "dividends.csv").write_text(
        "ticker,ex_dividend_date,cash_amount,declaration_date,pay_date,currency,frequency\n"
        "BRK.B,1962-01-03,0.05,,1962-02-01,,12\nBRK.B,1962-01-08,0.5,1962-01-02,,CAD,\n"
    )
    with replaying(tmp_path_factory.mktemp("market") / "port", prices) as market:
        market.control.as_of(SECOND)
        first, second = market.get("/stocks/v1/dividends")["results"]
    # A share of 1.50 became three of 0.50, and each paid a tenth of its price.
    assert (first["historical_adjustment_factor"], first["pay_date"], first["frequency"]) == (0.9, "1962-02-01", 12)
    assert (first["cash_amount"], first["split_adjusted_cash_amount"]) == (0.05, 0.025)
    assert (first["currency"], second["currency"], "frequency" in second) == ("USD", "CAD", False)
    assert (second["historical_adjustment_factor"], second["declaration_date"]) == (1.0, "1962-01-02")


def test_pages_reach_back_beyond_the_epoch(prices: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with replaying(tmp_path_factory.mktemp("market") / "port", prices) as market:
        parts = list(market.pages("/v2/aggs/ticker/BRK.B/range/1/day/1962-01-02/1962-01-05", limit=1))
    assert [[row["c"] for row in part] for part in parts] == [[1.5], [2.5]]
    assert parts[0][0]["t"] == -252356400000


def test_a_number_that_is_missing_is_left_out_of_the_row(tmp_path: Path) -> None:
    bars = tmp_path / "bars"
    bars.mkdir()
    (bars / "x.csv").write_text("symbol,session,open,high,low,close,volume\nX,1962-01-02,,2,1,1.5,\n")
    with replaying(tmp_path / "port", bars) as market:
        [row] = market.get("/v2/aggs/grouped/locale/us/market/stocks/1962-01-02")["results"]
    assert row == {"T": "X", "h": 2.0, "l": 1.0, "c": 1.5, "vw": 1.5, "t": -252298800000}


PLAIN = "date,open,high,low,close,volume\n1962-01-02,1,2,1,1.5,7\n"


def test_a_file_without_a_symbol_has_that_of_its_folder(tmp_path: Path) -> None:
    for place in ("symbol=AAPL/5c1e-0.csv", "by/Ticker=BRK%2EB/part-0.csv", "year=1962/symbol=IBM/part-0.CSV"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(PLAIN)
    assert list(folder(tmp_path)[0].places) == ["AAPL", "BRK.B", "IBM"]


@pytest.mark.parametrize("name", ["symbol", "Symbol", "SYMBOL", "TICKER", " ticker "])
@pytest.mark.parametrize("symbol", ["NA", "TRUE", "1E5", "007"])
def test_a_symbol_is_text_as_it_is_in_the_file_whatever_the_headers_case(
    tmp_path: Path, name: str, symbol: str
) -> None:
    (tmp_path / "bars.csv").write_text(f"{name},DATE,OPEN,HIGH,LOW,CLOSE,VOLUME\n{symbol},1962-01-02,1,2,1,1.5,7\n")
    assert list(folder(tmp_path)[0].places) == [symbol]


def test_what_tools_leave_behind_is_passed_over(tmp_path: Path) -> None:
    for place in (".ipynb_checkpoints/IBM-checkpoint.csv", "._IBM.csv", "_old/IBM.csv", "IBM.csv"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(PLAIN)
    (tmp_path / "a folder.csv").mkdir()
    assert list(folder(tmp_path)[0].places) == ["IBM"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("year=1962/part-0.csv", PLAIN, r"its folders \(year\) name none: add the column"),
        ("symbol=IBM/a.csv", f"{HEADER}X,1962-01-02,1,1,1,1,1,1\n", "lies in the folder of IBM and holds bars of 'X'"),
        ("part-0-of a long name.csv", PLAIN, "cannot be one: add the column, or name the file"),
        ("a.csv", "symbol,ticker,date,open,high,low,close,volume\n", "has two columns for the symbol"),
        ("a.csv", f"{HEADER}X,1962-01-02,1,1,1,1,1,1\n,1962-01-03,1,1,1,1,1,1\n", "row 2 has no symbol"),
        ("a.csv", f"{HEADER}X,1962-01-02,1,1,1,1,1,1\nX,,1,1,1,1,1,1\n", "row 2 has no session"),
        ("a.csv.gz", "no gzip", "is not a file of daily bars in UTF-8"),
        ("a.csv", "", "is not a file of daily bars in UTF-8"),
        ("a.csv", "symbol,date,open\nX,1962-01-02,1\n", "is not a file of daily bars"),
        ("a.csv", f"{HEADER}X,today,1,1,1,1,1,1\n", "is not a file of daily bars"),
        ("a.csv", f"{HEADER}X,1962-01-02,one,1,1,1,1,1\n", "is not a file of daily bars"),
        ("a.parquet", "no Parquet", "is not a file of daily bars"),
        ("a.csv", HEADER + "X,1962-01-02,1,1,1,1,1,1\n" * 2, "there are two bars of X on 1962-01-02"),
        ("a.txt", HEADER, "holds no bars"),
        ("tickers.csv", "ticker\nX\n", "holds no bars"),
    ],
)
def test_a_folder_that_cannot_be_replayed_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError, match=complaint):
        folder(tmp_path)


def test_a_file_in_another_encoding_is_refused_by_name(prices: Path) -> None:
    bars = Bars.read(files_of(prices, FILES))
    for name in ("tickers.csv", "splits.csv"):
        (prices / name).write_bytes("ticker,name\nX,Nestl\xe9\n".encode("latin-1"))
        with pytest.raises(ConfigurationError, match="is wrong"):
            Reference.read(prices, bars)
        (prices / name).unlink()
    row = "1962-01-02,1,1,1,1,1,1\n"
    for text in (f"{HEADER}N\xe9,{row}", f"B\xf6rse,{HEADER}x,N,{row}"):
        (prices / "c.csv").write_bytes(text.encode("latin-1"))
        with pytest.raises(ConfigurationError, match=r"c\.csv is not a file of daily bars in UTF-8"):
            folder(prices)


def test_a_day_in_another_unit_is_refused_by_name(tmp_path: Path) -> None:
    prices = {name: [1.0] for name in ("open", "high", "low", "close", "volume")}
    table = pa.table({"timestamp": pa.array([3_000_000], pa.int32()).cast(pa.date32()), **prices})
    pq.write_table(table, tmp_path / "X.parquet")
    with pytest.raises(ConfigurationError, match=r"X\.parquet is not a file .* outside the years 1 to 9999"):
        folder(tmp_path)


def test_the_header_of_a_list_may_be_in_capitals(prices: Path) -> None:
    (prices / "tickers.csv").write_text("TICKER,Name\nAAPL,Apple\n", encoding="utf-8-sig")
    assert [(company.ticker, company.fields["name"]) for company in companies(prices)] == [("AAPL", "Apple")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tickers.csv", "name\nX\n"), ("tickers.csv", "ticker,list_date\nX,soon\n"),
        ("splits.csv", "ticker,execution_date,split_from,split_to\nX,1962-01-02,one,2\n"),
        ("dividends.csv", "ticker,ex_dividend_date,cash_amount\nX,1962-01-02,much\n"),
        ("ticker_changes.csv", "ticker,date\nX,1962-01-02\n"), ("tickers.csv", f"ticker\n{'X' * 200_000}\n"),
    ],
)  # fmt: skip
def test_reference_data_that_is_wrong_is_refused(prices: Path, name: str, content: str) -> None:
    bars = Bars.read(files_of(prices, FILES))
    (prices / name).write_text(content)
    with pytest.raises(ConfigurationError, match=r"splits\.csv, ticker_changes\.csv, tickers\.csv in .* is wrong"):
        Reference.read(prices, bars)

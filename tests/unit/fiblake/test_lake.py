from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.errors import ContractError
from fiblake.lake import (
    INTERVALS,
    Bronze,
    Month,
    SourceFile,
    check_symbol,
    checkpoint_key,
    dividends_key,
    identities_key,
    is_dividends,
    parse_reference,
    parse_silver_key,
    quarantine_key,
    silver_key,
    silver_prefix,
    splits_key,
    valid_symbol,
)

LAKE = Bronze()
DAY = date(2025, 11, 19)

ALPHABET = "ABCXYZabcxyz0123456789.-"
symbols = st.text(ALPHABET, min_size=1, max_size=16).filter(lambda symbol: symbol.strip("."))
days = st.dates(date(1962, 1, 2), date(2100, 1, 1))
intervals = st.sampled_from(INTERVALS)
months = st.builds(Month.of, days)


@given(symbols, days)
def test_a_date_files_key_says_what_it_was_built_from(symbol: str, day: date) -> None:
    key = LAKE.date_key(symbol, day)
    assert LAKE.parse_source(key) == SourceFile(key, symbol, day, day)
    assert LAKE.is_source(key)
    assert not LAKE.is_consolidated(key)


@given(symbols, st.tuples(days, days).map(sorted))
def test_a_range_files_key_says_what_it_was_built_from(symbol: str, span: list[date]) -> None:
    key = LAKE.range_key(symbol, *span)
    assert LAKE.parse_source(key) == SourceFile(key, symbol, span[0], span[1])


@given(symbols)
def test_a_data_parquet_is_no_source_and_the_other_way_round(symbol: str) -> None:
    key = LAKE.data_key(symbol)
    assert LAKE.is_consolidated(key)
    assert not LAKE.is_source(key)


@given(intervals, months)
def test_a_silver_key_says_its_month_to_its_own_interval_only(interval: int, month: Month) -> None:
    key = silver_key(interval, month)
    assert key.startswith(silver_prefix(interval))
    assert [parse_silver_key(n, key) for n in INTERVALS] == [month if n == interval else None for n in INTERVALS]


def test_the_layout_is_what_its_readers_know() -> None:
    assert LAKE.date_key("AAPL", DAY) == "bronze/raw_ohlcv/symbol=AAPL/date=2025-11-19.parquet"
    assert LAKE.range_key("AAPL", date(2025, 1, 2), DAY) == (
        "bronze/raw_ohlcv/symbol=AAPL/range=2025-01-02_2025-11-19.parquet"
    )
    assert LAKE.data_key("brk.B") == "bronze/raw_ohlcv/symbol=brk.B/data.parquet"
    assert silver_key(3, Month(2025, 11)) == "silver/silver_3d/year=2025/month=11/data_3d_202511.parquet"
    assert checkpoint_key(34) == "processing_metadata/silver_34d_checkpoint.json"
    assert quarantine_key("AAPL", DAY) == "bronze/quarantine/symbol=AAPL/date=2025-11-19.parquet"
    assert quarantine_key("../x", DAY) == "bronze/quarantine/symbol=~/date=2025-11-19.parquet"


BAD_SYMBOLS = [
    "",
    ".",
    "..",
    "...",
    "../x",
    "a/b",
    "/",
    "a\\b",
    "A" * 17,
    "A B",
    "A\n",
    "\n",
    "Ä",
    "~",
    "A%2F",
    "AAPL\x00",
]


@pytest.mark.parametrize("symbol", BAD_SYMBOLS)
def test_what_is_no_symbol_never_becomes_a_key(symbol: str) -> None:
    assert not valid_symbol(symbol)
    for build in (check_symbol, LAKE.data_key, LAKE.symbol_prefix, lambda s: LAKE.date_key(s, DAY)):
        with pytest.raises(ContractError, match="is not a symbol"):
            build(symbol)


@given(st.text(max_size=20))
def test_no_text_leaves_its_folder(symbol: str) -> None:
    if valid_symbol(symbol):
        key = LAKE.data_key(symbol)
        assert key.count("/") == 3
        assert "/../" not in key
    else:
        assert not LAKE.is_consolidated(f"{LAKE.prefix}/symbol={symbol}/data.parquet")
        assert not LAKE.is_source(f"{LAKE.prefix}/symbol={symbol}/date=2025-11-19.parquet")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "data.parquet",
        "bronze/raw_ohlcv/symbol=AAPL",
        "bronze/raw_ohlcv/symbol=AAPL/",
        "bronze/raw_ohlcv/symbol=AAPL/data.parquet",
        "bronze/raw_ohlcv/symbol=AAPL/date=2025-11-19.parquet/",
        "bronze/raw_ohlcv/symbol=AAPL/date=2025-11-19.parquet\n",
        "bronze/raw_ohlcv/symbol=AAPL/x/date=2025-11-19.parquet",
        "bronze/raw_ohlcv/symbol=AAPL/date=2025-13-01.parquet",
        "bronze/raw_ohlcv/symbol=AAPL/date=20251119.parquet",
        "bronze/raw_ohlcv/symbol=AAPL/date=2025-11-19.csv",
        "bronze/raw_ohlcv/symbol=AAPL/range=2025-11-19.parquet",
        "bronze/raw_ohlcv/symbol=AAPL/range=2025-11-19_2025-11-18.parquet",
        "bronze/raw_ohlcv/AAPL/date=2025-11-19.parquet",
        "xbronze/raw_ohlcv/symbol=AAPL/date=2025-11-19.parquet",
        "bronze/quarantine/symbol=AAPL/date=2025-11-19.parquet",
    ],
)
def test_other_keys_are_refused_with_the_key_in_the_reason(key: str) -> None:
    assert not LAKE.is_source(key)
    with pytest.raises(ContractError) as refusal:
        LAKE.parse_source(key)
    assert repr(key) in str(refusal.value)


@pytest.mark.parametrize(
    "key",
    [
        "silver/silver_3d/year=2025/month=11/data_3d_202512.parquet",
        "silver/silver_3d/year=2024/month=11/data_3d_202511.parquet",
        "silver/silver_3d/year=2025/month=11/data_5d_202511.parquet",
        "silver/silver_3d/year=2025/month=11/other.parquet",
        "silver/silver_5d/year=2025/month=11/data_3d_202511.parquet",
        "silver/silver_3d/year=2025/month=13/data_3d_202513.parquet",
        "silver/silver_3d/year=2025/month=00/data_3d_202500.parquet",
        "silver/silver_3d/year=2025/month=\u0661\u0661/data_3d_2025\u0661\u0661.parquet",
    ],
)
def test_what_is_no_month_file_of_the_interval_has_no_month(key: str) -> None:
    assert parse_silver_key(3, key) is None


def test_another_prefix_is_another_lake() -> None:
    other = Bronze("some.where/else")
    assert other.parse_source("some.where/else/symbol=A/date=2025-11-19.parquet").symbol == "A"
    assert not other.is_source(LAKE.date_key("A", DAY))
    assert not other.is_consolidated("somexwhere/else/symbol=A/data.parquet")


def test_months_are_in_order() -> None:
    assert Month(2024, 12) < Month(2025, 1) < Month(2025, 2)


@given(symbols)
def test_a_reference_files_key_says_its_symbol_and_is_no_source(symbol: str) -> None:
    for key in (splits_key(symbol), identities_key(symbol), dividends_key(symbol)):
        assert parse_reference(key) == symbol
        assert not LAKE.is_source(key)
        assert LAKE.remedy_for_stray(key) is None
        assert is_dividends(key) == (key == dividends_key(symbol))


@pytest.mark.parametrize(
    "key",
    ["bronze/splits/AAPL.parquet", "bronze/splits/symbol=AAPL.csv", "bronze/earnings/symbol=AAPL.parquet",
     "x/bronze/splits/symbol=AAPL.parquet", "bronze/splits/symbol=AAPL\n.parquet"],
)  # fmt: skip
def test_another_key_is_no_reference_file(key: str) -> None:
    assert parse_reference(key) is None


@pytest.mark.parametrize("symbol", ["", "..", "A/B", "../raw_ohlcv/symbol=AAPL", "ABCDEFGHIJKLMNOPQ", "~"])
def test_a_reference_file_of_what_is_no_symbol_is_refused(symbol: str) -> None:
    with pytest.raises(ContractError, match="is not a symbol"):
        parse_reference(f"bronze/identities/symbol={symbol}.parquet")

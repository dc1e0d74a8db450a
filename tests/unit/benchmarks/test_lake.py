import numpy as np

from benchmarks.lake import FULL, LAST, MISSING, NEXT, SHORTEST, SIZES, bars, histories, new_files, symbols
from fiblake.bars import BRONZE, read_bars
from fiblake.calendar import nyse
from fiblake.lake import valid_symbol
from fiblake.rules import NUMBER_COLUMNS, unbroken
from tests.fakes import NOON

SMALL = SIZES["small"]


def test_the_full_lake_has_its_size_and_histories_of_up_to_63_years() -> None:
    lengths = np.array(list(histories(FULL).values()))
    assert lengths.size == FULL.symbols
    assert abs(lengths.sum() * (1 - MISSING) / FULL.bars - 1) < 0.001
    assert (lengths.min(), lengths.max()) == (SHORTEST, nyse().ordinal(LAST) + 1)
    assert 3 < np.median(lengths) / 252 < 8


def test_symbols_are_valid_distinct_and_sorted() -> None:
    names = symbols(FULL)
    assert len(set(names)) == FULL.symbols
    assert names == sorted(names)
    assert all(valid_symbol(name) for name in names)


def test_the_same_bars_come_every_time_and_break_no_rule() -> None:
    sessions = nyse().sessions[:3_000]
    table = bars("AAPL", sessions, 7)
    assert table.equals(bars("AAPL", sessions, 7))
    assert table.schema == BRONZE
    assert unbroken({name: table[name].to_numpy() for name in NUMBER_COLUMNS}).all()


def test_new_files_are_one_a_symbol_and_session_up_to_the_next() -> None:
    files = dict(new_files(SMALL, 2))
    assert len(files) == 2 * SMALL.symbols
    key = f"bronze/raw_ohlcv/symbol=AAA/date={NEXT.isoformat()}.parquet"
    assert read_bars(files[key], "AAA", NOON)["timestamp"].to_pylist() == [NEXT]

from datetime import date
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from services.resampler.silver import by_month, replaced
from shared.bars import SILVER
from shared.lake import Month

DAYS = [date(2025, 11, 3), date(2025, 11, 6), date(2025, 11, 11), date(2025, 11, 14)]
KEYS = st.tuples(st.sampled_from(["A", "AAPL", "BRK.B", "a"]), st.sampled_from(DAYS))


def row(symbol: str, ts: date, price: float = 1.0) -> dict[str, Any]:
    prices = dict.fromkeys(("open", "high", "low", "close"), price)
    flags = {"is_complete": True, "adjusted": True}
    return {"symbol": symbol, "ts": ts, **prices, "volume": 5.0, "bars": 3, "last_date": ts, **flags}


def silver(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SILVER)


NOTHING = SILVER.empty_table()


def test_a_month_without_a_file_holds_what_was_recomputed_by_symbol_and_bucket() -> None:
    new = silver(row("MSFT", DAYS[1]), row("AAPL", DAYS[1]), row("AAPL", DAYS[0]))
    got = replaced(None, new, {"AAPL": DAYS[0], "MSFT": DAYS[0]})
    assert got is not None
    assert [(r["symbol"], r["ts"]) for r in got.to_pylist()] == [
        ("AAPL", DAYS[0]), ("AAPL", DAYS[1]), ("MSFT", DAYS[1]),
    ]  # fmt: skip
    assert got.schema == SILVER


def test_rows_of_other_symbols_stay_as_they_are() -> None:
    old = silver(row("AAPL", DAYS[0]), row("IBM", DAYS[0], 7.0), row("MSFT", DAYS[0], 8.0))
    got = replaced(old, silver(row("AAPL", DAYS[0], 2.0)), {"AAPL": DAYS[0]})
    assert got is not None
    assert got.to_pylist() == [row("AAPL", DAYS[0], 2.0), row("IBM", DAYS[0], 7.0), row("MSFT", DAYS[0], 8.0)]


def test_rows_before_the_cut_stay_as_they_are() -> None:
    old = silver(row("AAPL", DAYS[0]), row("AAPL", DAYS[1]), row("AAPL", DAYS[2]))
    got = replaced(old, silver(row("AAPL", DAYS[1], 2.0), row("AAPL", DAYS[2], 3.0)), {"AAPL": DAYS[1]})
    assert got is not None
    assert got.to_pylist() == [row("AAPL", DAYS[0]), row("AAPL", DAYS[1], 2.0), row("AAPL", DAYS[2], 3.0)]


def test_each_symbol_has_its_own_cut() -> None:
    old = silver(row("AAPL", DAYS[0]), row("AAPL", DAYS[1]), row("MSFT", DAYS[0]), row("MSFT", DAYS[1]))
    got = replaced(old, NOTHING, {"MSFT": DAYS[1], "AAPL": DAYS[0]})
    assert got is not None
    assert got.to_pylist() == [row("MSFT", DAYS[0])]


def test_rows_that_are_what_they_were_give_nothing_to_write() -> None:
    old = silver(row("AAPL", DAYS[0]), row("AAPL", DAYS[1]), row("MSFT", DAYS[0]))
    assert replaced(old, silver(row("AAPL", DAYS[1])), {"AAPL": DAYS[1]}) is None


def test_a_month_without_a_file_and_without_rows_is_not_written() -> None:
    assert replaced(None, NOTHING, {"AAPL": DAYS[0]}) is None


def test_a_file_whose_rows_are_cut_and_not_recomputed_becomes_empty() -> None:
    got = replaced(silver(row("AAPL", DAYS[0])), NOTHING, {"AAPL": DAYS[0]})
    assert got is not None
    assert got.num_rows == 0


def test_a_change_of_one_flag_is_a_change() -> None:
    incomplete = row("AAPL", DAYS[0]) | {"is_complete": False}
    got = replaced(silver(incomplete), silver(row("AAPL", DAYS[0])), {"AAPL": DAYS[0]})
    assert got is not None
    assert got.to_pylist() == [row("AAPL", DAYS[0])]


@given(
    old=st.dictionaries(KEYS, st.floats(1, 3), max_size=12), new=st.dictionaries(KEYS, st.floats(1, 3), max_size=12),
    cuts=st.dictionaries(st.sampled_from(["A", "AAPL", "BRK.B", "a"]), st.sampled_from(DAYS), min_size=1),
)  # fmt: skip
def test_a_month_file_is_what_replacing_row_by_row_gives(
    old: dict[tuple[str, date], float], new: dict[tuple[str, date], float], cuts: dict[str, date]
) -> None:
    fresh = {key: price for key, price in new.items() if key[0] in cuts and key[1] >= cuts[key[0]]}
    kept = {key: price for key, price in old.items() if key[0] not in cuts or key[1] < cuts[key[0]]}
    expected = [row(*key, price) for key, price in sorted((kept | fresh).items())]
    before = [row(*key, price) for key, price in sorted(old.items())]
    got = replaced(silver(*before), silver(*(row(*key, price) for key, price in fresh.items())), cuts)
    assert (before if got is None else got.to_pylist()) == expected
    assert (got is None) == (before == expected)


def test_rows_are_split_by_the_month_their_bucket_starts_in() -> None:
    across = row("AAPL", date(2025, 10, 31)) | {"last_date": date(2025, 11, 4)}
    months = by_month(silver(row("AAPL", DAYS[0]), across, row("MSFT", DAYS[1]), row("A", date(1962, 1, 2))))
    assert {month: table.to_pylist() for month, table in months.items()} == {
        Month(1962, 1): [row("A", date(1962, 1, 2))],
        Month(2025, 10): [across],
        Month(2025, 11): [row("AAPL", DAYS[0]), row("MSFT", DAYS[1])],
    }


def test_no_rows_are_in_no_month() -> None:
    assert by_month(NOTHING) == {}

from dataclasses import replace
from datetime import date, timedelta
from math import nan
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.reference import Split
from services.fetcher.split_changes import split_changes
from services.fetcher.splits import usable, with_factors
from services.fetcher.wire import SplitRow

DAY = date(2000, 6, 21)
RATIOS = st.sampled_from([(1.0, 2.0), (1.0, 3.0), (2.0, 3.0), (10.0, 1.0), (1.0, 20.0), (20.0, 21.0)])


def split(days: int, split_from: float, split_to: float, factor: float = nan, symbol: str = "AAPL") -> Split:
    day = DAY + timedelta(days)
    return Split(symbol, day, split_from, split_to, "forward_split", factor, f"{symbol}-{day}")


def factors(splits: list[Split]) -> list[float]:
    return [row.historical_adjustment_factor for row in with_factors(splits)]


def test_a_missing_factor_is_the_ratio_times_the_factor_of_the_split_after_it() -> None:
    # AAPL: 2 for 1, then 2 for 1, then 7 for 1, then 4 for 1.
    splits = [split(0, 1, 2), split(1, 1, 2), split(2, 1, 7), split(3, 1, 4)]
    assert factors(splits) == [pytest.approx(1 / 112), 1 / 56, 1 / 28, 1 / 4]


def test_a_reverse_split_raises_the_prices_before_it() -> None:
    assert factors([split(0, 10, 1)]) == [10.0]


@pytest.mark.parametrize("nonsense", [nan, 0.0, -0.5, float("inf")])
def test_a_factor_that_the_vendor_gives_is_kept_and_is_the_base_of_those_before_it(nonsense: float) -> None:
    splits = [split(0, 1, 2, nonsense), split(1, 1, 2, 0.3), split(2, 1, 2, nonsense)]
    assert factors(splits) == [0.15, 0.3, 0.5]


@pytest.mark.parametrize("two_factors", [(0.5, 0.5), (0.25, 0.5), (nan, nan)])
def test_a_split_that_is_reported_under_two_ids_counts_once(two_factors: tuple[float, float]) -> None:
    first, second = (replace(split(5, 1, 2, factor), id=f"E{n}") for n, factor in enumerate(two_factors))
    before, once = with_factors([split(0, 1, 2), first, second])
    assert (before.historical_adjustment_factor, once) == (0.25, replace(split(5, 1, 2, 0.5), id="E0"))


def test_the_splits_of_one_symbol_do_not_touch_anothers() -> None:
    rows = with_factors([split(0, 1, 2), split(1, 1, 3, symbol="MSFT"), split(2, 1, 2)])
    assert [(row.symbol, row.historical_adjustment_factor) for row in rows] == [
        ("AAPL", 0.25), ("MSFT", 1 / 3), ("AAPL", 0.5),
    ]  # fmt: skip


@given(st.lists(RATIOS, max_size=6), st.randoms())
def test_the_order_in_which_splits_come_does_not_matter(ratios: list[tuple[float, float]], chance: Random) -> None:
    splits = [split(days, *ratio) for days, ratio in enumerate(ratios)]
    shuffled = splits.copy()
    chance.shuffle(shuffled)
    assert with_factors(shuffled) == with_factors(splits)


def test_a_split_without_an_id_has_one_that_is_the_same_every_time() -> None:
    row = SplitRow(ticker="AAPL", execution_date="2000-06-21", split_from=1, split_to=2)
    usable_split = usable(row)
    assert usable_split is not None
    assert usable_split.id == "AAPL:2000-06-21:1:2"


@pytest.mark.parametrize(("split_from", "split_to"), [(1e-300, 1e300), (1e300, 1e-300), (5e-324, 1.0)])
def test_a_ratio_out_of_range_stops_no_other_symbol(split_from: float, split_to: float) -> None:
    odd = [split(0, 1, 2, 0.5), split(1, split_from, split_to, 1e-320)]
    splits = with_factors([*odd, split(0, 1, 2, symbol="MSFT")])
    changes = split_changes({}, splits, {"AAPL", "MSFT"}, DAY + timedelta(days=9))
    assert [refused.symbol for refused in changes.refused] == ["AAPL"]
    assert [row.historical_adjustment_factor for row in changes.changed["MSFT"]] == [0.5]

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.errors import UpstreamError
from fiblake.reference import Split, reference_of
from services.fetcher.split_changes import split_changes

TODAY = date(2005, 2, 28)
BEFORE, TOMORROW = date(2000, 6, 21), TODAY + timedelta(days=1)
OURS = {"AAPL", "MSFT"}


def split(symbol: str = "AAPL", day: date = TODAY, factor: float = 0.5, to: float = 2.0, name: str = "") -> Split:
    return Split(symbol, day, 1.0, to, "forward_split", factor, name or f"{symbol}-{day}")


APPLE = [split(day=BEFORE, factor=0.25), split()]


def changes(stored: dict[str, list[Split]], reported: Sequence[Split], today: date = TODAY) -> dict[str, list[Split]]:
    result = split_changes(stored, reported, OURS, today)
    assert result.refused == []
    return result.changed


def test_a_new_symbols_splits_are_all_of_them_oldest_first() -> None:
    assert changes({}, APPLE[::-1]) == {"AAPL": APPLE}


def test_splits_as_they_are_known_are_no_change() -> None:
    assert changes({"AAPL": APPLE}, APPLE[::-1]) == {}


def test_a_new_split_changes_its_symbol_and_no_other() -> None:
    stored = {"AAPL": [split(day=BEFORE)], "MSFT": [split("MSFT")]}
    assert changes(stored, [*APPLE, split("MSFT")]) == {"AAPL": APPLE}


def test_a_factor_that_differs_is_a_change() -> None:
    restated = [replace(APPLE[0], historical_adjustment_factor=0.25001), APPLE[1]]
    assert changes({"AAPL": APPLE}, restated) == {"AAPL": restated}


def test_factors_that_contradict_the_ratios_are_replaced_by_what_the_ratios_make_and_named() -> None:
    both_half = [replace(APPLE[0], historical_adjustment_factor=0.5), APPLE[1]]
    result = split_changes({"AAPL": both_half}, both_half, OURS, TODAY)
    assert result.changed == {"AAPL": APPLE}
    assert result.repaired == both_half[:1]


def test_a_split_that_contradicts_is_repaired_also_while_another_is_announced() -> None:
    both_half = [replace(APPLE[0], historical_adjustment_factor=0.5), APPLE[1]]
    result = split_changes({}, [*both_half, split(day=TOMORROW, factor=1 / 7, to=7.0)], OURS, TODAY)
    assert (result.changed, result.repaired) == ({"AAPL": APPLE}, both_half[:1])


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_two_splits_on_one_day_the_ids_order_means_nothing(names: tuple[str, str]) -> None:
    # 1-for-100, and 100-for-1 right after: together they change nothing.
    away = replace(split(factor=1.0, to=1.0, name=names[0]), split_from=100.0)
    back = split(factor=0.01, to=100.0, name=names[1])
    result = split_changes({}, [away, back], OURS, TODAY)
    assert result.repaired == []
    assert reference_of(result.changed["AAPL"], []).splits == ((TODAY, 1.0),)


def test_a_symbol_whose_splits_are_withdrawn_has_none() -> None:
    stored = {"AAPL": APPLE, "MSFT": [split("MSFT")]}
    assert changes(stored, APPLE) == {"MSFT": []}


def test_a_split_of_a_symbol_that_is_not_ours_is_left_out() -> None:
    assert changes({}, [split("OTC")]) == {}


def test_a_split_reported_twice_counts_once() -> None:
    assert changes({}, [*APPLE, APPLE[0]]) == {"AAPL": APPLE}


def test_a_split_waits_for_its_day() -> None:
    stored = {"AAPL": [split(day=BEFORE)]}
    announced = split(day=TOMORROW, name="announced")
    assert changes(stored, [split(day=BEFORE), announced]) == {}
    reported = [split(day=BEFORE, factor=0.25), announced]
    assert changes(stored, reported, TOMORROW) == {"AAPL": reported}


def test_the_factor_of_a_split_that_is_announced_is_not_in_those_before_it() -> None:
    # 7-for-1 announced, and every factor multiplied by 1/7 already.
    sevenfold = split(day=TOMORROW, factor=1 / 7, to=7.0)
    ahead = [
        replace(past_split, historical_adjustment_factor=past_split.historical_adjustment_factor / 7)
        for past_split in APPLE
    ]
    changed = changes({}, [*ahead, sevenfold])["AAPL"]
    assert [past_split.historical_adjustment_factor for past_split in changed] == pytest.approx([0.25, 0.5])
    assert changes({}, [*ahead, sevenfold], TOMORROW) == {"AAPL": [*ahead, sevenfold]}


def test_factors_that_do_not_know_of_the_announced_split_stay_as_they_are() -> None:
    assert changes({}, [*APPLE, split(day=TOMORROW, factor=1 / 7, to=7.0)]) == {"AAPL": APPLE}


@pytest.mark.parametrize("number", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("field", ["split_from", "split_to", "historical_adjustment_factor"])
def test_a_split_that_cannot_be_is_refused_and_its_symbol_keeps_what_is_known(field: str, number: float) -> None:
    broken = replace(split(), **{field: number})
    result = split_changes({"AAPL": [split(day=BEFORE)]}, [split(day=BEFORE), broken, split("MSFT")], OURS, TODAY)
    assert result.changed == {"MSFT": [split("MSFT")]}
    assert [str(refusal) for refusal in result.refused] == [str(broken)]


def test_symbols_in_doubt_are_written_whatever_is_known_of_them() -> None:
    broken = replace(split("MSFT"), split_to=0.0)
    stored = {"AAPL": APPLE, "MSFT": [split("MSFT")]}
    result = split_changes(stored, [*APPLE, broken], OURS, TODAY, in_doubt={"AAPL", "MSFT", "GONE"})
    assert result.changed == {"AAPL": APPLE, "GONE": [], "MSFT": [split("MSFT")]}


def test_a_list_of_fewer_than_half_of_the_known_splits_is_not_trusted() -> None:
    stored = {"AAPL": APPLE, "MSFT": [split("MSFT")]}
    with pytest.raises(UpstreamError, match=r"reports 1 splits where 3 are known, fewer than half"):
        split_changes(stored, APPLE[:1], OURS, TODAY)
    assert changes(stored, APPLE) == {"MSFT": []}


SPLITS = st.lists(
    st.builds(
        split, st.sampled_from(["AAPL", "MSFT", "OTC"]), st.dates(BEFORE, TOMORROW), st.floats(0.01, 100),
        st.floats(0.01, 100), st.sampled_from(["a", "b", "c", "d"]),
    ),
    max_size=8,
)  # fmt: skip


@given(first=SPLITS, second=SPLITS)
def test_what_is_taken_over_is_what_is_reported_and_then_nothing_is_left_to_change(
    first: list[Split], second: list[Split]
) -> None:
    stored = split_changes({}, first, OURS, TODAY).changed
    try:
        now = {symbol: splits for symbol, splits in (stored | changes(stored, second)).items() if splits}
    except UpstreamError:
        return
    assert now == split_changes({}, second, OURS, TODAY).changed
    assert changes(now, second) == {}
    assert all(
        taken_over.symbol == symbol and taken_over.execution_date <= TODAY
        for symbol, of in now.items()
        for taken_over in of
    )

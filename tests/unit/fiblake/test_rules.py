import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.rules import NUMBER_COLUMNS, broken_rules, unbroken

BAR = {"open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 0.0}


def test_a_bar_whose_prices_lie_between_low_and_high_breaks_nothing() -> None:
    assert broken_rules(BAR) == []
    assert broken_rules(dict.fromkeys(("open", "high", "low", "close"), 5.0) | {"volume": 25933.6}) == []


@pytest.mark.parametrize("name", ["open", "high", "low", "close"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_price_that_is_not_a_positive_number_is_named(name: str, value: float) -> None:
    assert f"{name} {value} is not a positive number" in broken_rules(BAR | {name: value})


@pytest.mark.parametrize("volume", [-0.5, math.nan, math.inf])
def test_a_volume_that_is_no_number_of_shares_is_named(volume: float) -> None:
    assert broken_rules(BAR | {"volume": volume}) == [f"volume {volume} is not a number of shares"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"high": 10.5}, "high 10.5 is below another price"),
        ({"high": 8.0}, "high 8.0 is below another price"),
        ({"low": 10.5}, "low 10.5 is above another price"),
        ({"low": 11.5, "open": 12.0}, "low 11.5 is above another price"),
        ({"high": 10.9999999}, "high 10.9999999 is below another price"),
        ({"low": 10.0000001}, "low 10.0000001 is above another price"),
    ],
)
def test_extremes_that_other_prices_pass_are_named(wrong: dict[str, float], reason: str) -> None:
    assert reason in broken_rules(BAR | wrong)


@pytest.mark.parametrize("noise", [{"close": 0.1 + 0.2, "high": 0.3}, {"open": 0.1 * 3, "low": 0.3}])
def test_what_arithmetic_on_prices_leaves_is_no_contradiction(noise: dict[str, float]) -> None:
    price = {"open": 0.3, "high": 0.3, "low": 0.3, "close": 0.3}
    assert broken_rules(BAR | price | noise) == []


SOME = [0.0, -0.0, 1.0, 1 + 1e-9, 1 + 2e-9, 2.0, 3.0]
NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from(SOME)
BARS = st.fixed_dictionaries(dict.fromkeys(NUMBER_COLUMNS, NUMBERS))
NEARLY_GOOD = st.builds(lambda name, value: BAR | {name: value}, st.sampled_from(NUMBER_COLUMNS), NUMBERS)
"""A valid bar except for one number, so that a rule about one number alone is tested, too."""


@given(bars=st.lists(BARS | NEARLY_GOOD, max_size=4))
def test_many_bars_at_once_are_judged_as_one_by_one(bars: list[dict[str, float]]) -> None:
    columns = {name: [bar[name] for bar in bars] for name in NUMBER_COLUMNS}
    assert unbroken(columns).tolist() == [not broken_rules(bar) for bar in bars]

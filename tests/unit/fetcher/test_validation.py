import math
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.calendar import nyse
from services.fetcher.validation import VendorBar, faults

GOOD = VendorBar("AAPL", date(2025, 11, 19), 10.0, 12.0, 9.0, 11.0, 1000.5, 10.6, 17)


def of(**changes: object) -> list[str]:
    return faults(replace(GOOD, **changes), nyse())  # type: ignore[arg-type]


def test_a_bar_as_it_should_be_has_no_fault() -> None:
    assert of() == []


@pytest.mark.parametrize("symbol", ["A", "BRK.B", "KIMpL", "X" * 16, "A-B", "0"])
def test_a_ticker_that_can_be_a_key_is_accepted(symbol: str) -> None:
    assert of(symbol=symbol) == []


@pytest.mark.parametrize("symbol", ["", "X" * 17, "A/B", "..", "~", "A B", "A=B", "Ä", "A\n", "\x00"])
def test_a_ticker_that_cannot_be_a_key_is_a_fault(symbol: str) -> None:
    assert of(symbol=symbol) == [f"symbol {symbol!r} cannot be a key"]


@pytest.mark.parametrize("name", ["open", "high", "low", "close"])
@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_price_that_is_no_positive_number_is_a_fault_that_names_it(name: str, value: float) -> None:
    assert of(**{name: value}) == [f"{name} {value} is not a positive number"]


@pytest.mark.parametrize("volume", [0.0, 0.25, 25933.6, 1e13])
def test_a_volume_may_be_zero_or_a_fraction(volume: float) -> None:
    assert of(volume=volume) == []


@pytest.mark.parametrize("volume", [-1.0, -0.001, math.nan, math.inf])
def test_a_volume_that_is_no_number_of_shares_is_a_fault(volume: float) -> None:
    assert of(volume=volume) == [f"volume {volume} is not a number of shares"]


def test_a_bar_of_one_price_is_accepted() -> None:
    assert of(open=5.0, high=5.0, low=5.0, close=5.0) == []


@pytest.mark.parametrize(
    "prices",
    [
        {"high": 10.999},  # below close
        {"high": 9.5, "close": 9.5},  # below open
        {"high": 10.0, "open": 9.5, "close": 9.5, "low": 10.5},  # below low
    ],
)
def test_a_high_below_another_price_is_a_fault(prices: dict[str, float]) -> None:
    assert of(**prices) == [f"high {prices['high']} is below another price"]


@pytest.mark.parametrize("prices", [{"low": 10.001}, {"low": 10.5, "open": 11.0, "close": 10.25}])
def test_a_low_above_another_price_is_a_fault(prices: dict[str, float]) -> None:
    assert of(**prices) == [f"low {prices['low']} is above another price"]


@pytest.mark.parametrize(
    ("session", "reason"),
    [
        (date(2025, 11, 22), "2025-11-22 is not a session of the NYSE"),  # a Saturday
        (date(1963, 12, 25), "1963-12-25 is not a session of the NYSE"),
        (date(1961, 12, 29), "outside the trading calendar"),
        (date(2099, 1, 5), "outside the trading calendar"),
    ],
)
def test_a_day_that_was_no_session_is_a_fault(session: date, reason: str) -> None:
    [fault] = of(session=session)
    assert reason in fault


def test_every_reason_is_given() -> None:
    reasons = of(symbol="~", open=-1.0, close=math.nan, volume=-1.0, session=date(2025, 11, 22))
    assert [reason.split()[0] for reason in reasons] == ["symbol", "open", "close", "volume", "2025-11-22"]


ANY = st.floats(width=32) | st.sampled_from([0.0, 1.0, 2.0])


@given(prices=st.tuples(ANY, ANY, ANY, ANY), volume=ANY)
def test_a_bar_is_accepted_only_if_its_numbers_can_be_true(
    prices: tuple[float, float, float, float], volume: float
) -> None:
    open_, high, low, close = prices
    possible = all(0 < p < math.inf for p in prices) and 0 <= volume < math.inf
    possible = possible and low <= min(open_, close) and max(open_, close) <= high
    assert (of(open=open_, high=high, low=low, close=close, volume=volume) == []) == possible

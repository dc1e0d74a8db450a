"""Total return: prices with dividends, computed by hand, by simulation, and from the vendor's factors."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.adjustment import NO_REFERENCE, Payout, Reference
from fiblake.aggregate import Bars
from fiblake.bars import Consolidated
from fiblake.calendar import nyse
from fiblake.errors import ContractError
from tests.fakes import NOON, bar, table

BEFORE = date(1999, 12, 31)
SESSIONS = ("2024-06-05", "2024-06-06", "2024-06-07", "2024-06-10", "2024-06-11", "2024-06-12")
CLOSES = (100.0, 110.0, 110.0, 56.0, 57.0, 58.0)
BOTH_ON_ONE_DAY = Reference(
    splits=((date(2024, 6, 10), 0.5),),
    dividends=(Payout(date(2024, 6, 10), 0.55, 0.9702), Payout(date(2024, 6, 12), 1.14, 0.98)),
)
"""On 2024-06-10 one share became two, and each of the two paid 0.55; on 2024-06-12 a share paid 1.14."""
BY_HAND = (0.4851, 0.4851, 0.4851, 0.98, 0.98, 1.0)
"""The close of 110.00 before the split is 55.00 a new share: 0.55 is 1 % of it, 1.14 is 2 % of 57.

0.5 * 0.99 * 0.98 is 0.4851.
"""


def days(*sessions: str) -> Any:  # noqa: ANN401 (numpy's array of days)
    return np.array(sessions, dtype="datetime64[D]")


def total(
    reference: Reference, sessions: tuple[str, ...] = SESSIONS, closes: tuple[float, ...] = CLOSES
) -> list[float]:
    return list(reference.total_factors(days(*sessions), np.array(closes)))


def disputes(reference: Reference) -> list[str]:
    return [str(dispute) for dispute in reference.payout_disputes(days(*SESSIONS), np.array(CLOSES))]


def test_a_split_and_a_dividend_on_one_day_are_as_worked_by_hand() -> None:
    assert total(BOTH_ON_ONE_DAY) == pytest.approx(BY_HAND, rel=1e-12)


def test_without_dividends_total_return_is_adjustment_for_splits() -> None:
    plain = BOTH_ON_ONE_DAY.of_silver
    assert plain == Reference(BOTH_ON_ONE_DAY.splits)
    assert total(plain) == list(plain.factors(days(*SESSIONS)))
    assert total(NO_REFERENCE) == [1.0] * 6
    assert plain.total_factors(days(), np.array([])).size == 0


def test_an_announced_dividend_changes_nothing_until_a_bar_shows_it() -> None:
    assert total(BOTH_ON_ONE_DAY, SESSIONS[:5], CLOSES[:5]) == pytest.approx([0.495, 0.495, 0.495, 1.0, 1.0])
    assert total(BOTH_ON_ONE_DAY, SESSIONS[:3], CLOSES[:3]) == [1.0, 1.0, 1.0]


def test_a_dividend_without_a_bar_before_it_changes_nothing() -> None:
    assert total(BOTH_ON_ONE_DAY, SESSIONS[3:], CLOSES[3:]) == pytest.approx([0.98, 0.98, 1.0])


def test_a_dividend_after_the_only_bar_changes_nothing() -> None:
    assert total(BOTH_ON_ONE_DAY, SESSIONS[:1], CLOSES[:1]) == [1.0]


def test_dividends_stop_at_a_handover() -> None:
    two = Reference(
        handovers=(date(2024, 6, 10),), dividends=(Payout(date(2024, 6, 7), 11.0), Payout(date(2024, 6, 12), 5.7))
    )
    assert total(two) == pytest.approx([0.9, 0.9, 1.0, 0.9, 0.9, 1.0])


def test_a_dividend_of_the_day_of_a_handover_has_no_close_before_it() -> None:
    assert total(Reference(handovers=(date(2024, 6, 10),), dividends=(Payout(date(2024, 6, 10), 1.0),))) == [1.0] * 6


def test_a_dividend_of_a_day_without_a_bar_counts_from_the_next_one() -> None:
    reference = Reference(dividends=(Payout(date(2024, 6, 6), 10.0),))
    assert total(reference, (SESSIONS[0], SESSIONS[2]), (100.0, 95.0)) == pytest.approx([0.9, 1.0])


@pytest.mark.parametrize(("cash", "close"), [(110.0, 110.0), (200.0, 110.0), (1.0, 0.0), (1.0, float("nan"))])
def test_cash_that_is_not_less_than_the_close_before_is_not_applied_and_disputed(cash: float, close: float) -> None:
    reference = Reference(dividends=(Payout(date(2024, 6, 10), cash),))
    closes = np.array([100.0, 110.0, close, 56.0, 57.0, 58.0])
    assert list(reference.total_factors(days(*SESSIONS), closes)) == [1.0] * 6
    (dispute,) = reference.payout_disputes(days(*SESSIONS), closes)
    assert (dispute.ex_date, dispute.cash, dispute.derived, dispute.reported) == (date(2024, 6, 10), cash, 1.0, None)


def test_bars_take_total_return_into_prices_and_only_splits_into_volume() -> None:
    rows = table(*(bar(day, close) for day, close in zip(SESSIONS, CLOSES, strict=True)))
    adjusted = {
        mode: Bars.of("AAPL", rows, nyse(), BOTH_ON_ONE_DAY, adjust=mode) for mode in ("raw", "splits", "total")
    }  # type: ignore[arg-type]
    assert list(adjusted["raw"].close) == list(CLOSES)
    assert list(adjusted["splits"].close) == [50, 55, 55, 56, 57, 58]
    assert list(adjusted["total"].close) == pytest.approx([c * f for c, f in zip(CLOSES, BY_HAND, strict=True)])
    assert list(adjusted["total"].high) == pytest.approx([(c + 1) * f for c, f in zip(CLOSES, BY_HAND, strict=True)])
    assert list(adjusted["total"].volume) == list(adjusted["splits"].volume) == [2000] * 3 + [1000] * 3
    assert list(adjusted["raw"].volume) == [1000] * 6


# ------------------------------------------------------------------------------------------------ the vendor's factors


def test_factors_of_the_vendor_that_agree_are_no_dispute() -> None:
    assert disputes(BOTH_ON_ONE_DAY) == []
    rounded = (Payout(date(2024, 6, 10), 0.55, 0.97021), Payout(date(2024, 6, 12), 1.14, 0.98))
    assert disputes(Reference(BOTH_ON_ONE_DAY.splits, dividends=rounded)) == []


def test_the_vendor_computes_as_we_do_by_the_example_of_its_documentation() -> None:
    """AAPL's 0.26 of 2025-08-11 has the factor 0.997899 there; the next dividend is 0.26 of 2025-11-10."""
    reference = Reference(dividends=(Payout(date(2025, 8, 11), 0.26), Payout(date(2025, 11, 10), 0.26)))
    sessions, closes = ("2025-08-08", "2025-08-11", "2025-11-07", "2025-11-10"), (229.35, 227.18, 268.47, 269.43)
    factors = total(reference, sessions, closes)
    assert round(factors[0], 6) == 0.997899
    at_the_ex_dates_close = 227.18 / (227.18 + 0.26) * 269.43 / (269.43 + 0.26)
    assert round(at_the_ex_dates_close, 6) != 0.997899


def test_a_factor_that_contradicts_cash_and_close_is_disputed_and_ours_stays() -> None:
    payouts = (Payout(date(2024, 6, 10), 0.55, 0.9506), Payout(date(2024, 6, 12), 1.14, 0.98))
    wrong = Reference(BOTH_ON_ONE_DAY.splits, dividends=payouts)
    assert disputes(wrong) == ["2024-06-10: cash 0.55 makes 0.990000, the vendor says 0.970000"]
    assert total(wrong) == total(BOTH_ON_ONE_DAY)


def test_only_the_wrong_one_of_cumulative_factors_is_disputed() -> None:
    payouts = (Payout(date(2024, 6, 6), 1.0, 0.99 * 0.95), Payout(date(2024, 6, 12), 1.14, 0.95))
    assert disputes(Reference(dividends=payouts)) == ["2024-06-12: cash 1.14 makes 0.980000, the vendor says 0.950000"]


def test_what_the_vendor_gives_no_factor_of_is_not_disputed() -> None:
    assert disputes(Reference(dividends=(Payout(date(2024, 6, 6), 1.0), Payout(date(2024, 6, 12), 1.14, 0.98)))) == []
    assert disputes(Reference(dividends=(Payout(date(2024, 6, 6), 1.0, 0.7), Payout(date(2024, 6, 12), 1.14)))) == []


@pytest.mark.parametrize("factor", [0.99, 0.99 * 0.98])
def test_an_announced_dividend_may_or_may_not_be_in_the_factors_before_it(factor: float) -> None:
    payouts = (Payout(date(2024, 6, 6), 1.0, factor), Payout(date(2024, 6, 13), 1.14, 0.98))
    assert disputes(Reference(dividends=payouts)) == []


def test_cash_in_another_currency_is_not_applied_and_disputed() -> None:
    foreign = Reference(dividends=(Payout(date(2024, 6, 6), 0.0, 0.97),))
    assert total(foreign) == [1.0] * 6
    assert disputes(foreign) == ["2024-06-06: cash 0 makes 1.000000, the vendor says 0.970000"]


# ------------------------------------------------------------------------------------------------------------ at rest


def test_dividends_travel_with_the_reference() -> None:
    payouts = (Payout(date(2024, 6, 10), 0.55, 0.9702), Payout(date(2024, 6, 12), 1.14))
    reference = Reference(BOTH_ON_ONE_DAY.splits, (date(2003, 1, 2),), payouts)
    assert Reference.from_json(reference.to_json()) == reference
    stored = Consolidated(table(bar("2024-06-10")), {}, NOON, reference)
    assert Consolidated.decode(stored.encode(), "AAPL", NOON).reference == reference


def test_the_earlier_version_reads_what_is_written_and_writes_what_is_read() -> None:
    # It reads two fields by name, and ignores others.
    assert '"splits": [["2024-06-10", 0.5]], "handovers": []' in BOTH_ON_ONE_DAY.to_json()
    assert BOTH_ON_ONE_DAY.of_silver.to_json() == '{"splits": [["2024-06-10", 0.5]], "handovers": []}'
    assert Reference.from_json('{"splits": [["2024-06-10", 0.5]], "handovers": []}') == BOTH_ON_ONE_DAY.of_silver


@pytest.mark.parametrize(
    "entry", ['["2024-06-10", -1, null]', '["2024-06-10", NaN, null]', '["2024-06-10", 1, 0]', '["soon", 1, 1]',
              '["2024-06-10", 1]', '["2024-06-10", null, 1]', "7"]
)  # fmt: skip
def test_dividends_that_cannot_be_are_an_error(entry: str) -> None:
    with pytest.raises(ContractError):
        Reference.from_json('{"splits": [], "handovers": [], "dividends": [' + entry + "]}")


# -------------------------------------------------------------------------------------------------------- by simulation

DAYS = st.integers(1, 60)
PART = st.floats(0.0001, 0.3)


def wealth(
    closes: Mapping[int, float], ratios: Mapping[int, float], cash: Mapping[int, float], handovers: set[int]
) -> dict[int, float]:
    """Return the value, at each bar, of the holding of an investor who buys one share at the company's first bar, and
    reinvests.

    Day by day: a split multiplies the shares, a dividend pays each share; at the next bar the cash has bought shares at
    the close before, less what was paid of it.
    """
    worth: dict[int, float] = {}
    shares, paid, before = 1.0, 0.0, None
    for day in range(61):
        if day in handovers:
            shares, paid, before = 1.0, 0.0, None
        held = shares
        if before is not None:
            shares *= ratios.get(day, 1.0)
            held = shares
            paid += held * cash.get(day, 0.0)
        if day in closes:
            if before is not None and paid:
                shares *= before / (before - paid)
            worth[day] = shares * closes[day]
            paid, before = 0.0, worth[day]
    return worth


@given(
    closes=st.dictionaries(st.integers(0, 60), st.floats(0.5, 900.0), min_size=2, max_size=40),
    ratios=st.dictionaries(DAYS, st.sampled_from([0.1, 0.5, 2.0, 3.0, 20.0]), max_size=3),
    parts=st.dictionaries(DAYS, PART, max_size=8),
    handovers=st.sets(DAYS, max_size=2),
)
def test_prices_adjusted_for_total_return_move_as_a_daily_reinvestment_does(
    closes: dict[int, float], ratios: dict[int, float], parts: dict[int, float], handovers: set[int]
) -> None:
    bars = sorted(closes)
    # Cash is a part of the last close, a share as on its own day; three in a gap between bars leave something of it.
    cash = {}
    for day, part in parts.items():
        last = max((b for b in bars if b < day), default=None)
        if last is not None:
            split = np.prod([ratio for at, ratio in ratios.items() if last < at <= day])
            in_gap = [d for d in parts if last < d <= min([b for b in bars if b > last], default=61)]
            cash[day] = closes[last] / split * part / len(in_gap)
    cumulative, splits = 1.0, []
    for day in sorted(ratios, reverse=True):
        cumulative /= ratios[day]
        splits.insert(0, (BEFORE + timedelta(day), cumulative))
    dividends = tuple(Payout(BEFORE + timedelta(day), cash[day]) for day in sorted(cash))
    reference = Reference(tuple(splits), tuple(BEFORE + timedelta(day) for day in sorted(handovers)), dividends)
    sessions = days(*(str(BEFORE + timedelta(day)) for day in bars))
    factors = reference.total_factors(sessions, np.array([closes[day] for day in bars]))
    simulated = wealth(closes, ratios, cash, handovers)
    company = reference.companies(sessions)
    for i in range(1, len(bars)):
        if company[i] == company[i - 1]:
            grown = simulated[bars[i]] / simulated[bars[i - 1]]
            adjusted = closes[bars[i]] * factors[i] / (closes[bars[i - 1]] * factors[i - 1])
            assert adjusted == pytest.approx(grown, rel=1e-9)

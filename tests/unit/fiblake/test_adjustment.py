import csv
import gzip
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.adjustment import NO_REFERENCE, Reference
from fiblake.errors import ContractError

AAPL = Reference(((date(2000, 6, 21), 0.25), (date(2005, 2, 28), 0.5)))
"""Two 2-for-1 splits: a share of May 2000 is four of today's, a share of 2003 is two."""
DEMO = {
    "AAPL": [(date(2000, 6, 21), 1, 2), (date(2005, 2, 28), 1, 2)],
    "MSFT": [(date(2003, 2, 18), 1, 2)],
    "IBM": [],
    "GOOG": [],
    "FB": [],
}


def factors(reference: Reference, *days: str) -> list[float]:
    return list(reference.factors(np.array(days, dtype="datetime64[D]")))


@pytest.mark.parametrize(
    ("day", "factor"),
    [
        ("1999-12-31", 0.25),
        ("2000-06-20", 0.25),
        ("2000-06-21", 0.5),
        ("2005-02-25", 0.5),
        ("2005-02-28", 1.0),
        ("2013-03-01", 1.0),
    ],
)
def test_aapls_price_is_multiplied_by_the_factor_of_the_first_split_after_it(day: str, factor: float) -> None:
    assert factors(AAPL, day) == [factor]


def test_without_splits_every_factor_is_one() -> None:
    assert factors(NO_REFERENCE, "1962-01-02", "2025-11-19") == [1.0, 1.0]
    assert factors(Reference(handovers=(date(2000, 1, 3),)), "1962-01-02", "2025-11-19") == [1.0, 1.0]


def test_a_reverse_split_raises_the_prices_before_it() -> None:
    assert factors(Reference(((date(2011, 5, 9), 10.0),)), "2011-05-06", "2011-05-09") == [10.0, 1.0]


def test_of_two_companies_each_has_its_own_splits_only() -> None:
    # The first split its shares 2-for-1 in 2003, the second, which has the symbol since 2006, 4-for-1 in 2010. The
    # vendor's factors are cumulative over all of the symbol: 1/8 and 1/4.
    two = Reference(((date(2003, 3, 3), 0.125), (date(2010, 3, 1), 0.25)), (date(2006, 1, 3),))
    assert factors(two, "2003-02-28", "2003-03-03", "2005-12-30") == [0.5, 1.0, 1.0]
    assert factors(two, "2006-01-03", "2010-02-26", "2010-03-01") == [0.25, 0.25, 1.0]


def test_a_split_on_the_day_of_a_handover_belongs_to_the_new_company_which_has_no_bar_before_it() -> None:
    both = Reference(((date(2006, 1, 3), 0.5),), (date(2006, 1, 3),))
    assert factors(both, "2005-12-30", "2006-01-03") == [1.0, 1.0]


def test_a_split_that_no_bar_of_its_company_shows_changes_nothing_of_it() -> None:
    # The first company's last bar is of 2005-11-30; its split of 2005-12-15 no bar of its own shows, and the second
    # company's bars, which begin in 2006, are not relative to it.
    late = Reference(((date(2003, 3, 3), 0.1), (date(2005, 12, 15), 0.2)), (date(2006, 1, 3),))
    assert factors(late, "2003-02-28", "2003-03-03", "2005-11-30", "2006-01-03") == [0.5, 1.0, 1.0, 1.0]
    assert factors(late, "2003-02-28", "2005-12-15", "2006-01-03") == [0.1, 1.0, 1.0]
    assert factors(late, "2003-02-28", "2005-11-30") == [0.5, 1.0]


def test_a_company_that_never_split_between_two_that_did_is_left_alone() -> None:
    three = Reference(
        ((date(2001, 2, 1), 0.25), (date(2009, 2, 2), 0.5)), (date(2003, 1, 2), date(2006, 1, 3))
    )  # fmt: skip
    assert factors(three, "2001-01-31", "2002-12-31", "2004-06-01", "2009-01-30", "2009-02-02") == [
        0.5, 1.0, 1.0, 0.5, 1.0,
    ]  # fmt: skip


def test_a_session_is_of_the_company_that_took_over_last() -> None:
    reference = Reference(handovers=(date(2003, 1, 2), date(2006, 1, 3)))
    days = np.array(["2002-12-31", "2003-01-02", "2006-01-02", "2006-01-03"], dtype="datetime64[D]")
    assert list(reference.companies(days)) == [0, 1, 1, 2]


def test_a_split_is_left_out_until_a_bar_shows_it() -> None:
    assert AAPL.as_of(date(2000, 6, 20)) == NO_REFERENCE
    assert AAPL.as_of(date(2000, 6, 21)) == AAPL.as_of(date(2005, 2, 25)) == Reference(((date(2000, 6, 21), 0.5),))
    assert AAPL.as_of(date(2005, 2, 28)) is AAPL


def test_what_is_written_is_read() -> None:
    reference = Reference(AAPL.splits, (date(2003, 1, 2),))
    assert Reference.from_json(reference.to_json()) == reference
    assert Reference.from_json(NO_REFERENCE.to_json()) == NO_REFERENCE


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"splits": [5], "handovers": []}', '{"splits": 5}'])
def test_another_text_is_an_error(text: str) -> None:
    with pytest.raises(ContractError):
        Reference.from_json(text)


DAYS = st.dates(date(2000, 1, 1), date(2000, 3, 31))


@given(
    ratios=st.dictionaries(DAYS, st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=6),
    handovers=st.sets(DAYS, max_size=3),
    last=DAYS,
)
def test_factors_are_the_product_of_the_ratios_of_the_companys_later_splits(
    ratios: dict[date, tuple[int, int]], handovers: set[date], last: date
) -> None:
    cumulative, splits = 1.0, []
    for day in sorted(ratios, reverse=True):
        cumulative *= ratios[day][0] / ratios[day][1]
        splits.insert(0, (day, cumulative))
    reference = Reference(tuple(splits), tuple(sorted(handovers))).as_of(last)
    days = [date(1999, 12, 31) + timedelta(days=n) for n in range(95)]
    for day, factor in zip(days, factors(reference, *map(str, days)), strict=True):
        product = 1.0
        for split, (before, after) in ratios.items():
            if day < split <= last and not any(day < handover <= split for handover in handovers):
                product *= before / after
        assert factor == pytest.approx(product, rel=1e-12)


def test_the_ratios_across_split_days_are_those_of_another_sources_adjusted_prices() -> None:
    """Their column is also adjusted for dividends, so steps from one session to the next are compared.

    The greatest dividend, MSFT's of November 2004, is a step of a tenth.
    """
    spec = find_spec("bokeh_sampledata")
    assert spec
    assert spec.submodule_search_locations
    theirs: dict[str, list[tuple[str, float]]] = {}
    with gzip.open(Path(spec.submodule_search_locations[0], "_data", "stocks.csv.gz"), "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            day = (row["Date"], float(row["Adj Close"]) / float(row["Close"]))
            theirs.setdefault(row["Ticker"], []).append(day)
    assert theirs.keys() == DEMO.keys()
    for symbol, ratios in DEMO.items():
        days, adjusted = zip(*sorted(theirs[symbol]), strict=True)
        cumulative = np.cumprod([before / after for _, before, after in reversed(ratios)])[::-1]
        ours = Reference(tuple((day, float(f)) for (day, _, _), f in zip(ratios, cumulative, strict=True)))
        steps, their_steps = (np.divide(f[1:], f[:-1]) for f in (factors(ours, *days), adjusted))
        assert steps == pytest.approx(their_steps, rel=0.12)
        split = steps != 1
        assert [day for day, here in zip(days[1:], split, strict=True) if here] == [str(day) for day, _, _ in ratios]
        assert steps[split] == pytest.approx(their_steps[split], rel=0.001)

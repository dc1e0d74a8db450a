from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.adjustment import NO_REFERENCE, Payout, Reference
from fiblake.errors import ContractError
from fiblake.reference import (
    Dividend,
    Identity,
    Split,
    dividends_file,
    identities_file,
    read_dividends,
    read_identities,
    read_splits,
    reference_of,
    splits_file,
)
from tests.fakes import bar, companies, dividend, parquet, splits

AAPL = splits(("2000-06-21", 1, 2), ("2005-02-28", 1, 2))
TWO = companies("1980-12-12", "2003-01-02")


def written(rows: Sequence[dict[str, Any]]) -> bytes:
    """Write a file as another program would."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return bytes(sink.getvalue().to_pybytes())


def row(split: Split = AAPL[0], **changed: object) -> dict[str, Any]:
    names = ("symbol", "execution_date", "split_from", "split_to", "adjustment_type", "id")
    values = {name: getattr(split, name) for name in (*names, "historical_adjustment_factor")}
    return {name: value for name, value in (values | changed).items() if value is not ...}


def test_splits_are_read_as_they_were_written_oldest_first() -> None:
    assert read_splits(splits_file(AAPL[::-1]), "AAPL") == tuple(AAPL)
    assert [split.historical_adjustment_factor for split in AAPL] == [0.25, 0.5]


def test_companies_are_read_as_they_were_written_oldest_first() -> None:
    assert read_identities(identities_file(TWO[::-1]), "AAPL") == tuple(TWO)
    assert TWO[0].valid_to == date(2003, 1, 1)
    assert TWO[1].valid_to is None


def test_no_splits_and_no_companies_are_files_too() -> None:
    assert read_splits(splits_file([]), "AAPL") == ()
    assert read_identities(identities_file([]), "AAPL") == ()


def test_a_file_that_others_wrote_may_have_more_columns_other_types_and_any_order() -> None:
    day = datetime(2000, 6, 21)  # noqa: DTZ001 (as pandas writes it)
    rows = [row(AAPL[1]), row(AAPL[0])]
    for values in rows:
        values |= {"split_from": 1, "split_to": 2, "more": "columns"}
    rows[1] |= {"execution_date": day}
    rows[0] |= {"execution_date": datetime(2005, 2, 28)}  # noqa: DTZ001
    assert read_splits(written(rows), "AAPL") == tuple(AAPL)


def test_of_a_company_only_symbol_and_first_session_must_be_told() -> None:
    (company,) = read_identities(written([{"symbol": "AAPL", "valid_from": date(1980, 12, 12)}]), "AAPL")
    assert company == Identity("AAPL", date(1980, 12, 12), None, None, None)


@pytest.mark.parametrize("data", [b"", b"no Parquet", parquet(bar("2025-11-19")), splits_file(AAPL)[:-9]])
def test_what_is_no_file_of_splits_or_companies_is_refused(data: bytes) -> None:
    with pytest.raises(ContractError, match="the splits of AAPL cannot be read"):
        read_splits(data, "AAPL")
    with pytest.raises(ContractError, match="the identities of AAPL cannot be read"):
        read_identities(data, "AAPL")


@pytest.mark.parametrize(
    "changed",
    [{"execution_date": None}, {"execution_date": ...}, {"historical_adjustment_factor": ...}, {"id": None},
     {"execution_date": "soon"}, {"split_to": "two"}],
)  # fmt: skip
def test_a_split_that_does_not_say_what_is_needed_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="the splits of AAPL cannot be read"):
        read_splits(written([row(**changed)]), "AAPL")


@pytest.mark.parametrize("factor", [0.0, -0.5, float("nan"), float("inf")])
def test_a_factor_that_cannot_be_is_refused_and_named(factor: float) -> None:
    broken = replace(AAPL[0], historical_adjustment_factor=factor)
    sentence = f"the splits of AAPL hold one that cannot be: AAPL on 2000-06-21, factor {factor}"
    with pytest.raises(ContractError, match=f"^{sentence}$"):
        read_splits(splits_file([broken, AAPL[1]]), "AAPL")


@pytest.mark.parametrize("changed", [{"split_from": 0.0}, {"split_to": -2.0}, {"split_to": float("nan")}])
def test_a_ratio_that_cannot_be_is_refused_and_named(changed: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match=r"the splits of AAPL hold one that cannot be: .* on 2000-06-21$"):
        read_splits(splits_file([replace(AAPL[0], **changed), AAPL[1]]), "AAPL")


def test_factors_that_contradict_the_ratios_are_refused_and_named() -> None:
    both_half = [replace(split, historical_adjustment_factor=0.5) for split in AAPL]
    with pytest.raises(
        ContractError,
        match=r"on 2000-06-21 the cumulative factor is 0\.5, and the ratios of .* make 0\.25; set .* right and put",
    ):
        read_splits(splits_file(both_half), "AAPL")


def test_a_factor_that_is_rounded_does_not_contradict_and_is_kept() -> None:
    rounded = [replace(split, historical_adjustment_factor=round(split.historical_adjustment_factor, 4))
               for split in splits(("2000-06-21", 1, 7), ("2005-02-28", 1, 3))]  # fmt: skip
    assert read_splits(splits_file(rounded), "AAPL") == tuple(rounded)
    assert reference_of(rounded, []).splits == ((date(2000, 6, 21), 0.0476), (date(2005, 2, 28), 0.3333))


def test_one_split_under_two_ids_is_applied_once() -> None:
    twice = [*AAPL, replace(AAPL[1], id="another")]
    assert read_splits(splits_file(twice), "AAPL")
    assert reference_of(twice, []) == reference_of(AAPL, [])


@given(st.permutations(["a", "b", "c"]))
def test_of_several_splits_on_one_day_the_order_means_nothing(ids: list[str]) -> None:
    day, ratios = date(2024, 5, 1), [(100.0, 1.0), (1.0, 100.0), (1.0, 3.0)]
    cumulative = [1 / 3, 1 / 300, 1 / 3]
    of_day = [
        Split("AAPL", day, old, new, "", factor, name)
        for (old, new), factor, name in zip(ratios, cumulative, ids, strict=True)
    ]
    assert reference_of(read_splits(splits_file(of_day), "AAPL"), []).splits == ((day, pytest.approx(1 / 3)),)


def test_another_symbols_splits_or_companies_are_refused() -> None:
    with pytest.raises(ContractError, match="the splits of MSFT hold one that cannot be"):
        read_splits(splits_file(AAPL), "MSFT")
    with pytest.raises(ContractError, match="the identities of MSFT hold another symbol's"):
        read_identities(identities_file(TWO), "MSFT")


def test_the_reference_has_each_splits_day_and_factor_and_the_first_session_of_each_later_company() -> None:
    assert reference_of(AAPL, TWO) == Reference(
        ((date(2000, 6, 21), 0.25), (date(2005, 2, 28), 0.5)), (date(2003, 1, 2),)
    )
    assert reference_of([], TWO[:1]) == NO_REFERENCE


def test_a_split_from_between_two_companies_is_neithers_and_in_no_factor() -> None:
    old, new = TWO[0], replace(TWO[1], valid_from=date(2010, 1, 4))
    of_symbol = splits(("2000-06-21", 1, 2), ("2005-02-28", 10, 1), ("2006-02-28", 3, 1), ("2014-06-09", 1, 7))
    own = splits(("2000-06-21", 1, 2), ("2014-06-09", 1, 7))
    ended = replace(old, valid_to=date(2002, 12, 31))
    reference = reference_of(of_symbol, [ended, new])
    assert reference.handovers == (date(2010, 1, 4),)
    assert [day for day, _ in reference.splits] == [split.execution_date for split in own]
    days = np.array(["2000-06-20", "2002-12-31", "2010-01-04", "2014-06-09"], dtype="datetime64[D]")
    assert reference.factors(days) == pytest.approx([1 / 2, 1.0, 1 / 7, 1.0])


def test_a_split_of_a_company_that_gave_the_symbol_up_and_took_it_again_stays_its_own() -> None:
    again = replace(TWO[0], valid_from=date(2006, 1, 3), valid_to=None)
    ended = replace(TWO[0], valid_to=date(2004, 12, 31))
    assert reference_of(AAPL, [ended, again]).splits == ((date(2000, 6, 21), 0.25), (date(2005, 2, 28), 0.5))


def test_a_company_that_gave_the_symbol_up_and_took_it_again_is_no_handover() -> None:
    again = replace(TWO[0], valid_from=date(2001, 1, 2), valid_to=None)
    assert reference_of([], [TWO[0], again]) == NO_REFERENCE
    assert reference_of([], [*TWO, replace(again, valid_from=date(2009, 1, 2))]).handovers == (
        date(2003, 1, 2), date(2009, 1, 2),
    )  # fmt: skip


def test_two_companies_of_which_neither_figi_is_known_are_two() -> None:
    unknown = [replace(company, composite_figi=None) for company in TWO]
    assert reference_of([], unknown).handovers == (date(2003, 1, 2),)


@given(st.permutations(AAPL + splits(("2014-06-09", 1, 7))), st.permutations(companies("1980-12-12", "2003-01-02")))
def test_the_order_of_the_reports_does_not_matter(reported: list[Split], bearers: list[Identity]) -> None:
    assert reference_of(reported, bearers) == reference_of(sorted(reported, key=lambda s: s.execution_date), TWO)


# ----------------------------------------------------------------------------------------------------------- dividends

THREE = [dividend("2012-08-09", 2.65), dividend("2012-11-07", 2.65), dividend("2013-02-07", 2.65)]


def test_dividends_are_read_as_they_were_written_oldest_first() -> None:
    whole = replace(
        THREE[0], declaration_date=date(2012, 7, 24), record_date=date(2012, 8, 13), pay_date=date(2012, 8, 16),
        split_adjusted_cash_amount=0.094643, historical_adjustment_factor=0.986,
    )  # fmt: skip
    assert read_dividends(dividends_file([THREE[2], THREE[1], whole]), "AAPL") == (whole, *THREE[1:])
    assert read_dividends(dividends_file([]), "AAPL") == ()


def test_of_a_dividend_only_day_cash_and_id_must_be_told() -> None:
    day = date(2012, 8, 9)
    rows = [{"symbol": "AAPL", "ex_dividend_date": day, "cash_amount": 2.65, "id": "a", "more": "columns"}]
    nothing = (None,) * 8
    assert read_dividends(written(rows), "AAPL") == (Dividend("AAPL", day, 2.65, *nothing, "a"),)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (replace(THREE[0], cash_amount=0.0), "AAPL on 2012-08-09, cash_amount 0.0 is not a positive number"),
        (replace(THREE[0], cash_amount=float("inf")), "cash_amount inf is not a positive number"),
        (replace(THREE[0], historical_adjustment_factor=-1.0), "historical_adjustment_factor -1.0 is not a positive"),
        (replace(THREE[0], symbol="MSFT"), "the dividends of AAPL hold one of MSFT"),
    ],
)
def test_a_dividend_that_cannot_be_is_refused_and_named(broken: Dividend, reason: str) -> None:
    with pytest.raises(ContractError, match=f"{reason}.*; put a right file under the same key"):
        read_dividends(dividends_file([THREE[1], broken]), "AAPL")


@pytest.mark.parametrize("data", [b"", b"no Parquet", splits_file(AAPL)])
def test_what_is_no_file_of_dividends_is_refused(data: bytes) -> None:
    with pytest.raises(ContractError, match="the dividends of AAPL cannot be read"):
        read_dividends(data, "AAPL")


def test_the_reference_has_one_entry_an_ex_date_with_all_its_cash_and_the_whole_days_factor() -> None:
    regular = dividend("2004-11-15", 0.08, id="b", historical_adjustment_factor=0.95)
    special = dividend("2004-11-15", 3.0, id="a", distribution_type="special", historical_adjustment_factor=0.9)
    expected = (Payout(date(2004, 11, 15), 3.08, 0.9), Payout(date(2012, 8, 9), 2.65, None))
    assert reference_of([], [], [THREE[0], regular, special]).dividends == expected
    assert reference_of(AAPL, TWO, THREE).of_silver == reference_of(AAPL, TWO)


def test_one_dividend_under_two_ids_counts_once_and_two_of_one_day_twice() -> None:
    again = replace(THREE[0], id="another")
    assert reference_of([], [], [THREE[0], again]) == reference_of([], [], THREE[:1])
    special = replace(again, distribution_type="special")
    assert reference_of([], [], [THREE[0], special]).dividends[0].cash == 5.3


def test_cash_in_another_currency_is_not_known_in_dollars() -> None:
    foreign = [dividend("2024-06-06", 1.0, currency="CAD", historical_adjustment_factor=0.97)]
    unsaid = [dividend("2024-06-07", 1.0, currency=None), dividend("2024-06-10", 1.0, currency="usd")]
    assert [cash for _, cash, _ in reference_of([], [], foreign + unsaid).dividends] == [0.0, 1.0, 1.0]


def test_dividends_whose_sum_would_not_be_finite_are_refused_by_name() -> None:
    data = dividends_file([dividend("2024-05-01", 1e308), dividend("2024-05-01", 1.1e308, id="second")])
    with pytest.raises(ContractError, match=r"cash_amount 1e\+308 is more than 1e\+12 a share"):
        read_dividends(data, "AAPL")


@pytest.mark.parametrize(("before", "after"), [(1e-310, 1), (1, 1e40), (1e200, 1e100)])
def test_a_split_whose_factor_could_leave_the_range_of_numbers_is_refused(before: float, after: float) -> None:
    split = Split("AAPL", date(2013, 5, 1), before, after, "forward_split", before / after, "x")
    with pytest.raises(ContractError, match="hold one that cannot be: AAPL on 2013-05-01, factor"):
        read_splits(splits_file([split]), "AAPL")


def test_the_order_of_companies_that_begin_on_one_day_has_no_meaning() -> None:
    day = date(2012, 1, 4)
    ends = date(2013, 1, 2)
    companies = [
        Identity("AAPL", date(2010, 1, 4), date(2012, 1, 3), "F0", "a"), Identity("AAPL", day, ends, "F0", "b"),
        Identity("AAPL", day, ends, "F1", "c"), Identity("AAPL", date(2014, 1, 2), None, "F0", "d"),
    ]  # fmt: skip
    handovers = {
        reference_of((), read_identities(identities_file(rows), "AAPL")).handovers for rows in permutations(companies)
    }
    assert handovers == {(day, date(2014, 1, 2))}

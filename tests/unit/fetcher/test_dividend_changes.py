from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.errors import UpstreamError
from fiblake.reference import Dividend
from services.fetcher.dividend_changes import (
    MIN_PAYERS,
    by_symbol,
    dividend_changes,
    dividends_due,
    symbols_with_news,
)
from services.fetcher.wire import DividendRow
from tests.fakes import dividend

NOW = datetime(2025, 11, 21, 11, tzinfo=UTC)
QUARTERS = [
    dividend(day, 0.25, historical_adjustment_factor=0.99) for day in ("2024-02-09", "2024-05-10", "2024-08-12")
]
MSFT = dividend("2023-11-15", 0.75, "MSFT")


def test_a_row_is_a_dividend_if_it_says_whose_and_when() -> None:
    whole = DividendRow(
        id="E1", ticker="AAPL", ex_dividend_date="2025-08-11", cash_amount=0.26, currency="USD", frequency=4,
        declaration_date="2025-07-31", record_date="2025-08-11", pay_date="2025-08-14", distribution_type="recurring",
        split_adjusted_cash_amount=0.26, historical_adjustment_factor=0.997899,
    )  # fmt: skip
    assert whole.dividend() == Dividend(
        "AAPL", date(2025, 8, 11), 0.26, "USD", date(2025, 7, 31), date(2025, 8, 11), date(2025, 8, 14), 4,
        "recurring", 0.26, 0.997899, "E1",
    )  # fmt: skip
    assert whole.model_copy(update={"ticker": ""}).dividend() is None
    assert DividendRow.model_validate({"ticker": "AAPL", "ex_dividend_date": "soon"}).dividend() is None


def test_a_row_without_an_id_gets_one_that_is_the_same_the_next_time() -> None:
    row = {"ticker": "AAPL", "ex_dividend_date": "2025-08-11", "cash_amount": 0.26, "distribution_type": "special"}
    [first, second] = [DividendRow.model_validate(row).dividend() for _ in range(2)]
    assert first
    assert first == second
    assert first.id == "AAPL:2025-08-11:special:0.26"
    assert (first.frequency, first.historical_adjustment_factor, first.split_adjusted_cash_amount) == (None, None, None)


def test_an_equal_report_changes_nothing() -> None:
    assert dividend_changes({"AAPL": QUARTERS}, QUARTERS[::-1]).changed == {}


def test_a_new_a_corrected_and_a_withdrawn_dividend_change_their_symbol_only() -> None:
    stored = {"AAPL": QUARTERS, "MSFT": [MSFT]}
    new = dividend("2024-11-08", 0.25)
    corrected = replace(QUARTERS[1], cash_amount=0.26)
    changes = dividend_changes(stored, [MSFT, QUARTERS[0], corrected, new])
    assert changes.changed == {"AAPL": [QUARTERS[0], corrected, new]}


def test_what_lies_before_the_answer_begins_stays_without_the_vendors_factor() -> None:
    changes = dividend_changes({"AAPL": QUARTERS, "MSFT": [MSFT]}, QUARTERS[1:])
    oldest = replace(QUARTERS[0], historical_adjustment_factor=None)
    assert changes.changed == {"AAPL": [oldest, *QUARTERS[1:]]}
    assert dividend_changes(changes.changed, QUARTERS[1:]).changed == {}
    assert dividend_changes({"AAPL": QUARTERS}, []).changed == {
        "AAPL": [replace(d, historical_adjustment_factor=None) for d in QUARTERS]
    }


def test_an_invalid_dividend_affects_itself_only_and_the_stored_one_stays() -> None:
    broken = replace(QUARTERS[1], cash_amount=0.0)
    other = replace(QUARTERS[2], id="other", cash_amount=float("nan"))
    changes = dividend_changes({"AAPL": QUARTERS[:2]}, [QUARTERS[0], broken, other, QUARTERS[2]])
    assert changes.changed == {"AAPL": QUARTERS}
    assert changes.refused == [broken, other]


def test_symbols_in_doubt_count_as_different() -> None:
    changes = dividend_changes({"AAPL": QUARTERS}, QUARTERS, {"AAPL", "IBM"})
    assert changes.changed == {"AAPL": QUARTERS, "IBM": []}


def test_an_answer_with_fewer_than_half_withdraws_nothing() -> None:
    with pytest.raises(UpstreamError, match="reports 1 dividends since 2024-02-09 where 3 are known, fewer than half"):
        dividend_changes({"AAPL": QUARTERS}, QUARTERS[:1])
    assert dividend_changes({"AAPL": QUARTERS}, QUARTERS[:2]).changed == {"AAPL": QUARTERS[:2]}


def test_an_answer_without_any_dividend_of_many_payers_is_not_trusted() -> None:
    payers = {f"S{number}": [dividend("2023-11-15", 0.75, f"S{number}")] for number in range(MIN_PAYERS)}
    with pytest.raises(UpstreamError, match="no dividend of 10 symbols that paid some"):
        dividend_changes(payers, [])
    assert set(dividend_changes({"AAPL": QUARTERS}, []).changed) == {"AAPL"}


def test_changed_symbols_come_first_then_those_never_requested_then_the_stalest() -> None:
    checked = {"A": NOW, "B": NOW - timedelta(days=31), "C": NOW - timedelta(days=40), "D": NOW}
    symbols = {"A", "B", "C", "D", "E"}
    assert dividends_due(symbols, checked, {"D", "X"}, NOW - timedelta(days=30)) == ["D", "X", "E", "C", "B"]
    assert dividends_due({"A", "D"}, checked, (), NOW - timedelta(days=30)) == []


def test_a_symbol_has_changed_if_it_differs_from_the_stored_dividends_of_the_same_time() -> None:
    stored = {"AAPL": [QUARTERS[2]], "MSFT": [MSFT]}
    assert symbols_with_news(stored, [QUARTERS[2], MSFT], {"AAPL", "MSFT"}) == set()
    assert symbols_with_news(stored, [MSFT, dividend("2024-08-12", 1.0, "IBM")], {"AAPL", "MSFT"}) == {"AAPL"}
    factor = replace(MSFT, historical_adjustment_factor=0.9)
    assert symbols_with_news(stored, [QUARTERS[2], factor], {"AAPL", "MSFT"}) == {"MSFT"}
    assert (
        symbols_with_news(stored, [replace(QUARTERS[2], id="bad", cash_amount=0), *stored["AAPL"], MSFT], {"AAPL"})
        == set()
    )


@given(st.permutations(QUARTERS), st.permutations(QUARTERS))
def test_the_order_of_rows_and_their_repetition_on_two_pages_mean_nothing(
    reported: list[Dividend], stored: list[Dividend]
) -> None:
    assert dividend_changes({"AAPL": stored}, [*reported, *reported[:1]]).changed == {}
    assert by_symbol([*reported, *reported]) == {"AAPL": QUARTERS}

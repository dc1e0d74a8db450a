"""Coverage and findings of one symbol, on bars with one fault each."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.quality_report import STATES, Finding, Quality, Sources, by_year, quality_of
from fiblake.adjustment import Payout, Reference
from fiblake.bars import Consolidated
from fiblake.calendar import nyse
from fiblake.reference import Identity, Split
from fiblake.revisions import revise
from tests.fakes import NOON, bar, table

DAYS = nyse().between(date(2024, 1, 2), date(2024, 3, 28))
SPLIT = date(2024, 2, 20)  # after a holiday


def stored(closes: dict[date, float], reference: Reference | None = None) -> Consolidated:
    return Consolidated(table(*(bar(day, close) for day, close in closes.items())), {}, NOON, reference or Reference())


def steady(without: set[date] = frozenset()) -> dict[date, float]:  # type: ignore[assignment]
    return {day: 100.0 + number % 7 for number, day in enumerate(DAYS) if day not in without}


def quality(bars: Consolidated, sources: Sources | None = None, closed: date = DAYS[-1]) -> Quality:
    return quality_of("AAPL", bars, nyse(), closed, sources or Sources(asked=set()))


def split(day: date, new: float = 2, old: float = 1) -> Split:
    return Split("AAPL", day, old, new, "forward_split", old / new, f"id-{day}")


def test_a_whole_history_is_good() -> None:
    result = quality(stored(steady()))
    assert result.is_good
    assert result.totals == {**dict.fromkeys(STATES, 0), "bars": len(DAYS)}
    assert list(result.months) == ["2024-01", "2024-02", "2024-03"]


def test_a_session_without_a_bar_has_one_state() -> None:
    out, quiet, held, gone = DAYS[5], DAYS[10], DAYS[15], DAYS[20]
    bars = replace(stored(steady({out, quiet, held, gone})), withdrawn={gone: NOON})
    result = quality(bars, Sources(asked={quiet}, quarantined={held}))
    assert result.missing == [out]
    assert {state: n for state, n in result.totals.items() if n} == {
        "bars": len(DAYS) - 4, "no_trade": 1, "quarantined": 1, "withdrawn": 1, "missing": 1,
    }  # fmt: skip
    assert not result.is_good


def test_a_session_without_a_trade_is_not_missing_and_neither_is_an_unknown_one() -> None:
    bars = stored(steady({DAYS[5]}))
    assert quality(bars, Sources(asked={DAYS[5]})).is_good
    unknown = quality(bars, Sources(asked=None))
    assert (unknown.missing, unknown.totals["unknown"], unknown.is_good) == ([], 1, True)


def test_only_sessions_of_companies_that_had_the_symbol_are_expected() -> None:
    bars = stored(steady(set(DAYS[10:20]) | set(DAYS[40:])))
    identities = [
        Identity("AAPL", DAYS[0] - timedelta(days=9), DAYS[9], "one", "One"),
        Identity("AAPL", DAYS[20], DAYS[39], "other", "Other"),
    ]
    result = quality(bars, Sources(identities=identities, asked=set()))
    assert result.missing == []
    assert sum(result.totals.values()) == 30
    assert result.before_first == len(nyse().between(DAYS[0] - timedelta(days=9), DAYS[0])) - 1
    assert quality(bars).missing == [*DAYS[10:20], *DAYS[40:]]


@pytest.mark.parametrize(
    ("change", "reference", "kind"),
    [
        (lambda day, close: close / 10 if day >= SPLIT else close, Reference(), "jump"),
        (lambda day, close: close * 3.5 if day >= SPLIT else close, Reference(), "jump"),
        (lambda _day, close: close, Reference(((SPLIT, 0.5),)), "split not seen"),
        (lambda day, close: 100.0 if SPLIT <= day <= DAYS[36] else close, Reference(), "stale repeat"),
    ],
)
def test_what_is_not_plausible_is_found(
    change: Callable[[date, float], float], reference: Reference, kind: str
) -> None:
    result = quality(stored({day: change(day, close) for day, close in steady().items()}, reference))
    assert [(finding.kind, finding.session) for finding in result.findings] == [(kind, SPLIT)]
    assert not result.is_good


@pytest.mark.parametrize(
    ("change", "reference"),
    [
        (lambda day, close: close / 10 if day >= SPLIT else close, Reference(((SPLIT, 0.1),))),
        (lambda day, close: close / 10 if day >= SPLIT else close, Reference(handovers=(SPLIT,))),
        (lambda day, close: close / 8 if day >= SPLIT else close, Reference(((SPLIT - timedelta(days=1), 0.125),))),
        (lambda day, close: 104.5 if SPLIT <= day <= DAYS[34] else close, Reference()),
    ],
)
def test_what_is_explained_is_not(change: Callable[[date, float], float], reference: Reference) -> None:
    assert quality(stored({day: change(day, close) for day, close in steady().items()}, reference)).is_good


def test_a_split_that_is_reported_twice_is_found() -> None:
    twice = Sources(asked=set(), splits=[split(SPLIT), split(SPLIT + timedelta(days=2)), split(DAYS[-1], 3)])
    assert quality(stored(steady()), twice).findings == [
        Finding("duplicate split", SPLIT + timedelta(days=2), f"2-for-1 as well on {SPLIT}")
    ]
    apart = Sources(asked=set(), splits=[split(DAYS[0]), split(DAYS[-1])])
    assert quality(stored(steady()), apart).findings == []


@given(st.sets(st.sampled_from(DAYS[1:])), st.sets(st.sampled_from(DAYS)), st.sets(st.sampled_from(DAYS)))
def test_every_expected_session_is_counted_once(without: set[date], requested: set[date], held: set[date]) -> None:
    result = quality(stored(steady(without)), Sources(asked=requested, quarantined=held))
    assert sum(result.totals.values()) == len(DAYS)
    assert result.totals["bars"] == len(DAYS) - len(without)
    assert set(result.missing) == without - requested - held


def test_a_dividend_whose_factor_contradicts_cash_and_close_is_found() -> None:
    day, following = DAYS[20], DAYS[40]
    closes = dict.fromkeys(DAYS, 100.0)
    closes |= {session: close for session, close in steady().items() if session != DAYS[19]}
    right = (Payout(day, 1.0, 0.99 * 0.98), Payout(following, closes[DAYS[39]] / 50, 0.98))
    assert quality(stored(closes, Reference(dividends=right))).is_good
    wrong = (Payout(day, 1.0, 0.95 * 0.98), right[1])
    assert quality(stored(closes, Reference(dividends=wrong))).findings == [
        Finding("doubtful dividend", day, "cash 1 makes 0.990000, the vendor says 0.950000")
    ]


def test_months_are_laid_out_by_year() -> None:
    months = quality(stored(steady())).months
    [(year, laid_out)] = by_year(months)
    assert (year, len(list(laid_out))) == ("2024", 12)
    assert [month is None for month in laid_out] == [False] * 3 + [True] * 9


@pytest.mark.parametrize("api_first", [True, False])
def test_bars_of_the_api_and_rows_of_flat_files_are_compared_where_the_lake_had_both(api_first: bool) -> None:  # noqa: FBT001
    """Ten sessions are in both sources, two of them with different closes; the others are in one."""
    later = NOON + timedelta(hours=1)
    both, other_close = DAYS[:10], {DAYS[3], DAYS[7]}

    def of_api(day: date) -> dict[str, object]:
        return bar(day, steady()[day], later if not api_first else NOON, vwap=100.25, trades=7)

    def of_flat_file(day: date) -> dict[str, object]:
        close = steady()[day] + (0.5 if day in other_close else 0)
        return bar(day, close, NOON if not api_first else later, trades=7)

    earlier, last = (of_api, of_flat_file) if api_first else (of_flat_file, of_api)
    first, _ = revise(None, Consolidated(table(*(earlier(day) for day in both)), {}, NOON, Reference()))
    rows = [last(day) if day in both else of_api(day) for day in DAYS]
    second, revisions = revise(first, Consolidated(table(*rows), {}, later, Reference()))
    result = quality(second, Sources(asked=set(), revisions=revisions))
    assert (result.compared, result.differing) == (10, 2)
    assert result.facts()["sources"] == {"compared": 10, "differ": 2}
    assert [(finding.kind, finding.session) for finding in result.findings] == [
        ("flat file differs", DAYS[3]), ("flat file differs", DAYS[7]),
    ]  # fmt: skip
    assert "open 102.5 and 103" in result.findings[0].text
    assert "close 103 and 103.5" in result.findings[0].text
    assert not result.is_good


def test_a_correction_by_the_same_source_is_no_difference_between_sources() -> None:
    first, _ = revise(
        None,
        Consolidated(table(*(bar(day, close, vwap=99.0) for day, close in steady().items())), {}, NOON, Reference()),
    )
    later = NOON + timedelta(hours=1)
    corrected = table(*(bar(day, close + 1, later, vwap=99.0) for day, close in steady().items()))
    second, revisions = revise(first, Consolidated(corrected, {}, later, Reference()))
    assert revisions.num_rows == len(DAYS)
    result = quality(second, Sources(asked=set(), revisions=revisions))
    assert (result.compared, result.is_good) == (0, True)

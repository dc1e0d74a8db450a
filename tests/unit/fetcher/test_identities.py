from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.calendar import nyse
from fiblake.errors import UpstreamError
from fiblake.reference import Identity
from fiblake.symbols import BEGINNING, SymbolRecord
from services.fetcher.identities import (
    Comparison,
    Days,
    changed,
    compare,
    details_due,
    first_session_under,
    identities_of,
    last_day_of,
    merged,
    updated,
    without_undecided,
)
from services.fetcher.tickers import Ticker, TickerChange

THU, FRI, SAT, MON, TUE = (date(2025, 11, day) for day in (20, 21, 22, 24, 25))
MORNING = datetime(2025, 11, 21, 11, tzinfo=UTC)
"""Six o'clock in New York on a Friday."""
META, BALL = "BBG000MM2P62", "BBG011R4SVD7"


def ticker(
    symbol: str = "META", figi: str | None = META, name: str | None = "Meta Platforms", **more: object
) -> Ticker:
    plain = Ticker(symbol, name, "CS", "XNAS", "USD", True, figi, None, None)  # noqa: FBT003
    return replace(plain, **more)  # type: ignore[arg-type]


def stored(symbol: str = "META", figi: str | None = META, valid_from: date = BEGINNING, **more: object) -> SymbolRecord:
    seen = MORNING - timedelta(days=1)
    plain = SymbolRecord(
        symbol=symbol, valid_from=valid_from, valid_to=None, composite_figi=figi, share_class_figi=None,
        name="Meta Platforms", industry=None, sector=None, sic_code=None, exchange="XNAS", type="CS", currency="USD",
        list_date=None, delisted_date=None, active=True, first_seen=seen, last_seen=seen,
    )  # fmt: skip
    return replace(plain, **more)  # type: ignore[arg-type]


@dataclass
class VendorAnswers:
    """The vendor's answers about single symbols."""

    changes: Mapping[str, Sequence[TickerChange]] = field(default_factory=dict)
    delisted: Mapping[str, Ticker] = field(default_factory=dict)


def days(now: datetime = MORNING) -> Days:
    return Days.of(nyse(), now)


def taken_over(
    records: Sequence[SymbolRecord],
    listed: Sequence[Ticker],
    answers: VendorAnswers | None = None,
    now: datetime = MORNING,
) -> list[SymbolRecord]:
    """Return the table after a run, by symbol and age."""
    answers = answers or VendorAnswers()
    comparison, when = compare(records, listed), days(now)
    begins = (
        {s: first_session_under(s, answers.changes.get(s, ()), when) for s in comparison.unsettled} if records else {}
    )
    ends = {r.symbol: last_day_of(r, answers.delisted.get(r.symbol), when) for r in comparison.vanished}
    new = updated(comparison, {s: day for s, day in begins.items() if day}, ends, when, now)
    return sorted(merged(records, new), key=lambda record: (record.symbol, record.valid_from))


def periods(records: Sequence[SymbolRecord]) -> list[tuple[str, date, date | None, str | None]]:
    return [(r.symbol, r.valid_from, r.valid_to, r.composite_figi) for r in records]


# ----------------------------------------------------------------------------------------------------- what is compared


def test_a_first_list_is_all_new_and_reaches_back_to_the_beginning() -> None:
    [record] = taken_over([], [ticker()])
    assert record == stored(first_seen=MORNING, last_seen=MORNING)


def test_a_symbol_that_is_listed_again_was_seen_again() -> None:
    assert taken_over([stored()], [ticker()]) == [stored(last_seen=MORNING)]
    assert not changed((stored(), ticker()))


@pytest.mark.parametrize(
    "change",
    [{"name": "Meta"}, {"exchange": "XNYS"}, {"type": "ADRC"}, {"currency": "EUR"}, {"share_class_figi": "BBGX"}],
)
def test_changed_fields_of_the_vendor_are_stored(change: dict[str, str]) -> None:
    assert changed((stored(), ticker(**change)))  # type: ignore[arg-type]
    assert taken_over([stored()], [ticker(**change)]) == [stored(last_seen=MORNING, **change)]  # type: ignore[arg-type]


def test_what_the_vendor_leaves_out_stays() -> None:
    bare = ticker(figi=None, name=None, exchange=None, type=None, currency=None)
    assert taken_over([stored()], [bare]) == [stored(last_seen=MORNING)]
    assert not changed((stored(), bare))


def test_details_and_history_stay_what_they_are() -> None:
    detailed = stored(sic_code="7370", industry="SERVICES", sector="Services", list_date=FRI, details_at=MORNING)
    assert taken_over([detailed], [ticker()]) == [replace(detailed, last_seen=MORNING)]


@pytest.mark.parametrize(("before", "now"), [(None, META), (META, None), (None, None)])
def test_a_figi_that_is_missing_on_either_side_is_no_other_company(before: str | None, now: str | None) -> None:
    [record] = taken_over([stored(figi=before)], [ticker(figi=now)])
    assert record.composite_figi == (before or now)
    assert record.valid_to is None


def test_a_list_of_fewer_than_half_of_the_active_symbols_is_not_trusted() -> None:
    records = [stored(s, s) for s in "ABC"] + [stored(s, s, valid_to=THU, active=False) for s in "DEFGH"]
    with pytest.raises(UpstreamError, match=r"lists 1 of the 3 symbols that were active, fewer than half"):
        compare(records, [ticker("A", "A"), ticker("D", "D"), ticker("NEW", "N")])
    assert [r.symbol for r in compare(records, [ticker("A", "A"), ticker("B", "B")]).vanished] == ["C"]
    with pytest.raises(UpstreamError, match="lists 0 of the 3"):
        compare(records, [])


def test_symbols_are_distinguished_by_case() -> None:
    comparison = compare([stored("KIMPL", "F1")], [ticker("KIMpL", "F2"), ticker("KIMPL", "F1")])
    assert [record.symbol for record in comparison.new] == ["KIMpL"]


# ------------------------------------------------------------------------------------------------- vanished, and back


def gone(symbol: str = "OLD", day: date | None = THU, figi: str | None = None) -> VendorAnswers:
    return VendorAnswers(delisted={symbol: ticker(symbol, figi, active=False, delisted=day)})


OTHERS = [stored("A", "FA"), stored("OLD", "FOLD", valid_from=date(2020, 1, 2))]


@pytest.mark.parametrize(
    ("answers", "end"),
    [
        (gone(day=date(2025, 11, 18)), date(2025, 11, 18)),
        (gone(day=date(2025, 11, 18), figi="FOLD"), date(2025, 11, 18)),
        (gone(day=None), THU),
        (VendorAnswers(), THU),
        (gone(day=date(2025, 11, 18), figi="ANOTHER"), THU),
        (gone(day=date(2021, 5, 3)), THU),
        (gone(day=date(2019, 5, 3)), THU),
    ],
    ids=[
        "the vendor's day",
        "of that FIGI",
        "no day",
        "unknown",
        "another company's",
        "years before",
        "before it began",
    ],
)
def test_a_symbol_that_vanished_is_inactive_from_the_vendors_day_or_the_last_closed_session(
    answers: VendorAnswers, end: date
) -> None:
    [_, old] = taken_over(OTHERS, [ticker("A", "FA")], answers)
    assert old == replace(OTHERS[1], valid_to=end, delisted_date=end, active=False)


def test_a_symbol_that_began_today_and_vanished_today_ends_today() -> None:
    [_, old] = taken_over([OTHERS[0], stored("OLD", valid_from=FRI)], [ticker("A", "FA")])
    assert (old.valid_from, old.valid_to) == (FRI, FRI)


def test_a_symbol_that_comes_back_with_its_figi_is_the_same_company_again() -> None:
    old = stored("OLD", "FOLD", valid_to=THU, delisted_date=THU, active=False)
    [back] = taken_over([old], [ticker("OLD", "FOLD")])
    assert back == stored("OLD", "FOLD", last_seen=MORNING)


@pytest.mark.parametrize("figi", ["FOLD", "ANOTHER", None])
def test_a_symbol_that_comes_back_after_a_long_time_is_a_new_listing_of_any_company(figi: str | None) -> None:
    ended = date(2025, 6, 2)
    old = stored("OLD", "FOLD", valid_to=ended, delisted_date=ended, active=False)
    assert periods(taken_over([old], [ticker("OLD", figi)])) == [
        ("OLD", BEGINNING, ended, "FOLD"), ("OLD", FRI, None, figi),
    ]  # fmt: skip


@pytest.mark.parametrize(("other", "count"), [("SHARE-2", 2), ("SHARE-1", 1), (None, 1)])
def test_where_a_composite_figi_is_missing_the_share_classs_decides(other: str | None, count: int) -> None:
    earlier = MORNING - timedelta(days=10)
    record = stored(figi=None, share_class_figi="SHARE-1", last_seen=earlier)
    after = taken_over([record], [ticker(figi=META, share_class_figi=other)])
    assert len(after) == count


# ------------------------------------------------------------------------------------------- another company, a rename


def test_a_symbol_of_another_company_begins_on_the_day_of_the_ticker_change_and_the_old_one_ends_before() -> None:
    answers = VendorAnswers({"META": [TickerChange(date(2012, 5, 18), "FB"), TickerChange(MON, "META")]})
    now = datetime(2025, 11, 25, 11, tzinfo=UTC)
    assert periods(taken_over([stored(figi=BALL)], [ticker()], answers, now)) == [
        ("META", BEGINNING, FRI, BALL), ("META", MON, None, META),
    ]  # fmt: skip


WITHOUT_A_DAY = {
    "unknown": (), "of another ticker": [TickerChange(date(2012, 5, 18), "FB")],
    "announced": [TickerChange(date(2026, 1, 5), "META")], "long ago": [TickerChange(date(2021, 6, 9), "META")],
}  # fmt: skip


@pytest.mark.parametrize("changes", WITHOUT_A_DAY.values(), ids=WITHOUT_A_DAY)
def test_without_a_day_of_change_a_symbol_is_handed_over_when_three_sessions_have_listed_it_so(
    changes: Sequence[TickerChange],
) -> None:
    tuesday = datetime(2025, 11, 18, 11, tzinfo=UTC)
    record = stored(figi=BALL, last_seen=tuesday)
    for doubtful in (19, 20):
        now = datetime(2025, 11, doubtful, 11, tzinfo=UTC)
        assert taken_over([record], [ticker()], VendorAnswers({"META": changes}), now) == [record]
    assert periods(taken_over([record], [ticker()], VendorAnswers({"META": changes}))) == [
        ("META", BEGINNING, date(2025, 11, 18), BALL), ("META", date(2025, 11, 19), None, META),
    ]  # fmt: skip


def test_a_ticker_that_is_listed_with_two_figis_in_changing_order_stays_the_known_companys() -> None:
    records: list[SymbolRecord] = []
    rows = {"a": ticker(figi=BALL), "b": ticker(figi=META)}
    for day, order in ((18, "a"), (19, "ab"), (20, "ba"), (21, "b"), (24, "a"), (25, "b"), (26, "a")):
        now = datetime(2025, 11, day, 11, tzinfo=UTC)
        records = taken_over(records, [rows[name] for name in order], now=now)
    assert periods(records) == [("META", BEGINNING, None, BALL)]


@pytest.mark.parametrize("order", [(BALL, META), (META, BALL)])
def test_of_a_new_ticker_that_is_listed_twice_one_row_is_taken_whatever_the_order(order: tuple[str, str]) -> None:
    comparison = compare([], [ticker(figi=figi) for figi in order])
    assert ([record.composite_figi for record in comparison.new], comparison.twice) == ([META], ["META"])


def test_a_figi_that_another_listed_symbol_has_is_no_proof_of_a_rename() -> None:
    records = [stored("A", "FA"), stored("B", "FB")]
    comparison = without_undecided(compare(records, [ticker("A", "FB"), ticker("B", "FB")]), {}, days())
    assert ([r.symbol for r, _ in comparison.doubtful], comparison.handed_over) == (["A"], [])


def test_a_day_of_change_before_the_old_company_began_is_no_day_it_can_have_ended() -> None:
    answers = VendorAnswers({"META": [TickerChange(date(2025, 11, 3), "META")]})
    record = stored(figi=BALL, valid_from=date(2025, 11, 10), last_seen=datetime(2025, 11, 17, 11, tzinfo=UTC))
    assert periods(taken_over([record], [ticker()], answers)) == [
        ("META", date(2025, 11, 10), date(2025, 11, 17), BALL), ("META", date(2025, 11, 18), None, META),
    ]  # fmt: skip


def test_a_change_at_the_weekend_begins_with_mondays_session() -> None:
    sunday = datetime(2025, 11, 23, 18, tzinfo=UTC)
    answers = VendorAnswers({"META": [TickerChange(SAT, "META")]})
    after = [("META", BEGINNING, FRI, BALL), ("META", MON, None, META)]
    assert periods(taken_over([stored(figi=BALL)], [ticker()], answers, sunday)) == after
    friday, wednesday = datetime(2025, 11, 21, 18, tzinfo=UTC), datetime(2025, 11, 26, 11, tzinfo=UTC)
    assert periods(taken_over([stored(figi=BALL, last_seen=friday)], [ticker()], now=wednesday)) == after


def test_a_vanished_companys_symbol_goes_to_another_and_their_times_do_not_overlap() -> None:
    old = stored(figi=BALL, valid_to=THU, delisted_date=THU, active=False)
    answers = VendorAnswers({"META": [TickerChange(date(2025, 11, 18), "META")]})
    assert periods(taken_over([old], [ticker()], answers)) == [
        ("META", BEGINNING, date(2025, 11, 17), BALL), ("META", date(2025, 11, 18), None, META),
    ]  # fmt: skip
    earlier = replace(old, valid_to=date(2025, 11, 3))
    assert periods(taken_over([earlier], [ticker()])) == [
        ("META", BEGINNING, date(2025, 11, 3), BALL), ("META", FRI, None, META),
    ]  # fmt: skip


def test_a_vendor_that_corrects_itself_within_a_session_leaves_one_record_of_it() -> None:
    answers = VendorAnswers({"META": [TickerChange(FRI, "META")]})
    records = taken_over([stored(figi=BALL)], [ticker()], answers)
    days_later = MORNING + timedelta(days=5)
    unseen = [replace(record, last_seen=MORNING - timedelta(days=1)) for record in records]
    corrected = taken_over(unseen, [ticker(figi="THIRD")], now=days_later)
    assert periods(corrected) == [("META", BEGINNING, THU, BALL), ("META", FRI, None, "THIRD")]


def test_a_rename_is_a_new_symbol_that_does_not_reach_further_back_and_the_old_one_ends_before() -> None:
    answers = VendorAnswers({"META": [TickerChange(date(2012, 5, 18), "FB"), TickerChange(THU, "META")]})
    records = [stored("A", "FA"), stored("FB")]
    comparison = compare(records, [ticker("A", "FA"), ticker()])
    assert comparison.renamed == {"META"}
    assert comparison.successors == {"FB": "META"}
    after = taken_over(records, [ticker("A", "FA"), ticker()], answers)
    assert periods(after)[1:] == [("FB", BEGINNING, date(2025, 11, 19), META), ("META", THU, None, META)]


def test_a_rename_of_an_unknown_day_begins_with_the_session_of_the_run() -> None:
    records = [stored("A", "FA"), stored("FB")]
    after = taken_over(records, [ticker("A", "FA"), ticker()])
    assert periods(after)[1:] == [("FB", BEGINNING, THU, META), ("META", FRI, None, META)]


def test_two_companies_that_swap_their_symbols_are_each_cut_there() -> None:
    records = [stored("AA", "F1"), stored("BB", "F2")]
    comparison = compare(records, [ticker("AA", "F2"), ticker("BB", "F1")])
    assert comparison.renamed == {"AA", "BB"}
    assert periods(taken_over(records, [ticker("AA", "F2"), ticker("BB", "F1")])) == [
        ("AA", BEGINNING, THU, "F1"), ("AA", FRI, None, "F2"), ("BB", BEGINNING, THU, "F2"), ("BB", FRI, None, "F1"),
    ]  # fmt: skip


def test_a_new_symbol_begins_when_the_vendor_says_and_otherwise_reaches_back_to_the_beginning() -> None:
    answers = VendorAnswers({"NEWCO": [TickerChange(THU, "NEWCO")], "AGED": [TickerChange(date(1950, 1, 3), "AGED")]})
    listed = [ticker(), ticker("NEWCO", "F1"), ticker("OTHER", None), ticker("AGED", "F2")]
    after = {r.symbol: r.valid_from for r in taken_over([stored()], listed, answers)}
    assert after == {"META": BEGINNING, "NEWCO": THU, "OTHER": BEGINNING, "AGED": BEGINNING}


def test_the_companies_of_a_symbol_are_given_oldest_first() -> None:
    records = [stored(valid_from=FRI), stored("A", None), stored(figi=BALL, valid_to=THU)]
    assert identities_of(records) == {
        "META": (
            Identity("META", BEGINNING, THU, BALL, "Meta Platforms"),
            Identity("META", FRI, None, META, "Meta Platforms"),
        ),
        "A": (Identity("A", BEGINNING, None, None, "Meta Platforms"),),
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- details


def test_details_are_due_for_the_universe_first_then_those_without_then_the_oldest() -> None:
    hour = timedelta(hours=1)
    records = [
        stored("FRESH", details_at=MORNING), stored("STALE", details_at=MORNING - 3 * hour),
        stored("STALER", details_at=MORNING - 5 * hour), stored("ZNEW"), stored("WARRANT", type="WARRANT"),
        stored("GONE", valid_to=THU, active=False),
    ]  # fmt: skip
    due = details_due(records, {"CS"}, MORNING - hour, FRI)
    assert [record.symbol for record in due] == ["ZNEW", "STALER", "STALE", "WARRANT"]


def test_those_whose_details_are_due_alike_take_turns_by_day() -> None:
    records = [stored(f"A{n}") for n in range(20)]
    orders = [[r.symbol for r in details_due(records, {"CS"}, MORNING, day)] for day in (FRI, FRI, MON)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


# ------------------------------------------------------------------------------------------------ any sequence of lists

FIGIS = st.sampled_from([None, "F1", "F2", "F3", "F4"])
SYMBOLS = ("A", "B", "C", "D")
DATES = st.none() | st.dates(date(2025, 10, 1), date(2026, 2, 1)) | st.just(date(1950, 1, 1))


@st.composite
def runs(draw: st.DrawFn) -> list[tuple[datetime, list[Ticker], VendorAnswers]]:
    now, morning_runs = datetime(2025, 11, 3, 11, tzinfo=UTC), []
    for _ in range(draw(st.integers(1, 7))):
        now += timedelta(hours=draw(st.sampled_from([0, 1, 12, 24, 48, 72])))
        listed = [ticker(symbol, draw(FIGIS)) for symbol in draw(st.sets(st.sampled_from(SYMBOLS)))]
        changes = {s: [TickerChange(day, s)] for s in SYMBOLS if (day := draw(DATES))}
        delisted = {
            s: ticker(s, draw(FIGIS), active=False, delisted=draw(DATES)) for s in SYMBOLS if draw(st.booleans())
        }
        morning_runs.append((now, listed, VendorAnswers(changes, delisted)))
    return morning_runs


@given(runs=runs())
def test_no_symbol_is_deleted_has_two_companies_at_once_or_changes_without_need(
    runs: list[tuple[datetime, list[Ticker], VendorAnswers]],
) -> None:
    records: list[SymbolRecord] = []
    for now, listed, answers in runs:
        before = {(r.symbol, r.valid_from) for r in records}
        try:
            records = taken_over(records, listed, answers, now)
        except UpstreamError:
            continue
        assert before <= {(r.symbol, r.valid_from) for r in records}
        check_times(records)
        current = {r.symbol: r for r in records if r.valid_to is None}
        assert current.keys() == {company.symbol for company in listed}
        assert taken_over(records, listed, answers, now) == records
        # A FIGI that differs from the listed one is kept for a few sessions only.
        again = compare(records, listed)
        assert again.kept + again.handed_over == [
            (current[company.symbol], company)
            for company in sorted(listed, key=lambda t: differs(current[t.symbol], t))
        ]
        assert all(now - record.last_seen < timedelta(days=6) for record, _ in again.handed_over)
        assert replace(again, kept=[], handed_over=[], renamed=frozenset()) == Comparison()


def differs(record: SymbolRecord, ticker: Ticker) -> bool:
    return None not in {record.composite_figi, ticker.composite_figi} and record.composite_figi != ticker.composite_figi


def check_times(records: Sequence[SymbolRecord]) -> None:
    """One period follows the other, in sessions, and only the last may be without an end."""
    for record in records:
        assert record.valid_to is None or record.valid_to >= record.valid_from
        assert record.active == (record.valid_to is None)
        assert record.delisted_date == record.valid_to
        assert nyse().ordinal(record.valid_from) >= 0
    for earlier, later in pairwise(records):
        if earlier.symbol == later.symbol:
            assert earlier.valid_to is not None
            assert earlier.valid_to < later.valid_from

"""The tail of a completion event: the buckets from it equal those from the whole data.parquet."""

from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.adjustment import NO_REFERENCE, Reference
from fiblake.aggregate import Bars, aggregate
from fiblake.bars import Consolidated
from fiblake.buckets import first_to_recompute
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS
from services.consolidator.tail import LONGEST_TAIL, tail_of
from shared.events import ConsolidationComplete, Tail, parse
from tests.fakes import NOON, bar, table

CALENDAR = nyse()
SESSIONS = CALENDAR.between(date(2024, 6, 3), date(2025, 11, 19))
LAST = SESSIONS[-1]


def stored(sessions: list[date], reference: Reference = NO_REFERENCE) -> Consolidated:
    rows = [bar(session, 10 + n % 7 / 3, volume=100.1 * n) for n, session in enumerate(sessions)]
    return Consolidated(table(*rows), {}, NOON, reference)


def buckets(bars: Bars, changed: date, interval: int) -> pa.Table:
    """Return the buckets that a change may touch, as the resampler cuts them."""
    first = first_to_recompute(bars.ordinals, CALENDAR.ordinal_on_or_after(changed), interval)
    return aggregate([bars.since(first)], interval, CALENDAR, adjusted=True)


def as_bars(tail: Tail) -> pa.Table:
    columns = tail.model_dump(exclude={"tail_from"})
    return pa.table({name: pa.array(values) for name, values in columns.items()})


history = st.lists(st.booleans(), min_size=2, max_size=len(SESSIONS)).map(
    lambda there: [session for session, is_there in zip(SESSIONS[::-1], there, strict=False) if is_there][::-1]
)


@given(history.filter(bool), st.data())
def test_a_tail_gives_the_buckets_that_all_bars_give(sessions: list[date], data: st.DataObject) -> None:
    changed = data.draw(st.sampled_from(SESSIONS[-60:]))
    days = st.sampled_from([*sessions, *SESSIONS[-10:], date(2025, 12, 24)])
    splits = data.draw(st.lists(days, max_size=2, unique=True).map(sorted))
    handovers = data.draw(st.lists(days, max_size=1))
    reference = Reference(tuple((split, 0.5**n) for n, split in enumerate(splits[::-1], 1))[::-1], tuple(handovers))
    whole = stored(sessions, reference)
    tail = tail_of(whole, changed, CALENDAR)
    if tail is None:
        return
    event = ConsolidationComplete(symbol="AAPL", changed_from=changed, last_session=LAST, version=NOON, tail=tail)
    read = parse(ConsolidationComplete, event.model_dump_json()).tail
    assert read
    of_whole = Bars.of("AAPL", whole.bars, CALENDAR, reference)
    of_tail = Bars.of("AAPL", as_bars(read), CALENDAR)
    for interval in INTERVALS:
        assert buckets(of_tail, changed, interval).equals(buckets(of_whole, changed, interval))


@pytest.mark.parametrize("offset", range(max(INTERVALS)))
def test_the_tail_of_a_new_session_is_at_most_one_bar_longer_than_the_longest_bucket(offset: int) -> None:
    sessions = SESSIONS[: len(SESSIONS) - offset]
    tail = tail_of(stored(sessions), sessions[-1], CALENDAR)
    assert tail
    assert 2 <= len(tail.timestamp) <= max(INTERVALS) + 1
    assert tail.timestamp[-1] == sessions[-1]
    assert len(tail.model_dump_json()) < 5_000


def test_the_first_bar_of_a_symbol_has_a_tail() -> None:
    tail = tail_of(stored([LAST]), LAST, CALENDAR)
    assert tail
    assert tail.timestamp == (LAST,)


def test_a_long_change_has_no_tail() -> None:
    assert tail_of(stored(SESSIONS), SESSIONS[-LONGEST_TAIL - 1], CALENDAR) is None


@pytest.mark.parametrize(
    ("reference", "is_sent"),
    [
        (Reference(splits=((SESSIONS[-2], 0.5),)), False),
        (Reference(splits=((date(2025, 12, 24), 0.5),)), True),
        (Reference(splits=((SESSIONS[-80], 0.5),)), True),
        (Reference(handovers=(SESSIONS[-2],)), False),
        (Reference(handovers=(date(2025, 12, 24),)), False),
        (Reference(handovers=(SESSIONS[-80],)), True),
    ],
    ids=["a split", "a split to come", "a split before", "a handover", "a handover to come", "a handover before"],
)
def test_what_changes_how_its_bars_are_resampled_forbids_a_tail(
    reference: Reference,
    is_sent: bool,  # noqa: FBT001
) -> None:
    assert (tail_of(stored(SESSIONS, reference), LAST, CALENDAR) is not None) == is_sent


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_forbids_a_tail(value: float) -> None:
    rows = [bar(session) for session in SESSIONS[-5:-1]]
    whole = Consolidated(table(*rows, bar(LAST) | {"volume": value}), {}, NOON)
    assert tail_of(whole, LAST, CALENDAR) is None


@pytest.mark.parametrize("changed", [date(2031, 1, 2), LAST])
def test_a_day_that_the_calendar_does_not_know_is_the_resamplers_to_report(changed: date) -> None:
    sunday = date(2025, 11, 16)
    assert tail_of(stored([sunday]), changed, CALENDAR) is None

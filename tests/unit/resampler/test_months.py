from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fiblake.aggregate import Buckets, Market
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS, Month
from services.resampler.months import (
    MONTHS_OF_GROUP,
    ROWS_OF_GROUP,
    ByMonth,
    Changes,
    Months,
    Recomputed,
    split_in_halves,
)
from tests.unit.resampler.daily import SESSIONS, bars, numbered

MONTHS = Months.of(nyse())


def test_months_are_numbered_from_the_calendars_first() -> None:
    assert (MONTHS.month(0), MONTHS.month(11), MONTHS.month(12)) == (Month(1962, 1), Month(1962, 12), Month(1963, 1))
    assert MONTHS.month(MONTHS.count - 1) == Month.of(SESSIONS[-1])
    assert [MONTHS.number(MONTHS.month(number)) for number in range(MONTHS.count)] == list(range(MONTHS.count))


@given(of=st.integers(1, 40))
def test_shares_are_all_month_files_each_once_and_of_nearly_one_size(of: int) -> None:
    shares = [MONTHS.share(index, of) for index in range(of)]
    assert np.sum(shares, axis=0).tolist() == np.ones((len(INTERVALS), MONTHS.count)).tolist()
    sizes = [int(share.sum()) for share in shares]
    assert max(sizes) - min(sizes) <= len(INTERVALS)


@given(due=st.lists(st.booleans(), min_size=12, max_size=12))
def test_halves_are_disjoint_nearly_as_large_and_all_of_it_together(due: list[bool]) -> None:
    whole = np.array(due).reshape(2, 6)
    first_half, put_off = split_in_halves(whole)
    assert not (first_half & put_off).any()
    assert ((first_half | put_off) == whole).all()
    assert 0 <= first_half.sum() - put_off.sum() <= 1


def test_buckets_are_sorted_by_month_and_keep_their_order_within_one() -> None:
    market = Market.of([bars(symbol, numbered(SESSIONS[:60])) for symbol in ("A", "B")])
    buckets = market.buckets(3)
    by_month = MONTHS.sorted(buckets, 3)
    for number in range(5):
        inside = by_month.buckets.taken(slice(*by_month.offsets[number : number + 2]))
        assert {Month.of(SESSIONS[begin]) for begin in inside.begins} <= {MONTHS.month(number)}
        assert inside.integers[:2].T.tolist() == sorted(inside.integers[:2].T.tolist())
    assert by_month.buckets.size == buckets.size
    assert by_month.filled.tolist()[:4] == [True, True, True, False]


def test_buckets_that_are_not_due_or_begin_before_the_window_are_left_out() -> None:
    buckets = Market.of([bars("A", numbered(SESSIONS[:60]))]).buckets(3)
    due = np.zeros(MONTHS.count, bool)
    due[1] = True
    assert {Month.of(SESSIONS[b]) for b in MONTHS.sorted(buckets, 3, due).buckets.begins} == {Month(1962, 2)}
    assert MONTHS.sorted(buckets, 3, ~due, 30).buckets.begins.min() >= 30


def changes(sizes: Sequence[int]) -> Changes:
    """Changes with these numbers of buckets in the first months."""
    recomputed = Recomputed(nyse(), adjusted=True)
    filled = np.pad(np.array(sizes), (0, MONTHS.count - len(sizes)))
    recomputed.parts.append(ByMonth(Buckets.joined([]), np.append(0, np.cumsum(filled))))
    return Changes.of(MONTHS, [recomputed])


@given(
    sizes=st.lists(st.integers(0, ROWS_OF_GROUP + 1), min_size=1, max_size=40), data=st.data(),
    workers=st.integers(1, 9),
)  # fmt: skip
def test_groups_are_all_months_in_order_few_at_a_time_and_enough_for_most_workers(
    sizes: list[int], data: st.DataObject, workers: int
) -> None:
    months = [MONTHS.month(number) for number in sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1))))]
    divided = changes(sizes).groups(months, workers)
    assert [month for group in divided for month in group] == months
    for group in divided:
        assert 0 < len(group) <= MONTHS_OF_GROUP
        assert len(group) == 1 or sum(sizes[MONTHS.number(month)] for month in group) <= ROWS_OF_GROUP
    assert not months or len(divided) > min(len(months), workers) // 2


def test_months_with_few_buckets_share_a_group() -> None:
    months = [MONTHS.month(number) for number in range(40)]
    assert changes([10] * 40).groups(months, 1) == [months[:16], months[16:32], months[32:]]
    assert changes([10] * 40).groups(months[:3], 8) == [[month] for month in months[:3]]

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.buckets import bucket_start, first_to_recompute, window_start
from fiblake.calendar import nyse
from fiblake.errors import ConfigurationError
from fiblake.lake import INTERVALS
from tests.unit.resampler.daily import ORDINAL, SESSIONS

FIRST_BUCKETS = {
    3: ["1962-01-02", "1962-01-05", "1962-01-10", "1962-01-15"],
    5: ["1962-01-02", "1962-01-09", "1962-01-16", "1962-01-23"],
    8: ["1962-01-02", "1962-01-12", "1962-01-24", "1962-02-05"],
    13: ["1962-01-02", "1962-01-19", "1962-02-07", "1962-02-27"],
    21: ["1962-01-02", "1962-01-31", "1962-03-02", "1962-04-02"],
    34: ["1962-01-02", "1962-02-19", "1962-04-09", "1962-05-28"],
}
"""Counted by hand on a calendar: the NYSE was closed on 1962-02-22, 1962-04-20 and 1962-05-30."""


@pytest.mark.parametrize("interval", FIRST_BUCKETS)
def test_the_grid_begins_with_the_first_session_of_1962_and_takes_n_sessions_a_bucket(interval: int) -> None:
    starts = [SESSIONS[k * interval].isoformat() for k in range(4)]
    assert starts == FIRST_BUCKETS[interval]
    assert [bucket_start(ordinal, interval) for ordinal in (0, interval - 1, interval, 2 * interval)] == [
        0, 0, interval, 2 * interval,
    ]  # fmt: skip


@given(ordinal=st.integers(0, 16_000), interval=st.sampled_from(INTERVALS))
def test_every_session_is_in_the_one_bucket_that_starts_at_most_n_minus_1_sessions_before_it(
    ordinal: int, interval: int
) -> None:
    start = bucket_start(ordinal, interval)
    assert start <= ordinal < start + interval
    assert bucket_start(start, interval) == start


@pytest.mark.parametrize(
    ("have", "changed", "first"),
    [
        ([], 7, 5),  # no bar before it: its own bucket
        ([7, 8], 7, 5),  # the symbol's first bar changed
        ([5, 6, 7], 7, 5),  # the bar before it is in the same bucket
        ([0, 4, 5], 5, 0),  # the bar before it was the last of its bucket
        ([1, 13], 13, 0),  # the last slots of the bucket of the bar before it are empty: it is complete only now
        ([1, 6, 13, 20], 13, 5),  # not earlier than the bar before it
        ([0, 1, 2], 12, 0),  # a change of a session without a bar
    ],
)
def test_a_change_reaches_back_to_the_bucket_of_the_bar_before_it(have: list[int], changed: int, first: int) -> None:
    assert first_to_recompute(np.array(have, dtype=np.int64), changed, 5) == first


def test_a_window_of_0_years_is_all_of_history() -> None:
    assert window_start(nyse(), date(2026, 3, 2), 0, 5) == 0


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("today", [date(2026, 3, 2), date(2024, 2, 29), date(2025, 12, 31), date(2025, 7, 4)])
def test_a_window_is_cut_where_the_bucket_of_its_first_session_starts(today: date, interval: int) -> None:
    start = window_start(nyse(), today, 5, interval)
    assert start % interval == 0
    first = date(today.year - 5, today.month, min(today.day, 28))
    assert SESSIONS[start] <= next(day for day in SESSIONS if day >= first) < SESSIONS[start + interval]


@pytest.mark.parametrize(("years", "first"), [(1, "2023-02-28"), (4, "2020-02-28")])
def test_a_window_seen_from_29_february_begins_on_the_28th(years: int, first: str) -> None:
    assert SESSIONS[window_start(nyse(), date(2024, 2, 29), years, 1)].isoformat() == first


def test_a_window_that_begins_on_a_holiday_begins_with_the_next_session() -> None:
    assert SESSIONS[window_start(nyse(), date(2024, 12, 25), 61, 1)] == date(1963, 12, 26)


@pytest.mark.parametrize("years", [64, 65, 100, 2_000])
def test_a_window_longer_than_the_calendar_is_all_of_history(years: int) -> None:
    assert window_start(nyse(), date(2026, 1, 2), years, 34) == 0


def test_a_window_beyond_the_calendar_is_an_error_that_says_how_to_refresh_it() -> None:
    with pytest.raises(ConfigurationError, match="make calendar"):
        window_start(nyse(), date(2099, 1, 2), 1, 3)


def test_days_that_were_no_sessions_have_no_slot() -> None:
    assert date(1962, 7, 4) not in ORDINAL
    assert ORDINAL[date(1963, 12, 26)] == ORDINAL[date(1963, 12, 24)] + 1

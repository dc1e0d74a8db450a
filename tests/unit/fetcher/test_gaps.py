from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.calendar import close_of, nyse
from fiblake.errors import ConfigurationError
from services.fetcher.gaps import Asked, plan

MONDAY, TUESDAY = date(2025, 11, 24), date(2025, 11, 25)
AFTER_CLOSE = datetime(2025, 11, 25, 21, 5, tzinfo=UTC)
"""16:05 in New York."""
SINCE_MONDAY_BEFORE = [date(2025, 11, day) for day in (17, 18, 19, 20, 21, 24, 25)]


def missing(start: date | None, now: datetime = AFTER_CLOSE, stored: tuple[date, ...] = ()) -> list[str]:
    return [session.isoformat() for session in plan(nyse(), Asked(), set(stored), start, 0, now).missing]


def planned_days(*stored: date, look_back: int = 5, **what: object) -> tuple[list[int], list[int]]:
    planned = plan(nyse(), Asked(**what), set(stored), None, look_back, AFTER_CLOSE)  # type: ignore[arg-type]
    return [day.day for day in planned.missing], [day.day for day in planned.again]


# ------------------------------------------------------------------------------------------------------------- missing


def test_the_sessions_since_the_start_that_are_not_stored_are_missing_oldest_first() -> None:
    assert missing(date(2025, 11, 20), stored=(date(2025, 11, 20),)) == ["2025-11-21", "2025-11-24", "2025-11-25"]


def test_a_hole_before_the_last_stored_session_is_missing() -> None:
    stored = (date(2025, 11, 20), MONDAY, TUESDAY)
    assert missing(date(2025, 11, 20), stored=stored) == ["2025-11-21"]


def test_nothing_is_missing_when_everything_is_stored() -> None:
    assert missing(MONDAY, stored=(MONDAY, TUESDAY)) == []


def test_a_start_after_the_requested_instant_leaves_nothing_to_do() -> None:
    assert missing(date(2025, 12, 31)) == []


def test_a_session_is_missing_from_its_close_on() -> None:
    close = datetime(2025, 11, 25, 21, tzinfo=UTC)
    assert missing(MONDAY, close - timedelta(microseconds=1), (MONDAY,)) == []
    assert missing(MONDAY, close, (MONDAY,)) == ["2025-11-25"]


def test_the_close_follows_new_yorks_summer_time() -> None:
    assert missing(date(2025, 7, 15), datetime(2025, 7, 15, 20, tzinfo=UTC)) == ["2025-07-15"]
    assert missing(TUESDAY, datetime(2025, 11, 25, 20, tzinfo=UTC)) == []


def test_weekends_and_holidays_are_not_missing() -> None:
    assert missing(date(2025, 11, 27), datetime(2025, 12, 1, 22, tzinfo=UTC)) == ["2025-11-28", "2025-12-01"]


def test_without_a_start_ingestion_begins_with_the_last_closed_session() -> None:
    assert missing(None) == ["2025-11-25"]


def test_an_instant_beyond_the_calendar_is_an_error_that_says_how_to_refresh_it() -> None:
    with pytest.raises(ConfigurationError, match="make calendar"):
        missing(TUESDAY, datetime(2030, 1, 2, tzinfo=UTC))


@given(st.datetimes(datetime(1962, 1, 4), datetime(2029, 12, 30), timezones=st.just(UTC)), st.integers(0, 30))  # noqa: DTZ001 (hypothesis adds the zone)
def test_what_is_missing_has_closed_and_is_every_session_since_the_start(now: datetime, days: int) -> None:
    start = max(now.date() - timedelta(days=days), date(1962, 1, 2))
    missing = plan(nyse(), Asked(), set(), start, 0, now).missing
    assert missing == [day for day in nyse().between(start, now.date()) if close_of(day) <= now]


# --------------------------------------------------------------------------------------------------------- looking back


def test_the_last_stored_sessions_are_looked_at_again_after_what_is_missing() -> None:
    assert planned_days(*SINCE_MONDAY_BEFORE[:6], look_back=3) == ([25], [20, 21, 24])


def test_a_look_back_of_none_looks_at_nothing_again() -> None:
    assert planned_days(*SINCE_MONDAY_BEFORE[:6], look_back=0) == ([25], [])


def test_nothing_is_looked_at_before_anything_is_stored() -> None:
    assert planned_days() == ([25], [])


def test_sessions_after_the_requested_instant_are_ignored() -> None:
    assert planned_days(MONDAY, TUESDAY, date(2025, 11, 26)) == ([], [24, 25])


# --------------------------------------------------------------------------------------------------- what was asked for


def test_sessions_that_are_named_are_fetched_if_they_are_missing() -> None:
    days = {"first": date(2025, 11, 17), "last": date(2025, 11, 20)}
    assert planned_days(date(2025, 11, 18), **days) == ([17, 19, 20], [])


def test_stored_ones_are_fetched_again_on_request() -> None:
    days = {"first": date(2025, 11, 17), "last": date(2025, 11, 20)}
    assert planned_days(date(2025, 11, 18), **days, again=True) == ([17, 19, 20], [18])


def test_from_a_session_on_means_up_to_the_last_closed_one_and_up_to_a_session_means_from_the_start() -> None:
    assert planned_days(first=date(2025, 11, 21)) == ([21, 24, 25], [])
    planned = plan(nyse(), Asked(last=MONDAY), set(), date(2025, 11, 20), 5, AFTER_CLOSE)
    assert [day.day for day in planned.missing] == [20, 21, 24]


def test_a_session_that_has_not_closed_is_never_fetched() -> None:
    assert planned_days(first=TUESDAY, last=date(2025, 12, 5)) == ([25], [])

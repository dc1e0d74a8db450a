from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fetcher.gaps import missing_sessions
from shared.calendar import close_of, nyse
from shared.errors import ConfigurationError

TUESDAY = date(2025, 11, 25)
AFTER_CLOSE = datetime(2025, 11, 25, 21, 5, tzinfo=UTC)
"""16:05 in New York."""


def missing(watermark: date | None, now: datetime = AFTER_CLOSE, first: date | None = None) -> list[str]:
    return [session.isoformat() for session in missing_sessions(nyse(), watermark, first, now)]


def test_the_sessions_after_the_watermark_are_missing_oldest_first() -> None:
    assert missing(date(2025, 11, 20)) == ["2025-11-21", "2025-11-24", "2025-11-25"]


def test_nothing_is_missing_when_the_watermark_is_at_the_last_closed_session() -> None:
    assert missing(TUESDAY) == []


def test_a_watermark_ahead_of_the_instant_asked_for_leaves_nothing_to_do() -> None:
    assert missing(date(2025, 12, 31)) == []


def test_a_session_is_missing_from_its_close_on() -> None:
    close = datetime(2025, 11, 25, 21, tzinfo=UTC)
    assert missing(date(2025, 11, 24), close - timedelta(microseconds=1)) == []
    assert missing(date(2025, 11, 24), close) == ["2025-11-25"]


def test_the_close_follows_new_yorks_summer_time() -> None:
    assert missing(date(2025, 7, 14), datetime(2025, 7, 15, 20, tzinfo=UTC)) == ["2025-07-15"]
    assert missing(date(2025, 11, 24), datetime(2025, 11, 25, 20, tzinfo=UTC)) == []


def test_weekends_and_holidays_are_not_missing() -> None:
    assert missing(date(2025, 11, 26), datetime(2025, 12, 1, 22, tzinfo=UTC)) == ["2025-11-28", "2025-12-01"]


def test_a_watermark_on_a_day_that_was_no_session_is_understood() -> None:
    assert missing(date(2025, 11, 22)) == ["2025-11-24", "2025-11-25"]


def test_without_a_watermark_ingestion_begins_at_the_first_session_that_was_set() -> None:
    assert missing(None, first=date(2025, 11, 22)) == ["2025-11-24", "2025-11-25"]


def test_without_a_watermark_and_a_first_session_ingestion_begins_with_the_last_closed_session() -> None:
    assert missing(None) == ["2025-11-25"]


def test_a_first_session_in_the_future_leaves_nothing_to_do() -> None:
    assert missing(None, first=date(2026, 1, 2)) == []


def test_a_watermark_counts_more_than_the_first_session() -> None:
    assert missing(date(2025, 11, 24), first=date(2020, 1, 2)) == ["2025-11-25"]


def test_an_instant_beyond_the_calendar_is_an_error_that_says_how_to_refresh_it() -> None:
    with pytest.raises(ConfigurationError, match="make calendar"):
        missing(TUESDAY, datetime(2030, 1, 2, tzinfo=UTC))


@given(st.datetimes(datetime(1962, 1, 4), datetime(2029, 12, 30), timezones=st.just(UTC)), st.integers(0, 30))  # noqa: DTZ001 (hypothesis adds the zone)
def test_what_is_missing_has_closed_and_is_every_session_since_the_watermark(now: datetime, days: int) -> None:
    watermark = max(now.date() - timedelta(days=days), date(1962, 1, 2))
    found = missing_sessions(nyse(), watermark, None, now)
    expected = [day for day in nyse().between(watermark, now.date()) if day > watermark and close_of(day) <= now]
    assert found == expected

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from fiblake.calendar import (
    EXCHANGE,
    CalendarRangeError,
    Exchange,
    NotASessionError,
    TradingCalendar,
    close_of,
    lake_calendar,
    nyse,
)
from fiblake.data import generate_sessions
from services.fetcher.gaps import Asked, plan
from tests.fakes import sample

NEW_YORK = ZoneInfo("America/New_York")
CALENDAR = nyse()
LAST = CALENDAR.session(CALENDAR.sessions.size - 1)


def new_york(day: str, clock: str) -> datetime:
    return datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=NEW_YORK)


@pytest.mark.filterwarnings("default")
def test_the_file_equals_pandas_market_calendars_to_its_end() -> None:
    """Generated again from the source library, without its own warnings."""
    sessions = CALENDAR.sessions.astype("datetime64[D]").tolist()
    assert sessions == generate_sessions.sessions()
    assert sessions[0] == date(1962, 1, 2)
    assert (generate_sessions.LAST - LAST).days < 7


@pytest.mark.parametrize(
    "day",
    ["1962-07-04", "1963-12-25", "1963-11-25", "1969-04-04", "2001-09-11", "2012-10-29", "2022-06-20", "2025-01-09",
     "2025-11-27", "2025-11-22", "2025-11-23"],
)  # fmt: skip
def test_a_day_without_trading_is_no_session(day: str) -> None:
    with pytest.raises(NotASessionError, match=f"{day} is not a session of the NYSE"):
        CALENDAR.ordinal(date.fromisoformat(day))


@pytest.mark.parametrize("day", ["1962-01-02", "1968-11-27", "1987-10-19", "2001-09-17", "2021-06-18", "2025-11-28"])
def test_a_day_with_trading_is_a_session(day: str) -> None:
    ordinal = CALENDAR.ordinal(date.fromisoformat(day))
    assert str(CALENDAR.session(ordinal)) == day


def test_ordinals_count_from_the_second_of_january_1962() -> None:
    assert CALENDAR.ordinal(date(1962, 1, 2)) == 0
    assert CALENDAR.session(0) == date(1962, 1, 2)
    days = np.array(["1962-01-05", "1962-01-08"], dtype="datetime64[D]")
    assert CALENDAR.ordinals(days).tolist() == [3, 4]


def test_between_the_start_and_2026_08_21_are_16268_sessions() -> None:
    assert CALENDAR.ordinal(date(2026, 8, 21)) == 16_268 - 1


@pytest.mark.parametrize("day", [LAST + timedelta(days=1), date(2100, 1, 1)])
def test_a_day_beyond_the_end_is_an_error_that_names_the_command(day: date) -> None:
    questions = (
        lambda: CALENDAR.ordinal(day),
        lambda: CALENDAR.ordinal_on_or_after(day),
        lambda: CALENDAR.between(date(2025, 1, 2), day),
        lambda: CALENDAR.last_closed(datetime.combine(day, datetime.min.time(), NEW_YORK)),
    )
    for ask in questions:
        with pytest.raises(CalendarRangeError, match=rf"{day} is outside .*1962-01-02 to {LAST}.*`make calendar`"):
            ask()


def test_a_day_before_the_start_is_an_error_too() -> None:
    with pytest.raises(CalendarRangeError, match="1961-12-29"):
        CALENDAR.ordinal(date(1961, 12, 29))
    with pytest.raises(CalendarRangeError, match="1961-12-29"):
        CALENDAR.last_closed(new_york("1961-12-29", "20:00:00"))


def test_the_first_session_not_before_a_day() -> None:
    saturday = date(2025, 11, 22)
    assert CALENDAR.session(CALENDAR.ordinal_on_or_after(saturday)) == date(2025, 11, 24)
    assert CALENDAR.session(CALENDAR.ordinal_on_or_after(date(2025, 11, 24))) == date(2025, 11, 24)
    assert CALENDAR.ordinal_on_or_after(date(1900, 1, 1)) == 0


def test_between_has_both_its_ends() -> None:
    assert [d.day for d in CALENDAR.between(date(2025, 11, 26), date(2025, 12, 1))] == [26, 28, 1]
    assert CALENDAR.between(date(2025, 11, 22), date(2025, 11, 23)) == []


@pytest.mark.parametrize(
    ("now", "last"),
    [
        (new_york("2025-11-19", "15:59:59"), "2025-11-18"),
        (new_york("2025-11-19", "16:00:00"), "2025-11-19"),
        (new_york("2025-11-19", "23:59:59"), "2025-11-19"),
        (new_york("2025-11-20", "00:00:00"), "2025-11-19"),
        (datetime(2025, 11, 19, 20, 59, tzinfo=UTC), "2025-11-18"),
        (datetime(2025, 11, 19, 21, 0, tzinfo=UTC), "2025-11-19"),
        (datetime(2025, 7, 16, 19, 59, tzinfo=UTC), "2025-07-15"),
        (datetime(2025, 7, 16, 20, 0, tzinfo=UTC), "2025-07-16"),
        (datetime(2025, 3, 7, 21, 0, tzinfo=UTC), "2025-03-07"),
        (datetime(2025, 3, 10, 20, 0, tzinfo=UTC), "2025-03-10"),
        (datetime(2025, 11, 20, 3, 0, tzinfo=UTC), "2025-11-19"),
        (new_york("2025-11-22", "12:00:00"), "2025-11-21"),
        (new_york("2025-11-23", "23:00:00"), "2025-11-21"),
        (new_york("2025-11-24", "09:00:00"), "2025-11-21"),
        (new_york("2025-11-27", "18:00:00"), "2025-11-26"),
        (new_york("2025-11-28", "14:00:00"), "2025-11-26"),
        (new_york("2025-11-28", "16:00:00"), "2025-11-28"),
        (datetime.fromisoformat(sample("schedule")["time"]), "2025-11-19"),
    ],
)
def test_the_last_closed_session(now: datetime, last: str) -> None:
    """Around the close, on both sides of daylight saving, over a weekend, on Thanksgiving and its short Friday."""
    assert str(CALENDAR.last_closed(now)) == last


def test_a_session_closes_at_sixteen_in_new_york() -> None:
    assert close_of(date(2025, 11, 19)) == datetime(2025, 11, 19, 21, tzinfo=UTC)
    assert close_of(date(2025, 7, 16)) == datetime(2025, 7, 16, 20, tzinfo=UTC)
    assert close_of(date(2025, 7, 16)).tzinfo is UTC
    assert CALENDAR.last_closed(close_of(date(2025, 7, 16))) == date(2025, 7, 16)


def test_a_calendar_can_be_made_of_any_days() -> None:
    calendar = TradingCalendar(np.array(["2025-01-02", "2025-01-06"], dtype="datetime64[D]"))
    assert calendar.ordinal(date(2025, 1, 6)) == 1


def test_it_is_loaded_once() -> None:
    assert nyse() is CALENDAR


def test_a_run_of_sessions_ends_before_the_first_that_is_missing() -> None:
    friday, monday, tuesday, thursday = (date(2025, 11, day) for day in (21, 24, 25, 28))
    assert CALENDAR.end_of_run(friday, {tuesday, monday, thursday}) == tuesday
    assert CALENDAR.end_of_run(friday, {friday, tuesday}) == friday
    assert CALENDAR.end_of_run(friday, set()) == friday
    assert CALENDAR.end_of_run(LAST, {LAST}) == LAST


def test_a_day_that_turned_out_to_be_no_session_leaves_no_hole() -> None:
    """2025-01-09 was announced as closed ten days before."""
    closed, before, after = date(2025, 1, 9), date(2025, 1, 8), date(2025, 1, 10)
    older = TradingCalendar(np.sort(np.append(nyse().sessions, np.datetime64(closed))))
    assert older.end_of_run(before, {before, after}) == before
    assert nyse().end_of_run(before, {before, after}) == after
    assert nyse().end_of_run(closed, {before, after}) == after
    now = datetime(2025, 1, 10, 22, tzinfo=UTC)
    planned = [plan(c, Asked(), {before, after}, before, 0, now).missing for c in (older, nyse())]
    assert planned == [[closed], []]


def test_a_digest_depends_on_the_sessions_up_to_a_day() -> None:
    calendar, shorter = nyse(), TradingCalendar(nyse().sessions[:1000])
    ends = [calendar.session(ordinal) for ordinal in (0, 1, 7, 8, 500, 999)]
    assert [calendar.digest(end) for end in ends] == [shorter.digest(end) for end in ends]
    assert len({calendar.digest(end) for end in ends}) == len(ends)
    without = TradingCalendar(np.delete(calendar.sessions, 500))
    assert [without.digest(end) == calendar.digest(end) for end in ends] == [True, True, True, True, False, False]
    assert (shorter.digest(calendar.session(1000)), calendar.digest(date(1961, 1, 3))) == ("", "")


def test_the_lakes_calendar_is_that_of_its_exchange() -> None:
    assert lake_calendar() is nyse()
    assert (nyse().exchange, nyse().exchange.name) == (EXCHANGE, "NYSE")


def test_a_session_closes_by_its_exchanges_clock() -> None:
    london = Exchange("LSE", ZoneInfo("Europe/London"), time(16, 30), "lse_sessions.txt")
    calendar = TradingCalendar(np.array(["2025-01-02", "2025-01-03"], dtype="datetime64[D]"), london)
    at_close = datetime(2025, 1, 3, 16, 30, tzinfo=UTC)
    assert calendar.last_closed(at_close) == date(2025, 1, 3)
    assert calendar.last_closed(at_close - timedelta(minutes=1)) == date(2025, 1, 2)


def test_a_day_without_a_session_names_the_exchange_of_its_calendar() -> None:
    london = Exchange("LSE", ZoneInfo("Europe/London"), time(16, 30), "lse_sessions.txt")
    calendar = TradingCalendar(np.array(["2024-05-03", "2024-05-07"], dtype="datetime64[D]"), london)
    with pytest.raises(NotASessionError, match="2024-05-06 is not a session of the LSE"):
        calendar.ordinal(date(2024, 5, 6))

"""Which sessions are missing (pure)."""

from datetime import date, datetime

from shared.calendar import TradingCalendar


def missing_sessions(
    calendar: TradingCalendar, watermark: date | None, first_session: date | None, now: datetime
) -> list[date]:
    """Give the sessions to fetch, oldest first: those after `watermark` that have closed at `now`.

    Without a watermark ingestion begins at `first_session`, or with the last closed session if that is not set.
    """
    last = calendar.last_closed(now)
    if watermark is None:
        return calendar.between(first_session or last, last)
    return [session for session in calendar.between(watermark, last) if session > watermark]

"""Plan which sessions to fetch (pure)."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime

from fiblake.calendar import TradingCalendar


@dataclass(frozen=True, slots=True)
class Plan:
    """The sessions to request from the vendor, each list oldest first."""

    missing: list[date]
    """Sessions that are not stored whole."""
    again: list[date]
    """Stored sessions that are compared again: only restated bars are written."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The requested sessions of a run: none, or those from `first` to `last`; with `again` also stored ones."""

    first: date | None = None
    last: date | None = None
    again: bool = False

    @property
    def anything(self) -> bool:
        """Whether any sessions were named."""
        return self.first is not None or self.last is not None


def plan(  # noqa: PLR0917
    calendar: TradingCalendar,
    sessions_asked: Asked,
    stored: Collection[date],
    start: date | None,
    look_back: int,
    now: datetime,
) -> Plan:
    """Plan a run at `now`.

    `stored` are the sessions that are stored whole, `start` is the first session of ingestion (None: the last
    closed one). A run without named sessions fetches all missing ones since `start`, and compares the last `look_back`
    stored ones again. Sessions beyond the calendar raise CalendarRangeError.
    """
    closed = calendar.last_closed(now)
    first = sessions_asked.first or start or closed
    sessions = calendar.between(first, min(sessions_asked.last or closed, closed))
    missing = [session for session in sessions if session not in stored]
    if sessions_asked.anything:
        return Plan(missing, [session for session in sessions if session in stored] if sessions_asked.again else [])
    recent = [session for session in sorted(stored) if session <= closed][-look_back:] if look_back else []
    return Plan(missing, recent)

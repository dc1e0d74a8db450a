"""The trading calendar: the sessions of the NYSE since 1962-01-02, whose ordinal is 0.

The sessions come from a file that `make calendar` generates from pandas_market_calendars. A day after its end is an
error that names this command, never a guess.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import cache, cached_property
from hashlib import blake2b
from importlib.resources import files
from typing import Final, cast
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from fiblake.errors import ConfigurationError, ContractError, FiblakeError

Days = npt.NDArray[np.datetime64]
Ordinals = npt.NDArray[np.int64]

NEW_YORK: Final = ZoneInfo("America/New_York")


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange: its name, its time zone and close, and the file of its sessions."""

    name: str
    time_zone: ZoneInfo
    close: time
    """In its time zone. A shortened session counts as closed at the same time."""
    file: str
    """In fiblake/data; `fiblake/data/generate_sessions.py` writes it."""


NYSE: Final = Exchange("NYSE", NEW_YORK, time(16, 0), "nyse_sessions.txt")
EXCHANGE: Final = NYSE
"""The exchange of this lake: all services use its sessions, its time zone and its close."""


class CalendarRangeError(ConfigurationError):
    """A day is outside the calendar file."""

    def __init__(self, day: object, first: object, last: object) -> None:
        mend = ": raise LAST in fiblake/data/generate_sessions.py, run `make calendar`, and deploy"
        super().__init__(
            f"{day} is outside the trading calendar ({first} to {last}){mend if str(day) > str(last) else ''}"
        )


class NotASessionError(ContractError):
    """A day is not a trading session."""

    def __init__(self, day: object, exchange: Exchange) -> None:
        super().__init__(f"{day} is not a session of the {exchange.name}")


@dataclass(frozen=True)
class TradingCalendar:
    """Sessions of an exchange, in order; `sessions[k]` (datetime64[D]) has ordinal k."""

    sessions: Days
    exchange: Exchange = EXCHANGE

    def ordinals(self, days: Days) -> Ordinals:
        """Return each day's ordinal; raise NotASessionError or CalendarRangeError for the first day without one."""
        ordinal_of_day = self._ordinal_of_day
        since = (days - self.sessions[0]).astype(np.int64)
        if since.size and (since.min() < 0 or since.max() >= ordinal_of_day.size):
            outside = days[(since < 0) | (since >= ordinal_of_day.size)]
            raise CalendarRangeError(outside[0], self.sessions[0], self.sessions[-1])
        ordinals = ordinal_of_day[since]
        if ordinals.size and ordinals.min() < 0:
            raise NotASessionError(days[ordinals < 0][0], self.exchange)
        return np.asarray(ordinals)

    def find_ordinals(self, days: Days) -> Ordinals:
        """Return each day's ordinal; -1 for a day that is no session, or is outside the calendar."""
        ordinal_of_day = self._ordinal_of_day
        since = (days - self.sessions[0]).astype(np.int64)
        inside = (since >= 0) & (since < ordinal_of_day.size)
        if inside.all():
            return np.asarray(ordinal_of_day[since])
        return np.where(inside, ordinal_of_day[np.where(inside, since, 0)], -1)

    def are_sessions(self, days: Days) -> npt.NDArray[np.bool_]:
        """Return which of these days are sessions; a day outside the calendar is none."""
        return np.asarray(self.find_ordinals(days) >= 0, dtype=np.bool_)

    def check_end(self, days: Days) -> None:
        """Raise CalendarRangeError if one of these days is after the calendar's last session."""
        if days.size and days.max() > self.sessions[-1]:
            raise CalendarRangeError(days.max(), self.sessions[0], self.sessions[-1])

    def faults(self, day: date) -> list[str]:
        """Return the reasons why a day cannot be the session of a bar; empty: it can."""
        try:
            self.ordinal(day)
        except FiblakeError as error:
            return [str(error)]
        return []

    @cached_property
    def days(self) -> npt.NDArray[np.int32]:
        """The sessions as Arrow and Parquet store dates: days since 1970-01-01."""
        return self.sessions.astype(np.int64).astype(np.int32)

    @cached_property
    def ordinal_of(self) -> dict[date, int]:
        """Each session's ordinal: for few days faster than `ordinals`."""
        return {session: ordinal for ordinal, session in enumerate(self.sessions.tolist())}

    @cached_property
    def _session_bits(self) -> bytes:
        """A bit for each day since the first session: whether the day is a session."""
        return np.packbits(self._ordinal_of_day >= 0).tobytes()

    @cached_property
    def _ordinal_of_day(self) -> Ordinals:
        """The ordinal by days since the first session; -1 for a day that is no session."""
        since = (self.sessions - self.sessions[0]).astype(np.int64)
        places = np.full(since[-1] + 1, -1, dtype=np.int64)
        places[since] = np.arange(since.size)
        return places

    def digest(self, through: date) -> str:
        """Return a digest of the sessions up to `through`: it is equal for two calendars with the same sessions.

        It is empty for a day outside the calendar.
        """
        days = (through - self.session(0)).days + 1
        if not 0 < days <= self._ordinal_of_day.size:
            return ""
        whole, rest = divmod(days, 8)
        bits = self._session_bits
        last = bytes([bits[whole] & (0xFF00 >> rest & 0xFF)]) if whole < len(bits) else b""
        return blake2b(bits[:whole] + last, digest_size=8).hexdigest()

    def ordinal(self, day: date) -> int:
        """Return one session's ordinal; raise the errors of `ordinals`."""
        return int(self.ordinals(np.array([day], dtype="datetime64[D]"))[0])

    def ordinal_on_or_after(self, day: date) -> int:
        """Return the ordinal of the first session from `day` on; raise CalendarRangeError if there is none."""
        day_number = np.datetime64(day, "D")
        if day_number > self.sessions[-1]:
            raise CalendarRangeError(day, self.sessions[0], self.sessions[-1])
        return int(np.searchsorted(self.sessions, day_number))

    def session(self, ordinal: int) -> date:
        """Return the session with this ordinal."""
        return cast("date", self.sessions[ordinal].item())

    def between(self, first: date, last: date) -> list[date]:
        """List the sessions from `first` to `last`, both inclusive; raise CalendarRangeError beyond the file."""
        if np.datetime64(last, "D") > self.sessions[-1]:
            raise CalendarRangeError(last, self.sessions[0], self.sessions[-1])
        low = np.searchsorted(self.sessions, np.datetime64(first, "D"))
        high = np.searchsorted(self.sessions, np.datetime64(last, "D"), side="right")
        return cast("list[date]", self.sessions[low:high].tolist())

    def last_closed(self, now: datetime) -> date:
        """Return the last session whose close is not after `now`.

        A shortened session counts as closed at the usual time, too. Raises CalendarRangeError if `now` is outside the
        file.
        """
        here = now.astimezone(self.exchange.time_zone)
        day = np.datetime64(here.date(), "D")
        closed = np.searchsorted(self.sessions, day, side="right" if here.time() >= self.exchange.close else "left")
        if day > self.sessions[-1] or closed == 0:
            raise CalendarRangeError(here.date(), self.sessions[0], self.sessions[-1])
        return self.session(int(closed) - 1)

    def end_of_run(self, first: date, sessions: Collection[date]) -> date:
        """Return the last session of the unbroken run of `sessions` that begins at `first`.

        If `first` is no session (a closure that an older calendar did not know), return the session before it.
        """
        ordinal = self.ordinal_on_or_after(first)
        ordinal -= self.session(ordinal) > first
        while ordinal + 1 < len(self.sessions) and self.session(ordinal + 1) in sessions:
            ordinal += 1
        return self.session(ordinal)


def days_before(day: date, days: int) -> date:
    """Return the day this many days earlier: 0001-01-01 at the earliest, because a setting may mean "all"."""
    return date.fromordinal(max(1, day.toordinal() - days))


def close_of(session: date) -> datetime:
    """Return the instant (UTC) of the usual close of `session`; a shortened session closes earlier."""
    return datetime.combine(session, EXCHANGE.close, EXCHANGE.time_zone).astimezone(UTC)


def exchange_day(instant: datetime) -> date:
    """Return the day of an instant in the exchange's time zone."""
    return instant.astimezone(EXCHANGE.time_zone).date()


def lake_calendar() -> TradingCalendar:
    """Return the calendar of this lake's exchange."""
    return _load(EXCHANGE)


def nyse() -> TradingCalendar:
    """Return the calendar of the NYSE."""
    return _load(NYSE)


@cache
def _load(exchange: Exchange) -> TradingCalendar:
    """Read the exchange's file of sessions, once in a process."""
    lines = files("fiblake").joinpath("data", exchange.file).read_text(encoding="ascii").split()
    return TradingCalendar(np.array(lines, dtype="datetime64[D]"), exchange)

"""Select the bars of a completion event, so that a short change is resampled without reading data.parquet (pure)."""

from datetime import date
from typing import Final

import numpy as np

from fiblake.bars import Consolidated
from fiblake.calendar import TradingCalendar
from fiblake.errors import FiblakeError
from fiblake.lake import INTERVALS
from fiblake.rules import NUMBER_COLUMNS
from shared.events import Tail

LONGEST_TAIL: Final = 100
"""Bars. A new session needs at most one more than the longest interval has sessions.

Ten events of this size are a tenth of SNS's limit for one request.
"""


def tail_of(stored: Consolidated, changed_from: date, calendar: TradingCalendar) -> Tail | None:
    """Return the bars of all buckets that a change from `changed_from` on may affect.

    These are the bars from the earliest bucket start, over all intervals, of the bar before the change (its bucket may
    become complete). None if the event cannot carry them: they are too many, a split or a handover (announced ones
    included) after their beginning changes how they are resampled, or a number is not finite.
    """
    sessions = stored.bars["timestamp"].to_numpy()
    before = int(np.searchsorted(sessions, np.datetime64(changed_from, "D"))) - 1
    try:
        if before >= 0:
            ordinal = calendar.ordinal_of[sessions[before].astype("datetime64[D]").item()]
        else:
            ordinal = calendar.ordinal_on_or_after(changed_from)
    except (KeyError, FiblakeError):
        return None  # the calendar does not have the day: the reader of data.parquet raises the error
    tail_from = calendar.session(min(ordinal - ordinal % interval for interval in INTERVALS))
    first = int(np.searchsorted(sessions, np.datetime64(tail_from, "D")))
    if sessions.size - first > LONGEST_TAIL:
        return None
    reference = stored.reference
    splits = any(tail_from < day <= stored.last_session for day, _ in reference.splits)
    if splits or any(day > tail_from for day in reference.handovers):
        return None
    numbers = np.array([stored.bars[name].slice(first).to_numpy() for name in NUMBER_COLUMNS])
    if not np.isfinite(numbers).all():
        return None
    days = sessions[first:].astype("datetime64[D]").tolist()
    return Tail(tail_from=tail_from, timestamp=days, **dict(zip(NUMBER_COLUMNS, numbers.tolist(), strict=True)))

"""Turn a batch of completion events into changes of symbols, and the symbols' errors into errors of messages."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from fiblake.errors import ConfigurationError, FiblakeError
from fiblake.lake import INTERVALS
from services.resampler.resample import Change, Resampler
from shared.events import ConsolidationComplete, parse
from shared.outcomes import catch_errors
from shared.queues import ReceivedMessage

_QUEUE: Final = re.compile(r".*resample-(\d+)d")


def interval_of(queue: str) -> int:
    """Return the interval a queue is for, by its name; raise ConfigurationError if it is none of ours."""
    match = _QUEUE.fullmatch(queue)
    if match is None or int(match[1]) not in INTERVALS:
        raise ConfigurationError(
            f"queue {queue!r} is not named like ENV-resample-3d, for one of the intervals {INTERVALS}"
        )
    return int(match[1])


def resample_batch(resampler: Resampler, messages: Sequence[ReceivedMessage], now: datetime) -> dict[str, FiblakeError]:
    """Resample what the messages name; return the errors by message id. A symbol that fails fails all its messages."""
    outcomes = {m.id: catch_errors(parse, ConsolidationComplete, m.body) for m in messages}
    events = {i: outcome for i, outcome in outcomes.items() if isinstance(outcome, ConsolidationComplete)}
    errors = {i: outcome for i, outcome in outcomes.items() if isinstance(outcome, FiblakeError)}
    failures = resampler.resample([Change.of(event) for event in events.values()], now)
    return errors | {i: failures[e.symbol] for i, e in events.items() if e.symbol in failures}

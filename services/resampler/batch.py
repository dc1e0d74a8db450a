"""From a batch of completion events to distinct symbols, and from their errors back to the messages."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from services.resampler.resample import Change, Resampler
from shared.errors import ConfigurationError, FiblakeError
from shared.events import ConsolidationComplete, parse
from shared.lake import INTERVALS
from shared.outcomes import attempt
from shared.queues import Received
from shared.telemetry import joined

_QUEUE: Final = re.compile(r".*resample-(\d+)d")


def interval_of(queue: str) -> int:
    """Give the interval a queue is for, by its name; raise ConfigurationError if it is none of ours."""
    match = _QUEUE.fullmatch(queue)
    if match is None or int(match[1]) not in INTERVALS:
        raise ConfigurationError(
            f"queue {queue!r} is not named like ENV-resample-3d, for one of the intervals {INTERVALS}"
        )
    return int(match[1])


def resample_batch(resampler: Resampler, messages: Sequence[Received], now: datetime) -> dict[str, FiblakeError]:
    """Resample each symbol the messages name, from the earliest session any of them names; errors by message id."""
    read = {m.id: attempt(lambda m=m: parse(ConsolidationComplete, m.body)) for m in messages}  # type: ignore[misc]
    events = {i: outcome for i, outcome in read.items() if isinstance(outcome, ConsolidationComplete)}
    errors = {i: outcome for i, outcome in read.items() if isinstance(outcome, FiblakeError)}
    failures = resampler.resample(distinct(list(events.values())), now)
    return errors | {i: failures[e.symbol] for i, e in events.items() if e.symbol in failures}


def distinct(events: Sequence[ConsolidationComplete]) -> list[Change]:
    """Give each symbol once, with its earliest change, the correlation id of that event, and the oldest put."""
    changes: dict[str, Change] = {}
    for event in events:
        known = changes.get(event.symbol)
        new = Change(event.symbol, event.changed_from, event.correlation_id, event.put_at)
        changes[event.symbol] = _both(known, new) if known else new
    for event in events:
        joined(event.symbol, event.correlation_id, changes[event.symbol].correlation_id)
    return [changes[symbol] for symbol in sorted(changes)]


def _both(known: Change, new: Change) -> Change:
    earlier = new if new.changed_from < known.changed_from else known
    puts = [at for at in (known.put_at, new.put_at) if at]
    return replace(earlier, put_at=min(puts, default=None))

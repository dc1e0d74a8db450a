"""How the queue is drained: rounds of messages, symbols in parallel, and an honest end for each message."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

from services.consolidator import manifest
from services.consolidator.consolidate import Consolidation, Consolidator, ReferenceFileError
from shared.cleanup import Proof, clean_up
from shared.errors import ContractError, FiblakeError, NotFoundError, TransientError, UpstreamError
from shared.events import ConsolidationComplete, ConsolidationRequest, parse
from shared.outcomes import apart, attempt, settle
from shared.queues import BATCH, Queue, Received, Topic, retry_seconds
from shared.telemetry import count, joined, logger
from shared.traces import Traces

HEARTBEAT_SECONDS: Final = 30
HIDDEN_SECONDS: Final = 180
WAIT_SECONDS: Final = 2


class StoppedError(TransientError):
    """The worker was told to stop before it came to this symbol."""


@dataclass(slots=True)
class Summary:
    """What a run did."""

    symbols: int = 0
    files: int = 0
    deleted: int = 0
    retried: int = 0
    dead_lettered: int = 0
    released: int = 0
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Origin:
    """Which put a symbol is consolidated for."""

    correlation_id: str
    put_at: datetime | None


@dataclass(frozen=True)
class Worker:
    """What a run of the worker works with."""

    consolidator: Consolidator
    complete: Topic
    run: str
    clock: Callable[[], datetime]
    max_workers: int
    retention_days: int | None
    """None: nothing is deleted."""
    traces: Traces = field(default_factory=Traces)
    stop: threading.Event = field(default_factory=threading.Event)
    summary: Summary = field(default_factory=Summary)

    def drain(self, queue: Queue, round_size: int, most_receives: int, idle_seconds: int) -> None:
        """Work until the queue stays empty of visible, in-flight and delayed messages, or `stop` is set.

        SQS counts approximately and may be a minute late, so the queue must look empty for `idle_seconds`; and what was
        given back must have had the time to come again.
        """
        polls = empty = due = 0
        while not self.stop.is_set():
            messages = _take(queue, round_size)
            if messages:
                empty = 0
                due = max(due, polls + self._rounds(queue, messages, most_receives) // WAIT_SECONDS + 1)
                continue
            polls += 1
            empty = empty + 1 if queue.depth().empty else 0
            if empty and empty * WAIT_SECONDS >= idle_seconds and polls >= due:
                return

    def consolidate(self, symbols: Sequence[str], round_size: int, *, full: bool) -> None:
        """Consolidate these symbols without the queue; what fails stands in the summary."""
        for start in range(0, len(symbols), round_size):
            part = symbols[start : start + round_size]
            requests = [ConsolidationRequest(symbol=symbol, correlation_id=self.run) for symbol in part]
            failures = self._work(requests, full=full)
            self.summary.failed += sorted(failures)
            for symbol, error in failures.items():
                logger.error("symbol failed", extra={"symbol": symbol, "reason": str(error)})

    def _rounds(self, queue: Queue, messages: Sequence[Received], most_receives: int) -> int:
        """Work on the messages; give the longest pause after which one of them comes again, in seconds.

        What came often before is worked on alone: it may be what killed a worker, and its mates must not go with it.
        """
        parts = apart(messages)
        left = [[m for part in parts[i:] for m in part] for i in range(len(parts))]
        return max(self._round(queue, *each, most_receives) for each in zip(parts, left, strict=True))

    def _round(self, queue: Queue, messages: Sequence[Received], held: Sequence[Received], most_receives: int) -> int:
        """Work on `messages` and settle them, keeping all that are still `held` hidden; give the longest pause."""
        outcomes = {m.id: attempt(lambda m=m: parse(ConsolidationRequest, m.body)) for m in messages}  # type: ignore[misc]
        requests = {i: o for i, o in outcomes.items() if isinstance(o, ConsolidationRequest)}
        errors = {i: o for i, o in outcomes.items() if isinstance(o, FiblakeError)}
        with _kept_hidden(queue, held):
            failures = self._work(list(requests.values()), full=False, headers=[m.trace for m in messages])
        errors |= {i: error for i, r in requests.items() if (error := failures.get(r.symbol)) and _concerns(error, r)}
        return self._settle(queue, messages, errors, most_receives)

    def _settle(
        self, queue: Queue, messages: Sequence[Received], errors: Mapping[str, FiblakeError], most_receives: int
    ) -> int:
        stopped = [m for m in messages if isinstance(errors.get(m.id), StoppedError)]
        queue.hide(stopped, 0)
        met = [m for m in messages if m not in stopped]
        ended = settle(queue, met, errors, most_receives)
        queue.delete(ended)
        retried = [m for m in met if m not in ended]
        self.summary.released += len(stopped)
        self.summary.retried += len(retried)
        self.summary.dead_lettered += sum(m.id in errors for m in ended)
        return max((retry_seconds(m.receive_count) for m in retried), default=0)

    def _work(
        self, requests: Sequence[ConsolidationRequest], *, full: bool, headers: Sequence[str | None] = ()
    ) -> dict[str, FiblakeError]:
        """Do what is requested and count it, as one segment of a trace; give the errors by symbol."""
        with self.traces.segment(headers, [request.correlation_id for request in requests]) as notes:
            failures, told = self._consolidated(requests, full=full)
            files = sum(one.merged_files for one in told)
            notes.update(run=self.run, symbols=len(told), files=files, failed=len(failures))
        self.summary.symbols += len(told)
        self.summary.files += files
        count(SymbolsConsolidated=len(told), FilesMerged=files, SymbolsFailed=len(failures))
        return failures

    def _consolidated(
        self, requests: Sequence[ConsolidationRequest], *, full: bool
    ) -> tuple[dict[str, FiblakeError], list[Consolidation]]:
        """Consolidate the requests' symbols, then tell of them, then clean up; give the errors, and what was told of.

        The order is the safety: data.parquet first, then event and manifest, and only then the deletions and, by the
        caller, the end of the messages. A crash anywhere repeats the later steps when the message comes again.
        """
        hints = _hints(requests)
        with ThreadPoolExecutor(self.max_workers) as pool:
            outcomes = list(pool.map(lambda symbol: self._one(symbol, hints[symbol], full=full), hints))
        failures = {symbol: o for symbol, o in zip(hints, outcomes, strict=True) if isinstance(o, FiblakeError)}
        done = [o for o in outcomes if isinstance(o, Consolidation)]
        failures |= {one.symbol: _joined(one.faults) for one in done if one.faults}
        failures |= self._tell(done, _origins(requests))
        told = [one for one in done if not isinstance(failures.get(one.symbol), TransientError)]
        self._clean_up(told)
        return failures, told

    def _one(self, symbol: str, hint: date | None, *, full: bool) -> Consolidation | FiblakeError:
        if self.stop.is_set():
            return StoppedError(f"stopped before {symbol}")
        return attempt(lambda: self.consolidator.consolidate(symbol, hint, self.clock(), full=full))

    def _tell(self, done: Sequence[Consolidation], origins: Mapping[str, _Origin]) -> dict[str, FiblakeError]:
        """Publish the completion events and enter the manifest; give the errors of the symbols not told of."""
        events = [_event(one, origins[one.symbol]) for one in done]
        unsent = {done[i].symbol for i in self.complete.publish(events)}
        for event in (event for event in events if event.symbol not in unsent):
            logger.info("consolidated", extra=event.model_dump(mode="json", exclude={"intervals", "schema_version"}))
        entered = attempt(lambda: manifest.flush(self.consolidator.store, done))
        if isinstance(entered, FiblakeError):
            # Never a dead letter at first sight: no message is to blame for the manifest.
            return {one.symbol: UpstreamError(f"the manifest was not written: {entered}") for one in done}
        return {symbol: UpstreamError(f"SNS did not take the completion of {symbol}") for symbol in unsent}

    def _clean_up(self, done: Sequence[Consolidation]) -> None:
        if self.retention_days is None or not done:
            return
        store, bronze = self.consolidator.store, self.consolidator.bronze
        days = self.retention_days
        proofs = [Proof(one.symbol, one.etag, one.stored.log, one.listing) for one in done]
        outcome = attempt(lambda: clean_up(store, bronze, proofs, self.run, self.clock(), days))
        if isinstance(outcome, FiblakeError):
            # The files stay and the next run over these symbols deletes them: nothing to retry a message for.
            logger.warning("clean-up failed", extra={"reason": str(outcome)})
        else:
            self.summary.deleted += sum(counts["files"] for counts in outcome.values())


def _take(queue: Queue, most: int) -> list[Received]:
    """Take up to `most` messages; a short answer does not mean that there are no more, an empty one does."""
    taken = queue.receive(min(BATCH, most), WAIT_SECONDS)
    while taken and len(taken) < most:
        more = attempt(lambda: queue.receive(min(BATCH, most - len(taken))))  # noqa: B023 (called at once)
        if isinstance(more, FiblakeError) or not more:
            break  # what is in hand is worked on; whatever ails the queue shows again at the next look
        taken += more
    return taken


def _hints(requests: Sequence[ConsolidationRequest]) -> dict[str, date | None]:
    """Give each symbol once, with the earliest session its requests name.

    None if one names none or speaks of splits and identities, which bear upon all of the history.
    """
    hints: dict[str, date | None] = {}
    for request in requests:
        first = None if request.reference_changed else request.changed_from
        named = (first, hints.get(request.symbol, first))
        days = [day for day in named if day]
        hints[request.symbol] = min(days) if len(days) == len(named) else None
    return hints


def _origins(requests: Sequence[ConsolidationRequest]) -> dict[str, _Origin]:
    """Give each symbol's origin: the first request's id, and the oldest put of all of them."""
    origins: dict[str, _Origin] = {}
    for request in requests:
        known = origins.setdefault(request.symbol, _Origin(request.correlation_id, request.put_at))
        joined(request.symbol, request.correlation_id, known.correlation_id)
        puts = [at for at in (known.put_at, request.put_at) if at]
        origins[request.symbol] = _Origin(known.correlation_id, min(puts, default=None))
    return origins


def _event(one: Consolidation, origin: _Origin) -> ConsolidationComplete:
    return ConsolidationComplete(
        symbol=one.symbol,
        changed_from=one.changed_from,
        last_session=one.stored.last_session,
        correlation_id=origin.correlation_id,
        put_at=origin.put_at,
    )


def _joined(faults: Sequence[FiblakeError]) -> FiblakeError:
    transient = [fault for fault in faults if isinstance(fault, TransientError)]
    kind = ReferenceFileError if all(isinstance(fault, ReferenceFileError) for fault in faults) else ContractError
    return transient[0] if transient else kind("; ".join(map(str, faults)))


def _concerns(error: FiblakeError, request: ConsolidationRequest) -> bool:
    """Tell whether what befell the symbol is this request's failure as well.

    Splits and identities may come before the first bar, whose consolidation will read them. A file of them that cannot
    be read is no fault of the bars that arrived.
    """
    if isinstance(error, NotFoundError):
        return not request.reference_changed
    if isinstance(error, ReferenceFileError):
        return request.reference_changed or request.changed_from is None
    return True


@contextmanager
def _kept_hidden(queue: Queue, messages: Sequence[Received]) -> Iterator[None]:
    """Keep messages invisible to other workers for as long as the block lasts."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            queue.hide(messages, HIDDEN_SECONDS)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

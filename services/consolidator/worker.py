"""Drain the queue: take messages in rounds, consolidate their symbols in parallel, finish each message."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from typing import Final

from fiblake.errors import ContractError, FiblakeError, NotFoundError, TransientError, UpstreamError
from fiblake.lake import Bronze, is_dividends, parse_reference
from services.consolidator import manifest
from services.consolidator.consolidate import (
    NO_SESSION_CHANGED,
    Announce,
    Consolidation,
    Consolidator,
    Fault,
    OnlyBrokenBarsError,
    ReferenceFileError,
    Task,
    announce_nothing,
)
from services.consolidator.interleaving import Steps, run_interleaved
from shared.cleanup import Proof, clean_up
from shared.events import ConsolidationComplete, ConsolidationRequest, parse
from shared.outcomes import catch_errors, finish_messages, separate_suspects
from shared.queues import BATCH, Queue, ReceivedMessage, Topic, retry_seconds
from shared.telemetry import emit_metrics, log_correlation_merge, logger
from shared.traces import Traces

HEARTBEAT_SECONDS: Final = 30
HIDDEN_SECONDS: Final = 180
WAIT_SECONDS: Final = 2


class StoppedError(TransientError):
    """The worker received the signal to stop before it processed this symbol."""


@dataclass(slots=True)
class Summary:
    """The counts of a run."""

    symbols: int = 0
    files: int = 0
    deleted: int = 0
    retried: int = 0
    dead_lettered: int = 0
    released: int = 0
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Origin:
    """The put for which a symbol is consolidated."""

    correlation_id: str
    put_at: datetime | None


@dataclass(frozen=True)
class Worker:
    """The clients and settings of a worker."""

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

    def drain(
        self, queue: Queue, round_size: int, most_receives: int, idle_seconds: int, *, stays_for_others: bool = True
    ) -> None:
        """Work until the queue is empty for `idle_seconds`, or `stop` is set.

        One worker of each job has `stays_for_others`: another worker may die, and its messages become visible again.
        For this one the queue counts as empty only if it has no in-flight and no delayed messages either, for a minute,
        because SQS updates its counts late.

        No worker waits for requests that are not sent yet. A request is sent before its job is submitted, and the
        router relies only on jobs that have not started (shared/jobs.py), so a worker always starts after the request.
        A worker that returns a message to the queue waits until it is visible again.
        """
        polls = empty = due = 0
        while not self.stop.is_set():
            messages = _take(queue, round_size)
            if messages:
                empty = 0
                due = max(due, polls + self._process_messages(queue, messages, most_receives) // WAIT_SECONDS + 1)
                continue
            polls += 1
            empty = empty + 1 if not stays_for_others or queue.depth().empty else 0
            if empty and empty * WAIT_SECONDS >= idle_seconds and polls >= due:
                return

    def consolidate(self, symbols: Sequence[str], round_size: int, *, full: bool) -> None:
        """Consolidate these symbols without the queue; the summary names those that fail.

        All of the history is reported. If the run dies, the next one over these symbols reports it again.
        """
        for start in range(0, len(symbols), round_size):
            part = symbols[start : start + round_size]
            requests = [ConsolidationRequest(symbol=symbol, correlation_id=self.run) for symbol in part]
            errors = self._process_requests(requests, announce_nothing, full=full)
            failures = {request.symbol: error for request, error in zip(requests, errors, strict=True) if error}
            self.summary.failed += sorted(failures)
            for symbol, error in failures.items():
                logger.error("symbol failed", extra={"symbol": symbol, "reason": str(error)})

    def withdraw(self, symbol: str, session: date, until: datetime) -> Consolidation:
        """Withdraw a bar that was ingested at or before `until`, and publish the change, even if the bar was not there.

        The folder is not listed: other files have their own messages.
        """
        task = Task(
            symbol=symbol, changed_from=session, lists=False, withdrawn={session: until}, correlation_id=self.run
        )
        consolidation = self.consolidator.consolidate(task, self.clock())
        errors = self._publish([consolidation], {symbol: _Origin(self.run, None)})
        if errors:
            raise errors[symbol]
        return consolidation

    def _process_messages(self, queue: Queue, messages: Sequence[ReceivedMessage], most_receives: int) -> int:
        """Process the messages; return the longest delay, in seconds, after which one of them becomes visible again.

        A message that was received often is processed alone: it may be the one that kills workers, and the others must
        not be lost with it.
        """
        parts = separate_suspects(messages)
        remaining = [[m for part in parts[i:] for m in part] for i in range(len(parts))]
        return max(self._process_round(queue, *pair, most_receives) for pair in zip(parts, remaining, strict=True))

    def _process_round(
        self, queue: Queue, messages: Sequence[ReceivedMessage], held: Sequence[ReceivedMessage], most_receives: int
    ) -> int:
        """Process `messages` and finish them, and keep all in `held` hidden meanwhile; return the longest delay."""
        outcomes = {m.id: catch_errors(self._read_request, m.body) for m in messages}
        requests = {i: o for i, o in outcomes.items() if isinstance(o, ConsolidationRequest)}
        errors = {i: o for i, o in outcomes.items() if isinstance(o, FiblakeError)}
        with _keep_hidden(queue, held):
            failures = self._process_requests(
                list(requests.values()), partial(_announce, queue), full=False, headers=[m.trace for m in messages]
            )
        errors |= {i: error for i, error in zip(requests, failures, strict=True) if error}
        return self._finish(queue, messages, errors, most_receives)

    def _read_request(self, body: str) -> ConsolidationRequest:
        """Read a request; raise ContractError if it breaks the contract or names a file of another symbol."""
        request = parse(ConsolidationRequest, body)
        for key in _keys(request, self.consolidator.bronze):
            self.consolidator.bronze.parse_source(key)
        return request

    def _finish(
        self, queue: Queue, messages: Sequence[ReceivedMessage], errors: Mapping[str, FiblakeError], most_receives: int
    ) -> int:
        stopped = [m for m in messages if isinstance(errors.get(m.id), StoppedError)]
        queue.hide(stopped, 0)
        processed = [m for m in messages if m not in stopped]
        finished = finish_messages(queue, processed, errors, most_receives)
        queue.delete(finished)
        retried = [m for m in processed if m not in finished]
        self.summary.released += len(stopped)
        self.summary.retried += len(retried)
        self.summary.dead_lettered += sum(m.id in errors for m in finished)
        return max((retry_seconds(m.receive_count) for m in retried), default=0)

    def _process_requests(
        self, requests: Sequence[ConsolidationRequest], announce: Announce, *, full: bool,
        headers: Sequence[str | None] = (),
    ) -> list[FiblakeError | None]:  # fmt: skip
        """Consolidate what is requested, as one segment of a trace; return each request's error, or None."""
        with self.traces.segment(headers, [request.correlation_id for request in requests]) as notes:
            errors, published = self._consolidate(requests, announce, full=full)
            files = sum(consolidation.merged_files for consolidation in published)
            failed = len({request.symbol for request, error in zip(requests, errors, strict=True) if error})
            notes.update(run=self.run, symbols=len(published), files=files, failed=failed)
        self.summary.symbols += len(published)
        self.summary.files += files
        emit_metrics(SymbolsConsolidated=len(published), FilesMerged=files, SymbolsFailed=failed)
        return errors

    def _consolidate(
        self, requests: Sequence[ConsolidationRequest], announce: Announce, *, full: bool
    ) -> tuple[list[FiblakeError | None], list[Consolidation]]:
        """Consolidate the requests' symbols, publish, clean up; return each request's error, and what was published.

        The order makes it safe: first data.parquet, then event and manifest, then the deletions; the caller finishes
        the messages last. After a crash, the message comes again and the later steps are repeated.
        """
        tasks = self._tasks(requests, full=full)
        results = run_interleaved([self._steps(task, announce) for task in tasks.values()], self.max_workers)
        outcomes = dict(zip(tasks, results, strict=True))
        consolidated = [outcome for outcome in results if isinstance(outcome, Consolidation)]
        unpublished = self._publish(consolidated, _origins(requests))
        published = [consolidation for consolidation in consolidated if consolidation.symbol not in unpublished]
        self._clean_up(published)
        bronze = self.consolidator.bronze
        errors = [unpublished.get(r.symbol) or _error_of(r, outcomes[r.symbol], bronze) for r in requests]
        return errors, published

    def _tasks(self, requests: Sequence[ConsolidationRequest], *, full: bool) -> dict[str, Task]:
        """Return one task for each symbol, which combines its requests."""
        by_symbol: dict[str, list[ConsolidationRequest]] = {}
        for request in requests:
            by_symbol.setdefault(request.symbol, []).append(request)
        bronze = self.consolidator.bronze
        return {
            symbol: Task(
                symbol=symbol,
                changed_from=None
                if any(map(_affects_all_sessions, own))
                else min((r.changed_from for r in own if r.changed_from), default=NO_SESSION_CHANGED),
                keys=frozenset(key for request in own for key in _keys(request, bronze)),
                lists=any(not (request.files or request.is_of_dividends_only) for request in own),
                reference_changed=any(request.reference_changed or request.dividends_changed for request in own),
                version_floor=max((r.version_floor for r in own if r.version_floor), default=None),
                full=full,
                retention_days=self.retention_days,
                correlation_id=own[0].correlation_id,
            )
            for symbol, own in by_symbol.items()
        }

    def _steps(self, task: Task, announce: Announce) -> Steps[Consolidation]:
        """Return the work on one symbol, which raises StoppedError if the worker was stopped before the work begins."""
        if self.stop.is_set():
            raise StoppedError(f"stopped before {task.symbol}")
        return (yield from self.consolidator.steps(task, self.clock(), announce))

    def _publish(
        self, consolidated: Sequence[Consolidation], origins: Mapping[str, _Origin]
    ) -> dict[str, FiblakeError]:
        """Publish the completion events and enter the manifest; return the errors of the symbols not published.

        A symbol with only new dividends has no event: its silver does not change.
        """
        changed = [consolidation for consolidation in consolidated if consolidation.changed_from != NO_SESSION_CHANGED]
        events = [_completion_event(consolidation, origins[consolidation.symbol]) for consolidation in changed]
        unsent = {changed[i].symbol for i in self.complete.publish(events)}
        _log_dividends(consolidated, origins)
        for event in (event for event in events if event.symbol not in unsent):
            extra = event.model_dump(mode="json", exclude={"intervals", "schema_version", "tail"})
            logger.info("consolidated", extra=extra)
        written = catch_errors(manifest.add_symbols, self.consolidator.store, consolidated)
        if isinstance(written, FiblakeError):
            # A transient error: the message did not cause it, so it must not become a dead letter at once.
            return {c.symbol: UpstreamError(f"the manifest was not written: {written}") for c in consolidated}
        return {symbol: UpstreamError(f"SNS did not take the completion of {symbol}") for symbol in unsent}

    def _clean_up(self, published: Sequence[Consolidation]) -> None:
        if self.retention_days is None or not published:
            return
        store, bronze = self.consolidator.store, self.consolidator.bronze
        days = self.retention_days
        proofs = [Proof(c.symbol, c.etag, c.stored.log, c.listing) for c in published if c.listing]
        outcome = catch_errors(clean_up, store, bronze, proofs, self.run, self.clock(), days)
        if isinstance(outcome, FiblakeError):
            # The files stay, and a later run deletes them: no message needs a retry.
            logger.warning("clean-up failed", extra={"reason": str(outcome)})
        else:
            self.summary.deleted += sum(counts["files"] for counts in outcome.values())


def _take(queue: Queue, most: int) -> list[ReceivedMessage]:
    """Receive up to `most` messages. Only an empty answer means that the queue has no more."""
    taken = queue.receive(min(BATCH, most), WAIT_SECONDS)
    while taken and len(taken) < most:
        more = catch_errors(queue.receive, min(BATCH, most - len(taken)))
        if isinstance(more, FiblakeError) or not more:
            break  # process the received messages; a fault of the queue occurs again at the next receive
        taken += more
    return taken


def _announce(queue: Queue, request: ConsolidationRequest) -> None:
    if queue.send([request.model_dump_json()]):
        raise UpstreamError(f"SQS did not take the request that announces the change of {request.symbol}")


def _keys(request: ConsolidationRequest, bronze: Bronze) -> list[str]:
    """Return the keys of the files that a request names."""
    folder = bronze.symbol_prefix(request.symbol)
    return [f"{folder}{file.name}" for file in request.files]


def _affects_all_sessions(request: ConsolidationRequest) -> bool:
    """Return whether a request affects all of the history, as splits, identities and a restored data.parquet do."""
    if request.is_of_dividends_only:
        return False
    return request.changed_from is None or request.reference_changed or request.version_floor is not None


def _origins(requests: Sequence[ConsolidationRequest]) -> dict[str, _Origin]:
    """Return each symbol's origin: the first request's id, and the oldest put of all of them."""
    origins: dict[str, _Origin] = {}
    for request in requests:
        origin = origins.setdefault(request.symbol, _Origin(request.correlation_id, request.put_at))
        log_correlation_merge(request.symbol, request.correlation_id, origin.correlation_id)
        puts = [at for at in (origin.put_at, request.put_at) if at]
        origins[request.symbol] = _Origin(origin.correlation_id, min(puts, default=None))
    return origins


def _log_dividends(consolidated: Sequence[Consolidation], origins: Mapping[str, _Origin]) -> None:
    """Log versions with only new dividends, and dividends whose two factors contradict each other."""
    for consolidation in consolidated:
        extra = {"symbol": consolidation.symbol, "correlation_id": origins[consolidation.symbol].correlation_id}
        if consolidation.changed_from == NO_SESSION_CHANGED:
            logger.info("consolidated without a change of bars", extra=extra)
        for dispute in consolidation.disputes:
            logger.warning("dividend factor contradicts cash and close", extra={**extra, "dividend": str(dispute)})


def _completion_event(consolidation: Consolidation, origin: _Origin) -> ConsolidationComplete:
    return ConsolidationComplete(
        symbol=consolidation.symbol,
        changed_from=consolidation.changed_from,
        last_session=consolidation.stored.last_session,
        version=consolidation.stored.last_updated,
        tail=consolidation.tail,
        correlation_id=origin.correlation_id,
        put_at=origin.put_at,
    )


def _error_of(
    request: ConsolidationRequest, outcome: Consolidation | FiblakeError, bronze: Bronze
) -> FiblakeError | None:
    """Return the error of this request, given its symbol's outcome."""
    if isinstance(outcome, Consolidation):
        return _join_errors([fault.error for fault in outcome.faults if _is_about(request, fault, bronze)])
    if isinstance(outcome, NotFoundError) and (request.reference_changed or request.dividends_changed):
        return None  # reference files may come before the first bar, whose consolidation will read them
    if isinstance(outcome, OnlyBrokenBarsError):
        return None
    if isinstance(outcome, ReferenceFileError) and not (_affects_all_sessions(request) or request.dividends_changed):
        return None
    return outcome


def _is_about(request: ConsolidationRequest, fault: Fault, bronze: Bronze) -> bool:
    """Return whether a request names the file at fault; other requests of the symbol do not fail with it.

    A request without file names covers all files whose last session is not before its `changed_from`.
    """
    if is_dividends(fault.key):
        return request.dividends_changed or (request.changed_from is None and not request.reference_changed)
    if parse_reference(fault.key):
        return request.reference_changed or (request.changed_from is None and not request.is_of_dividends_only)
    if request.files:
        return fault.key in _keys(request, bronze)
    if _affects_all_sessions(request):
        return True
    since = request.changed_from  # None: the request is of dividends only
    return since is not None and bronze.parse_source(fault.key).last >= since


def _join_errors(errors: Sequence[FiblakeError]) -> FiblakeError | None:
    if not errors:
        return None
    transient = [error for error in errors if isinstance(error, TransientError)]
    kind = ReferenceFileError if all(isinstance(error, ReferenceFileError) for error in errors) else ContractError
    return transient[0] if transient else kind("; ".join(map(str, errors)))


@contextmanager
def _keep_hidden(queue: Queue, messages: Sequence[ReceivedMessage]) -> Iterator[None]:
    """Keep messages invisible to other workers until the block ends."""
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

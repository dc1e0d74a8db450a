"""Turn arrived files into requests, one message for each symbol, and submit a job that drains them."""

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from fiblake.errors import ContractError, FiblakeError, UpstreamError
from fiblake.lake import Bronze
from services.consolidator.arrivals import Arrivals, read_notification, requests
from shared.events import ConsolidationRequest
from shared.jobs import JobQueue
from shared.outcomes import catch_errors
from shared.queues import Queue, ReceivedMessage
from shared.telemetry import emit_metrics, log_correlation_merge, logger

FAULTS_NAMED: Final = 3
"""A notification's reason names this many faults, and counts the others."""


@dataclass(frozen=True, slots=True)
class Router:
    """The clients of the router."""

    bucket: str
    bronze: Bronze
    consolidation: Queue
    jobs: JobQueue
    symbols_per_child: int
    largest_array: int
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex

    def route(self, messages: Sequence[ReceivedMessage]) -> dict[str, FiblakeError]:
        """Send one request for each symbol that arrived, and make sure that a job drains them.

        Return the errors by message id. If a notification names both files of ours and other objects, the files are
        requested and the notification becomes a dead letter. If no job can be submitted, every message that sent a
        request fails and is retried: requests sent twice are harmless, requests without a job are not.
        """
        read = {m.id: self._read(m) for m in messages}
        errors = {i: outcome for i, outcome in read.items() if isinstance(outcome, FiblakeError)}
        arrivals = {i: outcome for i, outcome in read.items() if isinstance(outcome, Arrivals)}
        requested = requests(list(arrivals.values()))
        unsent = {requested[i].symbol for i in self.consolidation.send([r.model_dump_json() for r in requested])}
        no_job = self._submit(len(requested) - len(unsent))
        for message_id, arrival in arrivals.items():
            error = self._error_of(arrival, unsent, no_job)
            if error:
                errors[message_id] = error
        self._log(requested, unsent, errors)
        self._log_correlations(requested, arrivals.values())
        return errors

    def _read(self, message: ReceivedMessage) -> Arrivals | FiblakeError:
        return catch_errors(read_notification, message.body, self.bucket, self.bronze)

    def _submit(self, symbols: int) -> FiblakeError | None:
        """Submit a job unless one is waiting to start: that job will see the messages, which are already sent."""
        if symbols == 0:
            return None
        outcome = catch_errors(self._ensure_job, symbols)
        return outcome if isinstance(outcome, FiblakeError) else None

    def _ensure_job(self, symbols: int) -> None:
        size = min(ceil(symbols / self.symbols_per_child), self.largest_array)
        job_id = self.jobs.ensure(self.new_id(), size)
        if job_id:
            logger.info("job submitted", extra={"job_id": job_id, "size": size, "symbols": symbols})

    @staticmethod
    def _error_of(arrival: Arrivals, unsent: set[str], no_job: FiblakeError | None) -> FiblakeError | None:
        lost = sorted(arrival.symbols & unsent)
        if lost:
            return UpstreamError(f"SQS did not take the request for {', '.join(lost)}")
        if arrival.symbols and no_job:
            return no_job
        return _join_faults(arrival.faults)

    @staticmethod
    def _log(requested: Sequence[ConsolidationRequest], unsent: set[str], errors: dict[str, FiblakeError]) -> None:
        for request in requested:
            if request.symbol not in unsent:
                extra = {"symbol": request.symbol, "correlation_id": request.correlation_id}
                logger.info("consolidation requested", extra=extra)
        logger.info("arrivals routed", extra={"symbols": len(requested), "unsent": len(unsent), "failed": len(errors)})
        emit_metrics(SymbolsRequested=len(requested) - len(unsent), ArrivalsFailed=len(errors))

    @staticmethod
    def _log_correlations(requested: Sequence[ConsolidationRequest], arrivals: Iterable[Arrivals]) -> None:
        correlation_ids = {request.symbol: request.correlation_id for request in requested}
        for arrival in arrivals:
            for symbol in sorted(arrival.symbols):
                log_correlation_merge(symbol, arrival.correlation_id, correlation_ids[symbol])


def _join_faults(faults: Sequence[ContractError]) -> ContractError | None:
    if len(faults) < 2:  # noqa: PLR2004 (one or none needs no joining)
        return faults[0] if faults else None
    more = f"; and {len(faults) - FAULTS_NAMED} more" if len(faults) > FAULTS_NAMED else ""
    return ContractError("; ".join(map(str, faults[:FAULTS_NAMED])) + more)

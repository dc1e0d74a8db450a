"""Entry point of the worker: a Batch child and a command line in one (`python -m services.consolidator --help`).

Exit codes: 0 all is done; 1 a service it needs failed (run it again, nothing is lost); 2 the settings are wrong; 3
done, but some messages became dead letters or some symbols failed; 143 stopped by SIGTERM, and the messages without a
result are back in the queue.
"""

import os
import signal
import sys
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final

from fiblake.calendar import lake_calendar
from fiblake.errors import ConfigurationError
from fiblake.lake import Bronze
from services.consolidator.consolidate import Consolidator
from services.consolidator.settings import WorkerSettings
from services.consolidator.worker import Worker
from shared.job_entry import run_job
from shared.objects import ObjectStore
from shared.queues import Queue, Topic
from shared.telemetry import logger
from shared.traces import Traces

LEAVES_AFTER_SECONDS: Final = 4
"""All children of an array except the first exit when the queue was empty for this time: two long polls."""


def main(arguments: list[str] | None = None) -> int:
    """Run the worker once and return its exit code."""
    return run_job(WorkerSettings, _work, arguments)


def _work(settings: WorkerSettings) -> int:
    worker = _build_worker(settings)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop.set())
    _run(worker, settings)
    logger.info("worker ended", extra=asdict(worker.summary))
    if worker.stop.is_set():
        return 128 + signal.SIGTERM
    return 3 if worker.summary.dead_lettered or worker.summary.failed else 0


def _build_worker(settings: WorkerSettings) -> Worker:
    return Worker(
        consolidator=Consolidator(ObjectStore.connect(settings.s3_bucket), Bronze(settings.s3_prefix), lake_calendar()),
        complete=Topic.connect(settings.consolidation_complete_topic_arn),
        run=os.environ.get("AWS_BATCH_JOB_ID", uuid.uuid4().hex).partition(":")[0],
        clock=lambda: datetime.now(UTC),
        max_workers=settings.max_workers,
        retention_days=None if settings.skip_cleanup else settings.retention_days,
        traces=Traces(settings.trace_name),
    )


def _run(worker: Worker, settings: WorkerSettings) -> None:
    full = settings.mode == "full"
    if settings.symbols or full:
        symbols = settings.symbols or _symbols_of_child(worker.consolidator, settings)
        worker.consolidate(symbols, settings.round_size, full=full)
    elif settings.consolidation_queue_url:
        queue = Queue.connect(settings.consolidation_queue_url)
        stays = settings.aws_batch_job_array_index == 0
        idle_seconds = settings.idle_seconds if stays else min(settings.idle_seconds, LEAVES_AFTER_SECONDS)
        receives = settings.max_receive_count
        worker.drain(queue, settings.round_size, receives, idle_seconds, stays_for_others=stays)
    else:
        raise ConfigurationError("set CONSOLIDATION_QUEUE_URL, or name --symbols, or ask for --mode full")


def _symbols_of_child(consolidator: Consolidator, settings: WorkerSettings) -> tuple[str, ...]:
    """Return this child's share of all symbols in the lake."""
    symbols = consolidator.bronze.symbols_in(consolidator.store.folders(f"{settings.s3_prefix}/"))
    return tuple(symbols[settings.aws_batch_job_array_index :: settings.aws_batch_job_array_size])


if __name__ == "__main__":
    sys.exit(main())

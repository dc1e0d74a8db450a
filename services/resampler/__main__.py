"""Entry point of the full-history resample: a Batch job or a child of one (`python -m services.resampler --help`).

Exit codes: 0 all is done; 1 a service it needs failed (run it again, what is done stays done); 2 the settings are
wrong; 3 done, but some symbols could not be read. It may be killed at any moment.
"""

import ctypes
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final

from fiblake.calendar import lake_calendar
from fiblake.lake import Bronze
from services.resampler.full import FullResampler, Summary, Watch, no_progress
from services.resampler.settings import FullResamplerSettings
from shared.job_entry import run_job
from shared.objects import ObjectStore
from shared.queues import Topic
from shared.telemetry import logger
from shared.traces import Traces

RESERVED_MB: Final = 450
"""Memory needed beside the buckets: interpreter and libraries, batches in work, files being written."""
_M_MMAP_THRESHOLD: Final = -3
_M_TRIM_THRESHOLD: Final = -1
_M_ARENA_MAX: Final = -8
_LARGE: Final = 1 << 20
_KEPT: Final = 64 << 20
_ARENAS: Final = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the job once and return its exit code."""
    return run_job(FullResamplerSettings, _run, arguments)


def _run(settings: FullResamplerSettings) -> int:
    summary = resample(settings)
    logger.info("full resample ended", extra={**asdict(summary), "symbols": len(summary.symbols)})
    return 3 if summary.failed else 0


def resample(settings: FullResamplerSettings, watch: Watch = no_progress) -> Summary:
    """Compute all of silver again, or this child's share of it."""
    return_what_is_freed()
    resampler = FullResampler(
        store=ObjectStore.connect(settings.s3_bucket),
        bronze=Bronze(settings.s3_prefix),
        calendar=lake_calendar(),
        updated=Topic.connect(settings.silver_updated_topic_arn),
        retention_years=settings.resampling_retention_years,
        adjusted=settings.resampling_adjusted,
        most_bytes=(settings.memory_mb - RESERVED_MB) << 20,
        watch=watch,
        rebuild=settings.rebuild,
    )
    with Traces(settings.trace_name).segment() as notes:
        now = datetime.now(UTC)
        summary = resampler.run(now, settings.aws_batch_job_array_index, settings.aws_batch_job_array_size)
        notes.update(symbols=len(summary.symbols), failed=len(summary.failed), written=summary.written)
    return summary


def return_what_is_freed() -> None:
    """Let large arrays go back to the system when they are freed (malloc(3), M_MMAP_THRESHOLD).

    Otherwise glibc keeps those below 32 MB, and a limit on the memory in use would not limit the process. Smaller
    arrays are kept for the next ones (M_TRIM_THRESHOLD): a new page of memory costs as much as 4 KB of work on it. Each
    arena keeps this much memory, so there are two arenas instead of sixteen (M_ARENA_MAX).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_ARENA_MAX, _ARENAS)


if __name__ == "__main__":
    sys.exit(main())

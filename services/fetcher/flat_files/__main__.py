"""Entry point of the Batch job that loads flat files (`python -m services.fetcher.flat_files --help`).

Exit codes: 0 all is done; 1 a service it needs failed (run it again, what is loaded stays loaded); 2 the settings are
wrong; 3 done, but some day files could not be loaded. It may be killed at any moment.
"""

import asyncio
import sys
from dataclasses import asdict
from typing import Final

from services.fetcher.flat_files.assembly import load_flat_files
from services.fetcher.flat_files.load import NAMED_AT_MOST, LoadReport
from services.fetcher.settings import FlatFileJobSettings
from shared.job_entry import run_job
from shared.telemetry import logger

_COUNTED: Final = ("missing_sessions", "not_sessions", "unclaimed_tickers", "tickers_stored", "without_bars", "decided")
"""The fields of a report of which the log line has the number."""


def main(arguments: list[str] | None = None) -> int:
    """Run the job once and return its exit code."""
    return run_job(FlatFileJobSettings, _load, arguments)


def _load(settings: FlatFileJobSettings) -> int:
    report = asyncio.run(
        load_flat_files(
            settings, None, settings.flat_files_from, settings.flat_files_to, _say_nothing,
            all_tickers=settings.flat_files_all_tickers, again=settings.flat_files_again,
        )
    )  # fmt: skip
    logger.info("flat files loaded", extra=_facts(report))
    return 3 if report.failed else 0


def _facts(report: LoadReport) -> dict[str, object]:
    """Return a report as one log line holds it: numbers, and the first files that failed."""
    facts = asdict(report)
    failed = dict(list(report.failed.items())[:NAMED_AT_MOST])
    return {**facts, **{name: len(facts[name]) for name in _COUNTED}, "failed": len(report.failed), "reasons": failed}


def _say_nothing(_what: str, _files: int, _all: int) -> None:
    """Show no progress: each chunk has its log line."""


if __name__ == "__main__":
    sys.exit(main())

"""Entry point of the bronze vacuum (`python -m services.vacuum --help`).

Exit codes: 0 done, or nothing to do, or not confirmed; 1 a service it needs failed (run it again, nothing is lost); 2
the settings are wrong; 3 done, but some symbols could not be read.
"""

import sys
import uuid
from datetime import UTC, datetime

from fiblake.errors import ConfigurationError, NotFoundError
from fiblake.lake import Bronze
from fiblake.wording import pluralize
from services.vacuum.bronze import Plan, Vacuum, check_retention, execute, plan
from services.vacuum.report import sentences, totals
from services.vacuum.settings import VacuumSettings
from shared.job_entry import run_job
from shared.objects import ObjectStore


def main(arguments: list[str] | None = None) -> int:
    """Show what may be deleted, delete it if confirmed, and return the exit code."""
    return run_job(VacuumSettings, _clean_up, arguments)


def _clean_up(settings: VacuumSettings) -> int:
    days = check_retention(settings.retention_days, force=settings.force_retention)
    vacuum = Vacuum(ObjectStore.connect(settings.s3_bucket), Bronze(settings.s3_prefix), settings.max_workers)
    try:
        made = plan(vacuum, settings.symbols, days, datetime.now(UTC))
    except NotFoundError as error:  # a symbol that the lake does not have is a wrong command line
        raise ConfigurationError(str(error)) from error
    _carry_out(vacuum, made, yes=settings.yes)
    return 3 if made.faults else 0


def _carry_out(vacuum: Vacuum, made: Plan, *, yes: bool) -> None:
    say = sys.stdout.write
    say("\n".join(sentences(vacuum.bronze, made)) + "\n")
    if not made.due:
        return
    if not yes and not (sys.stdin.isatty() and input("delete them? [y/N] ").lower() in {"y", "yes"}):
        say("nothing is deleted: say --yes to delete them\n")
        return
    deleted = totals(execute(vacuum, made, f"vacuum-{uuid.uuid4().hex}"))
    say(f"{pluralize(deleted['files'], 'file')} deleted ({pluralize(deleted['bytes'], 'byte')})\n")


if __name__ == "__main__":
    sys.exit(main())

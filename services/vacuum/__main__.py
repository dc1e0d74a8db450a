"""Entry point of the bronze vacuum (`python -m services.vacuum --help`).

Exit codes: 0 done, or nothing to do, or not confirmed; 1 a service it needs failed (run it again, nothing is lost); 2
the settings are wrong; 3 done, but some symbols could not be read.
"""

import sys
import uuid
from datetime import UTC, datetime

from pydantic import ValidationError
from pydantic_settings import CliApp

from fiblake.errors import ConfigurationError, FiblakeError, NotFoundError
from fiblake.lake import Bronze
from fiblake.wording import counted
from services.vacuum.bronze import Plan, Vacuum, check_retention, execute, plan
from services.vacuum.report import sentences, totals
from services.vacuum.settings import VacuumSettings
from shared.objects import ObjectStore


def main(arguments: list[str] | None = None) -> int:
    """Show what may be deleted, delete it if confirmed, and return the exit code."""
    try:
        settings = CliApp.run(VacuumSettings, cli_args=sys.argv[1:] if arguments is None else arguments)
        days = check_retention(settings.retention_days, force=settings.force_retention)
        vacuum = Vacuum(ObjectStore.connect(settings.s3_bucket), Bronze(settings.s3_prefix), settings.max_workers)
        made = plan(vacuum, settings.symbols, days, datetime.now(UTC))
        _carry_out(vacuum, made, yes=settings.yes)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])).upper() or 'settings'}: {e['msg']}" for e in error.errors()]
        sys.stderr.write(f"settings to set right: {'; '.join(faults)} (see --help)\n")
        return 2
    except FiblakeError as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, ConfigurationError | NotFoundError) else 1
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
    say(f"{counted(deleted['files'], 'file')} deleted ({counted(deleted['bytes'], 'byte')})\n")


if __name__ == "__main__":
    sys.exit(main())

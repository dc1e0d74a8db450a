"""The entry point that all Batch jobs and the vacuum share: settings in, exit code out."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp

from fiblake.errors import ConfigurationError, FiblakeError

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def run_job(settings: type[SettingsT], work: Callable[[SettingsT], int], arguments: Sequence[str] | None) -> int:
    """Do a job's work once and return its exit code; `arguments` are the command line's (None: this process's).

    `work` returns the exit code of a run that ended. The other exit codes are 1, a service failed (run the job again,
    finished work stays), and 2, the settings are wrong; standard error then has one sentence.
    """
    try:
        return work(CliApp.run(settings, cli_args=list(sys.argv[1:] if arguments is None else arguments)))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])).upper() or 'settings'}: {e['msg']}" for e in error.errors()]
        sys.stderr.write(f"settings to set right: {'; '.join(faults)} (see --help)\n")
        return 2
    except FiblakeError as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, ConfigurationError) else 1

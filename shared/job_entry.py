"""The entry point that all Batch jobs and the vacuum share: settings in, exit code out."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
        values = CliApp.run(settings, cli_args=list(sys.argv[1:] if arguments is None else arguments))
        with _batch_policy():
            return work(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])).upper() or 'settings'}: {e['msg']}" for e in error.errors()]
        sys.stderr.write(f"settings to set right: {'; '.join(faults)} (see --help)\n")
        return 2
    except FiblakeError as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, ConfigurationError) else 1


@contextmanager
def _batch_policy() -> Iterator[None]:
    """Run the block, and the threads that it starts, under the kernel's policy for batch work, where there is one.

    With this policy (Linux: SCHED_BATCH) a thread that gets an answer does not interrupt a thread that computes. A
    consolidation then has a third fewer switches of context, and needs a tenth less CPU time (docs/performance.md). A
    kernel that does not permit the policy changes nothing else. A policy that somebody chose stays.
    """
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    _set_policy(os.SCHED_BATCH)
    try:
        yield
    finally:
        _set_policy(os.SCHED_OTHER)


def _set_policy(policy: int) -> None:
    """Set the policy of this thread, and of the threads that it will start."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, policy, os.sched_param(0))

"""The process that keeps a stack running between commands: `python -m local.supervisor`, until SIGTERM.

Its data are in `.local/stack` (or FIBLAKE_LOCAL_FOLDER). While it runs, a file beside that folder has the addresses.
"""

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final, TextIO

from fiblake.errors import ConfigurationError, FiblakeError, PermanentError, UpstreamError
from local.emulator import REPOSITORY
from local.environment import isolate
from local.processes import Termination
from local.stack import Stack, run_stack

FOLDER: Final = Path(os.environ.get("FIBLAKE_LOCAL_FOLDER", REPOSITORY / ".local/stack"))
STATE: Final = FOLDER.with_suffix(".json")
LOG: Final = FOLDER.with_suffix(".log")
LOCK: Final = FOLDER.with_suffix(".lock")
_POLL_SECONDS: Final = 0.1
_LOOKS: Final = 5


class NotRunningError(PermanentError):
    """No stack is running."""


def main() -> int:
    """Keep a stack up until SIGTERM or Ctrl-C; return the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)  # until the stack is running: an interrupted start stops its processes
    arguments = _arguments()
    isolate()
    say = partial(print, flush=True)  # into its log
    try:
        first, bars = arguments.first_session, arguments.bars
        with _locked_stack(), run_stack(FOLDER, first_session=first, bars=bars, say=say) as stack:
            termination = Termination()
            _write_state(stack)
            while not termination.requested:
                time.sleep(_POLL_SECONDS)
            STATE.unlink()
    except KeyboardInterrupt:
        return 1
    except FiblakeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.supervisor", description="Keep a stack up until SIGTERM.")
    parser.add_argument("--first-session", type=date.fromisoformat, help="where the very first fetch starts")
    parser.add_argument("--bars", type=Path, help="folder of daily bars (default: the built-in sample)")
    return parser.parse_args()


def running_stack() -> Stack:
    """Return the running stack; raise NotRunningError if there is none."""
    if not is_running() or not STATE.exists():
        raise NotRunningError("no local stack is up: start one with `fiblake local up`")
    state = json.loads(STATE.read_text())
    return Stack(**{**state, "folder": Path(state["folder"])})


def stop() -> None:
    """End the supervisor, running or starting, and wait until its processes have ended.

    Raises NotRunningError if none runs.
    """
    if not is_running():
        raise NotRunningError("no local stack is up")
    os.kill(int(LOCK.read_text()), signal.SIGTERM)
    while is_running():
        time.sleep(_POLL_SECONDS)


def is_running() -> bool:
    """Return whether a supervisor runs on this folder: it holds a lock until its process ends."""
    with _open_lock() as lock:
        return not _locked(lock, fcntl.LOCK_SH)


@contextmanager
def _locked_stack() -> Iterator[None]:
    """Hold the folder's lock, with our pid in it; raise UpstreamError if another supervisor does."""
    with _open_lock() as lock:
        # Several attempts, because a process that checks the lock holds it for a moment.
        if not any(_locked(lock, fcntl.LOCK_EX) for _ in range(_LOOKS)):
            raise UpstreamError("a local stack is up already: `fiblake status --local`, `fiblake local down`")
        STATE.unlink(missing_ok=True)  # the file of a killed supervisor
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _open_lock() -> TextIO:
    try:
        LOCK.parent.mkdir(parents=True, exist_ok=True)
        return LOCK.open("a")
    except OSError as error:
        raise ConfigurationError(
            f"{LOCK} cannot be written ({error.strerror}): name another folder in FIBLAKE_LOCAL_FOLDER"
        ) from error


def _locked(lock: TextIO, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_POLL_SECONDS)
        return False
    return True


def _write_state(stack: Stack) -> None:
    state = {**asdict(stack), "folder": str(stack.folder)}
    draft = STATE.with_suffix(".draft")
    draft.write_text(json.dumps(state, indent=1))
    draft.rename(STATE)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

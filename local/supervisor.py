"""Who keeps a stack up between two commands? This process: `python -m local.supervisor`, until SIGTERM.

Its data lie in `.local/stack` (or FIBLAKE_LOCAL_FOLDER); while it runs, a file beside that says where all listens.
"""

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Final

from local.emulator import REPOSITORY
from local.processes import Termination
from local.stack import Stack, running
from shared.errors import FiblakeError, PermanentError

FOLDER: Final = Path(os.environ.get("FIBLAKE_LOCAL_FOLDER", REPOSITORY / ".local/stack"))
STATE: Final = FOLDER.with_suffix(".json")
LOG: Final = FOLDER.with_suffix(".log")
_POLL_SECONDS: Final = 0.2


class NotRunningError(PermanentError):
    """No stack is up."""


def main() -> int:
    """Keep a stack up until SIGTERM or Ctrl-C; give the exit code."""
    termination = Termination()
    first = date.fromisoformat(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        with running(FOLDER, first_session=first, say=lambda step: print(step, flush=True)) as stack:  # noqa: T201 (its log)
            _write_state(stack)
            while not termination.requested:
                time.sleep(_POLL_SECONDS)
    except FiblakeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        STATE.unlink(missing_ok=True)
    return 0


def current() -> tuple[int, Stack]:
    """Give the running supervisor's pid and its stack; raise NotRunningError if none runs."""
    try:
        state = json.loads(STATE.read_text())
        os.kill(state["pid"], 0)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NotRunningError("no local stack is up: start one with `fiblake local up`") from error
    return state["pid"], Stack(**{**state["stack"], "folder": Path(state["stack"]["folder"])})


def stop(pid: int) -> None:
    """End the supervisor `pid` and wait until its parts have ended with it."""
    os.kill(pid, signal.SIGTERM)
    while STATE.exists():
        time.sleep(_POLL_SECONDS)


def _write_state(stack: Stack) -> None:
    state = {"pid": os.getpid(), "stack": {**asdict(stack), "folder": str(stack.folder)}}
    draft = STATE.with_suffix(".draft")
    draft.write_text(json.dumps(state, indent=1))
    draft.rename(STATE)


if __name__ == "__main__":
    sys.exit(main())

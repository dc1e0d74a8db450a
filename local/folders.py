"""The folder of a run, in which its parts write; the next run removes it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import Final

_LOCK: Final = ".lock"


@contextmanager
def folder_of_run(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder below `parent`, and remove the folders of ended runs.

    A run holds a lock beside its folder until it ends, however it ends. The folder stays after the block, for its logs;
    the caller may remove it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / f"{prefix}runs").open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # one run at a time: none removes a folder that another has just made
        _remove_ended(parent, prefix)
        handle, name = mkstemp(_LOCK, prefix, parent)
        fcntl.flock(handle, fcntl.LOCK_EX)
    folder = Path(name).with_suffix("")
    folder.mkdir()
    try:
        yield folder
    finally:
        if not folder.exists():
            Path(name).unlink()
        os.close(handle)


def _remove_ended(parent: Path, prefix: str) -> None:
    for folder in [path for path in parent.glob(f"{prefix}*") if path.is_dir()]:
        folder.with_suffix(_LOCK).touch()  # a folder of an older version, which made no lock
    for lock in parent.glob(f"{prefix}*{_LOCK}"):
        with lock.open("a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # the run is alive
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()

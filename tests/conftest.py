"""What holds of a whole run: where its tests write, and which of them stay together when there are several processes.

Each run has a folder of its own, and takes it away. Not pytest's: there every run locks the folder that all runs of a
user share, and a PostgreSQL that another run has started as its own user can no longer reach its data.

With several processes (`make test`), a file's tests stay in one, so that what they share is started once. So do those
that need the whole embedded stack (there are two, for a stack waits more than it computes), and those that need the
recording of permissions. They take longest, so they come first.

The garbage collector runs rarely: with its defaults, a fifth of the time of the unit tests is spent on visiting the
modules and the tests, which live until the end.
"""

import gc
import shutil
from pathlib import Path
from tempfile import mkdtemp

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from local.environment import isolate

NEW_OBJECTS = 50_000
"""So many objects are made between two runs of the garbage collector; Python's default is 700."""
FOLDER = pytest.StashKey[Path]()
STACKS = {
    "the commands' stack": ("tests/integration/cli/",),
    "the recording of permissions": ("tests/integration/permissions/",),
    "the chain's stack": ("tests/integration/chain/", "tests/integration/fetcher/test_kills.py"),
}
LONG_FILES = {
    f"tests/unit/{file}.py"
    for file in (
        "consolidator/test_as_of", "fetcher/test_flat_files", "fiblake/reader/test_lake", "reconcile/test_heals",
        "resampler/test_full", "shared/test_bombs", "shared/test_readable", "test_put_to_silver", "test_real_bars",
    )
}  # fmt: skip
"""Unit tests of more than four seconds a file. They come before the others, so that the last file is a short one."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    isolate()  # what is set for other programs is nothing to our tests
    gc.set_threshold(NEW_OBJECTS)
    if config.option.basetemp is None:
        config.stash[FOLDER] = Path(mkdtemp(prefix="fiblake-tests-"))
        config.option.basetemp = config.stash[FOLDER] / "run"


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.freeze()  # no run of the collector visits what exists now


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()  # now all goes, and pytest reports what was not closed
    folder = config.stash.get(FOLDER, None)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


class Groups(LoadScopeScheduling):
    """Hands out whole groups, in their order. The plugin's own `loadgroup` loses its groups with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    return Groups(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes
        items.sort(key=lambda item: _turn(_group(item.nodeid)))


def _turn(group: str) -> int:
    if group in STACKS:
        return list(STACKS).index(group)
    if not group.startswith("tests/unit/"):
        return len(STACKS)
    return len(STACKS) + (1 if group in LONG_FILES else 2)


def _group(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return next((stack for stack, places in STACKS.items() if file.startswith(places)), file)

"""Rules for a whole run: where its tests write, and which tests run in one process if there are several.

Each run has its own folder, and removes it at the end. pytest's own folder is not used: each run locks a folder that
all runs of a user share, and a PostgreSQL that another run started as its own user can no longer read its data.

With several processes (`make test`), the tests of one file run in one process, so that their shared parts are started
once. So do the tests that need the whole embedded stack (there are two stacks, because a stack mostly waits), the tests
that need the recording of permissions, and those of the transformed template. The longest groups run first.

The garbage collector runs rarely: with its defaults it would take a fifth of the time of the unit tests, to visit
modules and tests that exist until the end.
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
"""The number of new objects between two runs of the garbage collector; Python's default is 700."""
FOLDER = pytest.StashKey[Path]()
STACKS = {
    "the commands' stack": ("tests/integration/cli/",),
    "the recording of permissions": ("tests/integration/permissions/",),
    "the chain's stack": ("tests/integration/chain/", "tests/integration/fetcher/test_kills.py"),
}
TEMPLATE = "tests/unit/test_template"
TEMPLATE_FILES = (
    TEMPLATE, "tests/unit/test_image.py", "tests/unit/cli/test_costs.py", "tests/unit/shared/test_rds_authorities.py",
)  # fmt: skip
"""Tests of the template after SAM's transform, which takes a second and is done once in a process."""
GROUPS = STACKS | {TEMPLATE: TEMPLATE_FILES}
LONG_FILES = {
    f"tests/unit/{file}.py"
    for file in (
        "cli/test_never_stumbles", "cli/test_query", "fiblake/reader/test_lake", "reconcile/test_heals",
        "reconcile/test_withdrawn", "resampler/test_full", "shared/test_readable",
        "test_put_to_silver", "test_real_bars",
    )
}  # fmt: skip
"""Unit tests of more than four seconds a file. They start before the others, so that the last file is a short one."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    isolate()  # variables for other programs must not change our tests
    gc.set_threshold(NEW_OBJECTS)
    if config.option.basetemp is None:
        config.stash[FOLDER] = Path(mkdtemp(prefix="fiblake-tests-"))
        config.option.basetemp = config.stash[FOLDER] / "run"


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.freeze()  # no run of the collector visits the present objects


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()  # now all objects are collected, and pytest reports those that were not closed
    folder = config.stash.get(FOLDER, None)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


class Groups(LoadScopeScheduling):
    """Gives whole groups to the processes, in their order. The plugin's own `loadgroup` loses its groups with pytest
    9.2.
    """

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
    return len(STACKS) + (1 if group in {TEMPLATE, *LONG_FILES} else 2)


def _group(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return next((group for group, places in GROUPS.items() if file.startswith(places)), file)

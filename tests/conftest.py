"""What holds of a whole run: where its tests write, and which of them stay together when there are several processes.

Each run has a folder of its own, and takes it away. Not pytest's: there every run locks the folder that all runs of a
user share, and a PostgreSQL that another run has started as its own user can no longer reach its data.

With several processes (`make test`), tests that need the whole embedded stack come first: they take longest.
"""

import shutil
from pathlib import Path
from tempfile import mkdtemp

import pytest

FOLDER = pytest.StashKey[Path]()
STACKS = ("of the commands", "of the chain")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.basetemp is None:
        config.stash[FOLDER] = Path(mkdtemp(prefix="fiblake-tests-"))
        config.option.basetemp = config.stash[FOLDER] / "run"


def pytest_unconfigure(config: pytest.Config) -> None:
    folder = config.stash.get(FOLDER, None)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before the plugin reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):  # one process
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: STACKS.index(group) if (group := _group(item)) in STACKS else len(STACKS))


def _group(item: pytest.Item) -> str:
    if "chain" not in getattr(item, "fixturenames", ()):
        return item.nodeid.partition("::")[0]
    return STACKS[0] if item.path.parent.name == "cli" else STACKS[1]

"""Each run has a folder of its own for what its tests write, and takes it away.

Not pytest's own: there every run locks the folder that all runs of a user share, and a PostgreSQL that another run has
started as its own user can no longer reach its data.
"""

import shutil
from pathlib import Path
from tempfile import mkdtemp

import pytest

FOLDER = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.basetemp is None:
        config.stash[FOLDER] = Path(mkdtemp(prefix="fiblake-tests-"))
        config.option.basetemp = config.stash[FOLDER] / "run"


def pytest_unconfigure(config: pytest.Config) -> None:
    folder = config.stash.get(FOLDER, None)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)

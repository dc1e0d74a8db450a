"""Each bomb is read by its reader in a process of its own, because the peak of memory lasts as long as a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import REPOSITORY
from tests.unit.shared.bombs import JSON_READERS, MARKET_READERS, PARQUET_READERS, is_replayed, lay_bombs

MEGABYTES = 300


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bombs")
    names = lay_bombs(folder)
    assert len(names) == 6 * len(PARQUET_READERS | MARKET_READERS) + 3 * len(JSON_READERS) + 5
    assert max(path.stat().st_size for path in folder.iterdir() if not path.name.endswith(" large")) < 600_000
    return folder


@pytest.mark.parametrize("replayed", [True, False], ids=["replay", "services and commands"])
def test_no_file_however_it_is_made_takes_more_memory_than_it_may(bombs: Path, *, replayed: bool) -> None:
    files = sorted(path for path in bombs.iterdir() if is_replayed(path.name) == replayed)
    command = [sys.executable, "-m", "tests.unit.shared.bombs", *map(str, files)]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    report = json.loads(process.stdout)
    assert {name: end for name, end in report["ends"].items() if "Error: " not in end} == {}
    assert report["megabytes"] < MEGABYTES
    too_large = [end for end in report["ends"].values() if "that are allowed" in end]
    assert all("raise READ_LIMIT_MB (now 32)" in end for end in too_large)
    assert len(too_large) > len(files) // 2

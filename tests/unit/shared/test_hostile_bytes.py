import json
import os
import subprocess
import sys

import pytest

from tests.fakes import REPOSITORY
from tests.unit.shared.hostile import good_files

EACH = int(os.environ.get("FIBLAKE_CORRUPTIONS", "250"))
"""Corruptions of each file and seed."""
MEGABYTES = 300


@pytest.mark.parametrize("seed", [1])
def test_whatever_is_wrong_with_a_file_it_is_read_or_refused_by_an_error_of_ours(seed: int) -> None:
    assert EACH * len(good_files()) > 1_000
    command = [sys.executable, "-m", "tests.unit.shared.hostile", str(seed), str(EACH)]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2_000:]
    report = json.loads(process.stdout)
    assert report["leaks"] == []
    assert report["megabytes"] < MEGABYTES

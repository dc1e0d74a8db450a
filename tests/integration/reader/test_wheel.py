"""The reader's wheel alone, in its own environment, with the emulator's S3."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fiblake.lake import INTERVALS
from fiblake.objects import ObjectReader
from local.emulator import REPOSITORY, client, emulator
from tests.fakes import MemoryObjectStore
from tests.unit.fiblake.reader.lakes import SOME, Contents, lake_of
from tests.unit.resampler.daily import Facts, numbered

BUCKET = "a-lake"
BROUGHT = {"fiblake", "numpy", "obstore", "pyarrow", "tzdata", "pandas", "dateutil", "six.py"}
"""The site-packages with the wheel and its dependencies, including the extra for pandas."""
READ = """
import fiblake
from fiblake.lake import INTERVALS

lake = fiblake.open(bucket=BUCKET, endpoint_url=URL, region="us-east-1")
frame = lake.bars("READ", "21d").to_pandas()
equal = [
    lake.bars("READ", f"{n}d", source="bronze").table.equals(lake.bars("READ", f"{n}d", source="silver").table)
    for n in INTERVALS
]
try:
    fiblake.open(stack="prod")
except fiblake.FiblakeError as error:
    refusal = str(error)
print(json.dumps({"rows": len(frame), "close": frame["close"].iloc[-1], "equal": equal, "refusal": refusal,
                  "file": fiblake.__file__}))
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], Any]:
    """Run a program in a virtual environment with the wheel and its locked dependencies; return what it prints."""
    uv, venv, dist = str(REPOSITORY / ".tools/uv/bin/uv"), tmp_path / "venv", tmp_path / "dist"
    python = str(venv / "bin/python")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(dist)]
    subprocess.run(build, cwd=REPOSITORY / "fiblake", check=True, capture_output=True)
    (wheel,) = dist.iterdir()
    install = [uv, "pip", "install", "--quiet", "--python", python]
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(venv)],
        [*install, "--require-hashes", "-r", str(REPOSITORY / "requirements/reader.txt")],
        [*install, "--no-deps", "--offline", str(wheel)],
    ):
        subprocess.run(command, check=True, cwd=tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON"))}

    def ran(program: str, **variables: str) -> Any:  # noqa: ANN401 (JSON)
        process = subprocess.run(
            [python, "-c", f"import json\n{program}"], cwd=tmp_path, check=False, capture_output=True, text=True,
            env={**environment, **variables, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout)

    return ran


def test_the_wheel_alone_reads_a_lake(run: Callable[..., Any], tmp_path: Path) -> None:
    brought = run("import os, site; print(json.dumps(os.listdir(site.getsitepackages()[0])))")
    own = {name for name in brought if not name.endswith((".dist-info", ".libs", ".pth"))}
    assert own - {"__pycache__", "_virtualenv.py", "typing_extensions.py"} == BROUGHT
    assert (
        run("import sys, fiblake; print(json.dumps(sorted(sys.modules.keys() & {'pyarrow', 'numpy', 'pandas'})))") == []
    )

    contents = Contents({"READ": numbered(SOME)}, {"READ": Facts(((SOME[50], 1, 2),))})
    lake = lake_of(contents, tmp_path / "cache")
    with emulator(tmp_path / "aws") as url:
        lay(lake.store, url)
        constants = f"BUCKET, URL = {BUCKET!r}, {url!r}"
        answer = run(f"{constants}\n{READ}", AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")  # noqa: S106 (the emulator's)
    expected = lake.bars("READ", "21d").table
    assert (answer["rows"], answer["close"]) == (expected.num_rows, expected["close"][-1].as_py())
    assert answer["equal"] == [True] * len(INTERVALS)
    assert "boto3, which is not installed: pip install 'fiblake[aws]'" in answer["refusal"]
    assert "site-packages" in answer["file"]


def lay(store: ObjectReader, url: str) -> None:
    """Copy a lake in memory into the emulator's bucket."""
    assert isinstance(store, MemoryObjectStore)
    s3 = client("s3", url)
    s3.create_bucket(Bucket=BUCKET)
    for key in store.keys(""):
        s3.put_object(Bucket=BUCKET, Key=key, Body=store.peek(key))

"""How long does each function take to import? Every cold start of a Lambda waits for it.

What is imported is the function's own package, as `sam build` makes it for the embedded stack, by a fresh interpreter
that has nothing else; `python -X importtime -c "import ..."` in the package says which module costs what.
"""

import os
import subprocess
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.measure import Work

PROGRAM: Final = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
FUNCTIONS: Final = {
    "router": ("RouterFunction", "services.consolidator.handler"),
    "resampler": ("ResamplerFunction", "services.resampler.handler"),
    "OHLCV fetcher": ("OhlcvFetcherFunction", "services.fetcher.ohlcv_handler"),
    "history fetcher": ("HistoryFetcherFunction", "services.fetcher.history_handler"),
    "metadata fetcher": ("MetadataFetcherFunction", "services.fetcher.metadata_handler"),
    "freshness": ("FreshnessFunction", "services.resampler.freshness_handler"),
    "reconcile": ("ReconcileFunction", "services.reconcile.handler"),
    "vacuum": ("VacuumFunction", "services.vacuum.handler"),
}


def ours(function: str, module: str) -> Callable[[], Work]:
    """Give the import of one function's handler."""

    def start() -> Work:
        return lambda: _imported(function, module)

    return start


def _imported(function: str, module: str) -> Mapping[str, Any]:
    from local.deploy import build  # noqa: PLC0415 (needs the project's environment)
    from local.emulator import PYTHON  # noqa: PLC0415

    with TemporaryDirectory() as folder:
        with zipfile.ZipFile(build() / f"{function}.zip") as package:
            package.extractall(folder)
        # The first import is not measured: it reads the package from disk.
        _import(PYTHON, module, folder)
        started = time.perf_counter()
        wall, cpu = _import(PYTHON, module, folder)
        return {"wall": wall, "cpu": cpu, "interpreter_and_import": round(time.perf_counter() - started, 3)}


def _import(python: Path, module: str, folder: str) -> tuple[float, float]:
    command = [str(python), "-c", PROGRAM.format(module=module)]
    environment = {"PATH": os.defpath, "PYTHONPATH": folder, "AWS_DEFAULT_REGION": "us-east-1"}
    said = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout
    wall, cpu = map(float, said.split()[-2:])
    return wall, cpu


CONTESTANTS: Final[dict[str, Callable[[], Work]]] = {name: ours(*which) for name, which in FUNCTIONS.items()}

"""Measure how long each function takes to import: every cold start of a Lambda waits for it.

A fresh interpreter imports the function's own package, as `sam build` makes it for the embedded stack, and nothing
else; `python -X importtime -c "import ..."` in the package shows the time of each module.
"""

import os
import statistics
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
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
# Not ru_maxrss: it survives exec, so that the process would tell what started it.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(wall, cpu, int(peak.split()[1]) / 1024)
"""
FUNCTIONS: Final = {
    "router": ("RouterFunction", "services.consolidator.handler"),
    "resampler": ("ResamplerFunction", "services.resampler.handler"),
    "OHLCV fetcher": ("OhlcvFetcherFunction", "services.fetcher.ohlcv_handler"),
    "history fetcher": ("HistoryFetcherFunction", "services.fetcher.history_handler"),
    "metadata fetcher": ("MetadataFetcherFunction", "services.fetcher.metadata_handler"),
    "freshness": ("FreshnessFunction", "services.reconcile.freshness_handler"),
    "reconcile": ("ReconcileFunction", "services.reconcile.handler"),
    "vacuum": ("VacuumFunction", "services.vacuum.handler"),
}


def ours(function: str, module: str) -> Callable[[], Work]:
    """Return the import of one function's handler."""

    def start() -> Work:
        return lambda runs: _imported(function, module, runs)

    return start


def _imported(function: str, module: str, runs: int) -> Mapping[str, Any]:
    from local.deploy import build  # noqa: PLC0415 (needs the project's environment)
    from local.emulator import PYTHON  # noqa: PLC0415

    with TemporaryDirectory() as folder:
        with zipfile.ZipFile(build() / f"{function}.zip") as package:
            package.extractall(folder)
        # The first import is not measured: it reads the package from disk.
        _import(PYTHON, module, folder)
        measured = [_import(PYTHON, module, folder) for _ in range(runs)]
        wall, cpu, rss_mb, whole = (statistics.median(figures) for figures in zip(*measured, strict=True))
        return {"wall": wall, "cpu": cpu, "rss_mb": rss_mb, "interpreter_and_import": round(whole, 3)}


def _import(python: Path, module: str, folder: str) -> tuple[float, float, float, float]:
    """Import in a fresh interpreter; return seconds, CPU seconds and peak MB of it, and the seconds of both."""
    command = [str(python), "-c", PROGRAM.format(module=module)]
    environment = {"PATH": os.defpath, "PYTHONPATH": folder, "AWS_DEFAULT_REGION": "us-east-1"}
    started = time.perf_counter()
    output = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout
    whole = time.perf_counter() - started
    wall, cpu, rss_mb = map(float, output.split()[-3:])
    return wall, cpu, rss_mb, whole


CONTESTANTS: Final[dict[str, Callable[[], Work]]] = {name: ours(*which) for name, which in FUNCTIONS.items()}

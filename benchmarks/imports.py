"""How long does each function take to import? Every cold start of a Lambda waits for it.

Each is imported by a fresh interpreter of the project's environment; `python -X importtime -c "import ..."` says which
module costs what.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from benchmarks.measure import Work
from local.emulator import REPOSITORY

PROGRAM: Final = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def ours(module: str) -> Callable[[], Work]:
    """Give the import of one function's handler."""

    def start() -> Work:
        return lambda: _imported(module)

    return start


def _imported(module: str) -> Mapping[str, Any]:
    command = [sys.executable, "-c", PROGRAM.format(module=module)]
    started = time.perf_counter()
    said = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    wall, cpu = map(float, said.split())
    return {"wall": wall, "cpu": cpu, "interpreter_and_import": round(time.perf_counter() - started, 3)}


HANDLERS: Final = {
    "router": "services.consolidator.handler",
    "resampler": "services.resampler.handler",
    "OHLCV fetcher": "services.fetcher.ohlcv_handler",
    "history fetcher": "services.fetcher.history_handler",
    "metadata fetcher": "services.fetcher.metadata_handler",
}
CONTESTANTS: Final[dict[str, Callable[[], Work]]] = {name: ours(module) for name, module in HANDLERS.items()}

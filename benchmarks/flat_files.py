"""Twenty-three years of day files of all tickers into range files: `fiblake load flatfiles` from a local folder.

The day files are generated, always the same. Three runs are made: one from end to end; on another S3 server one that is
killed at a random point and continued, after which both servers must hold the same objects; and one that finds all day
files loaded, and must write nothing.

python -m benchmarks.flat_files [--size small|full] prints all of it as one line of JSON, and ends with 1 if objects
differ.
"""

import argparse
import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import islice, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from benchmarks.lake import BRONZE_LAKE, FOLDER, LAST, SEED
from benchmarks.measure import Result, Work, command_of, contest, environment_of
from benchmarks.servers import BUCKET, client, cpu_seconds, s3_and_queues
from fiblake.calendar import nyse
from local.emulator import REPOSITORY

FIRST: Final = date(2002, 10, 31)


@dataclass(frozen=True, slots=True)
class Shape:
    """How many tickers have a bar in how many sessions, and how much memory the rows of a chunk may take."""

    tickers: int
    sessions: int
    memory_mb: int

    @property
    def rows(self) -> int:
        """The bars of all day files."""
        return self.tickers * self.sessions


SHAPES: Final = {"small": Shape(1_000, 250, 8), "full": Shape(10_000, 5_800, 1_100)}
"""250,000 rows in four chunks, and 58 million rows in six."""
MOST_BYTES: Final = 256 << 20
OURS: Final = "fiblake"
CONTINUED: Final = "fiblake, killed and continued"
AGAIN: Final = "fiblake, again"
EARLIEST_KILL: Final = 0.2
LATEST_KILL: Final = 0.8
"""When a run is killed, as a share of the seconds that the whole run took."""
Objects = dict[str, tuple[str, datetime]]
"""ETag and LastModified by key."""


def day_files(size: str) -> Path:
    """Return the folder of this size's day files; make them unless they are there (the full size takes minutes)."""
    folder = FOLDER / f"flat-files-{size}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        shape = SHAPES[size]
        sessions = nyse().between(FIRST, LAST)[: shape.sessions]
        with ProcessPoolExecutor() as pool:
            list(pool.map(_write, [(folder, session, shape.tickers) for session in sessions], chunksize=16))
        (folder / "complete").touch()
    return folder


def whole_history(size: str, faults: list[str]) -> Iterator[Result]:
    """Load all day files; then on a new server with a kill; then once more. Faults are added to `faults`.

    Yields the result of the whole run, of the one that continued, and of the one that found everything loaded.
    """
    day_files(size)
    options = {"size": size}
    with s3_and_queues(FOLDER / "servers") as environment:
        whole = _contest(OURS, options, environment)
        expected = objects_in(environment)
    yield whole
    with s3_and_queues(FOLDER / "servers") as environment:
        seconds = _killed(whole.wall, options, environment)
        continued = _contest(CONTINUED, options, environment)
        continued.facts["killed_after_seconds"] = round(seconds, 1)
        objects = objects_in(environment)
        faults += differences(expected, objects)
        yield continued
        again = _contest(AGAIN, options, environment)
        written = {key for key, version in objects_in(environment).items() if objects.get(key) != version}
        again.facts["objects_written"] = len(written)
        faults += [f"the third run wrote {len(written)} objects: {min(written)}"] if written else []
        yield again


def ours() -> Work:
    """Return the loader, as one run."""
    from services.fetcher.flat_files.load import FlatFileLoader  # noqa: PLC0415 (each process loads what it needs)
    from services.fetcher.flat_files.sources import FolderSource  # noqa: PLC0415
    from shared.objects import ObjectStore  # noqa: PLC0415

    def work(size: str) -> Mapping[str, Any]:
        shape, store = SHAPES[size], ObjectStore.connect(os.environ["S3_BUCKET"])
        loader = FlatFileLoader(
            FolderSource(day_files(size)), store, BRONZE_LAKE, nyse(), None, shape.memory_mb << 20, MOST_BYTES,
            lambda: datetime.now(UTC),
        )  # fmt: skip
        started = time.perf_counter()
        report = loader.load(FIRST, LAST, _say_nothing)
        seconds = time.perf_counter() - started
        if (report.files + report.unchanged, report.stored) != (shape.sessions, report.files * shape.tickers):
            raise RuntimeError(f"{report.stored} bars stored of {report.files} files, {report.unchanged} unchanged")
        return {
            "rows": report.stored, "rows_per_second": round(report.stored / seconds), "range_files": report.range_files,
            "files": report.files, "unchanged": report.unchanged,
        }  # fmt: skip

    return work


def main() -> int:
    """Print the whole history's figures as one line of JSON; return 1 if a lake is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flat_files", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=tuple(SHAPES), default="full")
    size = parser.parse_args().size
    faults: list[str] = []
    runs = {
        result.contestant: {
            "wall": round(result.wall, 1), "cpu": round(result.cpu, 1), "peak_mb": round(result.rss_mb), **result.facts
        }
        for result in whole_history(size, faults)
    }  # fmt: skip
    sys.stdout.write(json.dumps({"size": size, "rows": SHAPES[size].rows, "faults": faults, "runs": runs}) + "\n")
    return 1 if faults else 0


def _contest(contestant: str, options: Mapping[str, Any], environment: Mapping[str, str]) -> Result:
    """Measure one run, and the server's CPU during it."""
    before = cpu_seconds(environment)
    result = contest("flat_files", contestant, options, environment=environment)
    result.facts["server_cpu"] = round(cpu_seconds(environment) - before, 1)
    return result


def _killed(seconds: float, options: Mapping[str, Any], environment: Mapping[str, str]) -> float:
    """Start a run and kill it (SIGKILL) at a random point; return how many seconds it had."""
    share = random.uniform(EARLIEST_KILL, LATEST_KILL)  # noqa: S311 (no secret)
    process = subprocess.Popen(
        command_of("flat_files", CONTINUED, options), cwd=REPOSITORY, env=environment_of(environment),
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with process:
        try:
            process.wait(share * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return share * seconds
    raise RuntimeError("the run that was to be killed ended before")


def objects_in(environment: Mapping[str, str]) -> Objects:
    """Return the objects of the benchmarks' bucket."""
    pages = client("s3", environment).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {entry["Key"]: (entry["ETag"], entry["LastModified"]) for page in pages for entry in page["Contents"]}


def differences(expected: Objects, objects: Objects) -> list[str]:
    """Return a sentence with the number of objects in which two lakes differ; none if they are equal."""
    etags = [{key: etag for key, (etag, _) in listing.items()} for listing in (expected, objects)]
    keys = sorted(key for key in expected.keys() | objects.keys() if etags[0].get(key) != etags[1].get(key))
    return [f"killed and continued: {len(keys)} objects differ: {keys[0]}"] if keys else []


def _write(task: tuple[Path, date, int]) -> None:
    folder, session, count = task
    rng = np.random.default_rng([SEED, session.toordinal()])
    letters = ("".join(name) for name in product(ascii_uppercase, repeat=4))
    close = np.round(rng.uniform(2, 400, count), 4)
    open_ = np.round(close * rng.uniform(0.98, 1.02, count), 4)
    columns = {
        "ticker": list(islice(letters, count)),
        "volume": rng.integers(100, 10_000_000, count),
        "open": open_,
        "close": close,
        "high": np.round(np.maximum(open_, close) * 1.01, 4),
        "low": np.round(np.minimum(open_, close) * 0.99, 4),
        "window_start": np.full(count, np.datetime64(session, "ns").astype(np.int64)),
        "transactions": rng.integers(1, 100_000, count),
    }
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(pa.table(columns), sink, pa_csv.WriteOptions(quoting_style="none"))
    path = folder / f"{session:%Y/%m}/{session}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(sink.getvalue(), 1, mtime=0))
    # A file's version is its size and the instant of its last change: always the same, like its content.
    instant = datetime(session.year, session.month, session.day, 15, tzinfo=UTC).timestamp() + 86_400
    os.utime(path, (instant, instant))


def _say_nothing(_what: str, _files: int, _all: int) -> None:
    """Show no progress."""


CONTESTANTS: Final[dict[str, Callable[[], Work]]] = dict.fromkeys((OURS, CONTINUED, AGAIN), ours)


if __name__ == "__main__":
    sys.exit(main())

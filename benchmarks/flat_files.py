"""Twenty-three years of day files of all tickers into range files: `fiblake load flatfiles` from a local folder.

The day files are generated, always the same. S3 is the server that the environment names.
"""

import gzip
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime
from itertools import islice, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from benchmarks.lake import BRONZE_LAKE, FOLDER, LAST, SEED
from benchmarks.measure import Work
from benchmarks.servers import requests_served, requests_since
from fiblake.calendar import nyse

FIRST: Final = date(2002, 11, 14)
SHAPES: Final = {"small": (1_000, 250), "full": (10_000, 5_800)}
"""Tickers and sessions by size: 250,000 and 58 million rows."""
MEMORY_MB: Final = 800
MOST_BYTES: Final = 256 << 20


def day_files(size: str) -> Path:
    """Return the folder of this size's day files; make them unless they are there (the full size takes minutes)."""
    folder = FOLDER / f"flat-files-{size}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        tickers, count = SHAPES[size]
        sessions = nyse().between(FIRST, LAST)[:count]
        with ProcessPoolExecutor() as pool:
            list(pool.map(_write, [(folder, session, tickers) for session in sessions], chunksize=16))
        (folder / "complete").touch()
    return folder


def ours() -> Work:
    """Return the loader, run once to load and once more to find everything loaded."""
    from services.fetcher.flat_files.load import FlatFileLoader  # noqa: PLC0415 (each process loads what it needs)
    from services.fetcher.flat_files.sources import FolderSource  # noqa: PLC0415
    from shared.objects import ObjectStore  # noqa: PLC0415

    def work(size: str) -> Mapping[str, Any]:
        store = ObjectStore.connect(os.environ["S3_BUCKET"])
        loader = FlatFileLoader(
            FolderSource(day_files(size)), store, BRONZE_LAKE, nyse(), None, MEMORY_MB << 20, MOST_BYTES,
            lambda: datetime.now(UTC),
        )  # fmt: skip
        served, started = requests_served(), time.perf_counter()
        report = loader.load(FIRST, LAST, _say_nothing)
        loaded, requests = time.perf_counter(), requests_since(served)
        repeated = loader.load(FIRST, LAST, _say_nothing)
        rows = SHAPES[size][0] * SHAPES[size][1]
        if (report.stored, repeated.files) != (rows, 0):
            raise RuntimeError(f"{report.stored} of {rows} rows stored, {repeated.files} files read twice")
        seconds = loaded - started
        return {
            "wall": seconds, "rows": rows, "rows_per_second": round(rows / seconds), "range_files": report.range_files,
            "again_seconds": round(time.perf_counter() - loaded, 2), **requests,
        }  # fmt: skip

    return work


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


CONTESTANTS: Final[dict[str, Callable[[], Work]]] = {"fiblake": ours}

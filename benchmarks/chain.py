"""From an S3 put to all silver tables, on the embedded stack: one symbol, again and again; and 500 at once.

The stack is quiet: histories are loaded, functions are warm, and nothing runs, so each put starts its own job. Event
source mappings of the emulator have no batching window, so the template's (5 s and 10 s) come on top on AWS. Silver is
observed from outside, by polling.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from benchmarks.lake import BRONZE_LAKE, NEXT, bars
from benchmarks.measure import Work
from fiblake.aggregate import SILVER
from fiblake.bars import decode, encode
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS, Month, silver_key

PATIENCE_SECONDS: Final = 300
POLL_SECONDS: Final = 0.05
HISTORY: Final = 250


def ours() -> Work:
    """Return the chain."""
    from local.emulator import REPOSITORY  # noqa: PLC0415
    from local.stack import run_stack  # noqa: PLC0415
    from local.watch import Watcher  # noqa: PLC0415

    def work(puts: int = 20, crowd: int = 500, crowds: int = 3) -> Mapping[str, Any]:
        (REPOSITORY / ".local").mkdir(exist_ok=True)
        place = TemporaryDirectory(prefix="chain-", dir=REPOSITORY / ".local")
        with place as folder, run_stack(Path(folder) / "stack") as stack:
            probe = _Probe(stack, Watcher(stack))
            # The first ones find cold functions and load the histories.
            one_put = [probe.seconds(["ONE"], session) for session in probe.sessions(puts + 3)][3:]
            names = [f"X{number:04d}" for number in range(crowd)]
            many = [probe.seconds(names, session) for session in probe.sessions(crowds + 1)][1:]
        figures = {**_quantiles("one", one_put), **_quantiles("crowd", many), "puts": puts, "crowd_size": crowd}
        return {"wall": float(np.median(one_put)), "cpu": 0.0, **figures}

    return work


def _quantiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    return {f"{name}_p{q}": round(float(np.quantile(seconds, q / 100)), 2) for q in (50, 95)}


class _Probe:
    """Puts bars into a stack, and waits until silver shows them."""

    def __init__(self, stack: Any, watcher: Any) -> None:  # noqa: ANN401 (neither is in the benchmarks' environment)
        self._bucket, self._s3, self._watcher = stack.bucket, stack.client("s3"), watcher
        self._histories: set[str] = set()

    def sessions(self, count: int) -> list[date]:
        """Return the newest sessions up to NEXT."""
        return nyse().between(NEXT - timedelta(days=2 * count + 10), NEXT)[-count:]

    def seconds(self, names: Sequence[str], session: date) -> float:
        """Put a bar for each symbol; return the seconds from the last put until all tables have all bars."""
        self._watcher.wait_until_quiet(PATIENCE_SECONDS)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda name: self._put(name, session), names))
        started = time.perf_counter()
        waiting = set(INTERVALS)
        while waiting:
            waiting = {n for n in waiting if not self._there(n, names, session)}
            if time.perf_counter() - started > PATIENCE_SECONDS:
                raise RuntimeError(f"silver of {sorted(waiting)} sessions does not show {session}")
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - started

    def _put(self, name: str, session: date) -> None:
        for key, body in self._files(name, session):
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=body)

    def _files(self, name: str, session: date) -> Iterator[tuple[str, bytes]]:
        last = nyse().ordinal(session)
        if name not in self._histories:
            self._histories.add(name)
            history = nyse().sessions[last - HISTORY : last]
            key = BRONZE_LAKE.range_key(name, history[0].item(), history[-1].item())
            yield key, encode(bars(name, history, last))
        rows = bars(name, np.array([session], dtype="datetime64[D]"), last)
        yield BRONZE_LAKE.date_key(name, session), encode(rows)

    def _there(self, n: int, names: Sequence[str], session: date) -> bool:
        ordinal = nyse().ordinal(session)
        key = silver_key(n, Month.of(nyse().session(ordinal - ordinal % n)))
        try:
            data = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._s3.exceptions.NoSuchKey:
            return False
        rows = decode(data, SILVER, key).select(["symbol", "last_date"]).to_pylist()
        return set(names) <= {row["symbol"] for row in rows if row["last_date"] == session}


CONTESTANTS: Final[dict[str, Callable[[], Work]]] = {"fiblake": ours}

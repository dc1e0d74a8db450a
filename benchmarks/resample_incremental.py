"""One new session of all symbols into all silver tables: the resampler's real code on a real S3 server.

Two processes, one for each core, process all queues' messages; on AWS each queue has its own functions. The events
are those of the worker, with the tail of bars that a new session needs. Without tails every data.parquet is read.
Events of whole histories (after `fiblake consolidate` without sessions) write every month again.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.lake import BRONZE_LAKE, NEXT, NOW, SIZES, symbols
from benchmarks.measure import Work, settle_arrow
from benchmarks.servers import BUCKET, Nobody, requests_served, requests_since
from fiblake.lake import INTERVALS

MESSAGES: Final = 1_000
"""A batch of the function's event sources."""
PROCESSES: Final = 2
_BODIES: Final[list[str]] = []
"""The messages, once a process is ready."""


def ours() -> Work:
    """Return the function's work, batch by batch, on the events of the newest session."""
    return _work(_event)


def without_tails() -> Work:
    """Return the same on events without tails, as workers of schema 1.0 send them."""
    return _work(lambda symbol, data: _event(symbol, data, tail=False))


def whole_histories() -> Work:
    """Return the same on events for each symbol's whole history, with a new version."""
    return _work(lambda symbol, data: _event(symbol, data, tail=False, whole=True))


def _work(event: Callable[[str, Any], str]) -> Work:
    def work(size: str, batch: int = MESSAGES) -> Mapping[str, Any]:
        names = symbols(SIZES[size])
        with TemporaryDirectory() as folder:
            file = Path(folder) / "messages.json"
            file.write_text(json.dumps(_bodies(names, event)))
            context = get_context("spawn")
            with ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=_ready, initargs=(file,)) as pool:
                list(pool.map(_ready_again, range(PROCESSES)))
                served, started = requests_served(), time.perf_counter()
                measured = list(pool.map(_resample, [(interval, batch) for interval in INTERVALS]))
                wall = time.perf_counter() - started
                requests = requests_since(served)
        return {"wall": wall, "cpu": sum(measured), "symbols": len(names), "intervals": len(INTERVALS), **requests}

    return work


def _bodies(names: list[str], event: Callable[[str, Any], str]) -> list[str]:
    """Return the message of each symbol, from its data.parquet in the environment's bucket."""
    from shared.objects import ObjectStore  # noqa: PLC0415 (only where the environment names a server)

    store = ObjectStore.connect(BUCKET)
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda name: event(name, store.find(BRONZE_LAKE.data_key(name))), names))


def _event(symbol: str, stored: Any, *, tail: bool = True, whole: bool = False) -> str:  # noqa: ANN401 (a StoredObject)
    from fiblake.bars import Consolidated  # noqa: PLC0415
    from fiblake.calendar import nyse  # noqa: PLC0415
    from services.consolidator.tail import tail_of  # noqa: PLC0415
    from shared.events import ConsolidationComplete  # noqa: PLC0415

    bars = Consolidated.decode(stored.data, symbol, stored.last_modified)
    event = ConsolidationComplete(
        symbol=symbol, changed_from=bars.first_session if whole else NEXT, last_session=bars.last_session,
        version=bars.last_updated, tail=tail_of(bars, NEXT, nyse()) if tail else None,
    )  # fmt: skip
    return event.model_dump_json()


def _ready(file: Path) -> None:
    settle_arrow()
    import services.resampler.resample  # noqa: F401, PLC0415 (a start is measured by itself)

    _BODIES.extend(json.loads(file.read_text()))


def _ready_again(_number: int) -> int:
    time.sleep(0.1)  # so that each process gets one
    return os.getpid()


def _resample(task: tuple[int, int]) -> float:
    """Process one interval's messages; return the CPU seconds."""
    from fiblake.calendar import nyse  # noqa: PLC0415
    from services.resampler.resample import Resampler, resample_batch  # noqa: PLC0415
    from shared.objects import ObjectStore  # noqa: PLC0415
    from shared.queues import ReceivedMessage  # noqa: PLC0415

    interval, batch = task
    cpu = time.process_time()
    resampler = Resampler(ObjectStore.connect(os.environ["S3_BUCKET"]), BRONZE_LAKE, nyse(), Nobody(), interval, 0)
    for start in range(0, len(_BODIES), batch):
        bodies = _BODIES[start : start + batch]
        messages = [ReceivedMessage(str(i), str(i), body, 1) for i, body in enumerate(bodies)]
        errors = resample_batch(resampler, messages, NOW)  # on the evening of the new session
        if errors:
            raise RuntimeError(f"{interval}d: {errors}")
    return time.process_time() - cpu


CONTESTANTS: Final[dict[str, Callable[[], Work]]] = {
    "fiblake": ours,
    "fiblake, events without tails": without_tails,
    "fiblake, whole histories": whole_histories,
}

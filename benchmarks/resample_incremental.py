"""One new session of all symbols into six silver tables: the resampler's real code on a real S3 server.

The six queues' messages are worked on by two processes, one a core of the machine; on AWS each queue has its own.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import Any, Final

from benchmarks.lake import BRONZE_LAKE, NEXT, SIZES, symbols
from benchmarks.measure import Work, settle_arrow
from benchmarks.servers import Nobody
from shared.lake import INTERVALS

MESSAGES: Final = 1_000
"""A batch of the function's event sources."""
PROCESSES: Final = 2


def ours() -> Work:
    """Give the function's work, batch by batch, for the changes that the environment's bucket holds."""

    def work(size: str, batch: int = MESSAGES) -> Mapping[str, Any]:
        names = symbols(SIZES[size])
        with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn"), initializer=_ready) as pool:
            list(pool.map(_ready_again, range(PROCESSES)))
            started = time.perf_counter()
            cpu = sum(pool.map(_resample, [(interval, names, batch) for interval in INTERVALS]))
            wall = time.perf_counter() - started
        return {"wall": wall, "cpu": cpu, "symbols": len(names), "intervals": len(INTERVALS)}

    return work


def _ready() -> None:
    settle_arrow()
    import services.resampler.batch  # noqa: F401, PLC0415 (a start is measured by itself)


def _ready_again(_number: int) -> int:
    return os.getpid()


def _resample(task: tuple[int, list[str], int]) -> float:
    """Work on one interval's messages; give the CPU seconds it took."""
    from services.resampler.batch import resample_batch  # noqa: PLC0415
    from services.resampler.resample import Resampler  # noqa: PLC0415
    from shared.calendar import nyse  # noqa: PLC0415
    from shared.objects import ObjectStore  # noqa: PLC0415

    interval, names, batch = task
    cpu = time.process_time()
    store = ObjectStore.connect(os.environ["S3_BUCKET"])
    resampler = Resampler(store, BRONZE_LAKE, nyse(), Nobody(), interval, 0)
    for messages in _messages(names, batch):
        errors = resample_batch(resampler, messages, datetime.now(UTC))
        if errors:
            raise RuntimeError(f"{interval}d: {errors}")
    return time.process_time() - cpu


def _messages(names: list[str], batch: int) -> Iterator[list[Any]]:
    from shared.events import ConsolidationComplete  # noqa: PLC0415
    from shared.queues import Received  # noqa: PLC0415

    for start in range(0, len(names), batch):
        events = [
            ConsolidationComplete(symbol=s, changed_from=NEXT, last_session=NEXT) for s in names[start : start + batch]
        ]
        yield [Received(str(i), str(i), event.model_dump_json(), 1) for i, event in enumerate(events)]


CONTESTANTS: Final[dict[str, Callable[[], Work]]] = {"fiblake": ours}

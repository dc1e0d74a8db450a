"""Record each run, its request and its end, in the table `runs`, also if it failed."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

from fiblake.errors import FiblakeError
from shared.database import Database


@asynccontextmanager
async def record_run(
    database: Database, kind: str, event: Mapping[str, Any], clock: Callable[[], datetime]
) -> AsyncIterator[dict[str, Any]]:
    """Record the block as a run; the dictionary that it fills becomes the run's result."""
    run = await database.begin_run(kind, event, clock())
    result: dict[str, Any] = {}
    try:
        yield result
    except FiblakeError as error:
        # The database itself may have failed: raise the error that ended the run.
        with suppress(FiblakeError):
            await database.end_run(run, "failed", {**result, "error": str(error)}, clock())
        raise
    await database.end_run(run, "done", result, clock())

"""Watch the chain: depths of queues, jobs, and the contents of the lake."""

import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from fiblake.aggregate import decode_silver
from fiblake.errors import PermanentError
from fiblake.lake import INTERVALS, MANIFEST_KEY, checkpoint_key, silver_prefix
from local.stack import Stack
from shared.queues import Depth, Queue

POLL_SECONDS: Final = 0.1
_AT_WORK: Final = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")


class StuckError(PermanentError):
    """The chain does not become quiet, or a message went to a dead-letter queue."""


@dataclass(frozen=True, slots=True)
class View:
    """The visible state of a stack at one moment."""

    depths: dict[str, Depth]
    dead_letters: dict[str, int]
    jobs: int
    """Jobs that wait or run."""

    @property
    def quiet(self) -> bool:
        """Whether no message and no job is left."""
        return self.jobs == 0 and all(depth.empty for depth in self.depths.values())


class Watcher:
    """Watches one stack from outside, with ordinary clients."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._s3 = stack.client("s3")
        self._batch = stack.client("batch")
        sqs = stack.client("sqs")
        self._silver: dict[str, tuple[str, pa.Table]] = {}
        self._queues = {name: Queue(sqs, url) for name, url in stack.queue_urls.items()}

    def look(self) -> View:
        """Return the numbers of queued messages, dead letters and running jobs."""
        depths = {name: queue.depth() for name, queue in self._queues.items()}
        dead = {name: queue.dead_letters.depth().visible for name, queue in self._queues.items()}
        return View(depths, {name: count for name, count in dead.items() if count}, self._jobs())

    def wait_until_quiet(self, seconds: float, show: Callable[[View], None] = lambda _: None) -> View:
        """Wait until nothing is queued or at work; raise StuckError after `seconds`, or when a dead letter appears.

        It looks twice, because an event between S3 and the first queue, or between two queues, is not visible.
        """
        end, calm = time.monotonic() + seconds, 0
        while calm < 2:  # noqa: PLR2004 (see above)
            view = self.look()
            show(view)
            if view.dead_letters:
                raise StuckError(f"dead letters: {view.dead_letters}; the functions' logs are in {self.log}")
            if time.monotonic() > end:
                raise StuckError(f"still at work after {seconds:.0f} s: {view}; logs are in {self._stack.folder}")
            calm = calm + 1 if view.quiet else 0
            time.sleep(POLL_SECONDS if not calm else 5 * POLL_SECONDS)
        return view

    @property
    def log(self) -> str:
        """The log file of the functions."""
        return str(self._stack.folder / "aws/emulator.log")

    def read(self, key: str) -> bytes | None:
        """Read an object, or return None if there is none."""
        try:
            body: bytes = self._s3.get_object(Bucket=self._stack.bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise
        return body

    def keys(self, prefix: str) -> list[str]:
        """List the keys below `prefix`."""
        return list(self.objects(prefix))

    def objects(self, prefix: str) -> dict[str, str]:
        """Return the ETag of each object below `prefix`, by its key."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._stack.bucket, Prefix=prefix)
        return {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", [])}

    def table(self, key: str) -> pa.Table | None:
        """Read a Parquet object, or return None if there is none."""
        data = self.read(key)
        return None if data is None else pq.ParquetFile(io.BytesIO(data)).read()

    def silver(self, interval: int) -> pa.Table | None:
        """Read a whole silver table, or return None if it has no file yet."""
        files = self.objects(silver_prefix(interval))
        tables = [table for key, etag in files.items() if (table := self._silver_file(key, etag)) is not None]
        return pa.concat_tables(tables) if tables else None

    def consolidated(self) -> dict[str, date]:
        """Return the last consolidated session of each symbol, from the manifest."""
        table = self.table(MANIFEST_KEY)
        rows = [] if table is None else table.to_pylist()
        return {row["symbol"]: row["last_consolidated_date"] for row in rows}

    def checkpoints(self) -> dict[int, dict[str, Any]]:
        """Return each interval's checkpoint, as far as there are any."""
        checkpoint_of = {interval: self.read(checkpoint_key(interval)) for interval in INTERVALS}
        return {interval: json.loads(data) for interval, data in checkpoint_of.items() if data}

    def _silver_file(self, key: str, etag: str) -> pa.Table | None:
        # Read again only if it has changed: a caller that waits for a table reads all its files ten times a second.
        known_etag, table = self._silver.get(key, ("", None))
        if known_etag != etag and (data := self.read(key)) is not None:
            table = decode_silver(data, key).replace_schema_metadata(None)
            self._silver[key] = (etag, table)
        return table

    def _jobs(self) -> int:
        queue = self._stack.outputs["BatchJobQueueName"]
        listings = [self._batch.list_jobs(jobQueue=queue, jobStatus=status) for status in _AT_WORK]
        return sum(len(listing["jobSummaryList"]) for listing in listings)

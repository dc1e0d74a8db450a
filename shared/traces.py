"""Trace the Batch jobs: one segment for each piece of work, sent to X-Ray in the background.

Unlike a function, a job has no X-Ray daemon, so segments go to the service itself. The work is more important than its
trace: segments that X-Ray refuses are dropped, and nothing waits for them.
"""

import json
import os
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.telemetry import TRACE, logger

if TYPE_CHECKING:
    from botocore.client import BaseClient

MOST_WAITING: Final = 50
"""Segments waiting to be sent, and those of one request; if more wait, the oldest are dropped."""
IDS_PER_SEGMENT: Final = 500
"""A segment takes 64 kB (X-Ray Developer Guide, Segment documents)."""
PATIENCE: Final = Config(connect_timeout=2, read_timeout=2, retries={"total_max_attempts": 2})
"""The longest time that the end of a job waits for its last segments."""
_HEADER: Final = re.compile(r"Root=(?P<root>1-[0-9a-f]{8}-[0-9a-f]{24});Parent=(?P<parent>[0-9a-f]{16})(;|$)")
_NOT_SAMPLED: Final = "Sampled=0"
Notes = dict[str, str | int]


class Traces:
    """Segments with this `name` in X-Ray; without a name nothing is traced."""

    def __init__(self, name: str = "", put: Callable[[Sequence[str]], object] | None = None) -> None:
        self._name = name
        self._put = put or _put
        self._waiting: deque[str] = deque(maxlen=MOST_WAITING)
        self._sender = ThreadPoolExecutor(1, "traces")  # starts no thread before there is something to send

    @contextmanager
    def segment(self, headers: Iterable[str | None] = (), correlation_ids: Iterable[str] = ()) -> Iterator[Notes]:
        """Trace the block; the notes that it adds can be searched for in X-Ray. One block at a time.

        The segment belongs to the first trace that one of the senders' `headers` names, if that trace is recorded;
        without such a header, to a trace of its own. Log lines carry the trace's id, and so do the events of topics.
        """
        notes: Notes = {}
        parent = _parent_of([header for header in headers if header]) if self._name else None
        if parent is None:
            yield notes
            return
        began, fault, own_id = time.time(), True, secrets.token_hex(8)
        os.environ[TRACE] = f"Root={parent['trace_id']};Parent={own_id};Sampled=1"
        try:
            yield notes
            fault = False
        finally:
            del os.environ[TRACE]
            ids = list(dict.fromkeys(correlation_ids))[:IDS_PER_SEGMENT]
            self._send({
                **parent, "name": self._name, "id": own_id, "start_time": began, "end_time": time.time(),
                "fault": fault, "annotations": notes, "metadata": {"default": {"correlation_ids": ids}},
            })  # fmt: skip

    def _send(self, segment: dict[str, Any]) -> None:
        self._waiting.append(json.dumps(segment))
        self._sender.submit(self._flush)

    def _flush(self) -> None:
        documents = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not (documents and self._name):
            return
        try:
            self._put(documents)
        except (ClientError, BotoCoreError) as error:
            # If X-Ray cannot be reached, another attempt costs a timeout each round and changes nothing.
            logger.warning("this run is traced no further", extra={"error": str(error)})
            self._name = ""


def _parent_of(headers: Sequence[str]) -> dict[str, str] | None:
    """Return the trace, and the segment in it, that caused the work; None if the senders' traces are not recorded."""
    recorded = [header for header in headers if _NOT_SAMPLED not in header]
    if headers and not recorded:
        return None
    for match in filter(None, map(_HEADER.search, recorded)):
        return {"trace_id": match["root"], "parent_id": match["parent"]}
    return {"trace_id": f"1-{int(time.time()):08x}-{secrets.token_hex(12)}"}


@cache
def _xray() -> "BaseClient":
    # Created in the sender's thread, so with a session of its own: boto's default session is not thread-safe.
    client: BaseClient = boto3.session.Session().client("xray", config=PATIENCE)
    return client


def _put(documents: Sequence[str]) -> None:
    refused = _xray().put_trace_segments(TraceSegmentDocuments=documents).get("UnprocessedTraceSegments")  # type: ignore[attr-defined]
    if refused:
        logger.warning("segments refused", extra={"first": refused[0].get("Message"), "segments": len(refused)})

"""How jobs are submitted: AWS Batch, and the one place that talks to it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from shared.batching import chunks
from shared.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_batch import BatchClient

DRAINS: Final = "drain-"
"""The jobs that drain the queue are named so; an operator's own jobs (--symbols, --mode full) must not be."""
SMALLEST_ARRAY: Final = 2
LARGEST_ARRAY: Final = 10_000
_WAITING: Final[tuple[Literal["SUBMITTED", "PENDING", "RUNNABLE"], ...]] = ("SUBMITTED", "PENDING", "RUNNABLE")
_JOBS_PER_REQUEST: Final = 100


@dataclass(frozen=True, slots=True)
class JobQueue:
    """One job definition in one Batch job queue. Methods raise UpstreamError if Batch fails."""

    client: "BatchClient"
    queue: str
    definition: str
    prefix: str
    """What the names of this queue's jobs begin with: other jobs of the definition do other work."""

    @classmethod
    def connect(cls, queue: str, definition: str, prefix: str) -> "JobQueue":
        """Open the queue with the credentials, region and endpoint of the environment."""
        return cls(boto3.client("batch"), queue, definition, prefix)

    def submit(self, suffix: str, size: int) -> str:
        """Submit an array job of `size` children (1: a plain job; 10,000 at the most) and give its id."""
        array: dict[str, Any] = {} if size < SMALLEST_ARRAY else {"arrayProperties": {"size": min(size, LARGEST_ARRAY)}}
        try:
            name = f"{self.prefix}{suffix}"
            answer = self.client.submit_job(jobName=name, jobQueue=self.queue, jobDefinition=self.definition, **array)
        except (ClientError, BotoCoreError) as error:
            raise UpstreamError(f"Batch does not take a job of {self.definition}: {error}") from error
        return answer["jobId"]

    def ensure(self, suffix: str, size: int) -> str | None:
        """Submit a job unless one has yet to start, which will see what was sent before; give the new one's id."""
        return None if self.any_waiting() else self.submit(suffix, size)

    def any_waiting(self) -> bool:
        """Tell whether a job of this prefix and definition, or a child of one, has yet to start.

        An array's parent says PENDING for as long as its children run (Batch User Guide, "Array jobs"), so of an array
        only its children's states count: those that run may be about to exit.
        """
        try:
            waiting = [job for status in _WAITING for job in self._listed(status)]
            if any("arrayProperties" not in job for job in waiting):
                return True
            return any(self._children_wait(batch) for batch in chunks(waiting, _JOBS_PER_REQUEST))
        except (ClientError, BotoCoreError) as error:
            raise UpstreamError(f"Batch does not list the jobs of {self.queue}: {error}") from error

    def _listed(self, status: Literal["SUBMITTED", "PENDING", "RUNNABLE"]) -> "Iterator[Any]":
        pages = self.client.get_paginator("list_jobs").paginate(jobQueue=self.queue, jobStatus=status)
        for page in pages:
            yield from (job for job in page["jobSummaryList"] if self._is_ours(job))

    def _is_ours(self, job: Any) -> bool:  # noqa: ANN401 (boto's own shape)
        return _definition_name(job["jobDefinition"]) == self.definition and job["jobName"].startswith(self.prefix)

    def _children_wait(self, parents: list[Any]) -> bool:
        jobs = self.client.describe_jobs(jobs=[parent["jobId"] for parent in parents])["jobs"]
        return any(_waits(job) for job in jobs)


def _waits(parent: Any) -> bool:  # noqa: ANN401 (boto's own shape)
    summary = parent["arrayProperties"].get("statusSummary", {})
    # A parent without a summary is SUBMITTED: no child exists yet, so all of them have yet to start.
    return parent["status"] == "SUBMITTED" or any(summary.get(status, 0) for status in _WAITING)


def _definition_name(definition: str) -> str:
    return definition.rsplit("/", 1)[-1].split(":", 1)[0]

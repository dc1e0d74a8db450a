"""Submit jobs to AWS Batch: the one place that talks to it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from fiblake.errors import UpstreamError
from shared.batching import chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_batch import BatchClient

DRAINS: Final = "drain-"
"""The name of jobs that drain the queue; an operator's own jobs (--symbols, --mode full) must have another one."""
SMALLEST_ARRAY: Final = 2
LARGEST_ARRAY: Final = 10_000
_WAITING: Final[tuple[Literal["SUBMITTED", "PENDING", "RUNNABLE"], ...]] = ("SUBMITTED", "PENDING", "RUNNABLE")
_EVERY_STATUS: Final[
    tuple[Literal["SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED"], ...]
] = (*_WAITING, "STARTING", "RUNNING", "SUCCEEDED", "FAILED")
_JOBS_PER_REQUEST: Final = 100


@dataclass(frozen=True, slots=True)
class JobRun:
    """One job and its present state."""

    id: str
    name: str
    status: str
    size: int
    created_at: datetime | None
    stopped_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobQueue:
    """One job definition in one Batch job queue. Methods raise UpstreamError if Batch fails."""

    client: "BatchClient"
    queue: str
    definition: str
    prefix: str
    """The beginning of this queue's job names; other jobs of the definition do other work."""

    @classmethod
    def connect(cls, queue: str, definition: str, prefix: str) -> "JobQueue":
        """Open the queue with the credentials, region and endpoint of the environment."""
        return cls(boto3.client("batch"), queue, definition, prefix)

    def submit(self, suffix: str, size: int) -> str:
        """Submit an array job of `size` children (1: a plain job; 10,000 at the most) and return its id."""
        array: dict[str, Any] = {} if size < SMALLEST_ARRAY else {"arrayProperties": {"size": min(size, LARGEST_ARRAY)}}
        try:
            name = f"{self.prefix}{suffix}"
            answer = self.client.submit_job(jobName=name, jobQueue=self.queue, jobDefinition=self.definition, **array)
        except (ClientError, BotoCoreError) as error:
            raise UpstreamError(f"Batch does not take a job of {self.definition}: {error}") from error
        return answer["jobId"]

    def ensure(self, suffix: str, size: int) -> str | None:
        """Submit a job unless one is waiting to start, which will see all earlier messages; return its id."""
        return None if self.any_waiting() else self.submit(suffix, size)

    def any_waiting(self) -> bool:
        """Return whether a job of this prefix and definition, or a child of one, is waiting to start.

        An array's parent is PENDING while its children run (Batch User Guide, "Array jobs"), so only the children's
        states count: a running child may be about to exit.
        """
        try:
            waiting = [job for status in _WAITING for job in self._listed(status)]
            if any("arrayProperties" not in job for job in waiting):
                return True
            return any(self._children_wait(batch) for batch in chunks(waiting, _JOBS_PER_REQUEST))
        except (ClientError, BotoCoreError) as error:
            raise UpstreamError(f"Batch does not list the jobs of {self.queue}: {error}") from error

    def recent(self, most: int) -> list[JobRun]:
        """Return the definition's newest jobs, whatever their names, newest first (Batch forgets jobs after a week)."""
        try:
            pages = [
                page
                for status in _EVERY_STATUS
                for page in self.client.get_paginator("list_jobs").paginate(jobQueue=self.queue, jobStatus=status)
            ]
        except (ClientError, BotoCoreError) as error:
            raise UpstreamError(f"Batch does not list the jobs of {self.queue}: {error}") from error
        jobs = [job for page in pages for job in page["jobSummaryList"] if self._is_of_definition(job)]
        newest = sorted(jobs, key=lambda job: job.get("createdAt", 0), reverse=True)[:most]
        return [_run(job) for job in newest]

    def _listed(self, status: Literal["SUBMITTED", "PENDING", "RUNNABLE"]) -> "Iterator[Any]":
        pages = self.client.get_paginator("list_jobs").paginate(jobQueue=self.queue, jobStatus=status)
        for page in pages:
            yield from (job for job in page["jobSummaryList"] if self._is_ours(job))

    def _is_ours(self, job: Any) -> bool:  # noqa: ANN401 (boto's own shape)
        return self._is_of_definition(job) and job["jobName"].startswith(self.prefix)

    def _is_of_definition(self, job: Any) -> bool:  # noqa: ANN401 (boto's own shape)
        return _definition_name(job["jobDefinition"]) == self.definition

    def _children_wait(self, parents: list[Any]) -> bool:
        jobs = self.client.describe_jobs(jobs=[parent["jobId"] for parent in parents])["jobs"]
        return any(_waits(job) for job in jobs)


def _waits(parent: Any) -> bool:  # noqa: ANN401 (boto's own shape)
    summary = parent["arrayProperties"].get("statusSummary", {})
    # A parent without a summary is SUBMITTED: no child exists yet, so all of them are waiting to start.
    return parent["status"] == "SUBMITTED" or any(summary.get(status, 0) for status in _WAITING)


def _run(job: Any) -> JobRun:  # noqa: ANN401 (boto's own shape)
    size = job.get("arrayProperties", {}).get("size", 1)
    created, stopped = (_instant(job.get(name)) for name in ("createdAt", "stoppedAt"))
    return JobRun(job["jobId"], job["jobName"], job["status"], size, created, stopped)


def _instant(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def _definition_name(definition: str) -> str:
    return definition.rsplit("/", 1)[-1].split(":", 1)[0]

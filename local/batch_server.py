"""A server that runs AWS Batch jobs in the embedded stack: Batch's REST-JSON API and child processes.

python -m local.batch_server --port-file PATH --work-dir DIR [--port 0] [--max-running 2] [--kill-after 30]
                             [--aws-url URL]

Job definitions of type container, single jobs and arrays, with the states of the AWS Batch User Guide ("Job states",
"Array jobs"). Any queue's name is accepted. Unsupported parameters (dependencies, filters) are refused, except
`evaluateOnExit`: every exit code other than 0 is retried. Requests must be signed as any AWS client's are (the
signature itself is not verified), because an unsigned one could come from a web page. For a finished job the
AWS at `--aws-url` gets an event and the metrics of its log (local.job_reports).

The main thread is the scheduler: the jobs are its children and end with it, and its failure ends the server.
"""

import argparse
import json
import os
import re
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

from fiblake.errors import PermanentError
from local.job_reports import Report, open_reporter
from local.processes import Child, LoopbackServer, Termination, listen

Json = dict[str, Any]

_ARN: Final = "arn:aws:batch:us-east-1:000000000000"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_ARRAY_SIZES: Final = range(2, 10_001)
_ATTEMPTS: Final = range(1, 11)
_MAX_DESCRIBED: Final = 100
_MAX_PAGE: Final = 1000
_SCHEDULER_PAUSE: Final = 0.05
_EXIT_GRACE: Final = 5.0
_SUMMARY_FIELDS: Final = (
    "jobArn", "jobId", "jobName", "jobDefinition", "status", "statusReason", "createdAt", "startedAt", "stoppedAt",
    "arrayProperties",
)  # fmt: skip


class ClientError(PermanentError):
    """A request that Batch would refuse with ClientException."""


class Status(StrEnum):
    """A job's states; an array's parent is never RUNNABLE, STARTING or RUNNING."""

    SUBMITTED = "SUBMITTED"
    PENDING = "PENDING"
    RUNNABLE = "RUNNABLE"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


_FINISHED: Final = (Status.SUCCEEDED, Status.FAILED)
_OCCUPYING: Final = (Status.STARTING, Status.RUNNING)


def _now() -> int:
    return int(time.time() * 1000)


def _required(body: Json, name: str) -> Any:  # noqa: ANN401 (the value of a JSON field)
    if body.get(name) in (None, ""):
        raise ClientError(f"{name} must be given")
    return body[name]


def _without_none(body: Json) -> Json:
    return {name: value for name, value in body.items() if value is not None}


def _environment(*properties: Json) -> dict[str, str]:
    """Merge the `environment` lists; later values win."""
    return {pair["name"]: pair.get("value", "") for source in properties for pair in source.get("environment", [])}


def _last_part(name_or_arn: str) -> str:
    return name_or_arn.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Definition:
    """One revision of a job definition, as it was registered."""

    name: str
    revision: int
    body: Json

    @property
    def arn(self) -> str:
        """Its ARN, with the revision."""
        return f"{_ARN}:job-definition/{self.name}:{self.revision}"

    def detail(self) -> Json:
        """Return it in the format of DescribeJobDefinitions."""
        return self.body | {"jobDefinitionArn": self.arn, "revision": self.revision, "status": "ACTIVE"}


@dataclass(frozen=True, slots=True)
class Submission:
    """The parameters of one SubmitJob, including those of the definition; an array's jobs share it."""

    name: str
    queue: str
    definition: Definition
    command: tuple[str, ...]
    environment: Mapping[str, str]
    attempts: int
    timeout_seconds: float | None
    created_at: int

    @classmethod
    def of(cls, body: Json, definition: Definition) -> "Submission":
        """Combine a SubmitJob with its definition; raise ClientError."""
        own = definition.body.get("containerProperties", {})
        overrides = body.get("containerOverrides", {})
        parameters = definition.body.get("parameters", {}) | body.get("parameters", {})
        words = overrides.get("command") or own.get("command", [])
        retry = body.get("retryStrategy") or definition.body.get("retryStrategy", {})
        timeout = body.get("timeout") or definition.body.get("timeout", {})
        if not words:
            raise ClientError(f"neither the job nor {definition.name}:{definition.revision} has a command")
        return cls(
            name=_checked_name(body, "jobName"),
            queue=_last_part(_required(body, "jobQueue")),
            definition=definition,
            command=tuple(_substituted(word, parameters) for word in words),
            environment=_environment(own, overrides),
            attempts=_checked_attempts(retry),
            timeout_seconds=timeout.get("attemptDurationSeconds"),
            created_at=_now(),
        )

    def detail(self, job_id: str) -> Json:
        """Return the common part of a job's description."""
        return {
            "jobArn": f"{_ARN}:job/{job_id}",
            "jobId": job_id,
            "jobName": self.name,
            "jobQueue": f"{_ARN}:job-queue/{self.queue}",
            "jobDefinition": self.definition.arn,
            "createdAt": self.created_at,
            "retryStrategy": {"attempts": self.attempts},
            "container": self.definition.body.get("containerProperties", {})
            | {
                "command": list(self.command),
                "environment": [{"name": name, "value": value} for name, value in self.environment.items()],
            },
        }


def _substituted(word: str, parameters: Mapping[str, str]) -> str:
    return parameters.get(word.removeprefix("Ref::"), word) if word.startswith("Ref::") else word


def _checked_name(body: Json, field_name: str) -> str:
    name: str = _required(body, field_name)
    if _NAME.fullmatch(name) is None:
        raise ClientError(f"{field_name} {name!r} must be 1 to 128 letters, digits, hyphens and underscores")
    return name


def _checked_attempts(retry: Json) -> int:
    attempts: int = retry.get("attempts", 1)
    if attempts not in _ATTEMPTS:
        raise ClientError(f"retryStrategy.attempts must lie between 1 and 10, not {attempts}")
    return attempts


@dataclass(frozen=True, slots=True)
class Host:
    """The folder of jobs, their maximum number at once, and the seconds that a job has to stop."""

    work_dir: Path
    max_running: int
    kill_after: float


@dataclass(slots=True)
class Job:
    """A single job, or an array's child: one command, in one process at a time."""

    id: str
    submission: Submission
    array_index: int | None = None
    array_size: int | None = None
    status: Status = Status.SUBMITTED
    reason: str | None = None
    stop_reason: str | None = None
    exit_code: int | None = None
    started_at: int | None = None
    stopped_at: int | None = None
    attempts: list[Json] = field(default_factory=list)
    process: Child | None = None
    _expires: float | None = None
    _kill_at: float | None = None

    def advance(self, host: Host) -> None:
        """Advance by one state, if anything happened."""
        if self.process is not None:
            self._watch(self.process, host)
        elif self.stop_reason is not None:
            self._finish(Status.FAILED, self.stop_reason)
        elif self.status is Status.STARTING:
            self._start(host)
        elif self.status is Status.SUBMITTED:
            self.status = Status.RUNNABLE

    def terminate(self, reason: str) -> None:
        """Stop it at the next step; a finished job does not change."""
        if self.status not in _FINISHED and self.stop_reason is None:
            self.stop_reason = reason

    def detail(self) -> Json:
        """Return it in the format of DescribeJobs."""
        body = self.submission.detail(self.id)
        body["container"] |= _without_none({"exitCode": self.exit_code, "logStreamName": self.log_name})
        body |= {"status": self.status, "statusReason": self.reason, "attempts": self.attempts}
        body |= {"startedAt": self.started_at, "stoppedAt": self.stopped_at}
        body["arrayProperties"] = None if self.array_index is None else {"index": self.array_index}
        return _without_none(body)

    @property
    def log_name(self) -> str:
        """The file of its output."""
        return f"{self.id.replace(':', '_')}.log"

    def _start(self, host: Host) -> None:
        program, *words = self.submission.command
        self.process = Child(
            [sys.executable if program == "python" else program, *words],
            log=host.work_dir / self.log_name,
            env=os.environ | self.submission.environment | self._batch_environment(),
        )
        self.status = Status.RUNNING
        self.started_at, self.stopped_at, self._kill_at = _now(), None, None
        limit = self.submission.timeout_seconds
        self._expires = None if limit is None else time.monotonic() + limit

    def _batch_environment(self) -> dict[str, str]:
        names = {"AWS_BATCH_JOB_ID": self.id, "AWS_BATCH_JOB_ATTEMPT": str(len(self.attempts) + 1)}
        if self.array_index is not None:
            names["AWS_BATCH_JOB_ARRAY_INDEX"] = str(self.array_index)
            names["AWS_BATCH_JOB_ARRAY_SIZE"] = str(self.array_size)
        return names

    def _watch(self, process: Child, host: Host) -> None:
        code = process.poll()
        if code is not None:
            self._close_attempt(code)
            return
        now = time.monotonic()
        if self._expires is not None and now >= self._expires and self.stop_reason is None:
            self.stop_reason = "Job attempt duration exceeded timeout"
        if self.stop_reason is not None and self._kill_at is None:
            process.terminate()
            self._kill_at = now + host.kill_after
        elif self._kill_at is not None and now >= self._kill_at:
            process.kill()

    def _close_attempt(self, code: int) -> None:
        # A container's exit code after signal n is 128 + n.
        self.exit_code = code if code >= 0 else 128 - code
        self.process = None
        self.attempts.append(
            {
                "container": {"exitCode": self.exit_code, "logStreamName": self.log_name},
                "startedAt": self.started_at,
                "stoppedAt": _now(),
            }
        )
        ended = "Essential container in task exited"
        if self.stop_reason is not None:
            self._finish(Status.FAILED, self.stop_reason)
        elif code == 0:
            self._finish(Status.SUCCEEDED, ended)
        elif len(self.attempts) < self.submission.attempts:
            self.status = Status.RUNNABLE
        else:
            self._finish(Status.FAILED, ended)

    def _finish(self, status: Status, reason: str) -> None:
        self.status, self.reason, self.stopped_at = status, reason, _now()


@dataclass(frozen=True, slots=True)
class ArrayJob:
    """An array's parent: it runs nothing; its state follows from its children's."""

    id: str
    submission: Submission
    children: Sequence[Job]

    @property
    def status(self) -> Status:
        """PENDING from when a child is RUNNABLE until the last one has finished."""
        states = {child.status for child in self.children}
        if states == {Status.SUBMITTED}:
            return Status.SUBMITTED
        if not states <= set(_FINISHED):
            return Status.PENDING
        return Status.FAILED if Status.FAILED in states else Status.SUCCEEDED

    def terminate(self, reason: str) -> None:
        """Stop every unfinished child."""
        for child in self.children:
            child.terminate(reason)

    def detail(self) -> Json:
        """Return it in the format of DescribeJobs, with the number of children in each state."""
        counts = Counter(child.status for child in self.children)
        summary = {status: counts[status] for status in Status}
        status = self.status
        body = self.submission.detail(self.id) | {"status": status}
        body["arrayProperties"] = {"size": len(self.children), "statusSummary": summary}
        if status is Status.FAILED:
            body["statusReason"] = "Array Child Job failed"
        if status in _FINISHED:
            body["stoppedAt"] = max(child.stopped_at or 0 for child in self.children)
        return body


class Batch:
    """All definitions and jobs. Requests come in any thread; one thread calls `step`, and `stop` when it has ended."""

    def __init__(self, host: Host, report: Report) -> None:
        self._host = host
        self._report = report
        self._lock = threading.Lock()
        self._definitions: dict[str, list[Definition]] = {}
        self._submitted: list[Job | ArrayJob] = []
        self._jobs: dict[str, Job | ArrayJob] = {}
        self._unfinished: list[Job] = []
        self._actions: Final[Mapping[str, Callable[[Json], Json]]] = {
            "/v1/registerjobdefinition": self._register,
            "/v1/describejobdefinitions": self._describe_definitions,
            "/v1/describejobqueues": self._describe_queues,
            "/v1/submitjob": self._submit,
            "/v1/describejobs": self._describe,
            "/v1/listjobs": self._list,
            "/v1/terminatejob": self._terminate,
        }

    def answer(self, path: str, body: Json) -> Json:
        """Return the answer to one request; raise ClientError."""
        action = self._actions.get(path)
        if action is None:
            raise ClientError(f"the embedded Batch does not know {path}")
        with self._lock:
            return action(body)

    def step(self) -> bool:
        """Advance each unfinished job by at most one state; return whether any advanced."""
        with self._lock:
            before = [job.status for job in self._unfinished]
            free = self._host.max_running - sum(status in _OCCUPYING for status in before)
            for job in self._unfinished:
                if job.status is Status.RUNNABLE and job.stop_reason is None:
                    if free > 0:
                        job.status = Status.STARTING
                        free -= 1
                else:
                    job.advance(self._host)
            moved = before != [job.status for job in self._unfinished]
            ended = [job for job in self._unfinished if job.status in _FINISHED]
            self._unfinished = [job for job in self._unfinished if job.status not in _FINISHED]
            self._report_ended(ended)
            return moved

    def _report_ended(self, ended: Iterable[Job]) -> None:
        parents = {}
        for job in ended:
            self._report(job.detail(), self._host.work_dir / job.log_name)
            parent = self._jobs[job.id.partition(":")[0]]
            if isinstance(parent, ArrayJob) and parent.status in _FINISHED:
                parents[parent.id] = parent
        for parent in parents.values():
            self._report(parent.detail(), None)

    def stop(self) -> None:
        """Stop every running process."""
        running = [job.process for job in self._unfinished if job.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _EXIT_GRACE
        for process in running:
            process.stop(grace=max(0.0, deadline - time.monotonic()))

    def _register(self, body: Json) -> Json:
        name = _checked_name(body, "jobDefinitionName")
        if body.get("type") != "container":
            raise ClientError("the embedded Batch runs job definitions of type container only")
        _checked_attempts(body.get("retryStrategy", {}))
        revisions = self._definitions.setdefault(name, [])
        definition = Definition(name, len(revisions) + 1, body)
        revisions.append(definition)
        return {"jobDefinitionName": name, "jobDefinitionArn": definition.arn, "revision": definition.revision}

    def _describe_definitions(self, body: Json) -> Json:
        everything = [definition for revisions in self._definitions.values() for definition in revisions]
        if body.get("jobDefinitions"):
            wanted = {_last_part(name) for name in body["jobDefinitions"]}
            everything = [d for d in everything if f"{d.name}:{d.revision}" in wanted or d.name in wanted]
        elif "jobDefinitionName" in body:
            everything = [d for d in everything if d.name == body["jobDefinitionName"]]
        return {"jobDefinitions": [definition.detail() for definition in everything]}

    def _describe_queues(self, body: Json) -> Json:
        used = [job.submission.queue for job in self._submitted]
        names = dict.fromkeys(_last_part(name) for name in body.get("jobQueues") or used)
        fixed = {"state": "ENABLED", "status": "VALID", "priority": 1, "computeEnvironmentOrder": []}
        return {"jobQueues": [{"jobQueueName": n, "jobQueueArn": f"{_ARN}:job-queue/{n}"} | fixed for n in names]}

    def _submit(self, body: Json) -> Json:
        if body.get("dependsOn"):
            raise ClientError("the embedded Batch knows no dependencies between jobs")
        submission = Submission.of(body, self._definition(_required(body, "jobDefinition")))
        array = body.get("arrayProperties")
        job = _array_job(submission, array) if array else Job(str(uuid.uuid4()), submission)
        children = job.children if isinstance(job, ArrayJob) else [job]
        self._submitted.append(job)
        self._unfinished.extend(children)
        self._jobs |= {child.id: child for child in children} | {job.id: job}
        return {"jobArn": f"{_ARN}:job/{job.id}", "jobName": submission.name, "jobId": job.id}

    def _definition(self, name_or_arn: str) -> Definition:
        name, _, revision = _last_part(name_or_arn).partition(":")
        for definition in reversed(self._definitions.get(name, [])):
            if revision in ("", str(definition.revision)):
                return definition
        raise ClientError(f"JobDefinition {name_or_arn} is not found")

    def _describe(self, body: Json) -> Json:
        wanted = _required(body, "jobs")
        if len(wanted) > _MAX_DESCRIBED:
            raise ClientError(f"at most {_MAX_DESCRIBED} jobs are described at once, not {len(wanted)}")
        jobs = (self._jobs.get(_last_part(name)) for name in wanted)
        return {"jobs": [job.detail() for job in jobs if job is not None]}

    def _list(self, body: Json) -> Json:
        if body.get("filters") or body.get("multiNodeJobId"):
            raise ClientError("the embedded Batch lists by jobQueue or arrayJobId, and jobStatus, only")
        status = body.get("jobStatus", Status.RUNNING)
        if status not in list(Status):
            raise ClientError(f"{status!r} is not a job's status")
        # Jobs are only appended, so a position keeps its meaning while their states change.
        start = _position(body.get("nextToken", "0"))
        matching = [(at, job) for at, job in enumerate(self._listed(body)) if at >= start and job.status == status]
        size = min(max(body.get("maxResults", _MAX_PAGE), 1), _MAX_PAGE)
        token = str(matching[size][0]) if len(matching) > size else None
        return _without_none({"jobSummaryList": [_summary(job) for _, job in matching[:size]], "nextToken": token})

    def _listed(self, body: Json) -> Iterable[Job | ArrayJob]:
        if "arrayJobId" in body:
            parent = self._jobs.get(body["arrayJobId"])
            if not isinstance(parent, ArrayJob):
                raise ClientError(f"{body['arrayJobId']!r} is not an array job")
            return parent.children
        queue = _last_part(_required(body, "jobQueue"))
        return (job for job in self._submitted if job.submission.queue == queue)

    def _terminate(self, body: Json) -> Json:
        job = self._jobs.get(_last_part(_required(body, "jobId")))
        if job is None:
            raise ClientError(f"job {body['jobId']!r} does not exist")
        job.terminate(_required(body, "reason"))
        return {}


def _array_job(submission: Submission, properties: Json) -> ArrayJob:
    size = properties.get("size", 0)
    if size not in _ARRAY_SIZES:
        raise ClientError(f"arrayProperties.size must lie between 2 and 10000, not {size}")
    parent_id = str(uuid.uuid4())
    children = [Job(f"{parent_id}:{index}", submission, index, size) for index in range(size)]
    return ArrayJob(parent_id, submission, children)


def _summary(job: Job | ArrayJob) -> Json:
    detail = job.detail()
    summary: Json = {name: detail[name] for name in _SUMMARY_FIELDS if name in detail}
    if "exitCode" in detail["container"]:
        summary["container"] = {"exitCode": detail["container"]["exitCode"]}
    return summary


def _position(token: str) -> int:
    if not token.isdecimal():
        raise ClientError(f"nextToken {token!r} is not one of ours")
    return int(token)


class BatchServer(LoopbackServer):
    """Answers Batch's requests on 127.0.0.1."""

    def __init__(self, port: int, batch: Batch) -> None:
        super().__init__(port, _Handler)
        self.batch = batch


class _Handler(BaseHTTPRequestHandler):
    server: BatchServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if not self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 "):
            self._refuse(HTTPStatus.FORBIDDEN, "MissingAuthenticationTokenException", "the request is not signed")
            return
        try:
            self._send(HTTPStatus.OK, self.server.batch.answer(self.path, _parse(content)))
        except ClientError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, "ClientException", str(error))

    def _refuse(self, status: HTTPStatus, kind: str, message: str) -> None:
        self._send(status, {"message": message}, {"x-amzn-errortype": kind})

    def _send(self, status: HTTPStatus, body: Json, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _parse(content: bytes) -> Json:
    try:
        body = json.loads(content or b"{}")
    except ValueError as error:
        raise ClientError(f"the request is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ClientError("the request is not a JSON object")
    return body


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run AWS Batch jobs as child processes.")
    parser.add_argument("--port-file", type=Path, required=True, help="where to write the port once it answers")
    parser.add_argument("--work-dir", type=Path, required=True, help="where the jobs' output goes, one file a job")
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1 (default: any free one)")
    parser.add_argument("--max-running", type=int, default=2, help="how many jobs run at once")
    parser.add_argument("--kill-after", type=float, default=30.0, help="seconds a stopped job has until SIGKILL")
    parser.add_argument("--aws-url", help="the emulator that gets reports of ended jobs (default: none)")
    return parser.parse_args()


def main() -> None:
    """Serve until SIGTERM, then stop all jobs."""
    arguments = _arguments()
    termination = Termination()
    with open_reporter(arguments.aws_url) as report:
        batch = Batch(Host(arguments.work_dir, arguments.max_running, arguments.kill_after), report)
        try:
            with listen(BatchServer(arguments.port, batch), arguments.port_file):
                while not termination.requested:
                    if not batch.step():
                        time.sleep(_SCHEDULER_PAUSE)
        finally:
            batch.stop()


if __name__ == "__main__":
    main()

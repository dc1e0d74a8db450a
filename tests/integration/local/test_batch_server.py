import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from local.processes import Child, start_server

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

PRINT_INDEX = (
    "import os; print(*(os.environ.get(f'AWS_BATCH_JOB_{n}') for n in ('ID', 'ATTEMPT', 'ARRAY_INDEX', 'ARRAY_SIZE')))"
)
FAIL_ONCE = "import os, sys; sys.exit(0 if os.environ['AWS_BATCH_JOB_ATTEMPT'] == '2' else 7)"
WAIT_FOR_FILE = "import os, pathlib, time\nwhile not pathlib.Path(os.environ['GATE']).exists(): time.sleep(0.02)"
SLEEP = "import time; print('sleeping', flush=True); time.sleep(600)"
IGNORE_SIGTERM = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('sleeping', flush=True); time.sleep(600)"
)


@dataclass(frozen=True)
class Stack:
    server: Child
    client: "BatchClient"
    port: int
    folder: Path

    def define(self, code: str, **more: Any) -> str:  # noqa: ANN401 (boto's own arguments)
        container: Any = {"image": "none", "command": ["python", "-c", code], **more.pop("container", {})}
        name = f"job-{time.monotonic_ns()}"
        self.client.register_job_definition(
            jobDefinitionName=name, type="container", containerProperties=container, **more
        )
        return name

    def submit(self, definition: str, **more: Any) -> str:  # noqa: ANN401 (boto's own arguments)
        return self.client.submit_job(
            jobName="a-job", jobQueue=more.pop("queue", "main"), jobDefinition=definition, **more
        )["jobId"]

    def job(self, job_id: str) -> Any:  # noqa: ANN401 (boto's own shape)
        return self.client.describe_jobs(jobs=[job_id])["jobs"][0]

    def log(self, job_id: str) -> str:
        path = self.folder / "work" / f"{job_id.replace(':', '_')}.log"
        return path.read_text() if path.exists() else ""

    def ended(self, job_id: str) -> Any:  # noqa: ANN401 (boto's own shape)
        eventually(lambda: self.job(job_id)["status"] in ("SUCCEEDED", "FAILED"))
        return self.job(job_id)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def start(folder: Path, *options: str) -> Stack:
    argv = [sys.executable, "-m", "local.batch_server", "--port-file", str(folder / "port")]
    argv += ["--work-dir", str(folder / "work"), *options]
    server, port = start_server(argv, port_file=folder / "port", log=folder / "log")
    client = boto3.client(
        "batch",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106 (nobody checks it)
        config=Config(retries={"max_attempts": 0}),
    )
    return Stack(server, client, port, folder)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = start(tmp_path_factory.mktemp("batch"), "--max-running", "2", "--kill-after", "0.5")
    with stack.server:
        yield stack
        stack.client.close()
        stack.server.stop(grace=60)
    assert "Traceback" not in (stack.folder / "log").read_text()


def test_a_job_runs_its_definitions_command_and_succeeds(stack: Stack) -> None:
    job_id = stack.submit(stack.define(PRINT_INDEX))
    job = stack.ended(job_id)
    assert (job["status"], job["container"]["exitCode"]) == ("SUCCEEDED", 0)
    assert job["createdAt"] <= job["startedAt"] <= job["stoppedAt"]
    assert "arrayProperties" not in job
    assert stack.log(job_id) == f"{job_id} 1 None None\n"


def test_an_array_runs_each_index_once_and_its_parent_succeeds(stack: Stack) -> None:
    parent_id = stack.submit(stack.define(PRINT_INDEX), arrayProperties={"size": 3})
    parent = stack.ended(parent_id)
    assert parent["status"] == "SUCCEEDED"
    assert parent["arrayProperties"]["size"] == parent["arrayProperties"]["statusSummary"]["SUCCEEDED"] == 3
    children = [f"{parent_id}:{index}" for index in range(3)]
    assert [stack.log(child) for child in children] == [f"{child} 1 {child[-1]} 3\n" for child in children]
    assert [stack.job(child)["arrayProperties"] for child in children] == [{"index": 0}, {"index": 1}, {"index": 2}]


def test_an_arrays_parent_is_pending_while_its_children_run_and_no_more_run_than_may(
    stack: Stack, tmp_path: Path
) -> None:
    definition = stack.define(
        WAIT_FOR_FILE, container={"environment": [{"name": "GATE", "value": str(tmp_path / "gate")}]}
    )
    queue = f"queue-{tmp_path.name}"
    parent_id = stack.submit(definition, queue=queue, arrayProperties={"size": 4})
    eventually(lambda: stack.job(parent_id)["arrayProperties"]["statusSummary"]["RUNNING"] == 2)
    parent = stack.job(parent_id)
    assert parent["status"] == "PENDING"
    assert parent["arrayProperties"]["statusSummary"]["RUNNABLE"] == 2
    [listed] = stack.client.list_jobs(jobQueue=queue, jobStatus="PENDING")["jobSummaryList"]
    assert listed["jobId"] == parent_id
    assert listed["jobDefinition"].endswith(f":job-definition/{definition}:1")
    assert listed["arrayProperties"]["size"] == 4
    assert stack.client.list_jobs(jobQueue=queue)["jobSummaryList"] == []
    running = stack.client.list_jobs(arrayJobId=parent_id)["jobSummaryList"]
    assert [child["jobId"] for child in running] == [f"{parent_id}:0", f"{parent_id}:1"]
    (tmp_path / "gate").touch()
    assert stack.ended(parent_id)["status"] == "SUCCEEDED"


def test_an_array_with_one_failed_child_fails_after_the_others_have_finished(stack: Stack) -> None:
    code = "import os, sys; sys.exit(int(os.environ['AWS_BATCH_JOB_ARRAY_INDEX']) % 2)"
    parent_id = stack.submit(stack.define(code), arrayProperties={"size": 2})
    parent = stack.ended(parent_id)
    assert parent["status"] == "FAILED"
    summary = parent["arrayProperties"]["statusSummary"]
    assert (summary["SUCCEEDED"], summary["FAILED"]) == (1, 1)
    [failed] = stack.client.list_jobs(arrayJobId=parent_id, jobStatus="FAILED")["jobSummaryList"]
    assert (failed["jobId"], failed["container"]["exitCode"]) == (f"{parent_id}:1", 1)


def test_a_failed_attempt_is_retried(stack: Stack) -> None:
    job = stack.ended(stack.submit(stack.define(FAIL_ONCE, retryStrategy={"attempts": 3})))
    assert job["status"] == "SUCCEEDED"
    assert [attempt["container"]["exitCode"] for attempt in job["attempts"]] == [7, 0]


def test_a_job_whose_attempts_are_used_up_fails_with_its_exit_code(stack: Stack) -> None:
    job = stack.ended(stack.submit(stack.define("raise SystemExit(7)", retryStrategy={"attempts": 2})))
    assert (job["status"], job["container"]["exitCode"], len(job["attempts"])) == ("FAILED", 7, 2)


def test_an_attempt_that_takes_too_long_is_stopped_and_not_retried(stack: Stack) -> None:
    definition = stack.define(SLEEP, timeout={"attemptDurationSeconds": 1}, retryStrategy={"attempts": 2})
    job = stack.ended(stack.submit(definition))
    assert (job["status"], job["statusReason"]) == ("FAILED", "Job attempt duration exceeded timeout")
    assert (job["container"]["exitCode"], len(job["attempts"])) == (143, 1)


@pytest.mark.parametrize(("code", "exit_code"), [(SLEEP, 143), (IGNORE_SIGTERM, 137)])
def test_a_terminated_job_fails_with_the_reason_given(stack: Stack, code: str, exit_code: int) -> None:
    job_id = stack.submit(stack.define(code, retryStrategy={"attempts": 2}))
    eventually(lambda: "sleeping" in stack.log(job_id))
    stack.client.terminate_job(jobId=job_id, reason="not needed")
    job = stack.ended(job_id)
    assert (job["status"], job["statusReason"], job["container"]["exitCode"]) == ("FAILED", "not needed", exit_code)


def test_a_terminated_array_starts_no_more_children(stack: Stack) -> None:
    parent_id = stack.submit(stack.define(SLEEP), arrayProperties={"size": 20})
    eventually(lambda: "sleeping" in stack.log(f"{parent_id}:0"))
    stack.client.terminate_job(jobId=parent_id, reason="not needed")
    assert stack.ended(parent_id)["arrayProperties"]["statusSummary"]["FAILED"] == 20
    assert "startedAt" not in stack.job(f"{parent_id}:19")


def test_a_job_may_override_command_and_environment(stack: Stack) -> None:
    container = {"environment": [{"name": "A", "value": "definition"}, {"name": "B", "value": "definition"}]}
    code = "import os, sys; print(os.environ['A'], os.environ['B'], sys.argv[1])"
    job_id = stack.submit(
        stack.define(SLEEP, container=container),
        containerOverrides={
            "command": ["python", "-c", code, "Ref::word"],
            "environment": [{"name": "B", "value": "job"}],
        },
        parameters={"word": "parameter"},
    )
    stack.ended(job_id)
    assert stack.log(job_id) == "definition job parameter\n"


def test_a_definition_is_found_by_name_revision_and_arn(stack: Stack) -> None:
    name = stack.define("pass")
    container: Any = {"image": "none", "command": ["python", "-c", "pass"]}
    second = stack.client.register_job_definition(
        jobDefinitionName=name, type="container", containerProperties=container
    )
    assert second["revision"] == 2
    used = [
        stack.job(stack.submit(reference))["jobDefinition"]
        for reference in (name, f"{name}:1", second["jobDefinitionArn"])
    ]
    assert [arn.rpartition("/")[2] for arn in used] == [f"{name}:2", f"{name}:1", f"{name}:2"]
    described = stack.client.describe_job_definitions(jobDefinitionName=name)["jobDefinitions"]
    assert [definition["revision"] for definition in described] == [1, 2]


def test_pages_of_a_list_joined_are_the_whole_list(stack: Stack) -> None:
    parent_id = stack.submit(stack.define("pass"), arrayProperties={"size": 7})
    stack.ended(parent_id)
    paginator = stack.client.get_paginator("list_jobs")
    pages = paginator.paginate(arrayJobId=parent_id, jobStatus="SUCCEEDED", PaginationConfig={"PageSize": 3})
    parts = [[job["jobId"] for job in page["jobSummaryList"]] for page in pages]
    assert [len(part) for part in parts] == [3, 3, 1]
    assert [job_id for part in parts for job_id in part] == [f"{parent_id}:{index}" for index in range(7)]


def test_jobs_are_listed_by_the_name_or_arn_of_their_queue_only(stack: Stack) -> None:
    job_id = stack.submit(stack.define("pass"), queue="other")
    stack.ended(job_id)
    arn = stack.client.describe_job_queues(jobQueues=["other"])["jobQueues"][0]["jobQueueArn"]
    for queue in ("other", arn):
        listed = stack.client.list_jobs(jobQueue=queue, jobStatus="SUCCEEDED")["jobSummaryList"]
        assert [job["jobId"] for job in listed] == [job_id]


def test_an_unknown_job_is_left_out_of_a_description(stack: Stack) -> None:
    assert stack.client.describe_jobs(jobs=["nobody"])["jobs"] == []


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (lambda s: s.submit(s.define("pass"), arrayProperties={"size": 1}), "between 2 and 10000"),
        (lambda s: s.submit(s.define("pass"), arrayProperties={"size": 10_001}), "between 2 and 10000"),
        (lambda s: s.submit("nobody"), "JobDefinition nobody is not found"),
        (lambda s: s.submit(s.define("pass"), dependsOn=[{"jobId": "x"}]), "no dependencies"),
        (lambda s: s.define("pass", retryStrategy={"attempts": 11}), "between 1 and 10"),
        (lambda s: s.client.terminate_job(jobId="nobody", reason="r"), "'nobody' does not exist"),
        (lambda s: s.client.list_jobs(), "jobQueue must be given"),
        (lambda s: s.client.list_jobs(jobQueue="main", nextToken="x"), "nextToken 'x'"),
        (lambda s: s.client.cancel_job(jobId="x", reason="r"), "does not know /v1/canceljob"),
    ],
)
def test_what_batch_would_refuse_is_a_client_exception(
    stack: Stack, request_: Callable[[Stack], object], reason: str
) -> None:
    with pytest.raises(ClientError, match=reason) as raised:
        request_(stack)
    assert raised.value.response["Error"]["Code"] == "ClientException"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_an_unsigned_request_as_a_web_page_could_send_is_refused(stack: Stack) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"http://127.0.0.1:{stack.port}/v1/listjobs", data=b"{}", timeout=30)
    assert raised.value.code == 403
    raised.value.close()


def test_the_server_stops_its_jobs_and_ends_with_0_on_sigterm(tmp_path: Path) -> None:
    stack = start(tmp_path)
    with stack.server:
        code = f"import os; print(os.getpid(), flush=True); {SLEEP}"
        job_id = stack.submit(stack.define(code))
        eventually(lambda: "sleeping" in stack.log(job_id))
        stack.client.close()
        assert stack.server.stop(grace=60) == 0
    pid = int(stack.log(job_id).split()[0])
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert "Traceback" not in (tmp_path / "log").read_text()

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from fiblake.errors import UpstreamError
from shared.jobs import LARGEST_ARRAY, JobQueue

QUEUE, DEFINITION, PREFIX = "dev-batch-consolidation", "dev-batch-bronze-consolidator", "drain-"
ARN = f"arn:aws:batch:us-east-1:123456789012:job-definition/{DEFINITION}:7"


class Batch:
    """Batch's answers, which must be requested in this order, checked against botocore's own model of Batch."""

    def __init__(self) -> None:
        self.client = boto3.client("batch")
        self.stub = Stubber(self.client)
        self.jobs = JobQueue(self.client, QUEUE, DEFINITION, PREFIX)

    def lists(self, **by_status: list[dict[str, Any]]) -> None:
        for status in ("SUBMITTED", "PENDING", "RUNNABLE"):
            answer = {"jobSummaryList": by_status.get(status.lower(), [])}
            self.stub.add_response("list_jobs", answer, {"jobQueue": QUEUE, "jobStatus": status})

    def lists_every_status(self, **by_status: list[dict[str, Any]]) -> None:
        for status in ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED"):
            answer = {"jobSummaryList": by_status.get(status, [])}
            self.stub.add_response("list_jobs", answer, {"jobQueue": QUEUE, "jobStatus": status})

    def describes(self, *parents: dict[str, Any]) -> None:
        self.stub.add_response(
            "describe_jobs", {"jobs": list(parents)}, {"jobs": [parent["jobId"] for parent in parents]}
        )


@pytest.fixture
def batch() -> Iterator[Batch]:
    batch = Batch()
    with batch.stub:
        yield batch
        batch.stub.assert_no_pending_responses()


def summary(
    job_id: str = "a", definition: str = ARN, size: int | None = None, name: str = f"{PREFIX}1"
) -> dict[str, Any]:
    array = {} if size is None else {"arrayProperties": {"size": size}}
    return {"jobId": job_id, "jobName": name, "jobDefinition": definition, **array}


def parent(job_id: str = "a", status: str = "PENDING", **children: int) -> dict[str, Any]:
    states = {"statusSummary": children} if children else {}
    return {
        "jobId": job_id, "jobName": "n", "jobQueue": QUEUE, "jobDefinition": ARN, "startedAt": 0, "status": status,
        "arrayProperties": {"size": 2, **states},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("size", "array"),
    [(0, {}), (1, {}), (2, {"arrayProperties": {"size": 2}}), (10_000, {"arrayProperties": {"size": 10_000}}),
     (10_001, {"arrayProperties": {"size": LARGEST_ARRAY}})],
)  # fmt: skip
def test_a_job_of_one_is_plain_and_an_array_has_two_to_ten_thousand_children(
    batch: Batch, size: int, array: dict[str, Any]
) -> None:
    expected = {"jobName": "drain-1", "jobQueue": QUEUE, "jobDefinition": DEFINITION, **array}
    batch.stub.add_response("submit_job", {"jobId": "id", "jobName": "drain-1"}, expected)
    assert batch.jobs.submit("1", size) == "id"


def test_in_an_idle_queue_nothing_waits(batch: Batch) -> None:
    batch.lists()
    assert not batch.jobs.any_waiting()


@pytest.mark.parametrize("status", ["submitted", "pending", "runnable"])
@pytest.mark.parametrize("definition", [ARN, DEFINITION, f"{DEFINITION}:7"])
def test_a_plain_job_that_has_yet_to_start_waits(batch: Batch, status: str, definition: str) -> None:
    batch.lists(**{status: [summary(definition=definition)]})
    assert batch.jobs.any_waiting()


def test_a_job_of_another_definition_does_not_count(batch: Batch) -> None:
    batch.lists(runnable=[summary(definition=ARN.replace(DEFINITION, f"{DEFINITION}-2"))])
    assert not batch.jobs.any_waiting()


@pytest.mark.parametrize("name", ["reconsolidate-everything", "my-drain-1", "Drain-1", "drain"])
@pytest.mark.parametrize("size", [None, 2])
def test_an_operators_job_of_the_same_definition_does_not_count(batch: Batch, name: str, size: int | None) -> None:
    batch.lists(submitted=[summary(name=name)], pending=[summary(name=name, size=size)], runnable=[summary(name=name)])
    assert not batch.jobs.any_waiting()


def test_our_job_counts_among_an_operators(batch: Batch) -> None:
    batch.lists(runnable=[summary("theirs", name="all-of-it"), summary("ours")])
    assert batch.jobs.any_waiting()


def test_of_arrays_only_ours_are_described(batch: Batch) -> None:
    batch.lists(pending=[summary("theirs", size=2, name="all-of-it"), summary("ours", size=2)])
    batch.describes(parent("ours", RUNNING=2))
    assert not batch.jobs.any_waiting()


def test_an_array_whose_children_all_run_does_not_wait_although_it_says_pending(batch: Batch) -> None:
    batch.lists(pending=[summary(size=2)])
    batch.describes(parent(RUNNING=1, STARTING=1, RUNNABLE=0, PENDING=0, SUBMITTED=0))
    assert not batch.jobs.any_waiting()


@pytest.mark.parametrize("state", ["SUBMITTED", "PENDING", "RUNNABLE"])
def test_an_array_waits_for_as_long_as_one_child_has_yet_to_start(batch: Batch, state: str) -> None:
    batch.lists(pending=[summary(size=2)])
    batch.describes(parent(RUNNING=1, **{state: 1}))
    assert batch.jobs.any_waiting()


def test_an_array_that_has_no_children_yet_waits(batch: Batch) -> None:
    batch.lists(submitted=[summary(size=2)])
    batch.describes(parent(status="SUBMITTED"))
    assert batch.jobs.any_waiting()


def test_one_of_many_arrays_that_waits_is_enough(batch: Batch) -> None:
    batch.lists(pending=[summary("a", size=2), summary("b", size=2)])
    batch.describes(parent("a", RUNNING=2), parent("b", RUNNING=1, RUNNABLE=1))
    assert batch.jobs.any_waiting()


def test_arrays_are_described_a_hundred_at_a_time(batch: Batch) -> None:
    ids = [f"j{n}" for n in range(101)]
    batch.lists(pending=[summary(job_id, size=2) for job_id in ids])
    batch.describes(*(parent(job_id, RUNNING=2) for job_id in ids[:100]))
    batch.describes(parent(ids[100], RUNNABLE=2))
    assert batch.jobs.any_waiting()


def test_all_pages_of_a_listing_are_read(batch: Batch) -> None:
    request = {"jobQueue": QUEUE, "jobStatus": "SUBMITTED"}
    batch.stub.add_response("list_jobs", {"jobSummaryList": [], "nextToken": "more"}, request)
    batch.stub.add_response("list_jobs", {"jobSummaryList": [summary()]}, {**request, "nextToken": "more"})
    for status in ("PENDING", "RUNNABLE"):
        batch.stub.add_response("list_jobs", {"jobSummaryList": []}, {"jobQueue": QUEUE, "jobStatus": status})
    assert batch.jobs.any_waiting()


def test_when_batch_fails_it_is_an_upstream_error(batch: Batch) -> None:
    batch.stub.add_client_error("list_jobs", "ServerException")
    with pytest.raises(UpstreamError, match=f"does not list the jobs of {QUEUE}"):
        batch.jobs.any_waiting()
    batch.stub.add_client_error("submit_job", "ClientException")
    with pytest.raises(UpstreamError, match=f"does not take a job of {DEFINITION}"):
        batch.jobs.submit("name", 1)


def test_the_newest_jobs_of_the_definition_are_given_with_their_fate(batch: Batch) -> None:
    def job(name: str, status: str, created: int, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        return {**summary(name=name), "jobId": name, "status": status, "createdAt": created, **more}

    other = {**job("other", "RUNNING", 9_000), "jobDefinition": "arn:aws:batch:us-east-1:0:job-definition/other:1"}
    batch.lists_every_status(
        RUNNING=[job("drain-2", "RUNNING", 2_000, arrayProperties={"size": 3}), other],
        SUCCEEDED=[job("drain-1", "SUCCEEDED", 1_000, stoppedAt=1_500)],
        FAILED=[job("by-hand", "FAILED", 3_000, stoppedAt=4_000)],
    )
    recent = batch.jobs.recent(2)
    assert [(summarized.name, summarized.status, summarized.size) for summarized in recent] == [
        ("by-hand", "FAILED", 1),
        ("drain-2", "RUNNING", 3),
    ]
    assert (recent[0].created_at, recent[0].stopped_at) == (
        datetime.fromtimestamp(3, UTC), datetime.fromtimestamp(4, UTC),
    )  # fmt: skip
    assert recent[1].stopped_at is None

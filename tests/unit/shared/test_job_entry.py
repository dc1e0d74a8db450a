"""A job asks the kernel for its policy for batch work, and leaves the policy of its caller as it was."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic_settings import BaseSettings

from shared.job_entry import run_job


class Settings(BaseSettings):
    """A job without settings."""


def policies_of_a_job_that_begins_with(policy: int) -> list[int]:
    """Run a job in a thread of this policy; return the policy in the job, in a thread that it starts, and after it."""
    policies: list[int] = []

    def work(_: Settings) -> int:
        policies.append(os.sched_getscheduler(0))
        with ThreadPoolExecutor(1) as pool:
            policies.append(pool.submit(os.sched_getscheduler, 0).result())
        return 0

    def run() -> None:
        os.sched_setscheduler(0, policy, os.sched_param(0))
        assert run_job(Settings, work, []) == 0
        policies.append(os.sched_getscheduler(0))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()
    return policies


def test_a_job_and_its_threads_run_under_the_policy_for_batch_work() -> None:
    expected = [os.SCHED_BATCH, os.SCHED_BATCH, os.SCHED_OTHER]
    assert policies_of_a_job_that_begins_with(os.SCHED_OTHER) == expected


def test_a_job_runs_where_the_kernel_does_not_permit_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    set_policy = os.sched_setscheduler

    def refuse(thread: int, policy: int, param: os.sched_param) -> None:
        if policy == os.SCHED_BATCH:
            raise PermissionError("no")
        set_policy(thread, policy, param)

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert policies_of_a_job_that_begins_with(os.SCHED_OTHER) == [os.SCHED_OTHER] * 3


def test_a_policy_that_somebody_chose_stays() -> None:
    assert policies_of_a_job_that_begins_with(os.SCHED_IDLE) == [os.SCHED_IDLE] * 3

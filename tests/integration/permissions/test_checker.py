"""The checker itself: it reports each removed right as missing, and each added right as unused."""

from typing import Any

import pytest

from tests.integration.permissions.calls import ACCOUNT, Call, arn
from tests.integration.permissions.check import (
    Policies,
    faults,
    only,
    resource_faults,
    right,
    sole,
    with_right,
    without,
)
from tests.integration.permissions.concrete import concrete
from tests.integration.permissions.engine import Engine
from tests.integration.permissions.recorder import Recording
from tests.integration.permissions.services import to_our_resources, with_our_roles

EVERYTHING = "with everything"
LAKE = "arn:aws:s3:::dev-condvest-datalake-123456789012"


@pytest.fixture(scope="module")
def calls(recorded: Recording) -> set[Call]:
    return recorded.calls | with_our_roles(concrete(EVERYTHING), recorded.calls)


@pytest.fixture(scope="module")
def policies() -> Policies:
    return Policies.of(concrete(EVERYTHING))


def test_each_right_is_the_only_one_that_allows_some_call_which_is_denied_without_it(
    engine: Engine, policies: Policies, calls: set[Call]
) -> None:
    """So no right can be removed from any role without a failure of the check."""
    needed = sole(engine, policies, calls)
    rights = {
        (role, part["Statement"][0]["Sid"]): right(part)
        for role, parts in policies.identity.items()
        for part in parts
        if part["Statement"][0]["Effect"] == "Allow"
    }
    assert [what for place, what in rights.items() if place not in needed] == []
    without_it = [without(policies, role, sid).question(call) for (role, sid), call in needed.items()]
    assert [rights[p] for p, a in zip(needed, engine.ask(without_it), strict=True) if a.allowed] == []
    assert len(rights) > 200


@pytest.mark.parametrize(
    ("role", "what"),
    [
        ("WorkerRole", "s3:ListBucket on LAKE with prefix bronze/splits/*"),
        ("WorkerRole", "s3:GetObject on LAKE/bronze/identities/*"),
        ("WorkerRole", "s3:GetObject on LAKE/bronze/dividends/*"),
        ("WorkerRole", "sqs:ChangeMessageVisibility on QUEUE:dev-consolidation"),
        ("ResamplerRole", "s3:ListBucket on LAKE with prefix bronze/raw_ohlcv/symbol=*/data.parquet"),
        ("ResamplerRole", "sqs:SendMessage on QUEUE:dev-resample-34d-dlq"),
        ("FullResampleRole", "s3:ListBucket on LAKE with prefix bronze/raw_ohlcv/"),
        ("MetadataFetcherRole", "s3:PutObject on LAKE/bronze/splits/*"),
        ("MetadataFetcherRole", "s3:PutObject on LAKE/bronze/dividends/*"),
        ("OhlcvFetcherRole", "s3:PutObject on LAKE/bronze/quarantine/*"),
        ("HistoryFetcherRole", "sqs:GetQueueUrl on QUEUE:dev-history-dlq"),
        ("RouterRole", "batch:DescribeJobs on *"),
        ("ReconcileRole", "s3:ListBucket on LAKE with prefix processing_metadata/consolidation_manifest.parquet"),
        ("VacuumRole", "s3:DeleteObject on LAKE/bronze/raw_ohlcv/symbol=*/range=*.parquet"),
        ("FreshnessRole", "s3:GetObject on LAKE/processing_metadata/silver_*"),
        ("MigrateRole", "kms:Decrypt on KEY"),
        ("SchedulerRole", "sqs:SendMessage on QUEUE:dev-reconcile-dlq"),
    ],
)
def test_what_is_taken_out_is_reported(
    engine: Engine, policies: Policies, calls: set[Call], role: str, what: str
) -> None:
    names = {"LAKE": LAKE, "QUEUE:": arn("sqs", ""), "KEY": arn("kms", "key/00000000-0000-4000-8000-000000000000")}
    for short, full in names.items():
        what = what.replace(short, full)
    (sid,) = [part["Statement"][0]["Sid"] for part in policies.identity[role] if right(part) == what]
    reported = faults(engine, only(without(policies, role, sid), role), calls, concrete(EVERYTHING))
    assert {"denied"} <= {fault.kind for fault in reported} <= {"denied", "unlistable"}


@pytest.mark.parametrize(
    ("role", "added", "kinds"),
    [
        ("WorkerRole", {"Action": "s3:DeleteObject", "Resource": f"{LAKE}/bronze/raw_ohlcv/*"}, {"too wide"}),
        ("WorkerRole", {"Action": "s3:PutObject", "Resource": f"{LAKE}/processing_metadata/*"}, {"too wide"}),
        ("WorkerRole", {"Action": "s3:GetObjectTagging", "Resource": f"{LAKE}/bronze/raw_ohlcv/*"}, {"unused"}),
        ("WorkerRole", {"Action": "sqs:PurgeQueue", "Resource": arn("sqs", "dev-consolidation")},
         {"unused", "too wide"}),
        ("OhlcvFetcherRole", {"Action": "s3:GetObject", "Resource": f"{LAKE}/bronze/raw_ohlcv/*"},
         {"too wide", "unlistable"}),
        ("HistoryFetcherRole", {"Action": "s3:ListBucket", "Resource": LAKE}, {"too wide"}),
        ("MetadataFetcherRole", {"Action": "s3:GetObject", "Resource": f"{LAKE}/bronze/splits/*"},
         {"unused", "too wide", "unlistable"}),
        ("ResamplerRole", {"Action": "s3:PutObject", "Resource": f"{LAKE}/*"}, {"too wide"}),
        ("ResamplerRole", {"Action": "sqs:SendMessage", "Resource": arn("sqs", "dev-resample-3d")},
         {"unused", "too wide"}),
        ("ReconcileRole", {"Action": "s3:GetObject", "Resource": f"{LAKE}/bronze/*"}, {"too wide", "unlistable"}),
        ("RouterRole", {"Action": "sqs:*", "Resource": "*"}, {"too wide"}),
        ("VacuumRole", {"Action": "s3:DeleteObjectVersion", "Resource": f"{LAKE}/bronze/raw_ohlcv/*"}, {"unused"}),
        ("FreshnessRole", {"Action": "sns:Publish", "Resource": arn("sns", "*")}, {"unused", "too wide"}),
        ("MigrateRole", {"Action": "secretsmanager:PutSecretValue", "Resource": "*"}, {"unused"}),
        ("SchedulerRole", {"Action": "lambda:InvokeFunction", "Resource": "*"}, {"too wide"}),
    ],
)  # fmt: skip
def test_what_is_put_in_is_reported(  # noqa: PLR0917
    engine: Engine, policies: Policies, calls: set[Call], role: str, added: dict[str, Any], kinds: set[str]
) -> None:
    reported = faults(engine, only(with_right(policies, role, **added), role), calls, concrete(EVERYTHING))
    assert {fault.kind for fault in reported} == kinds


ARRIVALS = arn("sqs", "dev-bronze-arrivals")
EVENTS = {
    "Effect": "Allow",
    "Action": "sqs:SendMessage",
    "Resource": "*",
    "Principal": {"Service": "events.amazonaws.com"},
}


@pytest.mark.parametrize(
    ("resource", "statements", "kinds"),
    [
        (ARRIVALS, [EVENTS], {"too wide"}),
        (ARRIVALS, [], {"denied"}),
        (ARRIVALS, [{**EVENTS, "Principal": "*"}], {"too wide", "unused"}),
        (ARRIVALS, [{**EVENTS, "Principal": {"Service": ["events.amazonaws.com", "s3.amazonaws.com"]}}],
         {"too wide", "unused"}),
        (arn("sns", "dev-alarms"), [{**EVENTS, "Action": "sns:Publish"}], {"too wide", "denied"}),
        (f"arn:aws:iam::{ACCOUNT}:role/WorkerRole",
         [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ecs-tasks.amazonaws.com"}}],
         {"too wide"}),
    ],
)  # fmt: skip
def test_a_looser_or_a_closed_policy_of_a_queue_a_topic_or_a_role_is_reported(
    engine: Engine, policies: Policies, resource: str, statements: list[dict[str, Any]], kinds: set[str]
) -> None:
    changed = Policies(
        policies.identity, {**policies.resource, resource: {"Version": "2012-10-17", "Statement": statements}}
    )
    reported = resource_faults(engine, changed, to_our_resources(concrete(EVERYTHING)))
    assert {fault.kind for fault in reported} == kinds
    assert {resource} == {name for name in policies.resource for fault in reported if name in fault.what}

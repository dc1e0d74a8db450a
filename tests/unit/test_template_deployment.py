"""The effect of a deployment on existing resources: changed parameters, and a first deployment that fails."""

import json
import re
from functools import cache
from typing import Any

import pytest

from tests.fakes import REPOSITORY
from tests.unit.variants import (
    EVERYTHING,
    GIVEN,
    LOCAL,
    SECRETS,
    VARIANTS,
    Body,
    deployed,
    parameters_of,
    properties,
    types_of,
)  # fmt: skip

LINTER = next((REPOSITORY / ".tools/sam/lib").glob("python3*/site-packages/cfnlint/data/schemas"))
"""CloudFormation's own schemas of its resource types, as the linter has them."""
KEPT = {"DataLakeBucket": "RetainExceptOnCreate", "DatabaseSecret": "RetainExceptOnCreate",
        "Key": "RetainExceptOnCreate", "Database": "Snapshot"}  # fmt: skip
"""The resources with content that cannot be recreated, and CloudFormation's policy for their deletion."""
NAMES = {"Environment", "BucketName"}
"""The parameters with names of resources: with other names it is another stack (docs/deploy.md)."""
REPLACED_WITHOUT_LOSS = {
    "PublicSubnetA": "other AvailabilityZones", "PublicSubnetB": "the same",
    "PrivateSubnetA": "the same", "PrivateSubnetB": "the same",
    "WorkerComputeEnvironment": "its resources: jobs that run are finished first",
    "WorkerOnDemandComputeEnvironment": "the same",
    "AlarmsByEmail": "another AlarmEmail, which has to confirm", "CostBudget": "the same, or another sum",
}  # fmt: skip
REPLACES_REPLICAS_ONLY = {"BackupRetentionPeriod"}
"""Changed in place, with an interruption at the most, in a database that is no replica (CloudFormation's reference)."""
SWITCHES = {
    "LogLevel": "DEBUG", "ReadLimitMb": "64", "WithBatch": "false", "WorkerImage": "worker:2",
    "SubnetIds": "subnet-3,subnet-4",
    "SecurityGroupIds": "sg-2", "CreateNetwork": "false", "NatGateway": "false",
    "AvailabilityZones": "us-east-1c,us-east-1d", "JobsInPublicSubnets": "true", "MaxvCpus": "16", "MaxWorkers": "4",
    "SymbolsPerChild": "50", "RetentionDays": "60", "MonthlyVacuum": "false", "Versioning": "false",
    "NoncurrentDays": "7", "QuarantineDays": "90", "CustomerKey": "false", "IntervalConcurrency": "5",
    "ResamplingRetentionYears": "10", "SplitAdjusted": "false", "RdsSecretArn": f"{SECRETS}another",
    "FetcherSecretArn": f"{SECRETS}fetcher", "FlatFilesSecretArn": f"{SECRETS}other",
    "DatabaseClass": "db.t4g.small", "DatabaseVersion": "17.99", "DatabaseBackupDays": "1",
    "DatabaseProtected": "true", "ApiKeySecretArn": f"{SECRETS}other", "MarketDataUrl": "https://example.com",
    "MarketDataVendor": "another",
    "DatabaseTls": "disable", "DatabaseCaFile": "/var/task/other.pem", "RequestsPerMinute": "2",
    "UniverseTypes": "CS", "Universe": "AAPL", "FirstSession": "2024-01-02", "HistoryFrom": "2020-01-02",
    "LookBackSessions": "2", "PriceJumpLimit": "5", "AlarmEmail": "you@example.com",
    "RunbookUrl": "https://example.com", "FreshnessSchedule": "cron(0 2 * * ? *)", "QuarantineAlarmPercent": "5",
    "AgeAlarmSeconds": "60", "MonthlyBudget": "60", "CreateDashboard": "true",
}  # fmt: skip
"""Another value of every other parameter: the tests below change them one by one. CreateDatabase=false is a deletion.
"""


LOGICAL_IDS = REPOSITORY / "tests/unit/logical_ids.txt"
"""The resources of existing stacks, one line for each, with id and type. A new resource needs no line."""


@cache
def create_only(kind: str) -> frozenset[str]:
    """Return the properties of a type whose change makes CloudFormation replace the resource."""
    if not kind.startswith("AWS::"):
        return frozenset()
    index = json.loads((LINTER / "providers/us-east-1.json").read_text(encoding="utf-8"))
    schema = json.loads((LINTER / f"resources/{index[kind]}.json").read_text(encoding="utf-8"))
    conditional = schema.get("conditionalCreateOnlyProperties", [])
    named = {path.split("/")[2] for path in [*schema.get("createOnlyProperties", []), *conditional]}
    return frozenset(named - REPLACES_REPLICAS_ONLY)


def identity(resource: Body) -> dict[str, Any]:
    """Return what a resource must keep to stay the same one."""
    named = create_only(resource["Type"])
    return {name: value for name, value in resource.get("Properties", {}).items() if name in named}


def test_every_parameter_is_a_switch_a_name_or_deletes_the_database() -> None:
    assert parameters_of().keys() == SWITCHES.keys() | NAMES | {"CreateDatabase"}
    defaults = {name: deployed_default(name) for name in SWITCHES}
    assert [name for name, value in SWITCHES.items() if value == str((defaults | EVERYTHING)[name])] == []


def deployed_default(name: str) -> str:
    return str(parameters_of()[name].get("Default", ""))


def test_the_linters_schemas_say_what_replaces_bucket_and_database() -> None:
    assert "BucketName" in create_only("AWS::S3::Bucket")
    assert {"DBInstanceIdentifier", "KmsKeyId", "StorageEncrypted", "DBName"} <= create_only("AWS::RDS::DBInstance")


@pytest.mark.parametrize("start", [EVERYTHING, {**EVERYTHING, "CustomerKey": "false"}], ids=["key", "no key"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_no_switch_replaces_or_deletes_what_holds_data(start: dict[str, str], switch: str) -> None:
    value = "true" if (switch, start.get(switch)) == ("CustomerKey", "false") else SWITCHES[switch]
    before, after = deployed(start), deployed({**start, switch: value})
    for name in KEPT.keys() - {"Key"}:
        assert name in after, f"{switch} deletes {name}"
        assert identity(after[name]) == identity(before[name]), f"{switch} replaces {name}"


@pytest.mark.parametrize("switch", SWITCHES)
def test_no_switch_replaces_anything_else_that_has_no_reason_to_be(switch: str) -> None:
    before, after = deployed(EVERYTHING), deployed({**EVERYTHING, switch: SWITCHES[switch]})
    replaced = {name for name in before.keys() & after.keys() if identity(before[name]) != identity(after[name])}
    assert replaced <= REPLACED_WITHOUT_LOSS.keys()
    # CloudFormation refuses to replace a resource with a name of its own: the update would fail.
    assert [name for name in replaced if any(key.endswith("Name") for key in before[name]["Properties"])] == []


def test_an_existing_stack_keeps_its_resources() -> None:
    # If an id is removed, its resource is deleted; CloudFormation refuses another type under an id.
    before = dict(line.split(" ") for line in LOGICAL_IDS.read_text(encoding="utf-8").splitlines())
    now = {name: kind for name, kind in types_of().items() if name in before}
    assert now == before, "delete the line of what goes on purpose, and name it in CHANGELOG.md"


def test_all_variants_have_one_bucket_of_one_identity() -> None:
    buckets = [deployed(variant)["DataLakeBucket"] for variant in VARIANTS.values()]
    assert [identity(bucket) for bucket in buckets] == [identity(buckets[0])] * len(buckets)


def test_what_a_first_deployment_made_before_it_failed_is_not_in_the_next_ones_way() -> None:
    resources = deployed(EVERYTHING)
    policies = {name: body["DeletionPolicy"] for name, body in resources.items() if "DeletionPolicy" in body}
    assert policies == KEPT
    # A rollback could not delete a protected database, so the protection is switched on afterwards.
    assert deployed_default("DatabaseProtected") == "false"
    assert resources["Database"]["Properties"]["DeletionProtection"] is False
    protected = deployed({**EVERYTHING, "DatabaseProtected": "true"})
    assert protected["Database"]["Properties"]["DeletionProtection"] is True


def test_what_is_replaced_all_the_same_is_kept() -> None:
    resources = deployed(EVERYTHING)
    assert {name: resources[name]["UpdateReplacePolicy"] for name in KEPT} == {
        name: policy.removesuffix("ExceptOnCreate") for name, policy in KEPT.items()
    }


def test_the_database_that_was_made_stays_when_another_is_used() -> None:
    other = f"{SECRETS}another"
    resources = deployed({**EVERYTHING, "RdsSecretArn": other})
    assert KEPT.keys() <= resources.keys()
    for function in properties(resources, "AWS::Lambda::Function").values():
        assert function["Environment"]["Variables"].get("RDS_SECRET_ARN", other) == other


def test_the_stack_policy_of_the_docs_keeps_all_that_holds_data() -> None:
    page = (REPOSITORY / "docs/deploy.md").read_text(encoding="utf-8")
    [policy] = re.findall(r"--stack-policy-body '(\{.*?\})'", page, re.DOTALL)
    allow, deny = json.loads(policy)["Statement"]
    assert (allow["Effect"], deny["Effect"]) == ("Allow", "Deny")
    assert set(deny["Action"]) == {"Update:Replace", "Update:Delete"}
    assert {name.removeprefix("LogicalResourceId/") for name in deny["Resource"]} == KEPT.keys() - {"Key"}


def test_the_default_bucket_is_no_other_accounts() -> None:
    assert deployed(LOCAL)["DataLakeBucket"]["Properties"]["BucketName"].endswith("-${AWS::AccountId}")


def test_the_databases_version_is_the_newest_that_the_linter_knows() -> None:
    """After some time RDS no longer creates databases of a minor version. `make lock UPGRADE=--upgrade` brings the
    linter's list.
    """
    [path] = LINTER.glob("extensions/aws_rds_dbinstance/engine_version.json")
    cases = json.loads(path.read_text(encoding="utf-8"))["allOf"]
    [versions] = [
        case["then"]["properties"]["EngineVersion"]["enum"]
        for case in cases
        if case["if"]["properties"]["Engine"].get("const") == "postgres"
    ]
    newest = max((v for v in versions if v.startswith("17.")), key=lambda version: int(version.removeprefix("17.")))
    assert deployed(EVERYTHING)["Database"]["Properties"]["EngineVersion"] == newest


def test_jobs_have_an_address_where_a_public_subnet_needs_one() -> None:
    public = {**GIVEN, "JobsInPublicSubnets": "true"}
    addresses = [
        {job["ContainerProperties"]["NetworkConfiguration"]["AssignPublicIp"] for job in jobs.values()}
        for jobs in (properties(deployed(variant), "AWS::Batch::JobDefinition") for variant in (GIVEN, public))
    ]
    assert addresses == [{"DISABLED"}, {"ENABLED"}]


def test_the_subnets_lie_in_the_zones_that_are_named() -> None:
    zones = {"AvailabilityZones": "us-east-1c,us-east-1d"}
    subnets = properties(deployed({**EVERYTHING, **zones}), "AWS::EC2::Subnet")
    chosen = {subnet["AvailabilityZone"]["Fn::Select"][0] for subnet in subnets.values()}
    assert chosen == {0, 1}
    assert all(subnet["AvailabilityZone"]["Fn::Select"][1] != {"Fn::GetAZs": ""} for subnet in subnets.values())


def test_a_route_by_ipv6_waits_for_the_networks_block() -> None:
    assert deployed(EVERYTHING)["PrivateRouteByIpv6"]["DependsOn"] == "NetworkIpv6"


def test_what_spot_has_no_room_for_runs_on_demand() -> None:
    resources = deployed(EVERYTHING)
    [queue] = properties(resources, "AWS::Batch::JobQueue").values()
    environments = [entry["ComputeEnvironment"]["Ref"] for entry in sorted(queue["ComputeEnvironmentOrder"], key=order)]
    kinds = [resources[name]["Properties"]["ComputeResources"]["Type"] for name in environments]
    assert kinds == ["FARGATE_SPOT", "FARGATE"]


def order(environment: Body) -> int:
    return int(environment["Order"])


def test_the_databases_logs_are_forgotten() -> None:
    resources = deployed(EVERYTHING)
    database = resources["Database"]
    exported = database["Properties"]["EnableCloudwatchLogsExports"]
    groups = properties(resources, "AWS::Logs::LogGroup")
    name = database["Properties"]["DBInstanceIdentifier"]
    made = {groups[group]["LogGroupName"]: groups[group]["RetentionInDays"] for group in database["DependsOn"]}
    assert made == {f"/aws/rds/instance/{name}/{log}": 30 for log in exported}


def test_markers_of_deleted_objects_go_with_their_last_version() -> None:
    rules = deployed(EVERYTHING)["DataLakeBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    [marker] = [rule for rule in rules if rule.get("ExpiredObjectDeleteMarker")]
    assert marker["Status"] == "Enabled"
    assert not {"Prefix", "ExpirationInDays"} & marker.keys()

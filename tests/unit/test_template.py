"""Rules for template.yaml, mainly for properties that the emulator drops or ignores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fiblake.lake import INTERVALS
from local.stack import Stack, flat_files_environment, full_resample_environment, job_environment
from tests.unit.variants import EVERYTHING, deployed, properties

REPOSITORY = Path(__file__).resolve().parents[2]
Body = dict[str, Any]


def load(path: Path) -> Body:
    """Read CloudFormation's YAML: `!Ref X` becomes {"Ref": "X"}, `!Sub X` {"Sub": "X"}, and so on."""

    class Loader(yaml.CSafeLoader):  # libyaml's: every test process reads the template when it collects its tests
        pass

    def construct(loader: yaml.CSafeLoader, tag: str, node: yaml.Node) -> Body:
        if isinstance(node, yaml.ScalarNode):
            return {tag: loader.construct_scalar(node)}
        if isinstance(node, yaml.SequenceNode):
            return {tag: loader.construct_sequence(node, deep=True)}
        return {tag: loader.construct_mapping(node, deep=True)}

    Loader.add_multi_constructor("!", construct)
    with path.open() as file:
        content: Body = Loader(file).get_single_data()
        return content


TEMPLATE = load(REPOSITORY / "template.yaml")
RESOURCES: Body = TEMPLATE["Resources"]
GLOBAL_VARIABLES: Body = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]


def of_type(kind: str) -> Body:
    return {name: body.get("Properties", {}) for name, body in RESOURCES.items() if body["Type"] == kind}


QUEUES = of_type("AWS::SQS::Queue")
SOURCE_QUEUES = {name: queue for name, queue in QUEUES.items() if not queue["QueueName"]["Sub"].endswith("-dlq")}
FUNCTIONS = of_type("AWS::Serverless::Function")
EVENT_SOURCES = [
    (function, event["Properties"])
    for function in FUNCTIONS.values()
    for event in function["Events"].values()
    if event["Type"] == "SQS"
]
WORKER = of_type("AWS::Batch::JobDefinition")["WorkerJobDefinition"]
FULL_RESAMPLE = of_type("AWS::Batch::JobDefinition")["FullResampleJobDefinition"]
FLAT_FILES = of_type("AWS::Batch::JobDefinition")["FlatFilesJobDefinition"]


def queue_of(event: Body) -> str:
    name, attribute = event["Queue"]["GetAtt"].split(".")
    assert attribute == "Arn"
    return name


def test_there_is_one_queue_a_stage_and_one_an_interval() -> None:
    names = {queue["QueueName"]["Sub"].removeprefix("${Environment}-") for queue in SOURCE_QUEUES.values()}
    assert names == {"history", "bronze-arrivals", "consolidation", *(f"resample-{n}d" for n in INTERVALS)}


@pytest.mark.parametrize("name", SOURCE_QUEUES)
def test_every_queue_gives_up_into_a_dead_letter_queue_of_its_own_name(name: str) -> None:
    redrive = QUEUES[name]["RedrivePolicy"]
    dead_letters = QUEUES[redrive["deadLetterTargetArn"]["GetAtt"].removesuffix(".Arn")]
    assert dead_letters["QueueName"]["Sub"] == QUEUES[name]["QueueName"]["Sub"] + "-dlq"
    assert dead_letters["MessageRetentionPeriod"] == 14 * 24 * 3600
    assert redrive["maxReceiveCount"] >= 5


def test_the_code_has_the_number_of_receives_after_which_a_message_is_dead() -> None:
    counts = {int(GLOBAL_VARIABLES["MAX_RECEIVE_COUNT"]), int(worker_variables()["MAX_RECEIVE_COUNT"])}
    assert counts == {queue["RedrivePolicy"]["maxReceiveCount"] for queue in SOURCE_QUEUES.values()}


@pytest.mark.parametrize("source", EVENT_SOURCES, ids=lambda source: queue_of(source[1]))
def test_a_message_stays_invisible_six_times_as_long_as_its_function_may_run(source: tuple[Body, Body]) -> None:
    function, event = source
    needed = 6 * function["Timeout"] + event["MaximumBatchingWindowInSeconds"]
    assert QUEUES[queue_of(event)]["VisibilityTimeout"] >= needed


@pytest.mark.parametrize("source", EVENT_SOURCES, ids=lambda source: queue_of(source[1]))
def test_a_poison_message_does_not_take_the_rest_of_its_batch_along(source: tuple[Body, Body]) -> None:
    assert source[1]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


@pytest.mark.parametrize("source", EVENT_SOURCES, ids=lambda source: queue_of(source[1]))
def test_an_event_source_takes_large_batches_and_few_at_a_time(source: tuple[Body, Body]) -> None:
    most = {"Ref": "IntervalConcurrency"} if queue_of(source[1]).startswith("Resample") else 2
    assert source[1]["ScalingConfig"]["MaximumConcurrency"] == most
    if queue_of(source[1]) == "HistoryQueue":
        # A history needs two requests, which take a minute at a free plan's pace; half of the time remains for waiting.
        assert source[1]["BatchSize"] * 60 <= source[0]["Timeout"] / 2
        return
    assert source[1]["BatchSize"] >= 1000
    assert source[1]["MaximumBatchingWindowInSeconds"] >= 1, "Lambda demands it of batches over 10"


def test_every_queue_but_the_workers_has_a_function() -> None:
    assert {queue_of(event) for _, event in EVENT_SOURCES} == SOURCE_QUEUES.keys() - {"ConsolidationQueue"}


@pytest.mark.parametrize("n", INTERVALS)
def test_an_interval_queue_gets_the_raw_events_of_its_interval_and_no_others(n: int) -> None:
    subscription = of_type("AWS::SNS::Subscription")[f"Resample{n}dSubscription"]
    assert subscription == {
        "TopicArn": {"Ref": "ConsolidationCompleteTopic"},
        "Protocol": "sqs",
        "Endpoint": {"GetAtt": f"Resample{n}dQueue.Arn"},
        "RawMessageDelivery": True,
        "RedrivePolicy": {"deadLetterTargetArn": {"GetAtt": f"Resample{n}dDeadLetters.Arn"}},
        "FilterPolicy": {"intervals": [{"numeric": ["=", n]}]},
    }
    assert QUEUES[f"Resample{n}dQueue"]["QueueName"]["Sub"] == f"${{Environment}}-resample-{n}d"
    assert queue_of(FUNCTIONS["ResamplerFunction"]["Events"][f"Resample{n}d"]["Properties"]) == f"Resample{n}dQueue"


def test_bars_splits_and_identities_start_the_chain_and_consolidated_files_do_not() -> None:
    rule = of_type("AWS::Events::Rule")["BronzeArrivalsRule"]
    assert rule["EventPattern"] == {
        "source": ["aws.s3"],
        "detail-type": ["Object Created"],
        "detail": {
            "bucket": {"name": [{"Ref": "DataLakeBucket"}]},
            "object": {
                "key": [
                    {"wildcard": "bronze/raw_ohlcv/symbol=*/date=*.parquet"},
                    {"wildcard": "bronze/raw_ohlcv/symbol=*/range=*.parquet"},
                    {"wildcard": "bronze/splits/symbol=*.parquet"},
                    {"wildcard": "bronze/dividends/symbol=*.parquet"},
                    {"wildcard": "bronze/identities/symbol=*.parquet"},
                ]
            },
        },
    }
    assert [target["Arn"] for target in rule["Targets"]] == [{"GetAtt": "BronzeArrivalsQueue.Arn"}]


def test_only_the_rules_and_the_topics_may_send_to_the_queues() -> None:
    policies = properties(deployed(EVERYTHING), "AWS::SQS::QueuePolicy")
    allowed = [
        (name, s["Principal"]["Service"], s["Condition"]["ArnEquals"]["aws:SourceArn"])
        for name, policy in policies.items()
        for s in policy["PolicyDocument"]["Statement"]
        if s["Effect"] == "Allow"
    ]
    assert allowed == [
        ("BronzeArrivalsQueuePolicy", "events.amazonaws.com", {"Fn::GetAtt": ["BronzeArrivalsRule", "Arn"]}),
        ("ResampleQueuePolicy", "sns.amazonaws.com", {"Ref": "ConsolidationCompleteTopic"}),
        ("FailedJobsDeadLettersPolicy", "events.amazonaws.com", {"Fn::GetAtt": ["FailedJobsRule", "Arn"]}),
        ("FailedJobsDeadLettersPolicy", "sns.amazonaws.com", {"Ref": "AlarmsTopic"}),
    ]
    fed = [{"Ref": f"Resample{n}d{kind}"} for kind in ("Queue", "DeadLetters") for n in INTERVALS]
    assert policies["ResampleQueuePolicy"]["Queues"] == fed


def test_the_bucket_sends_events_is_private_encrypted_and_outlives_the_stack() -> None:
    bucket = RESOURCES["DataLakeBucket"]
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")
    properties = bucket["Properties"]
    assert properties["NotificationConfiguration"]["EventBridgeConfiguration"]["EventBridgeEnabled"] is True
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    assert "BucketEncryption" in properties


def test_only_the_fetchers_housekeeping_and_what_measures_look_at_a_clock_new_yorks() -> None:
    clocks = {
        (name, str(event["Properties"]["ScheduleExpression"]), event["Properties"]["Input"]): event
        for name, function in FUNCTIONS.items()
        for event in function["Events"].values()
        if event["Type"] != "SQS"
    }
    assert clocks.keys() == {
        ("MetadataFetcherFunction", "cron(0 7 ? * MON-FRI *)", "{}"),
        ("OhlcvFetcherFunction", "cron(5 16 ? * MON-FRI *)", "{}"),
        ("OhlcvFetcherFunction", "cron(35 0 ? * TUE-SAT *)", '{"look_back": false}'),
        ("FreshnessFunction", "{'Ref': 'FreshnessSchedule'}", "{}"),
        ("ReconcileFunction", "cron(0 5 * * ? *)", '{"fix": true}'),
        ("VacuumFunction", "cron(0 3 1 * ? *)", "{}"),
    }
    for clock in clocks.values():
        assert clock["Type"] == "ScheduleV2"
        assert clock["Properties"]["ScheduleExpressionTimezone"] == "America/New_York"
        assert clock["Properties"]["RetryPolicy"]["MaximumRetryAttempts"] > 0


@pytest.mark.parametrize("name", [name for name, function in FUNCTIONS.items() if "EventInvokeConfig" in function])
def test_a_function_that_a_clock_starts_leaves_its_failed_events_in_a_queue_of_its_own(name: str) -> None:
    invoked = FUNCTIONS[name]["EventInvokeConfig"]
    destination = invoked["DestinationConfig"]["OnFailure"]["Destination"]["GetAtt"].removesuffix(".Arn")
    assert invoked["MaximumRetryAttempts"] == 2
    assert QUEUES[destination]["QueueName"]["Sub"] == FUNCTIONS[name]["FunctionName"]["Sub"] + "-dlq"


def test_the_audit_sees_silver_as_the_resampler_makes_it() -> None:
    names = ("RESAMPLING_RETENTION_YEARS", "RESAMPLING_ADJUSTED")
    ours, theirs = (FUNCTIONS[f]["Environment"]["Variables"] for f in ("ReconcileFunction", "ResamplerFunction"))
    assert [ours[name] for name in names] == [theirs[name] for name in names]


def conditional(condition: str) -> set[str]:
    return {name for name, body in RESOURCES.items() if body.get("Condition") == condition}


def test_one_condition_takes_away_all_of_batch_and_one_the_vacuum_and_nothing_else() -> None:
    batch, vacuum = conditional("HasBatch"), conditional("HasVacuum")
    assert batch == {
        "WorkerComputeEnvironment",
        "WorkerOnDemandComputeEnvironment",
        "WorkerJobQueue",
        "WorkerJobDefinition",
        "WorkerLogGroup",
        "WorkerRole",
        "WorkerExecutionRole",
        "MigrateJobDefinition",
        "MigrateLogGroup",
        "MigrateRole",
        "FullResampleJobDefinition",
        "FullResampleLogGroup",
        "FullResampleRole",
        "FlatFilesJobDefinition",
        "FlatFilesLogGroup",
        "FlatFilesRole",
    }
    assert batch >= {name for name, body in RESOURCES.items() if body["Type"].startswith("AWS::Batch::")}
    assert vacuum == {
        "VacuumFunction",
        "VacuumLogGroup",
        "VacuumRole",
        "VacuumDeadLetters",
        "VacuumDeadLettersAlarm",
    }


def test_the_vacuum_may_write_nothing_but_its_record() -> None:
    (policy,) = of_type("AWS::IAM::Role")["VacuumRole"]["Policies"]
    writes = [s for s in policy["PolicyDocument"]["Statement"] if "s3:PutObject" in s["Action"]]
    assert [s["Resource"]["Sub"].rsplit("/", 1)[-1] for s in writes] == ["cleanup_manifest.json"]


def variables_of(job: Body) -> Body:
    return {pair["Name"]: pair["Value"] for pair in job["ContainerProperties"]["Environment"]}


def worker_variables() -> Body:
    return variables_of(WORKER)


def test_the_job_definition_is_what_users_know() -> None:
    container = WORKER["ContainerProperties"]
    assert WORKER["JobDefinitionName"] == {"Sub": "${Environment}-batch-bronze-consolidator"}
    assert container["Command"] == ["python", "-m", "services.consolidator"]
    assert {r["Type"]: r["Value"] for r in container["ResourceRequirements"]} == {"VCPU": "2", "MEMORY": "4096"}
    assert of_type("AWS::Batch::ComputeEnvironment")["WorkerComputeEnvironment"]["ComputeResources"]["Type"] == (
        "FARGATE_SPOT"
    )
    assert WORKER["RetryStrategy"]["Attempts"] == 10
    # The first rule that matches counts: a job that Spot interrupts is started again, whatever its exit code is.
    assert [tuple(rule.values()) for rule in WORKER["RetryStrategy"]["EvaluateOnExit"]] == [
        ("RETRY", "Your Spot Task was interrupted*"), ("EXIT", "2"), ("EXIT", "3"), ("RETRY", "*"),
    ]  # fmt: skip
    variables = worker_variables()
    assert variables.keys() >= {"S3_BUCKET", "S3_PREFIX", "MODE", "MAX_WORKERS", "RETENTION_DAYS"}
    assert (variables["S3_PREFIX"], variables["MODE"]) == ("bronze/raw_ohlcv", "incremental")


def test_the_full_resample_is_a_job_of_the_workers_size_that_leaves_room_beside_its_memory() -> None:
    container = FULL_RESAMPLE["ContainerProperties"]
    assert FULL_RESAMPLE["JobDefinitionName"] == {"Sub": "${Environment}-batch-duckdb-resampler"}
    assert container["Command"] == ["python", "-m", "services.resampler"]
    assert FULL_RESAMPLE["RetryStrategy"] == WORKER["RetryStrategy"]
    size = {r["Type"]: int(r["Value"]) for r in container["ResourceRequirements"]}
    assert size["VCPU"] == 2
    assert 512 <= int(variables_of(FULL_RESAMPLE)["MEMORY_MB"]) <= 0.75 * size["MEMORY"]


def test_flat_files_are_loaded_by_a_job_of_the_workers_size_that_leaves_room_beside_its_memory() -> None:
    container = FLAT_FILES["ContainerProperties"]
    assert FLAT_FILES["JobDefinitionName"] == {"Sub": "${Environment}-batch-flat-files"}
    assert FLAT_FILES["RetryStrategy"] == WORKER["RetryStrategy"]
    size = {r["Type"]: int(r["Value"]) for r in container["ResourceRequirements"]}
    assert 800 <= int(variables_of(FLAT_FILES)["FLAT_FILE_MEMORY_MB"]) <= 0.75 * size["MEMORY"]


def test_flat_files_are_stored_for_the_companies_of_the_fetchers() -> None:
    function, job = FUNCTIONS["OhlcvFetcherFunction"]["Environment"]["Variables"], variables_of(FLAT_FILES)
    shared = ("RDS_SECRET_ARN", "DATABASE_TLS", "DATABASE_CA_FILE", "UNIVERSE_TYPES", "UNIVERSE")
    assert {name: job[name] for name in shared} == {name: function[name] for name in shared}


def test_the_full_resample_computes_what_the_function_computes() -> None:
    function = FUNCTIONS["ResamplerFunction"]["Environment"]["Variables"]
    job = variables_of(FULL_RESAMPLE)
    shared = {name: value for name, value in function.items() if name != "POWERTOOLS_SERVICE_NAME"}
    assert {name: job[name] for name in shared} == shared


@pytest.mark.parametrize(
    ("environment", "job"),
    [(job_environment, WORKER), (full_resample_environment, FULL_RESAMPLE), (flat_files_environment, FLAT_FILES)],
)
def test_the_embedded_stacks_jobs_get_the_environment_that_the_template_gives_them(
    environment: Callable[[Stack], dict[str, str]], job: Body
) -> None:
    names = (
        "BucketName", "ConsolidationQueueUrl", "ConsolidationCompleteTopicArn", "SilverUpdatedTopicArn",
        "FetcherSecretArn",
    )  # fmt: skip
    stack = Stack(Path(), "http://127.0.0.1:1", "http://127.0.0.1:2", "", "", {name: name for name in names})
    local, template = environment(stack), variables_of(job)
    assert template.keys() <= local.keys()
    fixed = {name: value for name, value in template.items() if isinstance(value, str)}
    assert fixed
    assert {name: local[name] for name in fixed} == fixed


def test_the_router_submits_to_the_queue_and_definition_that_exist_by_their_names() -> None:
    variables = FUNCTIONS["RouterFunction"]["Environment"]["Variables"]
    assert variables["BATCH_JOB_DEFINITION"] == WORKER["JobDefinitionName"]
    assert variables["BATCH_JOB_QUEUE"] == of_type("AWS::Batch::JobQueue")["WorkerJobQueue"]["JobQueueName"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_built_by_make_logs_for_a_limited_time_and_has_a_role_of_its_own(name: str) -> None:
    function = FUNCTIONS[name]
    assert RESOURCES[name]["Metadata"]["BuildMethod"] == "makefile"
    assert f"build-{name}: PACKAGE :=" in (REPOSITORY / "Makefile").read_text()
    log_group = of_type("AWS::Logs::LogGroup")[function["LoggingConfig"]["LogGroup"]["Ref"]]
    assert log_group["LogGroupName"]["Sub"] == f"/aws/lambda/{function['FunctionName']['Sub']}"
    assert log_group["RetentionInDays"] > 0
    assert [other["Role"] for other in FUNCTIONS.values()].count(function["Role"]) == 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_functions_handler_is_a_module_of_the_service_that_its_package_carries(name: str) -> None:
    *module, attribute = FUNCTIONS[name]["Handler"].split(".")
    source = REPOSITORY.joinpath(*module).with_suffix(".py")
    assert attribute == "handler"
    assert source.is_file()
    (line,) = (x for x in (REPOSITORY / "Makefile").read_text().splitlines() if x.startswith(f"build-{name}: PACKAGE"))
    assert line.split()[-1] == module[1]


@pytest.mark.parametrize(
    ("rule", "parameters"),
    [
        ("BatchIsComplete", ("WorkerImage", "SubnetIds", "SecurityGroupIds", "CreateNetwork=true")),
        ("NetworkIsComplete", ("SubnetIds", "SecurityGroupIds")),
        ("OneNetwork", ("CreateNetwork=true", "SubnetIds", "SecurityGroupIds")),
        ("DatabaseIsThere", ("RdsSecretArn", "CreateDatabase=true")),
        ("FetcherUserHasDatabase", ("FetcherSecretArn", "RdsSecretArn")),
        ("DatabaseHasNetwork", ("CreateDatabase=true", "SubnetIds", "SecurityGroupIds", "CreateNetwork=true")),
        ("DatabaseIsMigrated", ("CreateDatabase=true", "WithBatch=true")),
        ("DatabaseIsVerified", ("CreateDatabase=true", "DatabaseTls=verify-full")),
        ("ProtectionHasDatabase", ("DatabaseProtected=true", "CreateDatabase=true")),
        ("ZonesHaveNetwork", ("AvailabilityZones", "CreateNetwork=true")),
        ("BudgetIsTold", ("MonthlyBudget", "AlarmEmail")),
        ("NatHasNetwork", ("NatGateway=true", "CreateNetwork=true")),
    ],
)
def test_a_stack_that_could_not_work_is_refused_with_the_parameters_that_it_lacks(
    rule: str, parameters: tuple[str, ...]
) -> None:
    description = " ".join(assertion["AssertDescription"] for assertion in TEMPLATE["Rules"][rule]["Assertions"])
    assert all(parameter in description for parameter in parameters)


def test_the_outputs_name_what_tools_need() -> None:
    assert TEMPLATE["Outputs"].keys() == {
        "BucketName",
        "CatalogDatabaseName",
        "BronzeArrivalsQueueUrl",
        "ConsolidationQueueUrl",
        "ConsolidationCompleteTopicArn",
        "HistoryQueueUrl",
        "SilverUpdatedTopicArn",
        *(f"Resample{n}dQueueUrl" for n in INTERVALS),
        "RouterFunctionName",
        "ResamplerFunctionName",
        "OhlcvFetcherFunctionName",
        "MetadataFetcherFunctionName",
        "HistoryFetcherFunctionName",
        "OhlcvFetcherDeadLettersUrl",
        "ReconcileFunctionName",
        "ResamplingRetentionYears",
        "SplitAdjusted",
        "MetadataFetcherDeadLettersUrl",
        "RdsSecretArn",
        "FetcherSecretArn",
        "DatabaseTls",
        "BatchJobQueueName",
        "BatchJobDefinitionName",
        "MigrateJobDefinitionName",
        "FreshnessFunctionName",
        "AlarmsTopicArn",
        "DashboardName",
        "FullResampleJobDefinitionName",
        "FlatFilesJobDefinitionName",
    }

"""Monitoring: each kind of failure of the chain has an alarm, and each alarm names the page with the remedy."""

import json
import re
from collections import Counter
from typing import Any

import pytest

from cli import costs
from tests.fakes import REPOSITORY
from tests.unit.variants import EVERYTHING, LOCAL, VARIANTS, Body, deployed, properties

ALARM = "AWS::CloudWatch::Alarm"
SOURCES = [
    path.read_text(encoding="utf-8")
    for folder in ("fiblake", "services", "shared")
    for path in (REPOSITORY / folder).rglob("*.py")
]
PAGE = (REPOSITORY / "docs/alarms.md").read_text(encoding="utf-8")


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def resources(request: pytest.FixtureRequest) -> Body:
    return deployed({**request.param, "CreateDashboard": "true"})


def test_a_dashboard_is_made_on_request() -> None:
    """It is a third of what a month without a database costs (docs/costs.md)."""
    assert ["Dashboard" in deployed({**LOCAL, "CreateDashboard": made}) for made in ("true", "false")] == [True, False]
    assert "Dashboard" not in deployed(LOCAL)


def watched(resources: Body, namespace: str, metric: str) -> list[dict[str, Any]]:
    """Return the dimensions of every alarm on a metric."""
    return [
        {dimension["Name"]: dimension["Value"] for dimension in alarm.get("Dimensions", [])}
        for alarm in properties(resources, ALARM).values()
        if (alarm["Namespace"], alarm["MetricName"]) == (namespace, metric)
    ]


def queues(resources: Body, *, dead: bool) -> set[str]:
    by_id = properties(resources, "AWS::SQS::Queue")
    return {name for name, queue in by_id.items() if queue["QueueName"].endswith("-dlq") == dead}


def test_every_dead_letter_queue_that_is_not_empty_is_an_alarm(resources: Body) -> None:
    about = watched(resources, "AWS/SQS", "ApproximateNumberOfMessagesVisible")
    assert Counter(dimensions["QueueName"]["Fn::GetAtt"][0] for dimensions in about) == Counter(
        queues(resources, dead=True)
    )


def test_every_queue_whose_oldest_message_waits_too_long_is_an_alarm(resources: Body) -> None:
    about = watched(resources, "AWS/SQS", "ApproximateAgeOfOldestMessage")
    assert Counter(dimensions["QueueName"]["Fn::GetAtt"][0] for dimensions in about) == Counter(
        queues(resources, dead=False)
    )


@pytest.mark.parametrize("metric", ["Errors", "Throttles"])
def test_functions_that_fail_or_are_throttled_are_one_alarm_for_all_of_the_account(
    resources: Body, metric: str
) -> None:
    assert watched(resources, "AWS/Lambda", metric) == [{}]


def test_a_queue_that_sqs_no_longer_reports_does_not_count_as_empty(resources: Body) -> None:
    """SQS stops its metrics six hours after the last action on a queue, whatever the queue holds."""
    alarms = [alarm for alarm in properties(resources, ALARM).values() if alarm["Namespace"] == "AWS/SQS"]
    assert {alarm["TreatMissingData"] for alarm in alarms} == {"ignore"}


@pytest.mark.parametrize("metric", ["SessionsNotConsolidated", "SymbolsNotConsolidated", "SymbolsNotResampled"])
def test_a_lake_that_is_not_fresh_is_an_alarm_until_it_is_measured_to_be(resources: Body, metric: str) -> None:
    [alarm] = [a for a in alarms_of(resources, metric) if a["Statistic"] == "Maximum"]
    assert (alarm["Threshold"], alarm["TreatMissingData"]) == (0, "ignore")
    assert alarm["Dimensions"] == [{"Name": "service", "Value": "freshness"}]


def test_what_the_audit_finds_is_an_alarm(resources: Body) -> None:
    [alarm] = alarms_of(resources, "SymbolsLagging")
    assert (alarm["Threshold"], alarm["TreatMissingData"]) == (0, "ignore")
    assert alarm["Dimensions"] == [{"Name": "service", "Value": "reconcile"}]


@pytest.mark.parametrize(
    ("function", "metric"), [("freshness", "SessionsNotConsolidated"), ("reconcile", "SymbolsAudited")]
)
def test_a_watcher_that_is_silent_for_more_than_a_day_is_an_alarm(resources: Body, function: str, metric: str) -> None:
    [alarm] = [a for a in alarms_of(resources, metric) if a["Statistic"] == "SampleCount"]
    assert alarm["Dimensions"] == [{"Name": "service", "Value": function}]
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("LessThanThreshold", 1)
    assert alarm["TreatMissingData"] == "breaching"
    # A run a day; 25 hours apart when the clocks change. CloudWatch evaluates at most the last seven days.
    assert 26 <= alarm["EvaluationPeriods"] * alarm["Period"] / 3600 <= 36
    [schedule] = [
        schedule["ScheduleExpression"]
        for schedule in properties(resources, "AWS::Scheduler::Schedule").values()
        if schedule["Name"].endswith(f"-{function}")
    ]
    assert re.fullmatch(r"cron\(\d+ \d+ \* \* \? \*\)", schedule), "every day"


def alarms_of(resources: Body, metric: str) -> list[dict[str, Any]]:
    alarms = [alarm for alarm in properties(resources, ALARM).values() if alarm["MetricName"] == metric]
    assert {alarm["Namespace"] for alarm in alarms} == {f"fiblake/{environment(resources)}"}
    return alarms


def test_the_page_of_dead_letters_has_every_hop_and_names_tests_that_there_are() -> None:
    text = (REPOSITORY / "docs/dead-letters.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.partition("## Hop by hop")[2].partition("\n## ")[0].splitlines()
        if line.startswith("| ") and not line.startswith("| hop ")
    ]
    named = {name for row in rows for name in re.findall(r"`([a-z-]+(?:Nd-dlq|-dlq))`", row[1])}
    resources = deployed(EVERYTHING)
    prefix = f"{environment(resources)}-"
    names = {q["QueueName"].removeprefix(prefix) for q in properties(resources, "AWS::SQS::Queue").values()}
    dead = {re.sub(r"\d+d-dlq$", "Nd-dlq", name) for name in names if name.endswith("-dlq")}
    assert named == dead, "each dead-letter queue is some hop's"
    # A new queue, topic or schedule is a hop, and each hop has a row.
    hops = " ".join(row[0] for row in rows)
    places = names | {t["TopicName"].removeprefix(prefix) for t in properties(resources, "AWS::SNS::Topic").values()}
    places = {re.sub(r"\d+d$", "Nd", name) for name in places if not name.endswith("-dlq")}
    assert [name for name in places if f"`{name}`" not in hops] == []
    tests = {name for row in rows for name in re.findall(r"`(test_\w+)`", row[3])}
    sources = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert [name for name in tests if f"def {name}(" not in sources] == []
    assert [row[0] for row in rows if not ("`test_" in row[3] or "the same" in row[3] or "the first" in row[3])] == []


def test_a_database_made_here_has_alarms_for_its_storage_and_its_credits() -> None:
    for metric in ("FreeStorageSpace", "CPUCreditBalance"):
        assert watched(deployed(LOCAL), "AWS/RDS", metric) == []
        assert watched(deployed(EVERYTHING), "AWS/RDS", metric) == [{"DBInstanceIdentifier": {"Ref": "Database"}}]


def test_a_budget_mails_the_address_of_the_alarms() -> None:
    assert "CostBudget" not in deployed(EVERYTHING)
    [budget] = properties(deployed({**EVERYTHING, "MonthlyBudget": "60"}), "AWS::Budgets::Budget").values()
    assert budget["Budget"]["BudgetLimit"] == {"Amount": "60", "Unit": "USD"}
    subscribers = [each for mail in budget["NotificationsWithSubscribers"] for each in mail["Subscribers"]]
    addresses = {subscriber["Address"] for subscriber in subscribers}
    assert addresses == {"me@example.com"}


def test_the_costs_count_every_alarm_but_three_of_the_database_and_the_vacuum(resources: Body) -> None:
    """An alarm is 0.10 USD a month: docs/costs.md counts those that every stack has."""
    optional = 3 if "Database" in resources else 0
    assert len(properties(resources, ALARM)) == costs.counts()["alarms"] + optional


def test_too_much_quarantine_is_an_alarm(resources: Body) -> None:
    namespace = f"fiblake/{environment(resources)}"
    assert watched(resources, namespace, "BarsQuarantinedPercent") == [{"service": "ohlcv-fetcher"}]


def environment(resources: Body) -> str:
    [bucket] = properties(resources, "AWS::S3::Bucket").values()
    return str(bucket["BucketName"]).removesuffix("-condvest-datalake-${AWS::AccountId}")


def test_a_batch_job_that_failed_for_good_is_reported_with_its_reason_whichever_system_runs_the_jobs(
    resources: Body,
) -> None:
    rule = properties(resources, "AWS::Events::Rule")["FailedJobsRule"]
    place = "arn:${AWS::Partition}:batch:${AWS::Region}:${AWS::AccountId}:job-queue"
    queue = f"{place}/{environment(resources)}-batch-consolidation"
    assert rule["EventPattern"] == {
        "source": ["aws.batch"],
        "detail-type": ["Batch Job State Change"],
        # Of an array only the parent, which fails with its children: a child has an index.
        "detail": {"status": ["FAILED"], "arrayProperties": {"index": [{"exists": False}]}, "jobQueue": [queue]},
    }
    [target] = rule["Targets"]
    assert target["Arn"] == {"Ref": "AlarmsTopic"}
    assert "<reason>" in target["InputTransformer"]["InputTemplate"]
    assert "alarms.md#failed-jobs" in target["InputTransformer"]["InputTemplate"]


def test_every_alarm_goes_to_one_topic_when_it_comes_and_when_it_goes(resources: Body) -> None:
    for alarm in properties(resources, ALARM).values():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "AlarmsTopic"}]
        assert alarm["AlarmName"].startswith(f"{environment(resources)}-"), "the topic takes no others"
        assert "Metrics" not in alarm, "the emulator refuses metric math"


def test_every_alarm_names_a_section_of_the_page_that_says_what_to_do(resources: Body) -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    }
    named = {
        anchor
        for alarm in properties(resources, ALARM).values()
        for anchor in re.findall(r"docs/alarms\.md#([a-z-]+)$", alarm["AlarmDescription"])
    }
    assert len(named) == len(
        {alarm["AlarmDescription"].rpartition("#")[2] for alarm in properties(resources, ALARM).values()}
    )
    assert named | {"failed-jobs"} | (set() if "Database" in resources else {"database"}) == headings


def test_an_email_address_that_is_given_gets_the_alarms() -> None:
    [subscription] = [
        subscription
        for subscription in properties(deployed(EVERYTHING), "AWS::SNS::Subscription").values()
        if subscription["Protocol"] == "email"
    ]
    assert (subscription["TopicArn"], subscription["Endpoint"]) == ({"Ref": "AlarmsTopic"}, "me@example.com")
    assert "AlarmsByEmail" not in deployed(LOCAL)


def test_every_metric_of_ours_that_an_alarm_or_the_dashboard_shows_is_one_that_the_code_writes(resources: Body) -> None:
    shown = set(re.findall(r'MetricName="(\w+)"', json.dumps(dashboard(resources)).replace('\\"', '"')))
    shown |= {metric[1] for widget in dashboard(resources) for metric in widget["properties"].get("metrics", [])
              if isinstance(metric[0], str) and metric[0].startswith("fiblake/")}  # fmt: skip
    shown |= {a["MetricName"] for a in properties(resources, ALARM).values() if a["Namespace"].startswith("fiblake/")}
    ours = {name for name in shown if not name.startswith(("Approximate", "NumberOf")) and name not in AWS_NAMES}
    assert len(ours) > 10
    written = [(f"{name}=", f'"{name}": ') for name in ours]
    assert [names for names in written if not any(name in source for source in SOURCES for name in names)] == []


AWS_NAMES = {"Errors", "Throttles", "Invocations", "Duration"}


def dashboard(resources: Body) -> list[dict[str, Any]]:
    body = resources["Dashboard"]["Properties"]["DashboardBody"]
    widgets: list[dict[str, Any]] = json.loads(body.replace("${AWS::Region}", "us-east-1"))["widgets"]
    return widgets


def test_the_dashboard_shows_flow_queues_latency_freshness_failures_and_costs(resources: Body) -> None:
    titles = " / ".join(widget["properties"].get("title", "") for widget in dashboard(resources)).lower()
    for subject in (
        "flow",
        "messages in queues",
        "age",
        "symbols a second",
        "put to silver",
        "behind",
        "failures",
        "cost",
    ):
        assert subject in titles
    places = [(w["x"], w["y"]) for w in dashboard(resources)]
    assert len(set(places)) == len(places)


def test_the_dashboards_gb_seconds_count_every_function_with_its_memory(resources: Body) -> None:
    [cost] = [w for w in dashboard(resources) if "GB-s" in w["properties"].get("title", "")]
    (formula,), *durations = cost["properties"]["metrics"]
    memory = {
        name: int(re.search(rf"FILL\({options['id']},0\)\*(\d+)", formula["expression"])[1])  # type: ignore[index]
        for *_, name, options in durations
    }
    functions = properties(deployed(EVERYTHING), "AWS::Lambda::Function").values()
    assert memory == {function["FunctionName"]: function["MemorySize"] for function in functions}


def test_both_workers_are_traced_under_their_own_names() -> None:
    everything = deployed(EVERYTHING)
    roles = properties(everything, "AWS::IAM::Role")
    for name, role in (("WorkerJobDefinition", "WorkerRole"), ("FullResampleJobDefinition", "FullResampleRole")):
        job = properties(everything, "AWS::Batch::JobDefinition")[name]
        variables = {pair["Name"]: pair["Value"] for pair in job["ContainerProperties"]["Environment"]}
        assert variables["TRACE_NAME"] == job["JobDefinitionName"]
        assert "xray:PutTraceSegments" in str(roles[role]["Policies"])


def test_every_function_is_traced_and_counts_into_its_environments_namespace(resources: Body) -> None:
    [trace] = [p for p in properties(resources, "AWS::IAM::ManagedPolicy").values() if "xray:" in str(p)]
    functions = properties(resources, "AWS::Lambda::Function").values()
    assert {role["Ref"] for role in trace["Roles"]} == {function["Role"]["Fn::GetAtt"][0] for function in functions}
    for function in functions:
        assert function["TracingConfig"] == {"Mode": "Active"}
        assert (
            function["Environment"]["Variables"]["POWERTOOLS_METRICS_NAMESPACE"] == f"fiblake/{environment(resources)}"
        )
    for job in properties(resources, "AWS::Batch::JobDefinition").values():
        variables = {pair["Name"]: pair["Value"] for pair in job["ContainerProperties"]["Environment"]}
        assert variables["POWERTOOLS_METRICS_NAMESPACE"] == f"fiblake/{environment(resources)}"

"""AWS's own calls with our roles, or to our queues, topics and roles: derived from the template, a sentence for each
rule.

Our code does not make these calls, so no recording has them. Each rule names its source in AWS's documentation.
"""

from collections.abc import Iterable, Iterator

from tests.integration.permissions.calls import ACCOUNT, REGION, Call, arn
from tests.integration.permissions.concrete import Concrete

NETWORK = (
    "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
)  # fmt: skip
"""Lambda Developer Guide, "Giving Lambda functions access to resources in an Amazon VPC": required permissions."""
KEY_USES = {
    "s3:GetObject": ("kms:Decrypt",), "s3:PutObject": ("kms:GenerateDataKey",),
    "sqs:ReceiveMessage": ("kms:Decrypt",), "sqs:SendMessage": ("kms:GenerateDataKey", "kms:Decrypt"),
    "sns:Publish": ("kms:GenerateDataKey", "kms:Decrypt"), "secretsmanager:GetSecretValue": ("kms:Decrypt",),
}  # fmt: skip
"""The rights that S3, SQS, SNS and Secrets Manager require of a caller for content that is encrypted with a customer's
key (each service's developer guide, "Key management" or "Server-side encryption").
"""


def with_our_roles(template: Concrete, recorded: Iterable[Call]) -> set[Call]:
    """Return the calls that AWS makes with a role of ours, besides those that `recorded` has."""
    calls = {*_of_functions(template), *_of_jobs(template), *_of_schedules(template)}
    return calls | set(_of_the_key(template, calls | set(recorded)))


def _of_functions(template: Concrete) -> Iterator[Call]:
    functions = template.of_type("AWS::Lambda::Function")
    names = {template.named(name): template.role_of(function["Role"]) for name, function in functions.items()}
    for function in functions.values():
        role = template.role_of(function["Role"])
        # Lambda Developer Guide, "Working with log groups": with a log group of one's own, streams and events.
        group = arn("logs", f"log-group:{function['LoggingConfig']['LogGroup']}")
        stream = f"{group}:log-stream:2026/11/26/[$LATEST]0123456789abcdef"
        yield Call(role, "logs:CreateLogStream", stream)
        yield Call(role, "logs:PutLogEvents", stream)
        if function.get("TracingConfig", {}).get("Mode") == "Active":
            # "Visualize Lambda function invocations using AWS X-Ray": the execution role needs both.
            yield Call(role, "xray:PutTraceSegments", "*")
            yield Call(role, "xray:PutTelemetryRecords", "*")
        if "VpcConfig" in function:
            interface = arn("ec2", "network-interface/eni-0123456789abcdef0")
            yield from (Call(role, action, "*" if ":Describe" in action else interface) for action in NETWORK)
    for source in template.of_type("AWS::Lambda::EventSourceMapping").values():
        # "Using Lambda with Amazon SQS", execution role permissions: the poller works with the function's role.
        for action in ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"):
            yield Call(names[source["FunctionName"]], action, source["EventSourceArn"])
    for config in template.of_type("AWS::Lambda::EventInvokeConfig").values():
        # "Capturing records of Lambda asynchronous invocations": the destination is sent to with the function's role.
        destination = config["DestinationConfig"]["OnFailure"]["Destination"]
        yield Call(names[config["FunctionName"]], "sqs:SendMessage", destination)


def _of_jobs(template: Concrete) -> Iterator[Call]:
    for job in template.of_type("AWS::Batch::JobDefinition").values():
        inside = job["ContainerProperties"]
        role = template.role_of(inside["ExecutionRoleArn"])
        # Batch User Guide, "AWS Batch IAM execution role": the image and the log stream, by Fargate's agent.
        options = inside["LogConfiguration"]["Options"]
        stream = f"{options['awslogs-stream-prefix']}/default/0123456789abcdef"
        group = arn("logs", f"log-group:{options['awslogs-group']}")
        yield Call(role, "logs:CreateLogStream", f"{group}:log-stream:{stream}")
        yield Call(role, "logs:PutLogEvents", f"{group}:log-stream:{stream}")
        yield Call(role, "ecr:GetAuthorizationToken", "*")
        name = inside["Image"].rpartition("/")[2].partition("@")[0].partition(":")[0]
        for action in ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"):
            yield Call(role, action, arn("ecr", f"repository/{name}"))


def _of_schedules(template: Concrete) -> Iterator[Call]:
    for schedule in template.of_type("AWS::Scheduler::Schedule").values():
        role = template.role_of(schedule["Target"]["RoleArn"])
        # EventBridge Scheduler User Guide, "Setting up" and "Configuring a dead-letter queue".
        yield Call(role, "lambda:InvokeFunction", schedule["Target"]["Arn"])
        if "DeadLetterConfig" in schedule["Target"]:
            yield Call(role, "sqs:SendMessage", schedule["Target"]["DeadLetterConfig"]["Arn"])


def _of_the_key(template: Concrete, calls: Iterable[Call]) -> Iterator[Call]:
    if "Key" not in template.resources:
        return
    ours = {arn("sqs", queue["QueueName"]) for queue in template.of_type("AWS::SQS::Queue").values()}
    ours |= {arn("sns", topic["TopicName"]) for topic in template.of_type("AWS::SNS::Topic").values()}
    ours |= {template.named(name) for name in template.of_type("AWS::SecretsManager::Secret")}
    lake = template.attribute("DataLakeBucket", "Arn")
    for call in calls:
        if call.resource in ours or call.resource.startswith(f"{lake}/"):
            for action in KEY_USES.get(call.action, ()):
                yield Call(call.who, action, template.attribute("Key", "Arn"))


def to_our_resources(template: Concrete) -> set[Call]:
    """Return the calls that AWS's services make to queues, topics and roles of ours, as themselves."""
    return {*_of_rules(template), *_of_topics(template), *_of_alarms(template), *_of_roles(template)}


def _sent(service: str, action: str, resource: str, source: str, account: bool = True) -> Call:  # noqa: FBT001, FBT002
    keys = [("aws:SourceArn", source)] + ([("aws:SourceAccount", ACCOUNT)] if account else [])
    return Call(service, action, resource, tuple(keys))


def _of_rules(template: Concrete) -> Iterator[Call]:
    # EventBridge User Guide, "Using resource-based policies": SQS and SNS permissions; dead-letter queues alike.
    for name, rule in template.of_type("AWS::Events::Rule").items():
        source = template.attribute(name, "Arn")
        for target in rule["Targets"]:
            action = "sns:Publish" if ":sns:" in target["Arn"] else "sqs:SendMessage"
            yield _sent("events.amazonaws.com", action, target["Arn"], source)
            yield _sent("events.amazonaws.com", "sqs:SendMessage", target["DeadLetterConfig"]["Arn"], source)


def _of_topics(template: Concrete) -> Iterator[Call]:
    # SNS Developer Guide, "Subscribing an Amazon SQS queue" and "Dead-letter queues": no example has aws:SourceAccount.
    for subscription in template.of_type("AWS::SNS::Subscription").values():
        queues = [subscription["Endpoint"]] if subscription["Protocol"] == "sqs" else []
        for queue in [*queues, *map(str, subscription.get("RedrivePolicy", {}).values())]:
            yield _sent("sns.amazonaws.com", "sqs:SendMessage", queue, subscription["TopicArn"], account=False)


def _of_alarms(template: Concrete) -> Iterator[Call]:
    # CloudWatch User Guide, "Amazon SNS and alarms": aws:SourceArn is the alarm's.
    for alarm in template.of_type("AWS::CloudWatch::Alarm").values():
        source = arn("cloudwatch", f"alarm:{alarm['AlarmName']}")
        for topic in {*alarm.get("AlarmActions", []), *alarm.get("OKActions", [])}:
            yield _sent("cloudwatch.amazonaws.com", "sns:Publish", topic, source)


def _of_roles(template: Concrete) -> Iterator[Call]:
    def assumed(service: str, role: str, *keys: tuple[str, str]) -> Call:
        return Call(service, "sts:AssumeRole", template.attribute(role, "Arn"), keys)

    account = ("aws:SourceAccount", ACCOUNT)
    for function in template.of_type("AWS::Lambda::Function").values():
        yield assumed("lambda.amazonaws.com", template.role_of(function["Role"]), account)
    for job in template.of_type("AWS::Batch::JobDefinition").values():
        # ECS Developer Guide, "Task IAM role": the ARN of any task of the account's, which Batch starts.
        task = ("aws:SourceArn", f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/AWSBatch-x/0123456789abcdef")
        for name in ("JobRoleArn", "ExecutionRoleArn"):
            yield assumed("ecs-tasks.amazonaws.com", template.role_of(job["ContainerProperties"][name]), account, task)
    for schedule in template.of_type("AWS::Scheduler::Schedule").values():
        # EventBridge Scheduler User Guide, "Confused deputy prevention": the source is the schedule's group.
        group = ("aws:SourceArn", arn("scheduler", f"schedule-group/{schedule.get('GroupName', 'default')}"))
        yield assumed("scheduler.amazonaws.com", template.role_of(schedule["Target"]["RoleArn"]), account, group)

"""The rights of each role, and the access to each resource, in every variant of the deployed template."""

import json

import pytest

from fiblake.decoding import DEFAULT_LIMIT_MB
from tests.unit.variants import (
    EVERYTHING,
    GIVEN,
    LOCAL,
    SECRETS,
    VARIANTS,
    Body,
    deployed,
    listed,
    properties,
    statements,
)

EVERY_RESOURCE = {
    frozenset({"batch:DescribeJobs", "batch:ListJobs"}): "Batch knows no resource for them",
    frozenset({"ecr:GetAuthorizationToken"}): "ECR knows no resource for it",
    frozenset({"xray:PutTelemetryRecords", "xray:PutTraceSegments"}): "X-Ray knows no resource for them",
    frozenset({"xray:PutTraceSegments"}): "the same, for the jobs, which have no daemon to send for them",
    frozenset({
        "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
    }): "Lambda makes network interfaces with its function's role, in a VPC only",
}  # fmt: skip
"""The only actions that a role may do with every resource, and why."""
DAYS_14 = 14 * 24 * 3600


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def resources(request: pytest.FixtureRequest) -> Body:
    return deployed(request.param)


def test_no_role_may_touch_everything_but_for_a_reason(resources: Body) -> None:
    everywhere = [
        (name, frozenset(listed(statement["Action"])))
        for name, statement in statements(resources)
        if statement["Effect"] == "Allow" and "*" in listed(statement["Resource"])
    ]
    assert everywhere
    assert [(name, actions) for name, actions in everywhere if actions not in EVERY_RESOURCE] == []


def test_every_statement_of_a_role_names_its_actions(resources: Body) -> None:
    for name, statement in statements(resources):
        assert [action for action in listed(statement["Action"]) if "*" in action] == [], name


def test_what_lambda_may_do_to_the_network_with_a_functions_role_the_functions_code_may_not(resources: Body) -> None:
    roles = {
        function["Role"]["Fn::GetAtt"][0]: function["FunctionName"]
        for function in properties(resources, "AWS::Lambda::Function").values()
        if "VpcConfig" in function
    }
    in_network = [(name, s) for name, s in statements(resources) if "ec2:CreateNetworkInterface" in listed(s["Action"])]
    allowed = {name: listed(s["Action"]) for name, s in in_network if s["Effect"] == "Allow"}
    denied = {name: (listed(s["Action"]), s["Condition"]) for name, s in in_network if s["Effect"] == "Deny"}
    assert allowed.keys() == denied.keys() == roles.keys()
    for name, (actions, condition) in denied.items():
        assert actions == allowed[name]
        assert condition["ArnEquals"]["lambda:SourceFunctionArn"].endswith(f":function:{roles[name]}")
    assert len([s for _, s in statements(resources) if s["Effect"] != "Allow"]) == len(denied)


def test_only_the_exact_place_in_the_bucket_can_be_read_or_written(resources: Body) -> None:
    for name, statement in statements(resources):
        actions = listed(statement["Action"])
        places = [str(place) for place in listed(statement["Resource"])]
        if any(action in {"s3:GetObject", "s3:PutObject", "s3:DeleteObject"} for action in actions):
            assert all(place.split("DataLakeBucket.Arn}")[1].count("/") >= 2 for place in places), (name, places)
        if "s3:ListBucket" in actions:
            assert set(statement["Condition"]) == {"StringLike"}, name
            assert set(statement["Condition"]["StringLike"]) == {"s3:prefix"}, name


def test_roles_have_no_policies_of_other_authors(resources: Body) -> None:
    foreign = {name: role["ManagedPolicyArns"] for name, role in properties(resources, "AWS::IAM::Role").items()
               if role.get("ManagedPolicyArns")}  # fmt: skip
    assert foreign == {}


def test_every_function_and_every_job_has_a_role_of_its_own(resources: Body) -> None:
    roles = [str(function["Role"]) for function in properties(resources, "AWS::Lambda::Function").values()]
    jobs = properties(resources, "AWS::Batch::JobDefinition").values()
    roles += [str(job["ContainerProperties"]["JobRoleArn"]) for job in jobs]
    assert len(set(roles)) == len(roles)


def test_only_aws_services_may_take_on_a_role(resources: Body) -> None:
    for role in properties(resources, "AWS::IAM::Role").values():
        [statement] = role["AssumeRolePolicyDocument"]["Statement"]
        services = listed(statement["Principal"]["Service"])
        allowed = {"lambda.amazonaws.com", "ecs-tasks.amazonaws.com", "scheduler.amazonaws.com"}
        assert set(services) <= allowed
        assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}


def test_every_queue_is_encrypted(resources: Body) -> None:
    own_key = "Key" in resources
    for queue in properties(resources, "AWS::SQS::Queue").values():
        assert ("KmsMasterKeyId" in queue) == own_key
        assert queue.get("SqsManagedSseEnabled", False) != own_key


def test_every_topic_is_encrypted_but_that_of_the_alarms_which_cloudwatch_could_not_reach(resources: Body) -> None:
    plain = {name for name, topic in properties(resources, "AWS::SNS::Topic").items() if "KmsMasterKeyId" not in topic}
    assert plain == (set() if "Key" in resources else {"AlarmsTopic"})


def test_every_log_group_forgets(resources: Body) -> None:
    groups = properties(resources, "AWS::Logs::LogGroup").values()
    assert {group["RetentionInDays"] for group in groups} == {30}
    assert all(("KmsKeyId" in group) == ("Key" in resources) for group in groups)


def test_every_function_and_job_logs_into_a_group_of_the_template(resources: Body) -> None:
    groups = properties(resources, "AWS::Logs::LogGroup").keys()
    for function in properties(resources, "AWS::Lambda::Function").values():
        assert function["LoggingConfig"]["LogGroup"]["Ref"] in groups
    for job in properties(resources, "AWS::Batch::JobDefinition").values():
        assert job["ContainerProperties"]["LogConfiguration"]["Options"]["awslogs-group"]["Ref"] in groups


def test_every_queue_keeps_for_two_weeks_and_gives_up_into_one_that_does_too(resources: Body) -> None:
    queues = properties(resources, "AWS::SQS::Queue")
    last = {name for name, queue in queues.items() if queue["QueueName"].endswith("-dlq")}
    for name in queues.keys() - last:
        assert queues[name]["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0] in last, name
    assert {queue["MessageRetentionPeriod"] for queue in queues.values()} == {DAYS_14}


def test_a_message_that_a_schedule_a_rule_or_a_topic_cannot_deliver_goes_to_a_dead_letter_queue(
    resources: Body,
) -> None:
    queues = properties(resources, "AWS::SQS::Queue")
    for rule in properties(resources, "AWS::Events::Rule").values():
        assert all(target["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0] in queues for target in rule["Targets"])
    configured = {
        config["FunctionName"]["Ref"]: config["DestinationConfig"]["OnFailure"]["Destination"]["Fn::GetAtt"][0]
        for config in properties(resources, "AWS::Lambda::EventInvokeConfig").values()
    }
    started = {
        schedule["Target"]["Arn"]["Fn::GetAtt"][0]
        for schedule in properties(resources, "AWS::Scheduler::Schedule").values()
    }
    assert started <= configured.keys()
    undelivered = {
        schedule["Target"]["Arn"]["Fn::GetAtt"][0]: schedule["Target"]["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0]
        for schedule in properties(resources, "AWS::Scheduler::Schedule").values()
    }
    assert undelivered == {name: configured[name] for name in started}
    for name, subscription in properties(resources, "AWS::SNS::Subscription").items():
        assert subscription["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0] in queues, name
    assert set(configured.values()) <= queues.keys()


def test_a_queue_hides_a_message_six_times_as_long_as_its_function_may_take(resources: Body) -> None:
    queues = properties(resources, "AWS::SQS::Queue")
    functions = properties(resources, "AWS::Lambda::Function")
    for source in properties(resources, "AWS::Lambda::EventSourceMapping").values():
        queue = queues[source["EventSourceArn"]["Fn::GetAtt"][0]]
        assert queue["VisibilityTimeout"] >= 6 * functions[source["FunctionName"]["Ref"]]["Timeout"]


def test_the_bucket_takes_nothing_but_tls_and_is_closed_to_the_public(resources: Body) -> None:
    [bucket] = properties(resources, "AWS::S3::Bucket").values()
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    [policy] = properties(resources, "AWS::S3::BucketPolicy").values()
    [statement] = policy["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": False}}
    assert statement["Resource"] == [{"Fn::GetAtt": ["DataLakeBucket", "Arn"]}, "${DataLakeBucket.Arn}/*"]


def test_the_bucket_is_encrypted_with_the_stacks_key_if_there_is_one() -> None:
    def algorithm(parameters: dict[str, str]) -> str:
        [bucket] = properties(deployed(parameters), "AWS::S3::Bucket").values()
        [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        encryption: str = rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"]
        return encryption

    assert (algorithm(LOCAL), algorithm(EVERYTHING)) == ("AES256", "aws:kms")


def test_versions_that_are_not_current_and_quarantine_are_forgotten_and_the_archive_is_kept_cheaply() -> None:
    [bucket] = properties(deployed(EVERYTHING), "AWS::S3::Bucket").values()
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    rules = {rule["Id"]: rule for rule in bucket["LifecycleConfiguration"]["Rules"]}
    assert rules["forget-what-is-not-current"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    quarantine, archive = rules["forget-quarantine"], rules["keep-the-archive-cheaply"]
    assert (quarantine["Prefix"], quarantine["ExpirationInDays"]) == ("bronze/quarantine/", 730)
    assert (archive["Prefix"], "ExpirationInDays" in archive) == ("archive/", False)
    # Bars, silver and their metadata never expire.
    assert {rule.get("Prefix") for rule in rules.values() if "ExpirationInDays" in rule} == {"bronze/quarantine/"}
    [plain] = properties(deployed(LOCAL), "AWS::S3::Bucket").values()
    assert "VersioningConfiguration" not in plain


def test_only_named_sources_may_send_to_queues_and_topics(resources: Body) -> None:
    policies = properties(resources, "AWS::SQS::QueuePolicy") | properties(resources, "AWS::SNS::TopicPolicy")
    for name, policy in policies.items():
        for statement in (s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Allow"):
            assert set(statement["Principal"]) == {"Service"}, name
            [source] = [c["aws:SourceArn"] for c in statement["Condition"].values() if "aws:SourceArn" in c]
            assert source not in ("*", ""), name
            if statement["Principal"]["Service"] != "sns.amazonaws.com":  # no example of AWS's has it
                assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}, name


def test_what_a_topic_or_a_rule_cannot_deliver_it_may_put_into_the_queue_for_that(resources: Body) -> None:
    let_in = {
        (queue["Ref"], str(statement["Condition"]["ArnEquals"]["aws:SourceArn"]))
        for policy in properties(resources, "AWS::SQS::QueuePolicy").values()
        for queue in policy["Queues"]
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Allow"
    }
    undelivered = {
        (subscription["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0], str(subscription["TopicArn"]))
        for subscription in properties(resources, "AWS::SNS::Subscription").values()
    } | {
        (target["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0], str({"Fn::GetAtt": [name, "Arn"]}))
        for name, rule in properties(resources, "AWS::Events::Rule").items()
        for target in rule["Targets"]
    }
    assert undelivered
    assert undelivered <= let_in


def test_queues_and_topics_take_nothing_but_tls_and_have_one_policy_each(resources: Body) -> None:
    denied: dict[str, list[list[str]]] = {}
    for policy in properties(resources, "AWS::SQS::QueuePolicy").values():
        for queue in policy["Queues"]:
            denied.setdefault(queue["Ref"], []).append(_denied_without_tls(policy, "*"))
    for policy in properties(resources, "AWS::SNS::TopicPolicy").values():
        [topic] = policy["Topics"]
        denied.setdefault(topic["Ref"], []).append(_denied_without_tls(policy, topic))
    queues, topics = properties(resources, "AWS::SQS::Queue"), properties(resources, "AWS::SNS::Topic")
    # In a topic's policy SNS accepts actions such as sns:Publish, but not sns:*.
    assert denied == {name: [["sqs:*"]] for name in queues} | {name: [["sns:Publish"]] for name in topics}


def _denied_without_tls(policy: Body, resource: object) -> list[str]:
    """Return the actions that the policy denies to every caller without TLS."""
    return [
        statement["Action"]
        for statement in policy["PolicyDocument"]["Statement"]
        if (statement["Effect"], statement["Principal"], statement["Resource"]) == ("Deny", "*", resource)
        and statement["Condition"] == {"Bool": {"aws:SecureTransport": False}}
    ]


def test_the_database_is_encrypted_private_and_takes_nothing_but_tls() -> None:
    resources = deployed(EVERYTHING)
    [database] = properties(resources, "AWS::RDS::DBInstance").values()
    assert (database["StorageEncrypted"], database["PubliclyAccessible"]) == (True, False)
    assert "resolve:secretsmanager" in database["MasterUserPassword"]
    [parameters] = properties(resources, "AWS::RDS::DBParameterGroup").values()
    assert parameters["Parameters"] == {"rds.force_ssl": "1"}
    assert resources["Database"]["DeletionPolicy"] == "Snapshot"
    [subnets] = properties(resources, "AWS::RDS::DBSubnetGroup").values()
    assert subnets["SubnetIds"] == [{"Ref": "PrivateSubnetA"}, {"Ref": "PrivateSubnetB"}]


@pytest.mark.parametrize(
    ("parameters", "owner", "fetcher"),
    [
        (EVERYTHING, {"Ref": "DatabaseSecret"}, {"Ref": "FetcherSecret"}),
        ({**EVERYTHING, "RdsSecretArn": f"{SECRETS}theirs"}, f"{SECRETS}theirs", f"{SECRETS}theirs"),
        (GIVEN, f"{SECRETS}rds", f"{SECRETS}fetcher"),
        ({**GIVEN, "FetcherSecretArn": ""}, f"{SECRETS}rds", f"{SECRETS}rds"),
    ],
    ids=["made here", "made here, another used", "given", "given, one user"],
)
def test_the_databases_owner_is_the_migrations_alone_and_the_fetchers_have_a_user_of_their_own(
    parameters: dict[str, str], owner: object, fetcher: object
) -> None:
    resources = deployed(parameters)
    readers = {
        name: listed(statement["Resource"])
        for name, statement in statements(resources)
        if "secretsmanager:GetSecretValue" in listed(statement["Action"])
    }
    both = [owner] if owner == fetcher else [owner, fetcher]
    key = f"{SECRETS}key"
    fetchers = {f"{name}FetcherRole": [fetcher, key] for name in ("Metadata", "History", "Ohlcv")}
    loader = {"FlatFilesRole": [fetcher, *([f"{SECRETS}flat-files"] if "FlatFilesSecretArn" in parameters else [])]}
    assert readers == {"MigrateRole": both, **fetchers, **loader}
    for function in properties(resources, "AWS::Lambda::Function").values():
        assert function["Environment"]["Variables"].get("RDS_SECRET_ARN", fetcher) == fetcher
    [migration] = [j for n, j in properties(resources, "AWS::Batch::JobDefinition").items() if n.startswith("Migrate")]
    variables = {pair["Name"]: pair["Value"] for pair in migration["ContainerProperties"]["Environment"]}
    assert (variables["RDS_SECRET_ARN"], variables["FETCHER_SECRET_ARN"]) == (owner, fetcher)


def test_a_database_made_here_has_two_generated_secrets_of_two_users_with_its_address() -> None:
    resources = deployed(EVERYTHING)
    secrets = properties(resources, "AWS::SecretsManager::Secret")
    users = {name: json.loads(s["GenerateSecretString"]["SecretStringTemplate"]) for name, s in secrets.items()}
    assert users == {"DatabaseSecret": {"username": "fiblake"}, "FetcherSecret": {"username": "fiblake_fetcher"}}
    assert {s["GenerateSecretString"]["PasswordLength"] for s in secrets.values()} == {32}
    attached = properties(resources, "AWS::SecretsManager::SecretTargetAttachment").values()
    assert sorted(attachment["SecretId"]["Ref"] for attachment in attached) == sorted(secrets)
    assert {attachment["TargetId"]["Ref"] for attachment in attached} == {"Database"}


def test_nothing_comes_into_the_network_but_what_carries_its_own_security_group() -> None:
    resources = deployed(EVERYTHING)
    [group] = properties(resources, "AWS::EC2::SecurityGroup").values()
    assert "SecurityGroupIngress" not in group
    [ingress] = properties(resources, "AWS::EC2::SecurityGroupIngress").values()
    assert ingress["SourceSecurityGroupId"] == ingress["GroupId"]
    assert not {"CidrIp", "CidrIpv6"} & ingress.keys()
    assert {rule["ToPort"] for rule in group["SecurityGroupEgress"]} == {443}


def test_with_a_key_of_its_own_every_role_that_works_may_use_it() -> None:
    resources = deployed(EVERYTHING)
    [policy] = [p for p in properties(resources, "AWS::IAM::ManagedPolicy").values() if "kms:" in str(p)]
    may = {role["Ref"] for role in policy["Roles"]}
    may |= {name for name, s in statements(resources) if name != "UseKey" and s["Action"] == "kms:Decrypt"}
    functions = properties(resources, "AWS::Lambda::Function").values()
    jobs = properties(resources, "AWS::Batch::JobDefinition").values()
    working = [f["Role"] for f in functions] + [job["ContainerProperties"]["JobRoleArn"] for job in jobs]
    assert may == {role["Fn::GetAtt"][0] for role in working} | {"SchedulerRole"}
    assert resources["Key"]["DeletionPolicy"] == "RetainExceptOnCreate"
    assert resources["Key"]["Properties"]["EnableKeyRotation"] is True


@pytest.mark.parametrize("limit", ["", "64"])
def test_the_limit_for_one_decoded_object_reaches_every_reader(limit: str) -> None:
    resources = deployed({**EVERYTHING, "ReadLimitMb": limit} if limit else EVERYTHING)
    environments = {
        name: function["Environment"]["Variables"]
        for name, function in properties(resources, "AWS::Lambda::Function").items()
    } | {
        name: {pair["Name"]: pair["Value"] for pair in job["ContainerProperties"]["Environment"]}
        for name, job in properties(resources, "AWS::Batch::JobDefinition").items()
    }
    readers = {
        name: variables.get("READ_LIMIT_MB") for name, variables in environments.items() if "S3_BUCKET" in variables
    }
    assert environments.keys() - readers.keys() == {"MigrateJobDefinition"}
    assert {str(value) for value in readers.values()} == {limit or str(DEFAULT_LIMIT_MB)}


def test_no_secret_and_no_key_is_in_a_variable(resources: Body) -> None:
    for function in properties(resources, "AWS::Lambda::Function").values():
        names = {name for name in function["Environment"]["Variables"] if "PASSWORD" in name or name.endswith("_KEY")}
        assert names == set()

"""The deployed template with every reference resolved: names, URLs and ARNs as AWS would assign them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

from tests.integration.permissions.calls import ACCOUNT, REGION, arn
from tests.unit.variants import SECRETS, VARIANTS, Body, deployed, properties

STACK = "fiblake"
_PSEUDO = {
    "AWS::AccountId": ACCOUNT, "AWS::Region": REGION, "AWS::Partition": "aws", "AWS::StackName": STACK,
    "AWS::URLSuffix": "amazonaws.com",
}  # fmt: skip
_REFERENCE = re.compile(r"\$\{([\w:]+)(?:\.(\w+))?\}")


@dataclass(frozen=True)
class Concrete:
    """The resources of a deployment with given parameters."""

    resources: Body

    def named(self, logical: str) -> str:  # noqa: PLR0911 (a type each)
        """Return what `Ref` gives."""
        kind, inside = self.resources[logical]["Type"], self.resources[logical].get("Properties", {})
        match kind:
            case "AWS::SQS::Queue":
                return f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{self.put_in(inside['QueueName'])}"
            case "AWS::SNS::Topic":
                return arn("sns", self.put_in(inside["TopicName"]))
            case "AWS::S3::Bucket":
                return str(self.put_in(inside["BucketName"]))
            case "AWS::SecretsManager::Secret":
                # Those of the parameters, so that calls are the same in all variants.
                return SECRETS + {"DatabaseSecret": "rds", "FetcherSecret": "fetcher"}[logical]
            case "AWS::Lambda::Function":
                return str(self.put_in(inside["FunctionName"]))
            case "AWS::Logs::LogGroup":
                return str(self.put_in(inside["LogGroupName"]))
        return logical

    def attribute(self, logical: str, name: str) -> str:  # noqa: PLR0911 (a type each)
        """Return what `GetAtt` gives."""
        kind, inside = self.resources[logical]["Type"], self.resources[logical].get("Properties", {})
        match kind, name:
            case "AWS::SQS::Queue", "Arn":
                return arn("sqs", self.put_in(inside["QueueName"]))
            case "AWS::SQS::Queue", "QueueName":
                return str(self.put_in(inside["QueueName"]))
            case "AWS::S3::Bucket", "Arn":
                return f"arn:aws:s3:::{self.named(logical)}"
            case "AWS::IAM::Role", "Arn":
                return f"arn:aws:iam::{ACCOUNT}:role/{logical}"
            case "AWS::Lambda::Function", "Arn":
                return arn("lambda", f"function:{self.named(logical)}")
            case "AWS::Logs::LogGroup", "Arn":
                return f"{arn('logs', f'log-group:{self.named(logical)}')}:*"
            case "AWS::Events::Rule", "Arn":
                return arn("events", f"rule/{self.put_in(inside.get('Name', f'{STACK}-{logical}-1A2B3C'))}")
            case "AWS::KMS::Key", "Arn":
                return arn("kms", "key/00000000-0000-4000-8000-000000000000")
        return f"{logical}.{name}"

    def put_in(self, value: Any) -> Any:  # noqa: ANN401, PLR0911 (JSON, a case each)
        """Return the value with every reference in it resolved."""
        match value:
            case {"Ref": str(name)}:
                return _PSEUDO.get(name) or self.named(name)
            case {"Fn::GetAtt": [str(name), str(attribute)]}:
                return self.attribute(name, attribute)
            case {"Fn::Sub": [str(text), dict(values)]}:
                values_by_name = {f"${{{name}}}": self.put_in(part) for name, part in values.items()}
                return self.put_in(reduce(lambda t, name: t.replace(name, values_by_name[name]), values_by_name, text))
            case {"Fn::Select": [number, parts]}:
                return self.put_in(parts)[int(number)]
            case {"Fn::Split": [str(separator), text]}:
                return self.put_in(text).split(separator)
            case {"Fn::Join": [str(separator), list(parts)]}:
                return separator.join(map(str, self.put_in(parts)))
            case str():
                return _REFERENCE.sub(self._substituted, value)
            case dict():
                return {key: self.put_in(part) for key, part in value.items()}
            case list():
                return [self.put_in(part) for part in value]
        return value

    def _substituted(self, reference: re.Match[str]) -> str:
        name, attribute = reference[1], reference[2]
        if attribute:
            return self.attribute(name, attribute)
        return _PSEUDO.get(name) or self.named(name)

    def of_type(self, kind: str) -> dict[str, Any]:
        """Return the properties of all resources of a type, by name."""
        return {name: self.put_in(inside) for name, inside in properties(self.resources, kind).items()}

    def role_of(self, reference: Any) -> str:  # noqa: ANN401 (JSON)
        """Return the logical name of the role that a property refers to."""
        return str(self.put_in(reference)).rpartition("/")[2]

    def policies(self) -> dict[str, dict[str, Any]]:
        """Return the policies of each role by their names, managed ones included."""
        by_role: dict[str, dict[str, Any]] = {}
        for role, inside in self.of_type("AWS::IAM::Role").items():
            by_role[role] = {policy["PolicyName"]: policy["PolicyDocument"] for policy in inside.get("Policies", [])}
        for name, inside in self.of_type("AWS::IAM::ManagedPolicy").items():
            for role in inside["Roles"]:
                by_role[role][name] = inside["PolicyDocument"]
        return json.loads(json.dumps(by_role))  # plain, and nobody else's

    def resource_policies(self) -> dict[str, Any]:
        """Return the policy of each bucket, queue, topic, role and key that has one, by ARN."""
        by_arn: dict[str, Any] = {}
        for policy in self.of_type("AWS::S3::BucketPolicy").values():
            by_arn[f"arn:aws:s3:::{policy['Bucket']}"] = policy["PolicyDocument"]
        for policy in self.of_type("AWS::SQS::QueuePolicy").values():
            for url in policy["Queues"]:
                name = arn("sqs", url.rpartition("/")[2])
                assert name not in by_arn, f"{name} has two policies: the second replaces the first"
                by_arn[name] = policy["PolicyDocument"]
        for policy in self.of_type("AWS::SNS::TopicPolicy").values():
            for topic in policy["Topics"]:
                assert topic not in by_arn, f"{topic} has two policies: the second replaces the first"
                by_arn[topic] = policy["PolicyDocument"]
        for role, inside in self.of_type("AWS::IAM::Role").items():
            by_arn[self.attribute(role, "Arn")] = inside["AssumeRolePolicyDocument"]
        for key, inside in self.of_type("AWS::KMS::Key").items():
            by_arn[self.attribute(key, "Arn")] = inside["KeyPolicy"]
        return by_arn


@cache
def concrete(variant: str) -> Concrete:
    """Return the deployment of one of `tests.unit.variants`."""
    parameters = VARIANTS[variant]
    image = {"WorkerImage": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/fiblake:1a2b3c4"}
    return Concrete(deployed(parameters | (image if "WorkerImage" in parameters else {})))


def environment(pairs: Mapping[str, Any] | list[Any]) -> dict[str, str]:
    """Return a function's or a job's environment variables."""
    variables = pairs if isinstance(pairs, Mapping) else {pair["Name"]: pair["Value"] for pair in pairs}
    return {name: str(value) for name, value in variables.items()}

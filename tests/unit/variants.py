"""What CloudFormation would make of template.yaml: The template after SAM's transform, with conditions decided for
given parameters.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from tests.fakes import REPOSITORY

Body = dict[str, Any]
SECRETS = "arn:aws:secretsmanager:us-east-1:123456789012:secret:"

# In the environment with the SAM CLI's own transform; the local code gets an S3 location, as after packaging.
_TRANSFORM = """
import json, sys
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

template = yaml_parse(open("template.yaml").read())
template["Globals"]["Function"]["CodeUri"] = "s3://bucket/code.zip"
del template["Rules"]
json.dump(Translator({}, Parser()).translate(template, {}), sys.stdout)
"""
_NOTHING = object()

LOCAL = {
    "WithBatch": "false", "RdsSecretArn": f"{SECRETS}rds", "FetcherSecretArn": f"{SECRETS}fetcher",
    "ApiKeySecretArn": f"{SECRETS}key",
}  # fmt: skip
GIVEN = {
    **LOCAL, "WithBatch": "true", "WorkerImage": "worker:1",
    "FlatFilesSecretArn": f"{SECRETS}flat-files",
    "SubnetIds": "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
    "SecurityGroupIds": "sg-0123456789abcdef0",
}  # fmt: skip
EVERYTHING = {
    "ApiKeySecretArn": f"{SECRETS}key", "FlatFilesSecretArn": f"{SECRETS}flat-files",
    "WithBatch": "true", "WorkerImage": "worker:1", "CreateNetwork": "true",
    "NatGateway": "true", "CreateDatabase": "true", "CustomerKey": "true", "Versioning": "true",
    "AlarmEmail": "me@example.com", "MonthlyVacuum": "true",
}  # fmt: skip
VARIANTS = {"local": LOCAL, "in a given network": GIVEN, "with everything": EVERYTHING}


@cache
def _transformed() -> str:
    process = subprocess.run(
        [".tools/sam/bin/python", "-c", _TRANSFORM],
        cwd=REPOSITORY,
        env={**os.environ, "AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout


@cache
def _template() -> Body:
    """Return the transformed template. All callers share it: it must not be changed."""
    template: Body = json.loads(_transformed())
    return template


def parameters_of() -> Body:
    """Return the template's parameters by name, as they are declared."""
    declared: Body = _template()["Parameters"]
    return declared


def types_of() -> dict[str, str]:
    """Return the type of every resource that some deployment has, by logical id."""
    return {name: body["Type"] for name, body in _template()["Resources"].items()}


def deployed(parameters: Mapping[str, str]) -> Body:
    """Return the resources of a deployment with these parameters, by name, with every condition decided.

    All callers with the same parameters share the answer: it must not be changed.
    """
    return _deployed(tuple(sorted(parameters.items())))


@cache
def _deployed(parameters: tuple[tuple[str, str], ...]) -> Body:
    chosen, template = dict(parameters), _template()
    assert chosen.keys() <= template["Parameters"].keys()
    values = {name: chosen.get(name, body.get("Default")) for name, body in template["Parameters"].items()}
    decider = _Decider(values, template["Conditions"])
    return {
        name: decider.resolved({key: part for key, part in body.items() if key != "Condition"})
        for name, body in template["Resources"].items()
        if "Condition" not in body or decider.holds(body["Condition"])
    }


def template_of(parameters: Mapping[str, str]) -> Body:
    """Return the template that CloudFormation gets with these parameters: conditions decided, references kept."""
    template = _template()
    declared = {
        name: body | ({"Default": parameters[name]} if name in parameters else {})
        for name, body in template["Parameters"].items()
    }
    values = {name: body.get("Default") for name, body in declared.items()}
    decider = _Decider(values, template["Conditions"], keeps_references=True)
    resources = {
        name: decider.resolved({key: part for key, part in body.items() if key != "Condition"})
        for name, body in template["Resources"].items()
        if "Condition" not in body or decider.holds(body["Condition"])
    }
    return {"AWSTemplateFormatVersion": "2010-09-09", "Parameters": declared, "Resources": resources}


def properties(resources: Body, kind: str) -> Body:
    """Return the properties of all resources of a type, by name."""
    return {name: body.get("Properties", {}) for name, body in resources.items() if body["Type"] == kind}


def statements(resources: Body) -> Iterator[tuple[str, Body]]:
    """Return every statement of every policy of a role, with the name of its resource."""
    for name, body in resources.items():
        inside = body.get("Properties", {})
        documents = [policy["PolicyDocument"] for policy in inside.get("Policies", [])]
        documents += [inside["PolicyDocument"]] if body["Type"] == "AWS::IAM::ManagedPolicy" else []
        for document in documents:
            for statement in document["Statement"]:
                yield name, statement


def listed(value: Any) -> list[Any]:  # noqa: ANN401 (one or many)
    """Return a list: a single value becomes a list of one."""
    return value if isinstance(value, list) else [value]


class _Decider:
    def __init__(
        self, values: Mapping[str, Any], conditions: Mapping[str, Any], *, keeps_references: bool = False
    ) -> None:
        self._values, self._conditions, self._keeps = values, conditions, keeps_references

    def holds(self, condition: Any) -> bool:  # noqa: ANN401 (JSON)
        if isinstance(condition, str):
            return self.holds(self._conditions[condition])
        [(function, inside)] = condition.items()
        match function:
            case "Condition":
                return self.holds(inside)
            case "Fn::Not":
                return not self.holds(inside[0])
            case "Fn::And":
                return all(map(self.holds, inside))
            case "Fn::Or":
                return any(map(self.holds, inside))
            case "Fn::Equals":
                first, second = map(_Decider(self._values, self._conditions).resolved, inside)
                return str(first) == str(second)  # CloudFormation compares text
        raise AssertionError(f"{function} is no condition")

    def resolved(self, value: Any) -> Any:  # noqa: ANN401, PLR0911 (JSON, a case each)
        """Decide every Fn::If, and insert the parameters' values; references to resources stay."""
        match value:
            case {"Fn::If": [condition, yes, no]}:
                return self.resolved(yes if self.holds(condition) else no)
            case {"Ref": "AWS::NoValue"}:
                return _NOTHING
            case {"Ref": str()} | {"Fn::Join": _} | {"Fn::Sub": _} if self._keeps:
                return value
            case {"Ref": str(name)} if name in self._values:
                return self._values[name]
            case {"Fn::Join": [separator, parts]}:
                parts = self.resolved(parts)
                return separator.join(parts) if all(isinstance(part, str) for part in listed(parts)) else value
            case {"Fn::Sub": str(text)}:
                return self._substituted(text)
            case dict():
                decided = {key: self.resolved(part) for key, part in value.items()}
                return {key: part for key, part in decided.items() if part is not _NOTHING}
            case list():
                return [part for part in map(self.resolved, value) if part is not _NOTHING]
        return value

    def _substituted(self, text: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda match: str(self._values.get(match[1], match[0])), text)

"""Check that the policies allow the needed calls, and nothing else. Both directions are checked, by the answers of the
engine.

A right is one action on one resource, with one prefix if the statement has prefixes. Statements are split into rights,
which together allow the same as the statement. So each right is used or unused, and can be removed alone.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fiblake.lake import (
    CLEANUP_RECORD_KEY,
    IDENTITIES_PREFIX,
    MANIFEST_KEY,
    QUARANTINE_RECORD_KEY,
    WITHDRAWAL_RECORD_KEY,
    Bronze,
    Month,
    archive_key,
    checkpoint_key,
    dividends_key,
    identities_key,
    quarantine_key,
    silver_key,
    splits_key,
    unclaimed_key,
)
from services.fetcher.flat_files.ledger import LEDGER_KEY
from tests.integration.permissions.calls import ACCOUNT, QUEUE_ACTIONS, Call, arn
from tests.integration.permissions.concrete import Concrete
from tests.integration.permissions.engine import Answer, Engine, Policy, Question
from tests.integration.permissions.paths import NEW, OLD
from tests.unit.variants import listed

TLS = {"aws:SecureTransport": "true"}
S3_ACTIONS = ("s3:DeleteObject", "s3:GetObject", "s3:PutObject")
KNOWN = (*(f"sqs:{action}" for action in QUEUE_ACTIONS), "sns:Publish", "lambda:InvokeFunction")
ROOMS = {
    "bars to be merged": (Bronze().date_key("AAA", OLD), Bronze().range_key("AAA", OLD, NEW)),
    "consolidated bars": (Bronze().data_key("AAA"),),
    "splits": (splits_key("AAA"),),
    "dividends": (dividends_key("AAA"),),
    "identities": (identities_key("AAA"),),
    "quarantine": (quarantine_key("AAA", OLD), quarantine_key("no key", OLD)),
    "silver": (silver_key(3, Month(2026, 11)), silver_key(34, Month(1962, 1))),
    "checkpoints": (checkpoint_key(3), checkpoint_key(34)),
    "manifest": (MANIFEST_KEY,),
    "record of deletions": (CLEANUP_RECORD_KEY,),
    "record of releases": (QUARANTINE_RECORD_KEY,),
    "record of withdrawals": (WITHDRAWAL_RECORD_KEY,),
    "unclaimed bars": (unclaimed_key(OLD, NEW, 0),),
    "ledger of flat files": (LEDGER_KEY,),
    "archive": (archive_key(OLD), "archive/adopted/bronze/raw_ohlcv/symbol=AAA/data.parquet"),
    "no place of ours": ("bronze/other.parquet", f"{IDENTITIES_PREFIX}.parquet", "processing_metadata/other", "other"),
}
"""Every kind of key that docs/architecture.md names, with samples of it."""
_KINDS = {
    "bars to be merged": r"bronze/raw_ohlcv/symbol=[^/]+/(date|range)=[^/]+\.parquet",
    "consolidated bars": r"bronze/raw_ohlcv/symbol=[^/]+/data\.parquet",
    "splits": r"bronze/splits/symbol=[^/]+\.parquet",
    "dividends": r"bronze/dividends/symbol=[^/]+\.parquet",
    "identities": r"bronze/identities/symbol=[^/]+\.parquet",
    "quarantine": r"bronze/quarantine/.+",
    "silver": r"silver/silver_\d+d/.+",
    "checkpoints": r"processing_metadata/silver_\d+d_checkpoint\.json",
    "manifest": re.escape(MANIFEST_KEY),
    "record of deletions": re.escape(CLEANUP_RECORD_KEY),
    "record of releases": re.escape(QUARANTINE_RECORD_KEY),
    "record of withdrawals": re.escape(WITHDRAWAL_RECORD_KEY),
    "unclaimed bars": r"bronze/unclaimed/.+",
    "ledger of flat files": re.escape(LEDGER_KEY),
    "archive": r"archive/.+",
}


def room(key: str) -> str:
    """Return the kind of a key."""
    return next((name for name, kind in _KINDS.items() if re.fullmatch(kind, key)), "no place of ours")


@dataclass(frozen=True)
class Fault:
    """A fault of a role's rights, in one sentence."""

    kind: str
    """denied, unused, too wide, or unlistable."""
    role: str
    what: str

    def __str__(self) -> str:
        return f"{self.role}: {self.kind}: {self.what}"


@dataclass(frozen=True)
class Policies:
    """A deployment's policies; the checker is tested on changed copies of it."""

    identity: Mapping[str, Sequence[Policy]]
    """Each role's policies, split into rights (`rights_of`)."""
    resource: Mapping[str, Policy]

    @classmethod
    def of(cls, template: Concrete) -> "Policies":
        identity = {role: [*_apart(role, policies)] for role, policies in template.policies().items()}
        return cls(identity, template.resource_policies())

    def question(self, call: Call, context: Mapping[str, str] = TLS) -> Question:
        """Return the question whether a role may make this call."""
        principal = f"arn:aws:sts::{ACCOUNT}:assumed-role/{call.who}/session"
        return Question(
            principal, call.action, call.resource, {**context, **dict(call.context)}, self.identity[call.who],
            self.resource.get(_policy_of(call.resource)),
        )  # fmt: skip


def _apart(role: str, policies: Mapping[str, Policy]) -> Iterator[Policy]:
    """Split a role's policies: one document for each right, with its place in the list as Sid (a Deny stays whole)."""
    number = 0
    for policy in policies.values():
        for statement in policy["Statement"]:
            for part in _rights(statement):
                number += 1
                yield {"Version": "2012-10-17", "Statement": [{**part, "Sid": f"{role}{number}"}]}


def _rights(statement: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if statement["Effect"] != "Allow":
        yield dict(statement)
        return
    prefixes = listed(statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix", [None]))
    for action in listed(statement["Action"]):
        for resource in listed(statement["Resource"]):
            for prefix in prefixes:
                right = {**statement, "Action": action, "Resource": resource}
                if prefix is not None:
                    right["Condition"] = {**statement["Condition"], "StringLike": {"s3:prefix": prefix}}
                yield right


def right(policy: Policy) -> str:
    """Return a right in words."""
    (right_statement,) = policy["Statement"]
    prefix = right_statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
    return f"{right_statement['Action']} on {right_statement['Resource']}" + (
        f" with prefix {prefix}" if prefix else ""
    )


def _policy_of(resource: str) -> str:
    return resource.partition("/")[0] if resource.startswith("arn:aws:s3:::") else resource


def faults(engine: Engine, policies: Policies, calls: Iterable[Call], template: Concrete) -> list[Fault]:
    """Return all faults: needed calls that are denied, and allowed calls that are not needed."""
    needed = sorted(call for call in calls if call.who in policies.identity)
    answers = engine.ask([policies.question(call) for call in needed])
    return [
        *(Fault("denied", c.who, str(c)) for c, a in zip(needed, answers, strict=True) if not a.allowed),
        *_unused(policies, answers),
        *_too_wide(engine, policies, needed, template),
        *_unlistable(engine, policies, template),
    ]


def _unused(policies: Policies, answers: Sequence[Answer]) -> Iterator[Fault]:
    used = frozenset[str]().union(*(answer.by for answer in answers))
    for role, parts in policies.identity.items():
        for part in parts:
            (statement,) = part["Statement"]
            if statement["Effect"] == "Allow" and statement["Sid"] not in used:
                yield Fault("unused", role, right(part))


def _too_wide(engine: Engine, policies: Policies, needed: Iterable[Call], template: Concrete) -> Iterator[Fault]:
    """Try every role on every resource of the stack: each action that it may do there must be in a recorded call."""
    used = {(call.who, call.action, _place(call)) for call in needed}
    probes = [probe for role in policies.identity for probe in _probes(role, policies, template)]
    answers = engine.ask([policies.question(probe) for probe in probes])
    wide = {
        (probe.who, probe.action, _place(probe))
        for probe, answer in zip(probes, answers, strict=True)
        if answer.allowed
    }
    for role, action, place in sorted(wide - used):
        yield Fault("too wide", role, f"{action} on {place}, which no call does")


def _place(call: Call) -> str:
    """Return the object of a call: the kind of its key (or of the listed prefix), else the resource itself."""
    _, _, key = call.resource.partition("/")
    if call.action in S3_ACTIONS:
        return room(key)
    prefix = dict(call.context).get("s3:prefix")
    if prefix is not None:
        return "a listing" if prefix.endswith("/") else room(prefix)
    return re.sub(r"(:log-stream:).*|(:job-definition/[^:]+):\d+", r"\1\2", call.resource)


def _probes(role: str, policies: Policies, template: Concrete) -> Iterator[Call]:
    lake = template.attribute("DataLakeBucket", "Arn")
    for sample in (key for keys in ROOMS.values() for key in keys):
        yield from (Call(role, action, f"{lake}/{sample}") for action in S3_ACTIONS)
        yield Call(role, "s3:ListBucket", lake, (("s3:prefix", sample),))
    granted = {s["Action"] for part in policies.identity[role] for s in part["Statement"] if s["Effect"] == "Allow"}
    places = {
        "sqs:": [arn("sqs", queue["QueueName"]) for queue in template.of_type("AWS::SQS::Queue").values()],
        "sns:": [arn("sns", topic["TopicName"]) for topic in template.of_type("AWS::SNS::Topic").values()],
        "lambda:": [template.attribute(name, "Arn") for name in template.of_type("AWS::Lambda::Function")],
    }
    for service, resources in places.items():
        own = {action for action in granted if action.startswith(service)}
        documented = {action for action in KNOWN if action.startswith(service)}
        tried = {action for action in own if "*" not in action} | (documented if own else set())
        yield from (Call(role, action, resource) for action in tried for resource in resources)


def _unlistable(engine: Engine, policies: Policies, template: Concrete) -> Iterator[Fault]:
    """A role must be able to list every key that it may read; otherwise a missing key is 403 and not 404."""
    lake = template.attribute("DataLakeBucket", "Arn")
    pairs = [(role, key) for role in policies.identity for keys in ROOMS.values() for key in keys]
    reads = engine.ask([policies.question(Call(role, "s3:GetObject", f"{lake}/{key}")) for role, key in pairs])
    lists = engine.ask([policies.question(Call(r, "s3:ListBucket", lake, (("s3:prefix", key),))) for r, key in pairs])
    for (role, key), read, listing in zip(pairs, reads, lists, strict=True):
        if read.allowed and not listing.allowed:
            yield Fault("unlistable", role, f"may read {key}, but a missing one is answered with 403")


def resource_faults(engine: Engine, policies: Policies, calls: Iterable[Call]) -> list[Fault]:
    """Return the faults of the policies of queues, topics, roles, bucket and key.

    The services' requests must be allowed; those of another source or account, or without TLS, must be denied.
    """
    needed = sorted(calls)
    faults: list[Fault] = []
    for call, answer in zip(needed, _sent(engine, policies, needed, {}), strict=True):
        if not answer.allowed:
            faults.append(Fault("denied", call.who, str(call)))
    for what, changed in {
        "from another source": {"aws:SourceArn": "arn:aws:sns:us-east-1:999999999999:x", "aws:SourceAccount": "9" * 12},
        "without TLS": {"aws:SecureTransport": "false"},
    }.items():
        tried = [call for call in needed if what != "without TLS" or call.action != "sts:AssumeRole"]
        for call, answer in zip(tried, _sent(engine, policies, tried, changed), strict=True):
            if answer.allowed:
                faults.append(Fault("too wide", call.who, f"{call.action} on {call.resource} {what}"))
    return faults + _unused_senders(policies, needed)


def _sent(engine: Engine, policies: Policies, calls: Sequence[Call], changed: Mapping[str, str]) -> list[Answer]:
    questions = []
    for call in calls:
        keys = {**TLS, **dict(call.context)}
        keys |= {name: value for name, value in changed.items() if name in keys}
        questions.append(
            Question(call.who, call.action, call.resource, keys, (), policies.resource.get(_policy_of(call.resource)))
        )
    return engine.ask(questions)


def _unused_senders(policies: Policies, calls: Sequence[Call]) -> list[Fault]:
    """Every Allow of a queue's, topic's or role's policy must allow a recorded call."""
    pairs = {(call.who, call.resource) for call in calls}
    return [
        Fault("unused", service, f"{listed(statement['Action'])} on {resource}")
        for resource, policy in policies.resource.items()
        if ":kms:" not in resource
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
        for service in _senders(statement["Principal"])
        if (service, resource) not in pairs
    ]


def _senders(principal: Any) -> list[str]:  # noqa: ANN401 (JSON)
    return listed(principal["Service"]) if isinstance(principal, dict) and "Service" in principal else [str(principal)]


def sole(engine: Engine, policies: Policies, calls: Iterable[Call]) -> dict[tuple[str, str], Call]:
    """Return, for each right by its role and Sid, a call that only this right allows."""
    needed = sorted(call for call in calls if call.who in policies.identity)
    sole_calls: dict[tuple[str, str], Call] = {}
    for call, answer in zip(needed, engine.ask([policies.question(call) for call in needed]), strict=True):
        own = [sid for sid in answer.by if sid.startswith(call.who)]
        if len(own) == 1:
            sole_calls.setdefault((call.who, own[0]), call)
    return sole_calls


def only(policies: Policies, role: str) -> Policies:
    """Return the policies of this role alone."""
    return Policies({role: policies.identity[role]}, policies.resource)


def without(policies: Policies, role: str, sid: str) -> Policies:
    """Return the policies without one right."""
    statements = [part for part in policies.identity[role] if part["Statement"][0]["Sid"] != sid]
    return Policies({**policies.identity, role: statements}, policies.resource)


def with_right(policies: Policies, role: str, **statement: Any) -> Policies:  # noqa: ANN401 (a statement's parts)
    """Return the policies with one more right."""
    added = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Sid": "Added", **statement}]}
    more = [*policies.identity[role], *_apart(f"{role}Added", {"added": added})]
    return Policies({**policies.identity, role: more}, json.loads(json.dumps(dict(policies.resource))))

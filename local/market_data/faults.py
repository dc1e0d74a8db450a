"""The requests that fail, and how, as a test or the demo has scripted."""

import json
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from random import Random
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from local.market_data.query import (
    Json,
    RefusedError,
    bad_request,
    before_end_of_day,
    not_authorized,
    outside_timeframe,
    unknown_key,
)

Kind = Literal[
    "drop", "cut", "delay", "truncated", "short", "empty", "circle", "DELAYED", "nonsense",
    "400", "401", "403 not entitled", "403 timeframe", "403 before end of day", "429", "500", "502", "503", "504",
]  # fmt: skip
_COUNTS: Final = ("resultsCount", "queryCount", "count")


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class Rule(BaseModel):
    """One line of the script: requests of `path` (a pattern with *) fail in the way of `kind`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Annotated[tuple[Kind, ...], BeforeValidator(_listed), Field(min_length=1)]
    path: str = "*"
    times: int | None = Field(None, ge=0)
    """How often at most (None: always)."""
    rate: float = Field(1.0, ge=0, le=1)
    """How many of the requests, by chance."""
    seed: int = 0
    """The seed: a draw depends on request and attempt only, so other requests do not change it."""
    seconds: float = Field(1.0, ge=0)
    """The seconds of a `delay`."""
    retry_after: int | None = None
    """The Retry-After header of a `429` (None: it has none)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault of one request."""

    kind: Kind
    rule: Rule


class Script:
    """The rules, and how often each was applied; the first that fits a request decides."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = rules
        self._lock = threading.Lock()
        self._done: Counter[int] = Counter()
        self._attempts: Counter[tuple[int, str]] = Counter()

    def fault(self, path: str, query_text: str) -> Fault | None:
        """Return the fault of this request, or None."""
        target = f"{path}?{query_text}" if query_text else path
        with self._lock:
            for number, rule in enumerate(self._rules):
                if fnmatchcase(path, rule.path) or fnmatchcase(target, rule.path):
                    chance = self._chance(number, rule, target)
                    if (rule.times is None or self._done[number] < rule.times) and chance.random() < rule.rate:
                        self._done[number] += 1
                        return Fault(chance.choice(rule.kind), rule)
        return None

    def _chance(self, number: int, rule: Rule, target: str) -> Random:
        self._attempts[number, target] += 1
        return Random(f"{rule.seed} {target} {self._attempts[number, target]}")  # noqa: S311 (no secret)


def refuse(fault: Fault) -> None:
    """Raise RefusedError if the fault is an answer with an error."""
    wait = {} if fault.rule.retry_after is None else {"Retry-After": str(fault.rule.retry_after)}
    refusals = {
        "400": bad_request("scripted"),
        "401": unknown_key(),
        "403 not entitled": not_authorized("You are not entitled to this data. Please upgrade your plan."),
        "403 timeframe": outside_timeframe(),
        "403 before end of day": before_end_of_day(),
        "429": RefusedError(
            HTTPStatus.TOO_MANY_REQUESTS, wait, status="ERROR", error="You've exceeded the maximum requests per minute."
        ),
    }
    if fault.kind in refusals:
        raise refusals[fault.kind]
    if fault.kind.startswith("5"):
        raise RefusedError(HTTPStatus(int(fault.kind)), status="ERROR", error="scripted")


def spoil(body: Json, fault: Fault | None, url: str) -> Json:
    """Return the answer changed by the fault; an answer without a list of rows is only ever DELAYED.

    `nonsense` is bars that close below zero.
    """
    rows = body.get("results")
    changed: Json = {}
    if fault is not None and fault.kind == "DELAYED":
        changed = {"status": "DELAYED"}
    elif fault is None or not isinstance(rows, list):
        pass
    elif fault.kind == "short" and any(name in body for name in _COUNTS):  # without a count nothing shows the loss
        changed = {"results": rows[:-1]}
    elif fault.kind == "empty":
        body = {name: value for name, value in body.items() if name not in {"results", "next_url"}}
        changed = {name: 0 for name in _COUNTS if name in body}
    elif fault.kind == "nonsense":
        changed = {"results": [row | {"c": -row["c"]} if "c" in row else row for row in rows]}
    elif fault.kind == "circle":
        changed = {"next_url": url}
    return body | changed


def encode_answer(body: Json, fault: Fault | None) -> bytes:
    """Return the answer's text, which ends in the middle if the fault is that."""
    content = json.dumps(body).encode()
    return content[: len(content) // 2] if fault is not None and fault.kind == "truncated" else content

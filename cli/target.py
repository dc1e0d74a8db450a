"""Find the stack that the global options name, and open its parts."""

import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Final, TypeVar

from fiblake.errors import ConfigurationError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    import typer
    from mypy_boto3_cloudformation import CloudFormationClient
    from pydantic_settings import BaseSettings

    from shared.database import DatabaseAddress, Tls
    from shared.jobs import JobQueue
    from shared.metrics import Latency
    from shared.objects import ObjectStore
    from shared.queues import Queue, Topic

SettingsT = TypeVar("SettingsT", bound="BaseSettings")
DEFAULT_STACK: Final = "dev-fiblake"
"""The stack's name in samconfig.toml."""
_REGION: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
SYMBOLS_PER_CHILD: Final = 500
_QUEUE_URL: Final = "QueueUrl"
_DEAD_LETTERS_URL: Final = "DeadLettersUrl"


@dataclass(frozen=True, slots=True)
class Choice:
    """The values of the global options."""

    profile: str | None = None
    region: str | None = None
    endpoint_url: str | None = None
    stack: str = DEFAULT_STACK
    local: bool = False
    as_json: bool = False

    def environment(self) -> dict[str, str]:
        """Return the environment variables that make AWS's clients use the chosen account."""
        chosen = {
            "AWS_PROFILE": self.profile,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint_url,
        }
        return {name: value for name, value in chosen.items() if value}


@dataclass(frozen=True)
class Target:
    """A deployed stack: the outputs of its template, and its parts."""

    name: str
    outputs: Mapping[str, str]
    log_folder: "Path | None" = None
    """The folder of the logs, if they are files (a local stack)."""

    def output(self, name: str) -> str:
        """Return one output of the stack; raise NotFoundError if its template has no such output."""
        try:
            return self.outputs[name]
        except KeyError:
            raise NotFoundError(
                f"stack {self.name} has no output {name}: is it fiblake's, and deployed from this version's template?"
            ) from None

    @property
    def bucket(self) -> str:
        """The lake's bucket."""
        return self.output("BucketName")

    @cached_property
    def store(self) -> "ObjectStore":
        """The lake."""
        from shared.objects import ObjectStore

        return ObjectStore.connect(self.bucket)

    @property
    def queue_urls(self) -> dict[str, str]:
        """The URL of each work queue, by its name without the environment."""
        return self._urls(_QUEUE_URL)

    @property
    def lone_dead_letter_urls(self) -> dict[str, str]:
        """The URL of each dead-letter queue of a function without a queue."""
        return self._urls(_DEAD_LETTERS_URL)

    @property
    def log_groups(self) -> list[str]:
        """The log groups of the functions and jobs that a put passes."""
        functions = ("consolidation-router", "resampler", "history-fetcher", "ohlcv-fetcher")
        return [
            *(f"/aws/lambda/{self._environment}{name}" for name in functions),
            f"/aws/batch/{self._environment}batch-bronze-consolidator",
        ]

    def queue(self, url: str) -> "Queue":
        """Open the queue at `url`."""
        from shared.queues import Queue

        return Queue.connect(url)

    @property
    def complete(self) -> "Topic":
        """The topic of completion events."""
        from shared.queues import Topic

        return Topic.connect(self.output("ConsolidationCompleteTopicArn"))

    def queue_ages(self) -> dict[str, int]:
        """Return the age of the oldest message of each queue, in seconds, according to CloudWatch."""
        from shared.metrics import oldest_ages

        names = {url.rsplit("/", 1)[-1]: name for name, url in self.queue_urls.items()}
        return {names[full]: age for full, age in oldest_ages(list(names)).items()}

    def latencies(self) -> "dict[int, Latency]":
        """Return the time from a put to silver on the last day with any, by interval, according to CloudWatch."""
        from fiblake.lake import INTERVALS
        from shared.metrics import latencies

        return latencies(f"fiblake/{self._environment.removesuffix('-')}", INTERVALS)

    def jobs(self, prefix: str) -> "JobQueue":
        """Open the workers' job queue, for jobs whose names begin with `prefix`."""
        from shared.jobs import JobQueue

        return JobQueue.connect(self.output("BatchJobQueueName"), self.output("BatchJobDefinitionName"), prefix)

    def start_workers(self, requests: int) -> None:
        """Make sure that a job drains the consolidation queue, which has no function of its own."""
        from shared.jobs import DRAINS

        self.jobs(DRAINS).ensure(uuid.uuid4().hex, ceil(requests / SYMBOLS_PER_CHILD))

    def database(self) -> "tuple[DatabaseAddress, Tls]":
        """Return the address of Postgres, with the fetchers' user, and the protection of connections."""
        from shared.database import DatabaseAddress
        from shared.secrets import read_secret

        # A stack of an older version has one user for all.
        output = "FetcherSecretArn" if "FetcherSecretArn" in self.outputs else "RdsSecretArn"
        return DatabaseAddress.of_secret(read_secret(self.output(output))), self.database_tls()

    def database_tls(self) -> "Tls":
        """Return the protection of connections to Postgres."""
        from shared.database import Tls

        return Tls(self.output("DatabaseTls") != "disable", os.environ.get("DATABASE_CA_FILE") or None)

    @property
    def _environment(self) -> str:
        """The beginning of all names of the stack."""
        # Every version has the queue bronze-arrivals: the part before its name is the environment.
        return self.output("BronzeArrivalsQueueUrl").rsplit("/", 1)[-1].removesuffix("bronze-arrivals")

    def _urls(self, ending: str) -> dict[str, str]:
        urls = [url for name, url in self.outputs.items() if name.endswith(ending)]
        if not urls:
            raise NotFoundError(f"stack {self.name} has no output of the form ...{ending}: is it fiblake's?")
        names = {url.rsplit("/", 1)[-1].removeprefix(self._environment): url for url in urls}
        return dict(sorted(names.items(), key=lambda pair: _place(pair[0])))


def target(context: "typer.Context") -> Target:
    """Find the stack that the global options name, and make this process's AWS clients use it.

    Raises NotFoundError if there is no such stack, EntitlementError if the credentials may not see it, NotRunningError
    if the local stack is not running.
    """
    choice = context.find_object(Choice) or Choice()
    if choice.local:
        return _local()
    from fiblake.stacks import outputs_of

    return Target(choice.stack, outputs_of(use_account(choice), choice.stack))


def use_account(choice: Choice) -> "CloudFormationClient":
    """Make this process's AWS clients use the account that the global options name, before any of them is created.

    Returns the first of them. Raises ConfigurationError if an option, a variable or a file is invalid: boto would end
    in a traceback.
    """
    from fiblake.reader.opening import is_url
    from fiblake.stacks import check_profile, connect

    _keep_stdout_clean()
    if choice.endpoint_url and not is_url(choice.endpoint_url):
        raise ConfigurationError(f"--endpoint-url {choice.endpoint_url!r} is no URL such as http://localhost:4566")
    if choice.region and not _REGION.fullmatch(choice.region):
        raise ConfigurationError(f"--region {choice.region!r} is no region such as us-east-1")
    os.environ.update(choice.environment())
    for name, value in os.environ.items():
        if name.startswith("AWS_ENDPOINT_URL") and value and not is_url(value):
            raise ConfigurationError(f"{name}={value!r} is no URL such as http://localhost:4566")
    if choice.profile:
        check_profile(choice.profile)
    return connect()


def settings_of(context: "typer.Context", function: str, settings: "type[SettingsT]") -> "SettingsT":
    """Read a service's settings from its function in the stack; this process's own environment takes precedence.

    `function` is the stack's output with the function's name. Raises as `target` and shared.settings.load do.
    """
    from shared.functions import variables_of
    from shared.settings import load

    stack = target(context)
    for name, value in variables_of(stack.output(function)).items():
        os.environ.setdefault(name, value)
    return load(settings)


def _local() -> Target:
    from local import supervisor
    from local.environment import isolate

    stack = supervisor.running_stack()
    _keep_stdout_clean()
    isolate()
    os.environ.update(stack.environment())
    return Target("local", stack.outputs, stack.folder)


def _keep_stdout_clean() -> None:
    # A command's answer goes to stdout, for a program to read; log lines must not go there.
    import sys

    from shared.telemetry import level_of, logger

    logger.registered_handler.setStream(sys.stderr)  # type: ignore[attr-defined]
    if level_of(os.environ) is None:
        logger.setLevel("WARNING")  # successes are in the answer
    os.environ["POWERTOOLS_METRICS_DISABLED"] = "true"  # they are for the operators of the functions


def _place(name: str) -> tuple[int, int, str]:
    """Sort queues in the order of the flow, the intervals by their length, and other queues last."""
    flow = ("history", "bronze-arrivals", "consolidation")
    interval = name.removeprefix("resample-").removesuffix("d")
    if name in flow:
        return flow.index(name), 0, name
    return (len(flow), int(interval), name) if interval.isdigit() else (len(flow) + 1, 0, name)

"""Start the whole chain on one machine: database, vendor, Batch, AWS, and then the real template."""

import json
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fiblake.decoding import DEFAULT_LIMIT_MB
from fiblake.errors import ConfigurationError
from fiblake.lake import BRONZE_PREFIX
from local.deploy import STACK, build, deploy
from local.emulator import REPOSITORY, client, client_environment, emulator
from local.environment import for_servers
from local.postgres import postgres
from local.processes import free_port, start_server
from shared.database import DatabaseAddress, Tls

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

API_KEY: Final = "local-replay"
ENVIRONMENT: Final = "local"
MAX_RECEIVES: Final = "6"
_MARK: Final = ".fiblake-stack"
_LEADS_ELSEWHERE: Final = ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN")
"""The prefixes of variables that would send a client of the stack to another account or host."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack: the addresses of its parts, and the outputs of its template."""

    folder: Path
    endpoint_url: str
    batch_url: str
    market_data_url: str
    database_secret: str
    outputs: dict[str, str]

    @property
    def bucket(self) -> str:
        """The lake's bucket."""
        return self.outputs["BucketName"]

    @property
    def queue_urls(self) -> dict[str, str]:
        """The URL of each queue, by its name without the environment."""
        urls = [url for name, url in self.outputs.items() if name.endswith("QueueUrl")]
        return {url.rsplit("/", 1)[-1].removeprefix(f"{ENVIRONMENT}-"): url for url in urls}

    def environment(self) -> dict[str, str]:
        """Return the environment in which any AWS client talks to this stack and to nothing else."""
        return {**client_environment(self.endpoint_url), "AWS_ENDPOINT_URL_BATCH": self.batch_url}

    def client(self, service: str) -> Any:  # noqa: ANN401 (boto's clients share no type)
        """Return a boto3 client of this stack, independent of this process's own environment."""
        url = self.batch_url if service == "batch" else self.endpoint_url
        return client(service, url)


def environment_of(stack: Stack | None) -> dict[str, str]:
    """Return the variables with which AWS clients and fiblake use a stack; None: their names only."""
    if stack is None:
        stack = Stack(Path(), "", "", "", "", {"BucketName": ""})
    return {**stack.environment(), "S3_BUCKET": stack.bucket, "FIBLAKE_STACK": STACK}


def foreign_settings(environment: Mapping[str, str], stack: Stack) -> list[str]:
    """Return the AWS variables of an environment that would lead a client of the stack elsewhere."""
    own = stack.environment()
    return sorted(name for name in environment if name.startswith(_LEADS_ELSEWHERE) and name not in own)


@contextmanager
def run_stack(
    folder: Path,
    *,
    first_session: date | None = None,
    bars: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    enforce_iam: bool = False,
) -> Iterator[Stack]:
    """Run a stack for the block, with all files below `folder`; earlier files there are removed.

    `first_session` is the first session of the first fetch; `bars` is a folder with the vendor's bars. `say` is called
    for each step. With `enforce_iam` the emulator denies a function what its role does not allow. Raises ChildError or
    DeployError, which quote the output of the failed part.
    """
    folder = _emptied(folder.resolve())
    with ExitStack() as parts:
        say("building the functions")
        built = build()
        say("starting PostgreSQL")
        database = parts.enter_context(postgres(folder / "postgres", durable=False))
        fetcher = json.dumps({**database, "username": "fiblake_fetcher", "password": secrets.token_hex()})
        database_secret = json.dumps(database)
        _migrate(DatabaseAddress.of_secret(database_secret), DatabaseAddress.of_secret(fetcher))
        say("starting the market-data replay, Batch and the AWS emulator")
        replayed = ["--bars", str(bars)] if bars else []
        market_data_url = parts.enter_context(_server(folder, "market_data_server", "--api-key", API_KEY, *replayed))
        # Each of the two calls the other. Batch starts later and stops first: its jobs use the emulator.
        batch_port = free_port()
        batch_url = f"http://127.0.0.1:{batch_port}"
        extra_env = {"AWS_ENDPOINT_URL_BATCH": batch_url, "AUTH": str(enforce_iam).lower()}
        endpoint_url = parts.enter_context(emulator(folder / "aws", extra_env))
        batch = ("--port", str(batch_port), "--work-dir", str(folder / "jobs"), "--aws-url", endpoint_url)
        parts.enter_context(_server(folder, "batch_server", *batch))
        say("deploying template.yaml")
        arns = _create_secrets(endpoint_url, database_secret, fetcher)
        first = first_session.isoformat() if first_session else ""
        outputs = deploy(built, endpoint_url, {
            "Environment": ENVIRONMENT, "MarketDataUrl": market_data_url, "DatabaseTls": "disable",
            "FirstSession": first, **arns,
        })  # fmt: skip
        stack = Stack(folder, endpoint_url, batch_url, market_data_url, database_secret, outputs)
        _register_job_definitions(stack)
        yield stack


def _emptied(folder: Path) -> Path:
    """Make an empty folder; raise ConfigurationError for a folder with files that no stack has made."""
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise ConfigurationError(f"{folder} is not empty and not a stack's: name another folder, or empty it")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARK).touch()
    return folder


@contextmanager
def _server(folder: Path, module: str, *options: str) -> Iterator[str]:
    port_file = folder / f"{module}.port"
    argv = (sys.executable, "-m", f"local.{module}", "--port-file", str(port_file), *options)
    log = folder / f"{module}.log"
    # Jobs inherit the Batch stand-in's environment.
    child, port = start_server(argv, port_file=port_file, log=log, env=for_servers(folder), cwd=REPOSITORY)
    with child:
        yield f"http://127.0.0.1:{port}"


def _migrate(owner: DatabaseAddress, fetcher: DatabaseAddress) -> None:
    """Do the work of the migration job, before there is a Secrets Manager."""
    # Alembic takes a second to import, so import it only here.
    from migrations.fetcher_user import set_up_fetcher_user  # noqa: PLC0415
    from migrations.schema import upgrade  # noqa: PLC0415

    plain = Tls(verify=False)
    upgrade(owner, plain)
    set_up_fetcher_user(owner, fetcher, plain)


def _create_secrets(endpoint_url: str, database_secret: str, fetcher_secret: str) -> dict[str, str]:
    manager: SecretsManagerClient = client("secretsmanager", endpoint_url)
    values = {
        "RdsSecretArn": ("rds", database_secret), "FetcherSecretArn": ("fetcher", fetcher_secret),
        "ApiKeySecretArn": ("api-key", API_KEY),
    }  # fmt: skip
    return {
        parameter: manager.create_secret(Name=f"{ENVIRONMENT}/{name}", SecretString=value)["ARN"]
        for parameter, (name, value) in values.items()
    }


def job_environment(stack: Stack) -> dict[str, str]:
    """Return the environment of the worker's jobs: that of the template's job definition, and the stack's addresses."""
    return {
        **_shared_by_jobs(stack, "consolidator"),
        "MODE": "incremental",
        "MAX_WORKERS": "8",
        "RETENTION_DAYS": "30",
        "CONSOLIDATION_QUEUE_URL": stack.outputs["ConsolidationQueueUrl"],
        "CONSOLIDATION_COMPLETE_TOPIC_ARN": stack.outputs["ConsolidationCompleteTopicArn"],
        "MAX_RECEIVE_COUNT": MAX_RECEIVES,
        "IDLE_SECONDS": "2",  # one check suffices: the emulator's counts are exact
        "TRACE_NAME": "",  # the emulator has no X-Ray
    }


def full_resample_environment(stack: Stack) -> dict[str, str]:
    """Return the same for the jobs of the full resample."""
    return {
        **_shared_by_jobs(stack, "full-resampler"),
        "SILVER_UPDATED_TOPIC_ARN": stack.outputs["SilverUpdatedTopicArn"],
        "RESAMPLING_RETENTION_YEARS": "0",
        "RESAMPLING_ADJUSTED": "true",
        "MEMORY_MB": "3000",
        "TRACE_NAME": "",  # the emulator has no X-Ray
    }


def flat_files_environment(stack: Stack) -> dict[str, str]:
    """Return the same for the jobs that load flat files."""
    return {
        **_shared_by_jobs(stack, "flat-files"),
        "RDS_SECRET_ARN": stack.outputs["FetcherSecretArn"],
        "DATABASE_TLS": "disable",
        "DATABASE_CA_FILE": "",
        "FLAT_FILES_SECRET_ARN": "",  # the caller that submits a job names its source
        "FLAT_FILE_MEMORY_MB": "2400",
        "UNIVERSE_TYPES": "CS,ADRC,ETF",
        "UNIVERSE": "",
    }


def _shared_by_jobs(stack: Stack, service_name: str) -> dict[str, str]:
    return {
        **stack.environment(),
        "S3_BUCKET": stack.bucket,
        "S3_PREFIX": BRONZE_PREFIX,
        "READ_LIMIT_MB": str(DEFAULT_LIMIT_MB),
        "LOG_LEVEL": "INFO",
        "POWERTOOLS_SERVICE_NAME": service_name,
        "POWERTOOLS_METRICS_NAMESPACE": f"fiblake/{ENVIRONMENT}",
    }


def _register_job_definitions(stack: Stack) -> None:
    """Register the template's job definitions with the Batch stand-in (its Batch resources are left out here)."""
    jobs = {
        "BatchJobDefinitionName": ("services.consolidator", job_environment(stack)),
        "FullResampleJobDefinitionName": ("services.resampler", full_resample_environment(stack)),
        "FlatFilesJobDefinitionName": ("services.fetcher.flat_files", flat_files_environment(stack)),
    }
    for output, (module, environment) in jobs.items():
        stack.client("batch").register_job_definition(
            jobDefinitionName=stack.outputs[output],
            type="container",
            retryStrategy={"attempts": 3},
            containerProperties={
                "image": "local",
                "command": ["python", "-m", module],
                "environment": [{"name": name, "value": value} for name, value in environment.items()],
            },
        )

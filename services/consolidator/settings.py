"""Settings of the router and the worker."""

from typing import Literal

from pydantic import Field
from pydantic_settings import CliImplicitFlag, SettingsConfigDict

from fiblake.lake import BRONZE_PREFIX
from shared.jobs import LARGEST_ARRAY
from shared.settings import Settings, Symbols


class RouterSettings(Settings):
    """Environment of the router function."""

    s3_bucket: str
    s3_prefix: str = BRONZE_PREFIX
    consolidation_queue_url: str
    batch_job_queue: str
    batch_job_definition: str
    symbols_per_child: int = Field(default=500, ge=1)
    largest_array: int = Field(default=LARGEST_ARRAY, ge=1, le=LARGEST_ARRAY)
    max_receive_count: int = Field(default=6, ge=1)


class WorkerSettings(Settings):
    """The worker's command line; each option is an environment variable of the same name as well."""

    model_config = SettingsConfigDict(
        frozen=True, env_ignore_empty=True, extra="ignore",
        cli_prog_name="python -m services.consolidator", cli_kebab_case=True, cli_enforce_required=False,
    )  # fmt: skip

    s3_bucket: str = Field(description="bucket of the lake")
    s3_prefix: str = Field(default=BRONZE_PREFIX, description="folder of the bronze bars in the bucket")
    consolidation_queue_url: str | None = Field(default=None, description="queue to drain in incremental mode")
    consolidation_complete_topic_arn: str = Field(description="topic of the completion events")
    mode: Literal["incremental", "full"] = Field(
        default="incremental", description="incremental: what the queue names; full: every symbol of the lake"
    )
    symbols: Symbols = Field(default=(), description="only these (AAPL,MSFT), without the queue")
    max_workers: int = Field(default=8, ge=1, le=256, description="symbols in work at once")
    retention_days: int = Field(default=30, ge=0, description="merged files of younger sessions are kept")
    skip_cleanup: CliImplicitFlag[bool] = Field(default=False, description="delete nothing")
    round_size: int = Field(default=100, ge=1, description="messages taken at once")
    idle_seconds: int = Field(
        default=60, ge=0, description="how long the queue must look empty before the end (children but the first: 4)"
    )
    max_receive_count: int = Field(default=6, ge=1, description="receives after which a message is given up")
    trace_name: str = Field(default="", description="name of the worker in X-Ray; empty: it is not traced")
    aws_batch_job_array_index: int = Field(default=0, ge=0, description="set by AWS Batch")
    aws_batch_job_array_size: int = Field(default=1, ge=1, description="set by AWS Batch")

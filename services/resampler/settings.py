"""Settings of the resampler: the function, and the job that computes all of silver again."""

from pydantic import Field
from pydantic_settings import CliImplicitFlag, SettingsConfigDict

from fiblake.lake import BRONZE_PREFIX
from shared.settings import Settings


class ResamplerSettings(Settings):
    """Environment of the resampler function."""

    s3_bucket: str
    s3_prefix: str = BRONZE_PREFIX
    silver_updated_topic_arn: str
    resampling_retention_years: int = Field(default=0, ge=0, le=200)
    resampling_adjusted: bool = True
    max_receive_count: int = Field(default=6, ge=1)


class FullResamplerSettings(Settings):
    """The job's command line; each option is an environment variable of the same name as well."""

    model_config = SettingsConfigDict(
        frozen=True, env_ignore_empty=True, extra="ignore",
        cli_prog_name="python -m services.resampler", cli_kebab_case=True, cli_enforce_required=False,
    )  # fmt: skip

    s3_bucket: str = Field(description="bucket of the lake")
    s3_prefix: str = Field(default=BRONZE_PREFIX, description="folder of the bronze bars in the bucket")
    silver_updated_topic_arn: str = Field(description="topic of the events about updated tables")
    resampling_retention_years: int = Field(default=0, ge=0, le=200, description="history to resample; 0: all of it")
    resampling_adjusted: CliImplicitFlag[bool] = Field(default=True, description="apply splits")
    rebuild: CliImplicitFlag[bool] = Field(
        default=False, description="also overwrite rows that were computed from the same version of the bars"
    )
    memory_mb: int = Field(default=3000, ge=512, description="memory to keep to; less means more readings of bronze")
    trace_name: str = Field(default="", description="name of the job in X-Ray; empty: it is not traced")
    aws_batch_job_array_index: int = Field(default=0, ge=0, description="set by AWS Batch")
    aws_batch_job_array_size: int = Field(default=1, ge=1, description="set by AWS Batch")

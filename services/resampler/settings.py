"""How the resampler is set."""

from pydantic import Field

from shared.lake import BRONZE_PREFIX
from shared.settings import Settings


class ResamplerSettings(Settings):
    """Environment of the resampler function."""

    s3_bucket: str
    s3_prefix: str = BRONZE_PREFIX
    silver_updated_topic_arn: str
    resampling_retention_years: int = Field(default=0, ge=0, le=200)
    resampling_adjusted: bool = True
    max_receive_count: int = Field(default=6, ge=1)

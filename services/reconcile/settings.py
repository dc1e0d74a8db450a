"""Settings of the audit and of the freshness function, and the event of an audit's invocation."""

from datetime import date

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fiblake.calendar import days_before
from fiblake.errors import ContractError
from fiblake.lake import BRONZE_PREFIX
from shared.events import Symbol
from shared.jobs import LARGEST_ARRAY
from shared.settings import Settings


class ReconcileSettings(Settings):
    """Environment of the reconcile function."""

    s3_bucket: str
    s3_prefix: str = BRONZE_PREFIX
    consolidation_queue_url: str
    consolidation_complete_topic_arn: str
    batch_job_queue: str
    batch_job_definition: str
    symbols_per_child: int = Field(default=500, ge=1, le=LARGEST_ARRAY)
    resampling_retention_years: int = Field(default=0, ge=0, le=200)
    resampling_adjusted: bool = True


class FreshnessSettings(Settings):
    """Environment of the freshness function."""

    s3_bucket: str
    s3_prefix: str = BRONZE_PREFIX


class ReconcileEvent(BaseModel):
    """The options of an invocation.

    `fix`: enqueue what repairs the lags. `days`: compare only the buckets of this many days; null: all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    symbols: tuple[Symbol, ...] = ()
    days: int | None = Field(default=400, ge=1)
    fix: bool = False

    @classmethod
    def of(cls, event: object) -> "ReconcileEvent":
        """Read an invocation's event; raise ContractError naming the fields that are wrong."""
        try:
            return cls() if isinstance(event, dict) and "detail-type" in event else cls.model_validate(event)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'event'}: {e['msg']}" for e in error.errors())
            raise ContractError(f"not a reconcile event ({', '.join(cls.model_fields)} are known): {faults}") from None

    def since(self, today: date) -> date | None:
        """Return the day from which on buckets are compared."""
        return days_before(today, self.days) if self.days else None


def window_start(today: date, years: int) -> date | None:
    """Return the day from which on the resampler resamples; None: all of history."""
    return today.replace(year=today.year - years, day=min(today.day, 28)) if years else None

"""How the fetcher is set, and what an invocation may ask for."""

import re
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from shared.calendar import close_of
from shared.errors import ContractError
from shared.events import Symbol
from shared.lake import BRONZE_PREFIX
from shared.settings import Settings

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class FetcherSettings(Settings):
    """Environment of the OHLCV fetcher."""

    s3_bucket: str
    s3_prefix: str = BRONZE_PREFIX
    rds_secret_arn: str
    database_tls: Literal["verify-full", "disable"] = "verify-full"
    database_ca_file: str | None = None
    market_data_url: str = "https://api.massive.com"
    polygon_api_key_secret_arn: str | None = None
    api_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("MASSIVE_API_KEY", "POLYGON_API_KEY"))
    universe: Annotated[frozenset[str], NoDecode] = frozenset()
    first_session: date | None = None

    @field_validator("universe", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:  # noqa: ANN401 (what the environment holds)
        return frozenset(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_key(self) -> Self:
        if not (self.polygon_api_key_secret_arn or self.api_key):
            raise ValueError("set POLYGON_API_KEY_SECRET_ARN, or MASSIVE_API_KEY for a local run")
        return self


class FetchEvent(BaseModel):
    """What an invocation may ask for; the schedule asks for nothing.

    `as_of`: fetch as if it were that instant (with its UTC offset), or the evening of that session. With `backfill`,
    those symbols' history from `backfill_from` to `as_of` is fetched instead, one range file each; the watermark stays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: AwareDatetime | None = None
    backfill: tuple[Symbol, ...] = ()
    backfill_from: date = date(1962, 1, 2)

    @field_validator("as_of", mode="before")
    @classmethod
    def _evening(cls, value: Any) -> Any:  # noqa: ANN401 (what the event holds)
        if isinstance(value, str) and _DAY.fullmatch(value):
            return close_of(date.fromisoformat(value))
        if isinstance(value, int | float):
            raise ValueError("a day (2013-02-27) or an instant with its UTC offset is text")  # noqa: TRY004 (pydantic's)
        return value

    @classmethod
    def of(cls, event: object) -> "FetchEvent":
        """Read an invocation's event; raise ContractError naming what it may not say.

        An event of EventBridge's own (a schedule without an input) asks for nothing.
        """
        try:
            return cls() if isinstance(event, dict) and "detail-type" in event else cls.model_validate(event)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'event'}: {e['msg']}" for e in error.errors())
            raise ContractError(f"not a fetch event ({', '.join(cls.model_fields)} are known): {faults}") from None

    def now(self, clock: datetime) -> datetime:
        """Give the instant to fetch for: `as_of` if that is past, or else what the clock says."""
        return min(self.as_of or clock, clock)


class MetadataSettings(FetcherSettings):
    """Environment of the metadata fetcher."""

    history_queue_url: str
    universe_types: Annotated[frozenset[str], NoDecode] = frozenset({"CS", "ADRC", "ETF"})
    metadata_details_days: int = Field(default=30, ge=1)
    metadata_details_per_run: int = Field(default=1_000, ge=0)
    history_retry_hours: float = Field(default=24, gt=0)
    requests_per_minute: float | None = Field(default=None, gt=0)

    @field_validator("universe_types", mode="before")
    @classmethod
    def _types(cls, value: Any) -> Any:  # noqa: ANN401 (what the environment holds)
        return frozenset(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


class MetadataEvent(BaseModel):
    """What an invocation of the metadata fetcher may ask for; the schedule asks for nothing, and gets all of it.

    `splits_only`: splits and nothing else. `as_of`: as if it were that instant (with its UTC offset), or the evening of
    that session; the vendor's lists are today's all the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: AwareDatetime | None = None
    splits_only: bool = False

    @field_validator("as_of", mode="before")
    @classmethod
    def _evening(cls, value: Any) -> Any:  # noqa: ANN401 (what the event holds)
        return close_of(date.fromisoformat(value)) if isinstance(value, str) and _DAY.fullmatch(value) else value

    @classmethod
    def of(cls, event: object) -> "MetadataEvent":
        """Read an invocation's event; raise ContractError naming what it may not say.

        An event of EventBridge's own (a schedule without an input) asks for nothing.
        """
        try:
            return cls() if isinstance(event, dict) and "detail-type" in event else cls.model_validate(event)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'event'}: {e['msg']}" for e in error.errors())
            raise ContractError(f"not a metadata event ({', '.join(cls.model_fields)} are known): {faults}") from None

    def now(self, clock: datetime) -> datetime:
        """Give the instant to refresh for: `as_of` if that is past, or else what the clock says."""
        return min(self.as_of or clock, clock)

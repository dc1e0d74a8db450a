"""Settings of the fetchers, and the events of an invocation."""

import re
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import CliImplicitFlag, CliSuppress, NoDecode, SettingsConfigDict

from fiblake.calendar import close_of
from fiblake.errors import ContractError
from fiblake.lake import BRONZE_PREFIX
from shared.events import Symbol
from shared.settings import Settings

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def _split_names(value: Any) -> Any:  # noqa: ANN401 (what the environment holds)
    return frozenset(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


TickerSet = Annotated[frozenset[str], NoDecode, BeforeValidator(_split_names)]
"""Names with commas between them."""
DEFAULT_TYPES: Final = frozenset({"CS", "ADRC", "ETF"})
MOST_DAYS: Final = 36_500
"""A longer time before a request is repeated would be before the first instant of Python."""


class LakeSettings(Settings):
    """Bucket and prefix of the bars."""

    s3_bucket: str
    s3_prefix: str = BRONZE_PREFIX


class ReleaseSettings(LakeSettings):
    """Bucket and database, for the release of a bar from quarantine."""

    rds_secret_arn: str
    database_tls: Literal["verify-full", "disable"] = "verify-full"
    database_ca_file: str | None = None


class VendorSettings(ReleaseSettings):
    """The vendor, and the tickers to store: settings of all fetchers."""

    market_data_vendor: str = "massive"
    """A name of `assembly.VENDORS`."""
    market_data_url: str = "https://api.massive.com"
    polygon_api_key_secret_arn: str | None = None
    api_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("MASSIVE_API_KEY", "POLYGON_API_KEY"))
    requests_per_minute: float | None = Field(default=None, gt=0)
    universe_types: TickerSet = DEFAULT_TYPES
    universe: TickerSet = frozenset()
    price_jump_limit: float = Field(default=3.0, gt=1)

    @model_validator(mode="after")
    def _has_key(self) -> Self:
        if not (self.polygon_api_key_secret_arn or self.api_key):
            raise ValueError("set POLYGON_API_KEY_SECRET_ARN, or MASSIVE_API_KEY for a local run")
        return self


class FlatFileSettings(ReleaseSettings):
    """The source of flat files, and which of their bars are stored.

    The keys are the flat files' own S3 keys from the vendor's dashboard, not the API key; `flat_files_secret_arn` names
    a secret with both.
    """

    flat_files_endpoint: str = "https://files.massive.com"
    flat_files_bucket: str = "flatfiles"
    flat_files_access_key_id: str | None = None
    flat_files_secret_access_key: CliSuppress[SecretStr | None] = None
    flat_files_secret_arn: str | None = None
    flat_file_max_bytes: int = Field(default=256 << 20, ge=1 << 20)
    flat_file_memory_mb: int = Field(default=800, ge=1)
    price_jump_limit: float = Field(default=3.0, gt=1)
    universe_types: TickerSet = DEFAULT_TYPES
    universe: TickerSet = frozenset()


class FlatFileJobSettings(FlatFileSettings):
    """The job's command line; each option is an environment variable of the same name as well."""

    model_config = SettingsConfigDict(
        frozen=True, env_ignore_empty=True, extra="ignore",
        cli_prog_name="python -m services.fetcher.flat_files", cli_kebab_case=True, cli_enforce_required=False,
    )  # fmt: skip

    flat_files_from: date | None = Field(default=None, description="first session; none: the vendor's first day file")
    flat_files_to: date | None = Field(default=None, description="last session; none: the last one that closed")
    flat_files_all_tickers: CliImplicitFlag[bool] = Field(
        default=False, description="also bars that belong to no company in symbol_metadata"
    )
    flat_files_again: CliImplicitFlag[bool] = Field(default=False, description="day files that are loaded already, too")

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.flat_files_from and self.flat_files_to and self.flat_files_from > self.flat_files_to:
            raise ValueError(f"FLAT_FILES_FROM {self.flat_files_from} lies after FLAT_FILES_TO {self.flat_files_to}")
        return self


class FetcherSettings(VendorSettings):
    """Environment of the OHLCV fetcher and the history fetcher."""

    first_session: date | None = None
    history_from: date | None = None
    look_back_sessions: int = Field(default=5, ge=0, le=250)
    max_receive_count: int = Field(default=6, ge=1)


class MetadataSettings(VendorSettings):
    """Environment of the metadata fetcher."""

    history_queue_url: str
    metadata_details_days: int = Field(default=30, ge=1, le=MOST_DAYS)
    metadata_details_per_run: int = Field(default=1_000, ge=0)
    metadata_dividends_days: int = Field(default=30, ge=1, le=MOST_DAYS)
    metadata_dividends_per_run: int = Field(default=10_000, ge=0)
    # Less than a day, so that the next daily run repeats a request without success (also when clocks change).
    history_retry_hours: float = Field(default=22, gt=0, le=24 * MOST_DAYS)


class Event(BaseModel):
    """The options of an invocation.

    `as_of`: work as if it were that instant (with its UTC offset), or the evening of that session.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=False)

    as_of: AwareDatetime | None = None

    @field_validator("as_of", mode="before")
    @classmethod
    def _evening(cls, value: Any) -> Any:  # noqa: ANN401 (what the event holds)
        if isinstance(value, str) and _DAY.fullmatch(value):
            return close_of(date.fromisoformat(value))
        if isinstance(value, int | float):
            raise ValueError("a day (2013-02-27) or an instant with its UTC offset is text")  # noqa: TRY004 (pydantic's)
        return value

    @classmethod
    def of(cls, event: object) -> Self:
        """Read an invocation's event; raise ContractError with the invalid fields.

        An event of EventBridge itself (a schedule without an input) has no options.
        """
        try:
            return cls() if isinstance(event, dict) and "detail-type" in event else cls.model_validate(event)
        except ValidationError as error:
            settings = ", ".join(field.alias or name for name, field in cls.model_fields.items())
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'event'}: {e['msg']}" for e in error.errors())
            raise ContractError(f"not a {cls.__name__} ({settings} are known): {faults}") from None

    def now(self, clock: datetime) -> datetime:
        """Return the instant to work for: `as_of` if it is in the past, else the clock's instant."""
        return min(self.as_of or clock, clock)


class FetchEvent(Event):
    """The options of the OHLCV fetcher. The schedule sets none: all missing sessions are fetched.

    `from`, `to`: only the missing sessions between the two; `date`: this session, even if it is stored (restated bars
    are written); `again`: the same for all sessions of `from` to `to`. With `symbols`, their history from `from`
    to `to` instead, one range file each; ledger and watermark stay. `look_back`: whether the last stored sessions
    are compared again.
    """

    first: date | None = Field(default=None, alias="from")
    last: date | None = Field(default=None, alias="to")
    day: date | None = Field(default=None, alias="date")
    again: bool = False
    symbols: tuple[Symbol, ...] = ()
    look_back: bool = True

    @model_validator(mode="before")
    @classmethod
    def _of_one_day(cls, data: Any) -> Any:  # noqa: ANN401 (what the event holds)
        if not isinstance(data, dict) or data.get("date") is None:
            return data
        if data.get("from") is not None or data.get("to") is not None:
            raise ValueError("date is one session, from and to are many: say either")
        return {**data, "from": data["date"], "to": data["date"], "again": True}

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.first and self.last and self.first > self.last:
            raise ValueError(f"from {self.first} lies after to {self.last}")
        return self


class MetadataEvent(Event):
    """The options of the metadata fetcher. The schedule sets none: all parts are updated.

    `splits_only`: only splits. The vendor's lists are those of today, whatever `as_of` is.
    """

    splits_only: bool = False

"""Settings of a vacuum: the command line, and the function."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import CliImplicitFlag, SettingsConfigDict

from fiblake.errors import ContractError
from fiblake.lake import BRONZE_PREFIX
from services.vacuum.bronze import RETENTION_FLOOR_DAYS
from shared.events import Symbol
from shared.settings import Settings, Symbols


class VacuumSettings(Settings):
    """The command line; each option is an environment variable of the same name as well."""

    model_config = SettingsConfigDict(
        frozen=True, env_ignore_empty=True, extra="ignore",
        cli_prog_name="python -m services.vacuum", cli_kebab_case=True, cli_enforce_required=False,
    )  # fmt: skip

    s3_bucket: str = Field(description="bucket of the lake")
    s3_prefix: str = Field(default=BRONZE_PREFIX, description="folder of the bronze bars in the bucket")
    symbols: Symbols = Field(default=(), description="only these (AAPL,MSFT)")
    max_workers: int = Field(default=10, ge=1, le=256, description="symbols that are checked at once")
    retention_days: int = Field(default=30, ge=0, description="merged files of younger sessions are kept")
    force_retention: CliImplicitFlag[bool] = Field(
        default=False, description=f"allow a retention below {RETENTION_FLOOR_DAYS} days"
    )
    yes: CliImplicitFlag[bool] = Field(default=False, description="delete without asking; without it, nothing is")


class VacuumEvent(BaseModel):
    """The options of an invocation. The schedule sets none: everything that may be deleted is deleted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    symbols: tuple[Symbol, ...] = ()
    retention_days: int | None = Field(default=None, ge=RETENTION_FLOOR_DAYS)
    dry_run: bool = False

    @classmethod
    def of(cls, event: object) -> "VacuumEvent":
        """Read an invocation's event; raise ContractError naming the fields that are wrong."""
        try:
            return cls() if isinstance(event, dict) and "detail-type" in event else cls.model_validate(event)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'event'}: {e['msg']}" for e in error.errors())
            raise ContractError(f"not a vacuum event ({', '.join(cls.model_fields)} are known): {faults}") from None

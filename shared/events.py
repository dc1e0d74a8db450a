"""The messages between our own services: frozen and versioned.

Unknown fields are ignored (a newer writer may add some); an unknown major version is a permanent failure. AWS's own
events are parsed with Powertools' models where they are received. JSON Schemas of these models are in `events/`.
"""

from datetime import date
from operator import ge
from typing import Annotated, Final, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from fiblake.errors import ContractError
from fiblake.lake import INTERVALS, LATEST_VERSION, check_symbol

SCHEMA_VERSION: Final = "1.2"
"""1.1 added `files` and `version_floor` to ConsolidationRequest, `version` and `tail` to ConsolidationComplete.

1.2 added `dividends_changed` to ConsolidationRequest.

Readers take both versions.
"""
SYMBOLS_PER_EVENT: Final = 1_000
"""Keeps a batch of ten SilverUpdated events below the 256 KiB that SNS takes at once."""

FILES_NAMED: Final = 100
"""The maximum of files that a request names; for more, the worker lists the symbol's folder, with one request."""


def _checked(symbol: str) -> str:
    try:
        return check_symbol(symbol)
    except ContractError as error:
        raise ValueError(str(error)) from error


Symbol = Annotated[str, AfterValidator(_checked)]


class Message(BaseModel):
    """A message of ours: `schema_version` is MAJOR.MINOR, readers refuse another major."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: str = Field(default=SCHEMA_VERSION, pattern=r"^\d+\.\d+$")
    correlation_id: str = Field(default="", description="One id from the put in S3 to the silver file, for the logs")

    @field_validator("schema_version")
    @classmethod
    def _same_major(cls, version: str) -> str:
        # A validator of the whole message before its fields would cost a third of the time to read it.
        if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
            raise ValueError(f"schema version {version} is not understood here (this is {SCHEMA_VERSION})")
        return version


class SourceObject(BaseModel):
    """A source file of a symbol, as S3's notification names it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(description="The key behind the symbol's folder: date=YYYY-MM-DD.parquet or range=...parquet")
    etag: str = Field(default="", description="The ETag that was put; empty: not known")


class ConsolidationRequest(Message):
    """Router → worker: this symbol has new files. Only a hint about where to look."""

    symbol: Symbol
    changed_from: date | None = Field(
        default=None, description="Earliest session among the files that arrived; absent means all of the history"
    )
    files: tuple[SourceObject, ...] = Field(
        default=(), description="The files that arrived; empty: unknown, so the worker lists the symbol's folder"
    )
    reference_changed: bool = Field(
        default=False, description="The symbol's splits or identities arrived: the worker reads them again"
    )
    dividends_changed: bool = Field(
        default=False,
        description="The symbol's dividends arrived: the worker reads them again. Without a session, a file or another "
        "field, it does nothing else: silver does not depend on dividends",
    )
    version_floor: Annotated[AwareDatetime, Field(lt=LATEST_VERSION)] | None = Field(
        default=None,
        description="The worker writes a version of data.parquet that is greater than this one, and reports all of the "
        "history; absent: no limit",
    )
    put_at: AwareDatetime | None = Field(
        default=None,
        description="When the oldest of these files was put, by S3's clock; absent means that none was put",
    )

    @property
    def is_of_dividends_only(self) -> bool:
        """Whether only dividends arrived, so that no session of silver changes."""
        others = self.changed_from or self.files or self.reference_changed or self.version_floor
        return self.dividends_changed and not others


class HistoryRequest(Message):
    """Metadata fetcher → history fetcher: this symbol is new, load its whole history."""

    symbol: Symbol
    first: date | None = Field(
        default=None, description="First session to request; absent means the first session of this company"
    )


class Tail(BaseModel):
    """The last bars of a symbol in data.parquet (prices as traded), by column, oldest first.

    It holds every bar of the symbol from `tail_from` on, and no split or handover counts after `tail_from`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    tail_from: date = Field(description="First session from which on the tail holds every bar")
    timestamp: tuple[date, ...] = Field(description="Sessions, ascending")
    open: tuple[FiniteFloat, ...]
    high: tuple[FiniteFloat, ...]
    low: tuple[FiniteFloat, ...]
    close: tuple[FiniteFloat, ...]
    volume: tuple[FiniteFloat, ...]

    @model_validator(mode="after")
    def _check_columns(self) -> "Tail":
        columns = (self.open, self.high, self.low, self.close, self.volume)
        if any(len(column) != len(self.timestamp) for column in columns):
            raise ValueError("columns of different lengths")
        begins_early = bool(self.timestamp) and self.timestamp[0] < self.tail_from
        if begins_early or any(map(ge, self.timestamp, self.timestamp[1:])):
            raise ValueError("sessions are not ascending from tail_from on")
        return self


class ConsolidationComplete(Message):
    """Worker → resamplers: this symbol's data.parquet changed, from this session on."""

    symbol: Symbol
    changed_from: date = Field(description="Earliest session that changed")
    last_session: date = Field(description="Last session in data.parquet")
    version: AwareDatetime | None = Field(
        default=None, description="data.parquet's last_updated; absent (schema 1.0): read it from data.parquet"
    )
    tail: Tail | None = Field(default=None, description="The bars that a short change needs; absent: read data.parquet")
    put_at: AwareDatetime | None = Field(default=None, description="The request's: how long it took from there")
    intervals: tuple[int, ...] = INTERVALS


class SilverUpdated(Message):
    """Resampler → subscribers of silver: these symbols were brought up to date in one interval's table."""

    interval: int
    changed_from: date = Field(description="Earliest bucket start that was recomputed")
    symbols: tuple[Symbol, ...]


MessageT = TypeVar("MessageT", bound=Message)


def parse(model: type[MessageT], body: str) -> MessageT:
    """Read a message's JSON body; raise ContractError, naming the fields, if it breaks the contract."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors()
        # Another major version may have other fields: their errors would hide the reason.
        shown = [e for e in errors if e["loc"] == ("schema_version",)] or errors
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in shown)
        raise ContractError(f"not a {model.__name__}: {faults}") from error

"""The settings of a service: environment variables, read once at the start and checked."""

from typing import Annotated, TypeVar

from pydantic import BeforeValidator, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from fiblake.errors import ConfigurationError, ContractError
from fiblake.lake import check_symbol


def parse_symbols(value: object) -> tuple[str, ...]:
    """Read `AAPL,MSFT` (or a list) as symbols; raise ValueError if one is invalid, or none is named."""
    names = [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value
    if value and not names:
        raise ValueError("no symbol is named")
    if not isinstance(names, list | tuple):
        raise ValueError("symbols are a list, or names with commas between them")  # noqa: TRY004 (pydantic's way)
    try:
        return tuple(check_symbol(name) for name in names)
    except ContractError as error:
        raise ValueError(str(error)) from error


Symbols = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_symbols)]
"""A setting that names symbols."""


class Settings(BaseSettings):
    """Base of each service's settings: field `s3_bucket` is variable S3_BUCKET; an empty variable counts as unset."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load(settings: type[SettingsT]) -> SettingsT:
    """Read the environment into `settings`; raise ConfigurationError naming each variable that is missing or wrong."""
    try:
        return settings()
    except ValidationError as error:
        faults = [_fault(e["loc"], e["msg"]) for e in error.errors()]
        raise ConfigurationError(f"environment variables to set right: {'; '.join(faults)}") from error


def _fault(field: tuple[int | str, ...], message: str) -> str:
    # Only the first letter becomes lower case: a message about several variables names them in upper case.
    return ": ".join(filter(None, [".".join(map(str, field)).upper(), message[:1].lower() + message[1:]]))

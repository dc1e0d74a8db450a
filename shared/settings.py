"""How a service is set: environment variables, read once at start, checked, and never guessed."""

from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import ConfigurationError


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
    # Only the first letter loses its case: a message about several variables names them.
    return ": ".join(filter(None, [".".join(map(str, field)).upper(), message[:1].lower() + message[1:]]))

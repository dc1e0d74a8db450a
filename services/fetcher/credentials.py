"""The API key for the market-data API."""

import json

from pydantic import SecretStr

from fiblake.errors import ConfigurationError
from services.fetcher.settings import VendorSettings
from shared.secrets import read_secret


def api_key(settings: VendorSettings) -> SecretStr:
    """Return the key: from the environment in a local run, else from Secrets Manager (the string, or JSON with one).

    Raises ConfigurationError if the secret has another form.
    """
    if settings.api_key:
        return settings.api_key
    secret = read_secret(settings.polygon_api_key_secret_arn or "")
    values = _strings(secret) if secret.lstrip().startswith("{") else [secret.strip()]
    if len(values) != 1 or not values[0]:
        raise ConfigurationError("the API key's secret must be the key itself or a JSON object with one string")
    return SecretStr(values[0])


def _strings(secret: str) -> list[str]:
    try:
        return [value for value in json.loads(secret).values() if isinstance(value, str)]
    except (ValueError, RecursionError):
        return []

"""The S3 keys of the vendor's flat files."""

import json

from pydantic import SecretStr

from fiblake.errors import ConfigurationError
from services.fetcher.settings import FlatFileSettings
from shared.secrets import read_secret


def flat_file_keys(settings: FlatFileSettings) -> tuple[str, SecretStr]:
    """Return the key ID and the secret key of the flat files: from the environment, else from Secrets Manager.

    The secret is JSON with `access_key_id` and `secret_access_key`. Raises ConfigurationError if there are no keys.
    """
    if settings.flat_files_access_key_id and settings.flat_files_secret_access_key:
        return settings.flat_files_access_key_id, settings.flat_files_secret_access_key
    if not settings.flat_files_secret_arn:
        raise ConfigurationError(
            "set FLAT_FILES_ACCESS_KEY_ID and FLAT_FILES_SECRET_ACCESS_KEY (the S3 keys of the vendor's dashboard, not "
            "the API key), or FLAT_FILES_SECRET_ARN (a secret with both), or name a folder with day files (--dir)"
        )
    try:
        keys = json.loads(read_secret(settings.flat_files_secret_arn))
        key_id, secret_key = str(keys["access_key_id"]), str(keys["secret_access_key"])
    except (ValueError, KeyError, TypeError, RecursionError):
        # Not chained: the decoder's error quotes the secret.
        raise ConfigurationError(
            "the flat files' secret must be a JSON object with the strings access_key_id and secret_access_key"
        ) from None
    return key_id, SecretStr(secret_key)

import traceback

import pytest
from pydantic import SecretStr

from fiblake.errors import ConfigurationError
from services.fetcher.flat_files import keys
from services.fetcher.flat_files.keys import flat_file_keys
from services.fetcher.settings import FlatFileSettings

KEY = "s3cret-K3Y"
ARN = "arn:flat"


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Secrets Manager: ARN to string."""
    stored: dict[str, str] = {}
    monkeypatch.setattr(keys, "read_secret", stored.__getitem__)
    return stored


def flat_file_settings(**more: object) -> FlatFileSettings:
    return FlatFileSettings.model_validate({"s3_bucket": "b", "rds_secret_arn": "arn:rds", **more})


def test_the_flat_files_keys_come_from_the_environment_or_else_from_their_secret(secrets: dict[str, str]) -> None:
    own = {"flat_files_access_key_id": "id", "flat_files_secret_access_key": KEY}
    assert flat_file_keys(flat_file_settings(**own, flat_files_secret_arn=ARN)) == ("id", SecretStr(KEY))
    secrets[ARN] = f'{{"access_key_id": "other", "secret_access_key": "{KEY}"}}'
    assert flat_file_keys(flat_file_settings(flat_files_secret_arn=ARN)) == ("other", SecretStr(KEY))


@pytest.mark.parametrize("secret", ["", KEY, f'{{"access_key_id": "{KEY}"}}', f'["{KEY}"]', "null", "[" * 100_000])
def test_another_secret_is_an_error_that_says_what_it_must_be_and_does_not_quote_it(
    secrets: dict[str, str], secret: str
) -> None:
    secrets[ARN] = secret
    with pytest.raises(ConfigurationError, match="JSON object with the strings access_key_id") as error:
        flat_file_keys(flat_file_settings(flat_files_secret_arn=ARN))
    assert KEY not in "".join(traceback.format_exception(error.value))


def test_without_keys_the_error_names_every_way_to_give_them(secrets: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"FLAT_FILES_ACCESS_KEY_ID.*FLAT_FILES_SECRET_ARN.*--dir"):
        flat_file_keys(flat_file_settings())
    assert secrets == {}

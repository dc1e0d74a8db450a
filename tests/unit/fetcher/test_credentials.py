import traceback

import pytest
from pydantic import SecretStr

from fiblake.errors import ConfigurationError
from services.fetcher import credentials
from services.fetcher.credentials import api_key
from services.fetcher.settings import FetcherSettings

KEY = "s3cret-K3Y"
ARN = "arn:key"


def settings(**more: object) -> FetcherSettings:
    return FetcherSettings.model_validate({"s3_bucket": "b", "rds_secret_arn": "arn:rds", **more})


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Secrets Manager: ARN to string."""
    values: dict[str, str] = {}
    monkeypatch.setattr(credentials, "read_secret", values.__getitem__)
    return values


def test_a_key_in_the_environment_is_taken_without_asking_secrets_manager(secrets: dict[str, str]) -> None:
    key = api_key(settings(MASSIVE_API_KEY=KEY, polygon_api_key_secret_arn=ARN))
    assert (key, secrets) == (SecretStr(KEY), {})


@pytest.mark.parametrize(
    "secret",
    [KEY, f" {KEY}\n", f'{{"POLYGON_API_KEY": "{KEY}"}}', f' {{"key": "{KEY}", "version": 3}}'],
)
def test_a_secret_is_the_key_itself_or_json_with_one_string(secrets: dict[str, str], secret: str) -> None:
    secrets[ARN] = secret
    assert api_key(settings(polygon_api_key_secret_arn=ARN)).get_secret_value() == KEY


@pytest.mark.parametrize(
    "secret",
    [
        f'{{"a": "{KEY}", "b": "x"}}',
        "{}",
        '{"a": 1}',
        f'{{"a": "{KEY}"',
        f'{{"a": {KEY}}}',
        "",
        " \n",
        '{"a":' + "[" * 100_000,
    ],
)
def test_another_secret_is_an_error_that_does_not_quote_it(secrets: dict[str, str], secret: str) -> None:
    secrets[ARN] = secret
    with pytest.raises(ConfigurationError, match="must be the key itself or a JSON object with one string") as raised:
        api_key(settings(polygon_api_key_secret_arn=ARN))
    assert KEY not in "".join(traceback.format_exception(raised.value))
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None

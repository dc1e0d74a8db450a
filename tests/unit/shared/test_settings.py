import pytest
from pydantic import Field, SecretStr

from fiblake.errors import ConfigurationError
from shared.settings import Settings, load


class Example(Settings):
    """Some settings."""

    s3_bucket: str
    workers: int = Field(default=4, ge=1)
    token: SecretStr = SecretStr("")


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", "lake")
    monkeypatch.setenv("WORKERS", "7")
    monkeypatch.setenv("SOMETHING_ELSE", "ignored")
    settings = load(Example)
    assert (settings.s3_bucket, settings.workers) == ("lake", 7)


def test_every_variable_that_is_missing_or_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S3_BUCKET", raising=False)
    monkeypatch.setenv("WORKERS", "0")
    with pytest.raises(ConfigurationError) as error:
        load(Example)
    assert "S3_BUCKET: field required" in str(error.value)
    assert "WORKERS: input should be greater than or equal to 1" in str(error.value)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", "")
    monkeypatch.setenv("WORKERS", "")
    with pytest.raises(ConfigurationError, match=r"S3_BUCKET: field required$"):
        load(Example)
    monkeypatch.setenv("S3_BUCKET", "lake")
    assert load(Example).workers == 4


def test_a_wrong_value_is_not_repeated_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", "lake")
    monkeypatch.setenv("WORKERS", "a secret pasted here")
    with pytest.raises(ConfigurationError) as error:
        load(Example)
    assert "a secret" not in str(error.value)


def test_settings_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", "lake")
    with pytest.raises(ValueError, match="frozen"):
        load(Example).workers = 5

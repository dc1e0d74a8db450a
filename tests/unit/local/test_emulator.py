import pytest

from local import emulator
from local.emulator import client


def test_a_client_of_the_emulator_knows_nothing_of_the_users_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the user's")
    emulator._session.cache_clear()  # noqa: SLF001
    s3 = client("s3", "http://127.0.0.1:2")
    assert s3.meta.endpoint_url == "http://127.0.0.1:2"
    assert s3._get_credentials().access_key == "test"  # noqa: SLF001

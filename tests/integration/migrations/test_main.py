"""The migration job, into real Postgres."""

import asyncio
import json

import asyncpg
import pytest

from fiblake.errors import EntitlementError
from migrations import __main__ as job
from migrations import migrate
from shared.database import DatabaseAddress
from tests.integration.databases import ask, fetcher_of

OWNER = "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds"
FETCHER = "arn:aws:secretsmanager:us-east-1:123456789012:secret:fetcher"


@pytest.fixture(autouse=True)
def _deployed(monkeypatch: pytest.MonkeyPatch, address: DatabaseAddress) -> None:
    arguments = address.arguments()
    secret = {
        "host": arguments["host"],
        "port": arguments["port"],
        "username": arguments["user"],
        "dbname": arguments["database"],
    }
    secrets = {
        OWNER: json.dumps(secret | {"password": arguments["password"]}),
        FETCHER: json.dumps(secret | {"username": "fiblake_fetcher", "password": "p"}),
    }
    monkeypatch.setattr(migrate, "read_secret", secrets.__getitem__)
    monkeypatch.setenv("RDS_SECRET_ARN", OWNER)
    monkeypatch.setenv("FETCHER_SECRET_ARN", FETCHER)
    monkeypatch.setenv("DATABASE_TLS", "disable")
    monkeypatch.setenv("DATABASE_CA_FILE", "")


def reason(caplog: pytest.LogCaptureFixture) -> str:
    [record] = [record for record in caplog.records if record.message == "not migrated"]
    return str(vars(record)["reason"])


def test_the_job_brings_the_schema_up_to_date_and_may_run_again(address: DatabaseAddress) -> None:
    assert (job.main(), job.main()) == (0, 0)
    assert asyncio.run(ask(fetcher_of(address), "SELECT count(*) FROM raw_ohlcv"))


@pytest.mark.parametrize("fetcher", ["", OWNER])
def test_without_a_secret_of_their_own_the_fetchers_stay_the_owner(
    monkeypatch: pytest.MonkeyPatch, address: DatabaseAddress, fetcher: str
) -> None:
    monkeypatch.setenv("FETCHER_SECRET_ARN", fetcher)
    assert job.main() == 0
    assert asyncio.run(ask(address, "SELECT count(*) FROM raw_ohlcv"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        asyncio.run(ask(fetcher_of(address), "SELECT count(*) FROM raw_ohlcv"))


def test_a_missing_setting_is_exit_code_2_which_batch_does_not_try_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RDS_SECRET_ARN")
    assert job.main() == 2
    assert "RDS_SECRET_ARN" in reason(caplog)


def test_a_secret_that_is_refused_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(arn: str) -> str:
        raise EntitlementError(f"secret {arn}: AccessDeniedException")

    monkeypatch.setattr(migrate, "read_secret", refused)
    assert job.main() == 2
    assert "AccessDeniedException" in reason(caplog)


def test_a_database_that_is_down_is_exit_code_1_which_batch_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = {"host": "/nowhere", "port": 5432, "username": "u", "dbname": "d", "password": "hidden"}
    monkeypatch.setattr(migrate, "read_secret", lambda _arn: json.dumps(nowhere))
    assert job.main() == 1
    assert "the schema cannot be migrated" in reason(caplog)
    assert "hidden" not in reason(caplog)

"""A hostile environment: variables for other programs do not reach the stack, its clients or Postgres."""

import os
import re
from inspect import getsource
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from asyncpg import connect_utils

from local.environment import for_servers, isolate, isolated_environment
from shared.database import DatabaseAddress

ADDRESS = DatabaseAddress("/sockets", 5432, "owner", "lake", "")
READ_BY_ASYNCPG = sorted(set(re.findall(r"PG[A-Z]{4,}", getsource(connect_utils))))
HOSTILE = {
    "AWS_PROFILE": "nobody", "AWS_ENDPOINT_URL": "http://elsewhere", "AWS_ENDPOINT_URL_S3": "garbage",
    "AWS_CONFIG_FILE": "/nonexistent/broken", "AWS_RETRY_MODE": "garbage", "AWS_MAX_ATTEMPTS": "many",
    "PGTARGETSESSIONATTRS": "standby", "PGSERVICE": "prod", "PGOPTIONS": "-c search_path=x", "PGDATESTYLE": "garbage",
    "POWERTOOLS_LOG_LEVEL": "garbage", "DUCKDB_X": "y", "TMPDIR": "/nonexistent",
}  # fmt: skip


def test_asyncpg_reads_variables_that_this_test_knows_of() -> None:
    assert {"PGTARGETSESSIONATTRS", "PGSSLMODE", "PGSERVICE", "PGPASSFILE", "PGPORT"} <= set(READ_BY_ASYNCPG)


@pytest.mark.parametrize("variable", READ_BY_ASYNCPG)
@pytest.mark.parametrize("value", ["standby", "verify-full", "5433", "/nonexistent"])
async def test_a_connection_is_what_its_secret_says_whatever_a_variable_says(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connects_with() -> tuple[Any, ...]:
        seen: list[tuple[Any, ...]] = []

        async def record(*, addr: Any, params: Any, **_rest: Any) -> None:  # noqa: ANN401
            seen.append((addr, *params))
            raise ConnectionRefusedError

        monkeypatch.setattr(connect_utils, "_connect_addr", record)
        with pytest.raises(ConnectionRefusedError):
            await asyncpg.connect(**ADDRESS.arguments(), ssl=False)
        return seen[0]

    monkeypatch.delenv(variable, raising=False)
    expected = await connects_with()
    monkeypatch.setenv(variable, value)
    assert await connects_with() == expected
    assert "/sockets/.s.PGSQL.5432" in expected


def test_what_is_meant_for_other_programs_is_dropped_and_the_rest_stays() -> None:
    own = {"PATH": "/bin", "HOME": "/home/me", "UV_INDEX_URL": "http://packages", "S3_BUCKET": "lake"}
    assert isolated_environment(own | HOSTILE) == own


def test_a_proxy_stays_for_others_and_does_not_get_requests_to_this_machine() -> None:
    variables = isolated_environment(
        {"HTTPS_PROXY": "http://proxy", "NO_PROXY": "intern.example", "no_proxy": "intern.example, other"}
    )
    assert variables["HTTPS_PROXY"] == "http://proxy"
    assert variables["NO_PROXY"] == variables["no_proxy"] == "intern.example,other,127.0.0.1,localhost"
    assert isolated_environment(variables) == variables
    assert isolated_environment({"NO_PROXY": "intern.example"}) == {"NO_PROXY": "intern.example"}


def test_this_process_drops_them_once() -> None:
    environment = {"PATH": "/bin", **HOSTILE, "http_proxy": "http://proxy"}
    isolate(environment)
    assert environment == isolated_environment({"PATH": "/bin", "http_proxy": "http://proxy"})


def test_a_server_gets_only_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (HOSTILE | {"S3_PREFIX": "elsewhere", "PYTHONPATH": "/x", "LC_ALL": "garbage"}).items():
        monkeypatch.setenv(name, value)
    variables = for_servers(tmp_path)
    assert variables.keys() <= {"PATH", "HOME", "USER", "LOGNAME", "PYTHONDONTWRITEBYTECODE", "LANG", "TMPDIR"}
    assert variables["PATH"] == os.environ["PATH"]
    assert Path(variables["TMPDIR"]).is_dir()

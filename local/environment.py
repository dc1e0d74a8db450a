"""The part of this machine's environment that the embedded stack, its clients and the tests may use.

A variable for another program must not select another account, database or folder, nor a proxy for requests to this
machine. Our own process drops such variables once, at its start (`isolate`). A server and its jobs get only an explicit
environment (`for_servers`).
"""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

_MEANT_FOR_OTHERS: Final = ("AWS_", "PG", "POWERTOOLS_", "DUCKDB_")
"""The prefixes of variables that AWS's clients, Postgres, the logger and DuckDB read."""
_OURS: Final = ("127.0.0.1", "localhost")
_NO_PROXY: Final = ("NO_PROXY", "no_proxy")
_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
_FOR_SERVERS: Final = ("PATH", "HOME", "USER", "LOGNAME", "PYTHONDONTWRITEBYTECODE")


def isolated_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without variables for other programs; its proxy does not get requests to this machine.

    The sources of packages stay, and so does a proxy for all other hosts.
    """
    neutral = {name: value for name, value in environment.items() if not name.startswith(_MEANT_FOR_OTHERS)}
    if not _is_usable(neutral.get("TMPDIR", "/")):
        del neutral["TMPDIR"]  # as Python's tempfile does
    return neutral | no_proxy(neutral)


def isolate(environment: MutableMapping[str, str] = os.environ) -> None:
    """Drop the variables for other programs from this process's environment."""
    neutral = isolated_environment(environment)
    for name in environment.keys() - neutral.keys():
        del environment[name]
    environment.update(neutral)


def no_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep requests to this machine from a proxy; none if no proxy is named."""
    if not any(environment.get(name) for name in _PROXIES):
        return {}
    hosts = [host.strip() for name in _NO_PROXY for host in environment.get(name, "").split(",") if host.strip()]
    return dict.fromkeys(_NO_PROXY, ",".join(dict.fromkeys([*hosts, *_OURS])))


def for_servers(folder: Path) -> dict[str, str]:
    """Return the environment of a server of the stack, and of the jobs that inherit it: temporary files are below."""
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    inherited = {name: os.environ[name] for name in _FOR_SERVERS if name in os.environ}
    return inherited | {"LANG": "C.UTF-8", "TMPDIR": str(temporary)}


def _is_usable(folder: str) -> bool:
    return Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK)

"""The `fiblake` command in a process that has imported the libraries already.

An interpreter that imports pyarrow, boto3 and pydantic takes longer than most commands. So one process imports them,
and each command is a fork of it, with an environment, a folder and streams of its own. Our own modules are imported by
each command, because some of them read the environment. tests/e2e runs the installed script itself.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

LIBRARIES = (
    "asyncpg", "boto3.session", "duckdb", "fiblake.calendar", "httpx", "numpy", "obstore", "pyarrow.compute",
    "pyarrow.parquet", "pydantic_settings", "rich.markdown", "s3transfer.manager", "sqlalchemy.ext.asyncio", "typer",
)  # fmt: skip
LONGEST_SECONDS = 300

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([*LIBRARIES, __name__])


def run_fiblake(
    arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path
) -> "subprocess.CompletedProcess[str]":
    """Run one command to its end; return its exit code and what it wrote."""
    with TemporaryDirectory(prefix="fiblake-command-") as streams:
        output, errors = Path(streams, "output"), Path(streams, "errors")
        command = _forks.Process(target=_command, args=(arguments, dict(environment), folder, output, errors))
        command.start()
        command.join(LONGEST_SECONDS)
        if command.exitcode is None:
            command.kill()
            raise subprocess.TimeoutExpired(["fiblake", *arguments], LONGEST_SECONDS)
        code = command.exitcode
        command.close()
        return subprocess.CompletedProcess(["fiblake", *arguments], code, output.read_text(), errors.read_text())


def _command(arguments: tuple[str, ...], environment: dict[str, str], folder: Path, output: Path, errors: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["fiblake", *arguments]
    flags = os.O_WRONLY | os.O_CREAT
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, flags), number)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 (until the process ends)
    from cli.app import main  # noqa: PLC0415 (in the environment of the command)

    main()

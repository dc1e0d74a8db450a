"""`fiblake local up|down|env`: an embedded stack that stays up between commands."""

import subprocess
import sys
import time
from datetime import datetime
from typing import Annotated

import typer

from fiblake.errors import UpstreamError

app = typer.Typer(
    help="The embedded stack: the real template on this machine, without Docker or an AWS account.",
    no_args_is_help=True,
)


@app.command(epilog="Example: fiblake local up --first-session 2013-02-27")
def up(
    first_session: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Where the very first fetch starts.")
    ] = None,
) -> None:
    """Start the stack and deploy the template onto it; it stays up until `fiblake local down`."""
    from rich.console import Console

    from local import supervisor

    if supervisor.is_running():
        raise UpstreamError("a local stack is up already: `fiblake status --local`, `fiblake local down`")
    supervisor.STATE.unlink(missing_ok=True)  # of one that was killed
    process = _start([first_session.date().isoformat()] if first_session else [])
    try:
        with Console(stderr=True, markup=False).status(f"starting; the log is {supervisor.LOG}"):
            while not supervisor.STATE.exists():
                if process.poll() is not None:
                    raise UpstreamError(f"the stack did not start:\n{supervisor.LOG.read_text()}")
                time.sleep(0.2)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    typer.echo("the stack is up: name it with --local, or for any AWS client:\n")
    env()


@app.command(epilog="Example: fiblake local down")
def down() -> None:
    """Stop the stack; what was in it is gone."""
    from local import supervisor

    supervisor.stop()
    typer.echo("the stack is down")


@app.command(epilog='Example: eval "$(fiblake local env)"')
def env() -> None:
    """Print the environment in which any AWS client, and fiblake itself, acts on the stack."""
    from local import supervisor
    from local.deploy import STACK

    stack = supervisor.current()
    variables = {**stack.environment(), "S3_BUCKET": stack.bucket, "FIBLAKE_STACK": STACK}
    for name, value in variables.items():
        typer.echo(f"export {name}={value}")


def _start(arguments: list[str]) -> subprocess.Popen[bytes]:
    from local import supervisor
    from local.emulator import REPOSITORY

    supervisor.LOG.parent.mkdir(parents=True, exist_ok=True)
    with supervisor.LOG.open("wb") as log:
        return subprocess.Popen(  # noqa: S603 (our own interpreter and module)
            [sys.executable, "-m", "local.supervisor", *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

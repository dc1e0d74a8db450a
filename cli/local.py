"""`fiblake local up|down|status|env`: an embedded stack that stays up between commands."""

import json
import subprocess
import sys
import time
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from local import supervisor
from local.emulator import REPOSITORY
from local.watch import Watcher
from shared.errors import UpstreamError
from shared.lake import INTERVALS

app = typer.Typer(help="The embedded stack: the real template on this machine, without Docker or an AWS account.")


@app.command()
def up(
    first_session: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Where the very first fetch starts.")
    ] = None,
) -> None:
    """Start the stack and deploy the template onto it; it stays up until `fiblake local down`."""
    if supervisor.is_running():
        raise UpstreamError("a local stack is up already: `fiblake local status`, `fiblake local down`")
    supervisor.STATE.unlink(missing_ok=True)  # of one that was killed
    process = _start([first_session.date().isoformat()] if first_session else [])
    try:
        with Console(stderr=True).status(f"starting; the log is {supervisor.LOG}"):
            while not supervisor.STATE.exists():
                if process.poll() is not None:
                    raise UpstreamError(f"the stack did not start:\n{supervisor.LOG.read_text()}")
                time.sleep(0.2)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    typer.echo("the stack is up. To talk to it with any AWS client:\n")
    env()


@app.command()
def down() -> None:
    """Stop the stack; what was in it is gone."""
    supervisor.stop()
    typer.echo("the stack is down")


@app.command()
def env() -> None:
    """Print the environment for AWS clients: eval "$(fiblake local env)"."""
    stack = supervisor.current()
    variables = {**stack.environment(), "S3_BUCKET": stack.bucket}
    for name, value in variables.items():
        typer.echo(f"export {name}={value}")


@app.command()
def status(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False) -> None:
    """Show queues, dead letters, jobs, and how far each interval is."""
    stack = supervisor.current()
    state = _state(Watcher(stack))
    if as_json:
        typer.echo(json.dumps(state, default=str))
        return
    console = Console()
    console.print(_queues(state))
    console.print(_tables(state))
    console.print(f"bucket {stack.bucket}, logs in {stack.folder}")


def _start(arguments: list[str]) -> subprocess.Popen[bytes]:
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


def _state(watcher: Watcher) -> dict[str, Any]:
    view = watcher.look()
    queues = {
        name: {
            "visible": d.visible,
            "in_flight": d.in_flight,
            "delayed": d.delayed,
            "dead": view.dead_letters.get(name, 0),
        }
        for name, d in view.depths.items()
    }
    return {
        "queues": queues,
        "jobs": view.jobs,
        "symbols": watcher.consolidated(),
        "intervals": {f"{n}d": checkpoint for n, checkpoint in watcher.checkpoints().items()},
    }


def _queues(state: dict[str, Any]) -> Table:
    table = Table(
        "queue", "visible", "in flight", "delayed", "dead letters", title=f"jobs waiting or running: {state['jobs']}"
    )
    for name, counts in state["queues"].items():
        table.add_row(name, *(str(count) for count in counts.values()))
    return table


def _tables(state: dict[str, Any]) -> Table:
    table = Table("silver table", "last session", "last run", title=f"symbols consolidated: {len(state['symbols'])}")
    for interval in INTERVALS:
        checkpoint = state["intervals"].get(f"{interval}d", {})
        table.add_row(
            f"silver_{interval}d", checkpoint.get("last_processed_date", "-"), checkpoint.get("last_run_timestamp", "-")
        )
    return table

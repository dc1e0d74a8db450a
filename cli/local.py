"""`fiblake local up|down|env`: an embedded stack that keeps running between commands."""

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli import options
from cli.output import answer, as_json, wants_json
from fiblake.errors import UpstreamError

if TYPE_CHECKING:
    from local.stack import Stack

_FUNCTION_NAME: Final = "FunctionName"

app = typer.Typer(
    help="The embedded stack: the real template on this machine, without Docker or an AWS account.",
    no_args_is_help=True,
)


@app.command(epilog="Example: fiblake local up --first-session 2013-02-27\n\nExample: fiblake local up --bars ~/bars")
def up(
    context: typer.Context,
    first_session: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The first session of the first fetch.")
    ] = None,
    bars: Annotated[
        Path | None,
        typer.Option(help="Folder of daily bars that the vendor has, instead of five stocks' (docs/development.md)."),
    ] = None,
) -> None:
    """Start the stack and deploy the template onto it; it stays up until `fiblake local down`."""
    from rich.console import Console

    from local import supervisor

    if supervisor.is_running():
        raise UpstreamError("a local stack is up already: `fiblake status --local`, `fiblake local down`")
    supervisor.STATE.unlink(missing_ok=True)  # of a killed stack
    arguments = ["--first-session", str(options.session(first_session, "--first-session"))] if first_session else []
    process = _start([*arguments, *(["--bars", str(_folder_of_bars(bars))] if bars else [])])
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
    if not wants_json(context):
        typer.echo("the stack is up: name it with --local, or for any AWS client:\n")
    env(context)


@app.command(epilog="Example: fiblake local down")
def down(context: typer.Context) -> None:
    """Stop the stack and delete its data."""
    from local import supervisor

    supervisor.stop()
    answer(context, {"stopped": True}, lambda console: console.print("the stack is down"))


@app.command(
    epilog='Example: eval "$(fiblake local env)"\n\nExample: eval "$(fiblake local env --unset)"\n\n'
    "Example: fiblake local env --sam > env.json"
)
def env(
    context: typer.Context,
    *,
    unset: Annotated[
        bool, typer.Option("--unset", help="Print commands that remove the variables from a shell.")
    ] = False,
    sam: Annotated[
        bool, typer.Option("--sam", help="Each function's variables as JSON, for `sam local invoke --env-vars`.")
    ] = False,
) -> None:
    """Print the environment with which AWS clients and fiblake use the stack."""
    from local import supervisor
    from local.environment import no_proxy
    from local.stack import environment_of, foreign_settings

    if unset and sam:
        raise typer.BadParameter("it is for a shell, --sam is for a file: leave one out", param_hint="--unset")
    if unset:
        typer.echo(f"unset {' '.join(environment_of(None))}")
        return
    stack = supervisor.running_stack()
    if sam:
        typer.echo(json.dumps(_variables_by_function(stack), indent=1))
    elif wants_json(context):
        typer.echo(as_json(environment_of(stack) | no_proxy(os.environ)))
    else:
        foreign = foreign_settings(os.environ, stack)
        lines = [f"unset {' '.join(foreign)}"] if foreign else []
        variables = environment_of(stack) | no_proxy(os.environ)
        typer.echo("\n".join([*lines, *(f"export {name}={quote(value)}" for name, value in variables.items())]))


def _variables_by_function(stack: "Stack") -> dict[str, dict[str, str]]:
    """Return the variables and endpoints of each function of the template, by its logical id."""
    from local.environment import isolate

    isolate()
    clients = stack.client("lambda")
    names = {name.removesuffix("Name"): value for name, value in stack.outputs.items() if name.endswith(_FUNCTION_NAME)}
    return {
        function: {
            **clients.get_function_configuration(FunctionName=name).get("Environment", {}).get("Variables", {}),
            "AWS_ENDPOINT_URL": stack.endpoint_url,
            "AWS_ENDPOINT_URL_BATCH": stack.batch_url,
        }
        for function, name in sorted(names.items())
    }


def _folder_of_bars(path: Path) -> Path:
    """Return the folder's absolute path; raise ConfigurationError if nothing in it can be replayed."""
    from local.market_data.replay import folder

    if not path.is_dir():
        raise typer.BadParameter(f"{path} is not a folder", param_hint="--bars")
    folder(path)
    return path.absolute()


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

"""The `fiblake` command: its global options, its commands, and the printing of errors.

Exit codes: 0 done; 1 a service failed or refused, with the reason in a sentence; 2 the command line or a setting is
wrong; 3 done, but a problem remains that a person must check.
"""

import os
import sys
from importlib.metadata import version as version_of
from typing import Annotated

import typer
from typer.core import TyperGroup

from cli import (
    adopt,
    chart,
    consolidate,
    costs,
    database,
    dead_letters,
    events,
    fetch,
    load,
    local,
    metadata,
    quality,
    quarantine,
    query,
    reconcile,
    resample,
    status,
    tag,
    trace,
    universe,
    vacuum,
    withdraw,
)
from cli.console.command import EXAMPLE as CONSOLE_EXAMPLE
from cli.console.command import console
from cli.output import printable
from cli.target import DEFAULT_STACK, Choice
from fiblake.errors import ConfigurationError, FiblakeError, NotFoundError

_WITH_VALUE = ("--profile", "--region", "--endpoint-url", "--stack")
_FLAGS = ("--local", "--json")
EPILOG = (
    "Exit codes: 0 done; 1 a service failed or refused; 2 the command line or a setting is wrong; "
    "3 done, but a problem remains.\n\n"
    "Example: fiblake --stack prod-fiblake --region us-east-1 status"
)


class GlobalOptionsAnywhere(TyperGroup):
    """A group that accepts its own options also after the command, like AWS's command line."""

    def parse_args(self, ctx: "typer.Context", args: list[str]) -> list[str]:  # type: ignore[override]
        """Move the global options to the front."""
        return super().parse_args(ctx, hoist_options(args))


def hoist_options(arguments: list[str]) -> list[str]:
    """Return the arguments with the global options in front; arguments after `--` stay."""
    front: list[str] = []
    following: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument == "--":
            following += [argument, *remaining]
            break
        if argument in _WITH_VALUE:
            front += [argument, *remaining[:1]]
            del remaining[:1]
        elif argument in _FLAGS or argument.partition("=")[0] in _WITH_VALUE:
            front.append(argument)
        else:
            following.append(argument)
    return front + following


app = typer.Typer(
    name="fiblake", cls=GlobalOptionsAnywhere, help="An event-driven lake of daily US-equity bars.", epilog=EPILOG,
    no_args_is_help=True, pretty_exceptions_enable=False,
)  # fmt: skip
app.command(name="fetch", epilog=fetch.FETCH_EXAMPLES)(fetch.fetch)
app.command(name="metadata", epilog=metadata.METADATA_EXAMPLES)(metadata.metadata)
app.add_typer(load.app, name="load")
app.add_typer(quarantine.app, name="quarantine")
app.command(name="status", epilog=status.EXAMPLE)(status.status)
app.command(name="trace", epilog=trace.EXAMPLE)(trace.trace)
app.command(name="consolidate", epilog=consolidate.EXAMPLE)(consolidate.consolidate)
app.command(name="reconcile", epilog=reconcile.EXAMPLE)(reconcile.reconcile)
app.command(name="query", epilog=query.EXAMPLE)(query.query)
app.command(name="tag", epilog=tag.EXAMPLE)(tag.tag)
app.command(name="universe", epilog=universe.EXAMPLE)(universe.universe)
app.command(name="chart", epilog=chart.EXAMPLE)(chart.chart)
app.command(name="quality", epilog=quality.EXAMPLE)(quality.quality)
app.command(name="console", epilog=CONSOLE_EXAMPLE)(console)
app.command(name="resample", epilog=resample.RESAMPLE_EXAMPLES)(resample.resample)
app.command(name="withdraw", epilog=withdraw.EXAMPLE)(withdraw.withdraw)
app.command(name="adopt", epilog=adopt.EXAMPLE)(adopt.adopt)
app.add_typer(local.app, name="local")
app.add_typer(vacuum.app, name="vacuum")
app.add_typer(dead_letters.app, name="dlq")
app.add_typer(events.app, name="events")
app.command(name="costs", epilog=costs.EXAMPLE)(costs.costs)
app.command(name="migrate", epilog=database.MIGRATE_EXAMPLE)(database.migrate)


def _print_version(is_asked: bool) -> None:  # noqa: FBT001 (an option's callback)
    if is_asked:
        typer.echo(f"fiblake {version_of('fiblake-stack')}")
        raise typer.Exit


@app.callback()
def choose(
    context: typer.Context,
    profile: Annotated[
        str | None, typer.Option(help="Profile of AWS's configuration files.", envvar="AWS_PROFILE")
    ] = None,
    region: Annotated[str | None, typer.Option(help="AWS region.", envvar="AWS_REGION")] = None,
    endpoint_url: Annotated[str | None, typer.Option(help="URL of another AWS API.", envvar="AWS_ENDPOINT_URL")] = None,
    stack: Annotated[str, typer.Option(help="CloudFormation stack to act on.", envvar="FIBLAKE_STACK")] = DEFAULT_STACK,
    *,
    on_local: Annotated[
        bool, typer.Option("--local", help="Act on the stack that `fiblake local up` has started.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Store the global options, which may also stand after the command."""
    if on_local or context.invoked_subcommand == "local":
        _check_only_local(context)
    context.obj = Choice(profile, region, endpoint_url, stack, on_local, as_json)


def _check_only_local(context: typer.Context) -> None:
    """Refuse options that name another stack together with --local; variables may be for other programs."""
    for name in ("profile", "region", "endpoint_url", "stack"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(
                "it names another stack than --local, or `fiblake local`, does: leave one of the two out",
                param_hint=option,
            )


def main() -> None:
    """Run the command line; an error of ours is a sentence, not a traceback."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except FiblakeError as error:
        sys.stderr.write(f"fiblake: {printable(str(error))}\n")
        sys.exit(exit_code(error))
    except BrokenPipeError:
        _drop_output()  # the reader of our output has closed it
        sys.exit(1)
    except OSError as error:
        where = f": {printable(str(error.filename))}" if error.filename else ""
        sys.stderr.write(f"fiblake: {error.strerror or error}{where}\n")
        _drop_output()
        sys.exit(1)


def _drop_output() -> None:
    """Discard the unwritten output: Python would raise another error at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_code(error: FiblakeError) -> int:
    """Return the exit code of an error: 2 for an impossible request, else 1."""
    return 2 if isinstance(error, ConfigurationError | NotFoundError) else 1

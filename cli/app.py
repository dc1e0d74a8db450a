"""The `fiblake` command: its groups, and how errors reach the person at the keyboard.

Exit codes: 0 done; 1 it could not be done, and a sentence says why; 2 the command line was wrong.
"""

import sys

import typer

from cli import database, local
from shared.errors import FiblakeError

app = typer.Typer(name="fiblake", help="An event-driven lake of daily US-equity bars.", no_args_is_help=True)
app.add_typer(local.app, name="local")
app.command(name="migrate")(database.migrate)


def main() -> None:
    """Run the command line; an error of ours is a sentence, not a traceback."""
    try:
        app()
    except FiblakeError as error:
        sys.stderr.write(f"fiblake: {error}\n")
        sys.exit(1)

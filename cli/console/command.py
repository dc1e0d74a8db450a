"""`fiblake console`: starts the pages on loopback and prints the address that opens them."""

import secrets
import socket
from typing import Annotated, Final

import typer

from cli.output import wants_json
from cli.target import target

EXAMPLE: Final = "Example: fiblake console --local\n\nExample: fiblake console --port 8765 --allow-actions"


def console(
    context: typer.Context,
    *,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on 127.0.0.1; 0: a free one.")] = 0,
    allow_actions: Annotated[
        bool, typer.Option("--allow-actions", help="Let the pages replay and discard dead letters.")
    ] = False,
) -> None:
    """Show the flow, symbols with candles, sessions by stage, dead letters and quarantine in a browser.

    The pages are served on 127.0.0.1 until Ctrl-C, to every visitor of the printed address.
    """
    import uvicorn

    from cli.console.server import Console, application
    from fiblake.errors import ConfigurationError

    stack = target(context)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"port {port} cannot be taken: {error.strerror}; --port 0 takes a free one") from error
    taken = listener.getsockname()[1]
    token = secrets.token_urlsafe(24)
    address = f"http://127.0.0.1:{taken}/?token={token}"
    typer.echo(
        f'{{"url": "{address}"}}' if wants_json(context) else f"The console of {stack.name}: {address}\nCtrl-C ends it."
    )
    pages = application(Console(stack, token, taken, allow_actions))
    server = uvicorn.Server(uvicorn.Config(pages, log_level="warning", access_log=False, lifespan="off"))
    with listener:
        server.run(sockets=[listener])

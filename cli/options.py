"""Options that several commands share, and how their values are read."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from re import fullmatch
from typing import Annotated, Final, TypeVar

import typer

Symbols = Annotated[
    str | None, typer.Option("--symbols", help="Only these, with commas between them.", metavar="AAPL,MSFT")
]
ValueT = TypeVar("ValueT")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def named(symbols: str | None) -> tuple[str, ...]:
    """Read the option --symbols: none is all of them."""
    from shared.settings import listed

    try:
        return listed(symbols) if symbols is not None else ()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--symbols") from error


def symbol(name: str, option: str) -> str:
    """Read a symbol."""
    from fiblake.errors import ContractError
    from fiblake.lake import check_symbol

    try:
        return check_symbol(name)
    except ContractError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def checked(read: Callable[[], ValueT]) -> ValueT:
    """Return what is made of the options; what cannot be made of them is a wrong command line."""
    from fiblake.errors import ContractError

    try:
        return read()
    except ContractError as error:
        raise typer.BadParameter(str(error)) from error


def writable(path: Path | None, option: str) -> Path | None:
    """Return `path` if a file can be written there; else it is a wrong option, before any work is done."""
    if path is None:
        return None
    folder = path.absolute().parent
    if path.is_dir():
        fault = "it is a folder"
    elif not folder.is_dir():
        fault = f"there is no folder {folder}"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        fault = "permission denied"
    else:
        return path
    raise typer.BadParameter(f"{path} cannot be written: {fault}", param_hint=option)


def age(value: str | None, option: str) -> timedelta | None:
    """Read an age such as 90s, 15m, 2h or 3d."""
    if value is None:
        return None
    match = fullmatch(r"(\d+)([smhd])", value)
    if match is None:
        raise typer.BadParameter(f"{value!r} is no age: 90s, 15m, 2h and 3d are", param_hint=option)
    return timedelta(**{_UNITS[match[2]]: int(match[1])})

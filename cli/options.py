"""Options that several commands share, and their parsers."""

import os
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from re import fullmatch
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

if TYPE_CHECKING:
    from shared.objects import ObjectStore

Symbols = Annotated[
    str | None, typer.Option("--symbols", help="Only these, with commas between them.", metavar="AAPL,MSFT")
]
ValueT = TypeVar("ValueT")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def parse_symbols(symbols: str | None) -> tuple[str, ...]:
    """Read the option --symbols; an empty result means all symbols."""
    from shared import settings

    try:
        return settings.parse_symbols(symbols) if symbols is not None else ()
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


def check_in_lake(store: "ObjectStore", symbols: Iterable[str]) -> None:
    """Raise NotFoundError, with the nearest existing ones, if the lake has no folder of one of these symbols."""
    from fiblake.lake import Bronze, check_known

    bronze = Bronze()
    check_known(symbols, bronze.symbols_in(store.folders(f"{bronze.prefix}/")))


def nearest_in_lake(bucket: str, symbols: Iterable[str]) -> str:
    """Return " (did you mean AAPL?)" for symbols without a folder in the lake; empty if the lake cannot be read."""
    from fiblake.errors import FiblakeError
    from fiblake.lake import Bronze, nearest_hint
    from shared.objects import ObjectStore
    from shared.outcomes import catch_errors

    bronze = Bronze()
    in_lake = catch_errors(lambda: bronze.symbols_in(ObjectStore.connect(bucket).folders(f"{bronze.prefix}/")))
    return "" if isinstance(in_lake, FiblakeError) else nearest_hint(set(symbols) - set(in_lake), in_lake)


def parse_past_day(day: datetime, option: str) -> date:
    """Read a day that is not in the future."""
    if day.date() > datetime.now(UTC).date():
        raise typer.BadParameter(f"{day:%Y-%m-%d} is yet to come", param_hint=option)
    return day.date()


def session(day: datetime, option: str) -> date:
    """Read a session: a trading day of the exchange that is not in the future."""
    from fiblake.calendar import lake_calendar

    calendar, wanted = lake_calendar(), parse_past_day(day, option)
    if not calendar.faults(wanted):
        return wanted
    later = calendar.ordinal_on_or_after(wanted)
    nearest = [calendar.session(ordinal) for ordinal in (later - 1, later) if ordinal >= 0]
    raise typer.BadParameter(
        f"{wanted:%A} {wanted} is no session: the nearest are {' and '.join(map(str, nearest))}", param_hint=option
    )


def check_option(read: Callable[[], ValueT]) -> ValueT:
    """Return the result of `make`; report its error as a wrong command line (exit code 2)."""
    from fiblake.errors import ContractError

    try:
        return read()
    except ContractError as error:
        raise typer.BadParameter(str(error)) from error


def check_writable(path: Path | None, option: str) -> Path | None:
    """Return `path` if a file can be written there; otherwise the option is wrong (checked before any work)."""
    if path is None:
        return None
    folder = path.absolute().parent
    if path.is_dir():
        fault = "it is a folder"
    elif not folder.is_dir():
        fault = f"there is no folder {folder}"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        fault = "permission denied"
    elif not _is_utf8(path):  # DuckDB takes no other names
        fault = "its name is not UTF-8"
    else:
        return path
    name = str(path).encode(errors="backslashreplace").decode()
    raise typer.BadParameter(f"{name} cannot be written: {fault}", param_hint=option)


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def age(value: str | None, option: str) -> timedelta | None:
    """Read an age such as 90s, 15m, 2h or 3d; no message and no log line is from before 1970."""
    if value is None:
        return None
    match = fullmatch(r"([0-9]+)([smhd])", value)
    if match is None:
        raise typer.BadParameter(f"{value[:40]!r} is no age: 90s, 15m, 2h and 3d are", param_hint=option)
    longest = datetime.now(UTC) - _EPOCH
    try:
        age = timedelta(**{_UNITS[match[2]]: int(match[1])})
    except (OverflowError, ValueError):  # more days than a timedelta has, or more digits than int() reads
        age = timedelta.max
    if age > longest:
        text = f"{value[:40]!r} reaches back beyond 1970: {longest.days}d is the longest age"
        raise typer.BadParameter(text, param_hint=option)
    return age

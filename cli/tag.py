"""`fiblake tag`: a name for the lake as it was known at an instant, so that a study can be repeated."""

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cli.output import answer, printable, table
from cli.target import target

EXAMPLE = "Example: fiblake tag paper-2026\n\nExample: fiblake tag year-end --as-of 2025-12-31T23:00Z --by jane"


def tag(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The tag's name; without one all tags are listed.")] = None,
    as_of: Annotated[str | None, typer.Option(help="The instant, such as 2026-03-01T12:00Z (UTC); now.")] = None,
    by: Annotated[str, typer.Option(help="The person, for the record; empty: the user of this machine.")] = "",
) -> None:
    """Create a tag, or list the existing tags. In Python, `as_of="NAME"` reads the lake as it was known then.

    A tag never moves: a name can be used only once. Exit code 3: files of tags cannot be read, and are named.
    """
    import getpass

    from fiblake.errors import ConfigurationError, ConflictError, ContractError
    from fiblake.lake import TAGS_PREFIX, tag_key
    from fiblake.tags import check_tag, tag_file

    now = datetime.now(UTC)
    if name is None:
        if as_of or by:
            raise typer.BadParameter("--as-of and --by are of a new tag: name it", param_hint="NAME")
        rows, faults = _tags(context, TAGS_PREFIX, now)
        answer(context, rows, lambda console: console.print(table("", rows, ["tag", "as_of"])))
        for fault in faults:
            sys.stderr.write(printable(f"fiblake: {fault}\n"))
        if faults:
            raise typer.Exit(3)
        return
    try:
        key = tag_key(check_tag(name))
    except ContractError as error:
        raise typer.BadParameter(str(error), param_hint="NAME") from error
    instant = _instant(as_of, now) if as_of else now
    try:
        target(context).store.write_if_unchanged(key, tag_file(instant, by or getpass.getuser(), now), None)
    except ConflictError as error:
        raise ConfigurationError(f"there is a tag {name} already, and tags are not moved: take another name") from error
    facts = {"tag": name, "as_of": instant.isoformat()}
    answer(context, facts, lambda console: console.print(f"{name} is the lake as of {instant.isoformat()}"))


def _instant(as_of: str, now: datetime) -> datetime:
    from fiblake.decoding import decoding
    from fiblake.errors import ContractError
    from fiblake.tags import past_instant

    try:
        with decoding(f"{as_of[:40]!r} is no instant", "write it as 2026-03-01T12:00Z"):
            return past_instant(as_of, now)
    except ContractError as error:
        raise typer.BadParameter(str(error), param_hint="--as-of") from error


def _tags(context: typer.Context, prefix: str, now: datetime) -> tuple[list[dict[str, Any]], list[str]]:
    """Return all tags, and why the files of others cannot be read."""
    from fiblake.errors import ContractError
    from fiblake.tags import read_tag

    store = target(context).store
    keys = [info.key for info in store.list_objects(prefix) if info.key.endswith(".json")]
    names = [key.removeprefix(prefix).removesuffix(".json") for key in keys]
    rows, faults = [], []
    for name, stored in zip(names, store.get_many(keys), strict=True):
        try:
            if stored:
                rows.append({"tag": name, "as_of": read_tag(stored.data, name, now).isoformat()})
        except ContractError as error:
            faults.append(str(error))
    return rows, faults

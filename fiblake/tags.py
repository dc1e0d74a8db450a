"""A tag: a name for the lake as it was known at an instant, so that a study can be repeated (pure)."""

import json
import re
from datetime import UTC, datetime
from typing import Final

from fiblake.decoding import decoding, read_json
from fiblake.errors import ContractError
from fiblake.lake import tag_key

_TAG: Final = re.compile(r"[A-Za-z][A-Za-z0-9._\-]{0,63}")


def check_tag(name: str) -> str:
    """Return `name`; raise ContractError if it cannot be part of a key, or is an instant."""
    if not _TAG.fullmatch(name):
        raise ContractError(f"{name[:40]!r} is no tag: a letter, then up to 63 letters, digits, '.', '_' or '-' are")
    return name


def past_instant(value: datetime | str, now: datetime) -> datetime:
    """Return an instant in UTC; without a time zone it is in UTC. Call it in a block of `decoding`, which names it.

    Raises if it is no instant, if it is outside the years 1 to 9999 in UTC, or if it is later than `now`: the future
    lake is unknown.
    """
    instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(instant, datetime):
        raise ContractError(f"it is of type {type(instant).__name__}, and says no time of day")
    if instant != instant:  # noqa: PLR0124 (pandas' NaT, which is a datetime and equals nothing)
        raise ContractError("it is empty")
    instant = instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    if instant > now:
        raise ContractError("it is in the future")
    return instant


def tag_file(as_of: datetime, by: str, made_at: datetime) -> bytes:
    """Return a tag as the bytes of its file."""
    return json.dumps({"as_of": as_of.isoformat(), "by": by, "made_at": made_at.isoformat()}).encode()


def read_tag(data: bytes, name: str, now: datetime) -> datetime:
    """Return the instant of a tag; raise ContractError if its file cannot be read or has no past instant."""
    with decoding(f"{tag_key(name)} cannot be read", "delete it and make the tag again: `fiblake tag`"):
        return past_instant(read_json(data, "it")["as_of"], now)

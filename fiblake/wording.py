"""The format of counts, instants and ids for people: the same everywhere."""

import re
from datetime import UTC, datetime
from typing import Final

_ID: Final = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
"""A UUID, with or without its hyphens."""
_ID_SHOWN: Final = 8


def pluralize(count: int, thing: str, things: str | None = None) -> str:
    """Return a count with its noun: "1 symbol", "2,516 symbols". `things` is the plural, if it is not thing + s."""
    return f"{count:,} {thing if count == 1 else things or f'{thing}s'}"


def instant(moment: datetime | str) -> str:
    """Return an instant in UTC as 2026-11-26 17:05:03Z, from a datetime (without a zone: UTC) or from its ISO text.

    A text that is no instant is returned unchanged: it may come from outside.
    """
    if isinstance(moment, str):
        try:
            return instant(datetime.fromisoformat(moment))
        except (ValueError, OverflowError):  # also a day that is before the year 1 in UTC
            return moment
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"


def shorten_ids(text: str) -> str:
    """Return a text with each UUID shortened to its first digits; --json has the whole UUIDs."""
    return _ID.sub(lambda match: f"{match[0][:_ID_SHOWN]}…", text)

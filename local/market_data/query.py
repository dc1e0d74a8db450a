"""Read a request: accept parameters, dates and cursors like the vendor; refuse others like it."""

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fiblake.calendar import NEW_YORK

Json = dict[str, Any]


class RefusedError(Exception):
    """A request that is answered with an error: its HTTP status, the body's fields, and further headers."""

    def __init__(self, code: HTTPStatus, headers: Mapping[str, str] | None = None, **body: str) -> None:
        super().__init__(code, body)
        self.code = code
        self.headers = headers or {}
        self.body = body


def bad_request(reason: str) -> RefusedError:
    """Return the vendor's answer to an invalid request."""
    return RefusedError(HTTPStatus.BAD_REQUEST, status="ERROR", error=reason)


def unknown_key() -> RefusedError:
    """Return the vendor's answer to an unknown key."""
    return RefusedError(HTTPStatus.UNAUTHORIZED, status="ERROR", error="Unknown API Key")


def not_authorized(message: str) -> RefusedError:
    """Return the vendor's answer to a request that the plan does not allow, or not yet."""
    return RefusedError(HTTPStatus.FORBIDDEN, status="NOT_AUTHORIZED", message=message)


def not_found(message: str) -> RefusedError:
    """Return the vendor's answer to an unknown object."""
    return RefusedError(HTTPStatus.NOT_FOUND, status="NOT_FOUND", message=message)


def before_end_of_day() -> RefusedError:
    """Return the vendor's answer to a session that is not over."""
    return not_authorized("Attempted to request today's data before end of day. Please upgrade your plan.")


def outside_timeframe() -> RefusedError:
    """Return the vendor's answer to a session before the plan's history."""
    return not_authorized("Your plan doesn't include this data timeframe. Please upgrade your plan.")


def parameters(text: str, allowed: Collection[str] | None = None) -> dict[str, str]:
    """Read a query string; a `cursor` stands for the parameters of the page before.

    Raises RefusedError, also for a parameter outside `allowed`: ignoring it would make the answer wrong.
    """
    fields = dict(parse_qsl(text))
    if "cursor" in fields:
        fields = dict(parse_qsl(_decode(fields["cursor"])))
    unknown = set() if allowed is None else fields.keys() - allowed
    if unknown:
        raise bad_request(f"not replayed: {', '.join(sorted(unknown))}")
    return fields


def cursor(fields: Mapping[str, object]) -> str:
    """Return parameters as the opaque text that `parameters` reads."""
    return base64.urlsafe_b64encode(urlencode(fields).encode()).decode()


def _decode(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise bad_request(f"'cursor' is not one of ours: {error}") from error


def choice(fields: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    """Return a parameter that has few values, the first of them by default."""
    value = fields.get(name, allowed[0])
    if value not in allowed:
        raise bad_request(f"{name!r} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def limit_of(fields: Mapping[str, str], default: int, most: int) -> int:
    """Return how many rows a page may have."""
    limit = fields.get("limit", str(default))
    if not limit.isdecimal() or not 1 <= int(limit) <= most:
        raise bad_request(f"'limit' must be a number from 1 to {most}, not {limit!r}")
    return int(limit)


def parse_date(text: str) -> date:
    """Read YYYY-MM-DD or Unix milliseconds, the two forms the vendor takes."""
    try:
        if re.fullmatch(r"\d{9,}|-\d+", text):
            return datetime.fromtimestamp(int(text) / 1000, tz=UTC).astimezone(NEW_YORK).date()
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return date.fromisoformat(text)
    except (ValueError, OverflowError, OSError) as error:
        raise bad_request(f"could not parse the date {text!r}: {error}") from error
    raise bad_request(f"could not parse the date {text!r}: use YYYY-MM-DD or Unix milliseconds")


def listing(rows: list[Json], fields: Mapping[str, str], limit: int, url: str) -> Json:
    """Return one page of a list, from the cursor's position, with the link to the next page."""
    start = int(fields.get("offset", "0"))
    end = start + limit
    body: Json = {"results": rows[start:end], "status": "OK"}
    if end < len(rows):
        body["next_url"] = f"{url}?cursor={cursor({**fields, 'offset': end})}"
    return body

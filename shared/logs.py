"""Read the services' log lines from CloudWatch Logs: the one place that talks to it."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from fiblake.errors import EntitlementError, UpstreamError
from fiblake.stacks import REFUSED

MOST: Final = 5_000
"""At most this many lines of a log group are read."""
_ABSENT: Final = "ResourceNotFoundException"


def records_with(
    groups: Iterable[str],
    fields: Mapping[str, str],
    since: datetime,
    client: Any = None,  # noqa: ANN401 (the client of logs)
) -> list[dict[str, Any]]:
    """Return the JSON lines since an instant in which one of these fields has its value, of all groups.

    A group that does not exist has no lines. Values must hold no quotes. Raises EntitlementError if the credentials may
    not read a group, UpstreamError if CloudWatch fails.
    """
    pattern = " || ".join(f'($.{name} = "{value}")' for name, value in fields.items())
    logs = client or boto3.client("logs")
    records = []
    for group in groups:
        try:
            pages = logs.get_paginator("filter_log_events").paginate(
                logGroupName=group, filterPattern=f"{{ {pattern} }}", startTime=int(since.timestamp() * 1000),
                PaginationConfig={"MaxItems": MOST},
            )  # fmt: skip
            lines = [event["message"] for page in pages for event in page["events"]]
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == _ABSENT:
                continue
            if code in REFUSED:
                text = f"the credentials may not read the log group {group} (logs:FilterLogEvents): {code}"
                raise EntitlementError(text) from error
            raise UpstreamError(f"CloudWatch Logs does not give the lines of {group}: {code}") from error
        except BotoCoreError as error:
            raise UpstreamError(f"CloudWatch Logs cannot be asked: {error}") from error
        records += [record for line in lines if (record := record_of(line))]
    return records


def record_of(line: str) -> dict[str, Any] | None:
    """Return a log line's fields; None if it is not a line of the services."""
    start = line.find("{")
    try:
        record = json.loads(line[start:]) if start >= 0 else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("message"), str) else None

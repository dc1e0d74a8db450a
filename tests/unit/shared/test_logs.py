from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from fiblake.errors import EntitlementError, UpstreamError
from shared.logs import record_of, records_with

SINCE = datetime(2026, 11, 26, tzinfo=UTC)


class Logs:
    """CloudWatch Logs with one line in each page."""

    def __init__(self, groups: dict[str, list[str] | Exception]) -> None:
        self.groups = groups
        self.asked: list[dict[str, Any]] = []

    def get_paginator(self, name: str) -> "Logs":
        assert name == "filter_log_events"
        return self

    def paginate(self, **arguments: str) -> Iterator[dict[str, Any]]:
        self.asked.append(arguments)
        lines = self.groups[arguments["logGroupName"]]
        if isinstance(lines, Exception):
            raise lines
        return iter([{"events": [{"message": line}]} for line in lines])


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}}, "FilterLogEvents")


def test_the_lines_of_all_groups_are_read_and_an_absent_group_has_none() -> None:
    logs = Logs({"a": ['{"message": "one"}', "no line of ours"], "b": refused("ResourceNotFoundException"),
                 "c": ['2026 {"message": "two"}\n']})  # fmt: skip
    records = records_with(logs.groups, {"correlation_id": "x", "into": "x"}, SINCE, logs)
    assert [record["message"] for record in records] == ["one", "two"]
    assert logs.asked[0]["filterPattern"] == '{ ($.correlation_id = "x") || ($.into = "x") }'
    assert logs.asked[0]["startTime"] == 1_795_651_200_000


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (refused("AccessDeniedException"), EntitlementError, "logs:FilterLogEvents"),
        (refused("ThrottlingException"), UpstreamError, "ThrottlingException"),
        (EndpointConnectionError(endpoint_url="http://x"), UpstreamError, "cannot be asked"),
    ],
)
def test_a_fault_is_a_sentence(fault: Exception, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        records_with(["a"], {"symbol": "AAPL"}, SINCE, Logs({"a": fault}))


@pytest.mark.parametrize("line", ["", "START", "{", "[1]", '{"a":' + "[" * 100_000, '{"message": 1}', '{"other": "x"}'])
def test_a_line_that_is_none_of_ours(line: str) -> None:
    assert record_of(line) is None

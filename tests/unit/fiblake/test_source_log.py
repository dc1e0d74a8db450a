import json
from datetime import UTC, datetime, timedelta

import pytest

from fiblake.bars import Consolidated, encode
from fiblake.errors import ContractError
from fiblake.source_log import SourceVersion, is_merged, log_of_json, log_to_json
from tests.fakes import NOON, bar, later, table


def test_the_log_survives_its_way_through_json() -> None:
    log = {"a": SourceVersion('"e"', later(1), stamped=True), "b": SourceVersion('"f"', NOON), "c": SourceVersion("g")}
    assert log_of_json(json.loads(json.dumps(log_to_json(log)))) == log


def test_an_older_log_has_etags_only_and_each_instant_is_that_version() -> None:
    log = log_of_json({"a": '"e"'})
    assert log == {"a": SourceVersion('"e"')}
    assert is_merged(log, "a", '"e"', NOON)
    assert not is_merged(log, "a", '"f"', NOON)


@pytest.mark.parametrize(
    ("key", "etag", "last_modified", "merged"),
    [
        ("a", "e", NOON, True),
        ("a", "e", NOON + timedelta(milliseconds=999), True),
        ("a", "e", NOON + timedelta(seconds=1), False),
        ("a", "e", NOON - timedelta(seconds=1), False),
        ("a", "f", NOON, False),
        ("b", "e", NOON, False),
    ],
)
def test_a_version_is_key_etag_and_last_modified_to_the_second(
    key: str,
    etag: str,
    last_modified: datetime,
    merged: bool,  # noqa: FBT001
) -> None:
    assert is_merged({"a": SourceVersion("e", NOON)}, key, etag, last_modified) == merged


@pytest.mark.parametrize(
    "log",
    [
        [], None, 5, "text", {"a": None}, {"a": 5}, {"a": []}, {"a": ["e"]}, {"a": ["e", None, 1]},
        {"a": [None, None, True]}, {"a": ["e", "yesterday", True]}, {"a": ["e", 5, True]}, {"a": ["e", None, True, 1]},
    ],
)  # fmt: skip
def test_what_is_no_log_is_an_error_that_names_the_symbol(log: object) -> None:
    data = encode(table(bar("2025-11-19")).replace_schema_metadata({"fiblake.merged": json.dumps(log)}))
    with pytest.raises(ContractError, match=r"data\.parquet of AAPL carries a log that cannot be read"):
        Consolidated.decode(data, "AAPL", NOON)


def test_an_instant_without_a_zone_is_utc() -> None:
    assert log_of_json({"a": ["e", "2025-11-20T12:00:00", True]})["a"].last_modified == datetime(
        2025, 11, 20, 12, tzinfo=UTC
    )

import json
from datetime import UTC, datetime, timedelta

import pytest

from fiblake import Lake
from fiblake.errors import ContractError
from fiblake.lake import tag_key
from fiblake.tags import read_tag
from tests.unit.cli.conftest import FakeTarget, Run


def test_a_tag_is_made_once_and_listed(run: Run, stack: FakeTarget) -> None:
    made = run("tag", "year-end", "--as-of", "2025-12-31T18:00-05:00", "--by", "jane", "--json")
    assert json.loads(made.stdout) == {"tag": "year-end", "as_of": "2025-12-31T23:00:00+00:00"}
    data = stack.store.peek(tag_key("year-end")) or b""
    assert read_tag(data, "year-end", datetime.now(UTC)) == datetime(2025, 12, 31, 23, tzinfo=UTC)
    assert json.loads(data)["by"] == "jane"
    again = run("tag", "year-end")
    assert again.exit_code == 2
    assert "there is a tag year-end already, and tags are not moved: take another name" in again.stderr
    assert stack.store.peek(tag_key("year-end")) == data
    assert json.loads(run("tag", "--json").stdout) == [{"tag": "year-end", "as_of": "2025-12-31T23:00:00+00:00"}]


def test_without_an_instant_it_is_now(run: Run, stack: FakeTarget) -> None:
    assert "paper-2026 is the lake as of" in run("tag", "paper-2026").stdout
    now = datetime.now(UTC)
    made = read_tag(stack.store.peek(tag_key("paper-2026")) or b"", "paper-2026", now)
    assert now - made < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("2026",), "is no tag"), (("a/b",), "is no tag"), (("x", "--as-of", "soon"), "is no instant"),
        (("x", "--as-of", "2999-01-01"), "is in the future"),
        (("x", "--as-of", "0001-01-01T00:00+05:00"), "is no instant"),
        (("x", "--as-of", "9999-12-31T23:59-05:00"), "is no instant"),
        (("--as-of", "nonsense"), "--as-of and --by are of a new tag: name it"),
        (("--by", "jane"), "--as-of and --by are of a new tag: name it"),
    ],
)  # fmt: skip
def test_what_is_no_tag_is_a_wrong_command_line(
    run: Run, stack: FakeTarget, arguments: tuple[str, ...], sentence: str
) -> None:
    result = run("tag", *arguments)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.replace("│", " ").split())
    assert stack.store.keys() == []


@pytest.mark.parametrize(
    ("as_of", "fault"),
    [
        ("2999-01-01T00:00:00+00:00", "is in the future"), ("9999-12-31T23:59:00-05:00", "OverflowError"),
        (5, "it is of type int, and says no time of day"), (None, "it is of type NoneType, and says no time of day"),
    ],
)  # fmt: skip
def test_a_tag_file_that_names_no_past_instant_is_refused(
    run: Run, stack: FakeTarget, as_of: object, fault: str
) -> None:
    stack.store.lay(tag_key("bad"), json.dumps({"as_of": as_of}).encode())
    result = run("tag")
    assert result.exit_code == 3
    assert fault in " ".join(result.stderr.split())
    with pytest.raises(
        ContractError, match=f"tags/bad.json cannot be read: .*{fault}.*delete it and make the tag again"
    ):
        Lake(stack.store).bars("AAPL", as_of="bad")


def test_a_tag_file_without_a_time_zone_is_utc() -> None:
    assert read_tag(b'{"as_of": "2025-12-31T23:00"}', "x", datetime.now(UTC)) == datetime(2025, 12, 31, 23, tzinfo=UTC)


def test_a_tag_that_cannot_be_read_is_named_and_the_others_are_listed(run: Run, stack: FakeTarget) -> None:
    run("tag", "good", "--as-of", "2025-12-31T23:00Z")
    stack.store.lay(tag_key("bad"), b"?")
    result = run("tag", "--json")
    assert result.exit_code == 3
    assert [row["tag"] for row in json.loads(result.stdout)] == ["good"]
    assert f"fiblake: {tag_key('bad')} cannot be read" in result.stderr

import json
from datetime import UTC, datetime, timedelta

import pytest

from fiblake.lake import tag_key
from fiblake.tags import read_tag
from tests.unit.cli.conftest import FakeTarget, Run


def test_a_tag_is_made_once_and_listed(run: Run, stack: FakeTarget) -> None:
    made = run("tag", "year-end", "--as-of", "2025-12-31T18:00-05:00", "--by", "jane", "--json")
    assert json.loads(made.stdout) == {"tag": "year-end", "as_of": "2025-12-31T23:00:00+00:00"}
    data = stack.store.peek(tag_key("year-end")) or b""
    assert read_tag(data, "year-end") == datetime(2025, 12, 31, 23, tzinfo=UTC)
    assert json.loads(data)["by"] == "jane"
    again = run("tag", "year-end")
    assert again.exit_code == 2
    assert "there is a tag year-end already, and tags are not moved: take another name" in again.stderr
    assert stack.store.peek(tag_key("year-end")) == data
    assert json.loads(run("tag", "--json").stdout) == [{"tag": "year-end", "as_of": "2025-12-31T23:00:00+00:00"}]


def test_without_an_instant_it_is_now(run: Run, stack: FakeTarget) -> None:
    assert "paper-2026 is the lake as of" in run("tag", "paper-2026").stdout
    made = read_tag(stack.store.peek(tag_key("paper-2026")) or b"", "paper-2026")
    assert datetime.now(UTC) - made < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("2026",), "is no tag"), (("a/b",), "is no tag"), (("x", "--as-of", "soon"), "is no instant"),
        (("x", "--as-of", "2999-01-01"), "lies in the future"),
    ],
)  # fmt: skip
def test_what_is_no_tag_is_a_wrong_command_line(
    run: Run, stack: FakeTarget, arguments: tuple[str, ...], said: str
) -> None:
    result = run("tag", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert stack.store.keys() == []

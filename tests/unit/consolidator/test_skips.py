"""docs/architecture.md lists each place that compares and skips: the named places and tests exist."""

import re
from functools import reduce
from importlib import import_module

import pytest

from tests.fakes import REPOSITORY

PAGE = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Who compares and skips")[2].partition("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if line.startswith("| `")
]
TESTS = {
    name
    for file in (REPOSITORY / "tests").rglob("test_*.py")
    for name in re.findall(r"^ *def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
}


def test_the_table_is_read() -> None:
    assert len(ROWS) >= 20
    assert all(len(row) == 4 and all(row) for row in ROWS)


@pytest.mark.parametrize(("place", "test"), [(row[0], row[3]) for row in ROWS])
def test_a_place_that_skips_exists_and_so_does_the_test_that_fails_without_its_reason(place: str, test: str) -> None:
    module, _, name = place.strip("`").partition(":")
    assert callable(reduce(getattr, name.split("."), import_module(module)))
    assert test.strip("`") in TESTS

"""The content of the reader's wheel: the package alone, and its dependencies."""

import ast
import re
import sys
import tomllib
from typing import Any

import pytest

from tests.fakes import REPOSITORY

PACKAGE = REPOSITORY / "fiblake"
CALENDARS = PACKAGE / "data/generate_sessions.py"
"""Writes the calendar's file again, in a checkout: it is no part of the wheel."""


def project(path: str) -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((REPOSITORY / path).read_text(encoding="utf-8"))["project"]
    return content


READER, STACK = project("fiblake/pyproject.toml"), project("pyproject.toml")


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}


def imported_modules() -> set[str]:
    names = set()
    for path in set(PACKAGE.rglob("*.py")) - {CALENDARS}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"fiblake"}


def test_both_projects_are_of_one_version_and_have_names_of_their_own() -> None:
    assert READER["version"] == STACK["version"]
    assert (READER["name"], STACK["name"]) == ("fiblake", "fiblake-stack")


def test_what_the_package_imports_is_a_dependency_or_an_extra() -> None:
    extras = {name for extra in READER["optional-dependencies"].values() for name in names(extra)}
    stubs = {"mypy_boto3_cloudformation", "botocore"}  # for checkers only, and boto3's own
    assert imported_modules() - names(READER["dependencies"]) - extras == stubs
    assert names(READER["dependencies"]) == {"numpy", "obstore", "pyarrow", "tzdata"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "reader").glob("*.py")), ids=lambda path: path.name)
def test_an_error_names_extras_that_exist(path: Any) -> None:  # noqa: ANN401 (a Path)
    named = set(re.findall(r"fiblake\[(\w+)\]", path.read_text(encoding="utf-8")))
    named |= set(re.findall(r'needs\("(\w+)"\)', path.read_text(encoding="utf-8")))
    assert named <= READER["optional-dependencies"].keys()

"""The reasons of dead letters are the same in the code and in docs/dead-letters.md, which has the remedy of each.

A reason is the text of an error that the services raise. A new reason without a row in the page fails here, and so does
a row without a reason in the code.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiblake.errors import FiblakeError, PermanentError
from tests.fakes import REPOSITORY

PAGE = (REPOSITORY / "docs" / "dead-letters.md").read_text(encoding="utf-8")
BLANK = "…"
"""The sign in a reason's template for a value that is inserted at run time."""
ASKED_BY_A_PERSON = {
    "fiblake/export.py": "a reader, who is a person or her program",
    "fiblake/reader": "a reader, who is a person or her program",
    "services/consolidator/__main__.py": "a worker's command line",
    "services/consolidator/withdraw.py": "`fiblake withdraw`",
    "services/fetcher/companies.py": "`fiblake load companies`",
    "services/fetcher/flat_files": "`fiblake load flatfiles`",
    "services/fetcher/quarantine.py": "`fiblake quarantine`",
    "services/reconcile": "the audit reports what it finds, and answers whoever calls it",
    "services/vacuum": "`fiblake vacuum`, and a function that is called once a month and again by hand",
    "shared/functions.py": "`fiblake dlq replay`, and the command line reading a function's settings",
    "shared/logs.py": "the command line and the console, about one symbol",
    "shared/metrics.py": "`fiblake status`",
    "fiblake/tags.py": "`fiblake tag`, or a reader who names a tag",
    "fiblake/stacks.py": "the command line or a reader finding its stack",
}
"""Places whose errors end no message, because they are shown to a person."""
SHORT = 12
NO_END = {"StoppedError", "PendingError", "OnlyBrokenBarsError"}
"""Errors that end no message: it is returned at once, it succeeds, or the next run continues the work."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("fiblake", "services", "shared"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            yield str(path.relative_to(REPOSITORY)), ast.parse(path.read_text(encoding="utf-8"))


SOURCES = dict(sources())


def error_classes() -> dict[str, type[FiblakeError]]:
    """Import all services, and return the project's errors by name."""
    for path in SOURCES:
        if not path.endswith("__main__.py"):
            importlib.import_module(".".join(Path(path).with_suffix("").parts))
    classes: dict[str, type[FiblakeError]] = {}
    waiting = [FiblakeError]
    while waiting:
        kind = waiting.pop()
        classes[kind.__name__] = kind
        waiting += [
            subclass
            for subclass in kind.__subclasses__()
            if subclass.__module__.partition(".")[0] in {"fiblake", "services", "shared"}
        ]
    return classes


CLASSES = error_classes()


def template(node: ast.expr) -> str:
    """Return a text's fixed parts, with BLANK for the others."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(template(part) for part in parts)
        case ast.BinOp(left=first, right=second):
            return template(first) + template(second)
        case ast.IfExp(body=body):
            return template(body)
    return BLANK


def makes_an_error(call: ast.Call, names: set[str]) -> bool:
    match call.func:
        case ast.Name(id=name):
            return name in names
        case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr="__init__"):
            return True
    return False


def reasons() -> list[str]:
    """Return the templates of all reasons, with their places in the code."""
    places = []
    for path, module in SOURCES.items():
        if path.startswith(tuple(ASKED_BY_A_PERSON)):
            continue
        walked = list(ast.walk(module))
        nodes = [node for node in walked if isinstance(node, ast.Call)]
        names = (CLASSES.keys() - NO_END) | _aliases(walked)
        texts = [" ".join(map(template, call.args)) for call in nodes if makes_an_error(call, names)]
        texts += [f"{template(call.args[0])}: {BLANK}" for call in nodes if makes_an_error(call, {"decoding"})]
        places += [f"{path}: {text}" for text in texts if re.search("[A-Za-z]{2}", text)]
    return places


def _aliases(nodes: list[ast.AST]) -> set[str]:
    """Return the variables that hold a class of errors."""
    return {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.IfExp)
        for target in node.targets
        if isinstance(target, ast.Name)
        and {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)} & CLASSES.keys()
    }


def cells(heading: str) -> list[str]:
    """Return the code spans in the first column of the tables below a heading of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `") and not line.startswith("| `error` |")]
    return [span for row in rows for span in re.findall("`([^`]+)`", row.split("|")[1])]


def pattern(cell: str) -> re.Pattern[str]:
    """Return a pattern that finds a cell's text in a reason; a text with few letters must be at the beginning."""
    short = "..." in cell and sum(map(str.isalpha, cell)) < SHORT
    return re.compile("^" * short + ".*".join(re.escape(part.strip()) for part in cell.split("...")))


PATTERNS = {cell: pattern(cell) for cell in cells("By reason")}
REASONS = reasons()


def test_reasons_and_rows_are_found() -> None:
    """The tests below must find reasons to compare."""
    assert len(REASONS) > 60
    assert len(PATTERNS) > 30
    assert any("has no data.parquet: consolidate it first" in reason for reason in REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_row_that_says_what_to_do(reason: str) -> None:
    text = reason.partition(": ")[2]
    assert any(pattern.search(text) for pattern in PATTERNS.values()), f"no row in docs/dead-letters.md for {reason!r}"


def test_every_row_is_of_a_reason_that_the_code_can_give() -> None:
    nodes = [node for module in SOURCES.values() for node in ast.walk(module)]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [template(node) for node in nodes if isinstance(node, ast.expr) and id(node) not in docstrings]
    dead = [cell for cell, text in PATTERNS.items() if cell not in CLASSES and not any(map(text.search, texts))]
    assert dead == []


def test_every_kind_of_a_dead_letter_has_a_row() -> None:
    kinds = {name for name, kind in CLASSES.items() if issubclass(kind, PermanentError)} - NO_END - {"PermanentError"}
    assert set(cells("By kind")) == kinds

"""Rules for all files of the repository."""

import ast
import re
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path

import pytest

from fiblake.calendar import close_of
from services.fetcher.settings import FetchEvent
from tests import conftest
from tests.fakes import sample

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = ("cli", "fiblake", "local", "migrations", "services", "shared", "benchmarks")
VAGUE = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
NO_LOCALS = {"asked", "done", "found", "given", "kept", "known", "left", "met", "one", "said", "told"}
"""Names of parameters and locals that do not say what they hold."""
MOST_LINES = 60
KEEPS_THE_ERROR = {"shared/outcomes.py"}
"""The place where a foreign error becomes a message's outcome; no other place may catch one without raising it again.
"""

# They are put together here, so that this file does not contain them.
UP = ".."
REGISTRIES = ["".join(parts) for parts in (("py", "pi", ".org"), ("python", "hosted", ".org"), ("npm", "js", ".org"))]
MACHINE_PATHS = ["/".join(parts) for parts in (("", "work", ""), ("", "root", ""), (UP, "shared"))]

Function = ast.FunctionDef | ast.AsyncFunctionDef
NAMING = (ast.arg, ast.Name, ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping)
"""The nodes that may name a local."""


@cache
def tracked() -> list[Path]:
    """List the files of the repository, including new ones."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    return [REPOSITORY / name for name in sorted(names.split("\0")) if name and (REPOSITORY / name).is_file()]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def functions_in(path: Path) -> list[Function]:
    return [node for node in ast.walk(parsed(path)) if isinstance(node, Function)]


@pytest.fixture(autouse=True, scope="module")
def _trees_are_freed() -> Iterator[None]:
    """Keep the trees for the tests of this file only, because they take much memory."""
    yield
    parsed.cache_clear()
    functions_in.cache_clear()


def modules(rooms: Sequence[str] = OURS) -> Iterator[tuple[str, Path]]:
    for path in tracked():
        name = path.relative_to(REPOSITORY).as_posix()
        if path.suffix == ".py" and name.partition("/")[0] in rooms:
            yield name, path


def sources(rooms: Sequence[str] = OURS) -> Iterator[tuple[str, ast.Module]]:
    for name, path in modules(rooms):
        yield name, parsed(path)


def functions(rooms: Sequence[str] = OURS) -> Iterator[tuple[str, Function]]:
    for name, path in modules(rooms):
        for node in functions_in(path):
            yield f"{name}:{node.lineno} {node.name}", node


def test_a_function_of_more_than_60_lines_says_why_in_its_docstring() -> None:
    long = {place: node for place, node in functions() if (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES}
    reasons = {place: (ast.get_docstring(node) or "").lower() for place, node in long.items()}
    assert [place for place, reason in reasons.items() if "long because" not in reason] == []


def catches_all(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in kinds)


def test_code_that_catches_every_error_raises_it_again() -> None:
    swallowing, keeping = [], set()
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and catches_all(node) and not isinstance(node.body[-1], ast.Raise):
                keeping.add(name) if name in KEEPS_THE_ERROR else swallowing.append(f"{name}:{node.lineno}")
    assert swallowing == []
    assert keeping == KEEPS_THE_ERROR


def test_the_one_that_keeps_an_error_keeps_its_cause() -> None:
    ((_, tree),) = [(name, tree) for name, tree in sources() if name in KEEPS_THE_ERROR]
    (handler,) = [n for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and catches_all(n)]
    statements = [ast.unparse(statement) for statement in handler.body]
    assert f"unexpected.__cause__ = {handler.name}" in statements
    assert statements[-1] == "return unexpected"


def test_no_module_has_a_name_that_says_nothing() -> None:
    parts = {part for path in tracked() for part in path.relative_to(REPOSITORY).with_suffix("").parts}
    assert {part for part in parts if part.lower() in VAGUE} == set()


def test_every_module_says_in_its_first_line_what_it_is_for() -> None:
    assert [name for name, tree in sources() if tree.body and not ast.get_docstring(tree)] == []


def locals_of(function: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of each parameter and local, also in inner functions and lambdas."""
    for node in ast.walk(function):
        if not isinstance(node, NAMING):  # most nodes; the patterns below take longer
            continue
        match node:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.ExceptHandler(name=str(name)):
                yield node.lineno, name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield node.lineno, name
            case _:
                pass


def test_a_local_has_a_name_that_says_what_it_holds() -> None:
    everywhere = functions((*OURS, "tests"))
    named = {(place.partition(":")[0], *local) for place, node in everywhere for local in locals_of(node)}
    assert len(named) > 10_000
    assert sorted(f"{file}:{line} {name}" for file, line, name in named if name in NO_LOCALS) == []


def test_a_function_has_a_name_that_says_what_it_does() -> None:
    names = {(node.name, place) for place, node in functions((*OURS, "tests"))}
    assert len(names) > 5_000
    # `store.done("write")` of the tests lists the keys that were written.
    assert sorted(place for name, place in names if name.strip("_") in NO_LOCALS - {"done"}) == []


def is_property(function: Function) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def test_what_returns_says_return_and_not_give() -> None:
    kinds = Function | ast.ClassDef
    everything = [(name, node) for name, tree in sources() for node in ast.walk(tree)]
    nodes = [(f"{name}:{node.lineno}", node) for name, node in everything if isinstance(node, kinds)]
    assert len(nodes) > 1_000
    starts = {place: (ast.get_docstring(node) or "").partition(" ")[0] for place, node in nodes}
    assert [place for place, start in starts.items() if start in {"Give", "Gives"}] == []
    callables = [place for place, node in nodes if isinstance(node, Function) and not is_property(node)]
    assert [place for place in callables if starts[place] == "Whether"] == []


def test_a_count_of_examples_follows_the_profile() -> None:
    """`HYPOTHESIS_PROFILE=thorough` could not raise a number; write `settings().max_examples // 4`."""
    keywords = [
        (name, keyword)
        for name, tree in sources(["tests"])
        if name.startswith("tests/unit/") and name != "tests/unit/conftest.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "max_examples"
    ]
    assert len(keywords) > 5
    assert [f"{name}:{word.value.lineno}" for name, word in keywords if isinstance(word.value, ast.Constant)] == []


def test_the_files_that_run_together_or_first_are_there() -> None:
    places = [place for group in conftest.GROUPS.values() for place in group if place != conftest.TEMPLATE]
    assert [place for place in {*places, *conftest.LONG_FILES} if not (REPOSITORY / place).exists()] == []


def test_no_file_names_a_package_registry_or_a_path_of_a_developers_machine() -> None:
    forbidden = [text.encode() for text in (*REGISTRIES, *MACHINE_PATHS)]
    offences = {
        f"{path.relative_to(REPOSITORY)}: {text.decode()}"
        for path in tracked()
        for text in forbidden
        if text in path.read_bytes()
    }
    assert offences == set()


def test_every_sample_event_is_used_by_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py"))
    samples = [path.stem for path in (REPOSITORY / "events").glob("*.json")]
    assert samples
    # Tests that take one sample an interval make its name of the interval.
    names = {name: {f'"{name}"', re.sub(r"-\d+d$", "-{n}d", f'"{name}') + '"'} for name in samples}
    assert [name for name, written in names.items() if not any(text in tests for text in written)] == []


@pytest.mark.parametrize("name", ["schedule", "fetch-as-of"])
def test_a_sample_event_of_the_fetcher_is_one_that_it_understands(name: str) -> None:
    event = FetchEvent.of(sample(name))
    clock = datetime(2025, 11, 20, tzinfo=UTC)
    assert event.now(clock) == (clock if name == "schedule" else close_of(date(2013, 3, 1)))
    assert (event.first, event.symbols) == (None, ())

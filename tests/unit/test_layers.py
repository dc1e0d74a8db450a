"""The rules of the layers: which module may import which, what domain modules may use, how short entry points are."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PYPROJECT = REPOSITORY / "pyproject.toml"
CONTRACTS = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
(DOMAIN,) = (contract["source_modules"] for contract in CONTRACTS if contract["name"] == "Domain modules are pure")
IMPURE = {"os", "random", "secrets", "socket", "subprocess", "time", "uuid"}
CLOCKS = {"now", "today", "utcnow"}
HANDLERS = sorted(REPOSITORY.glob("services/*/*handler.py"))
ENTRY_POINTS = [*HANDLERS, *sorted(REPOSITORY.glob("services/*/__main__.py"))]
MOST_LINES = 25
MOST_FLOORS = 6
PACKAGES = ("cli", "fiblake", "local", "services", "shared")


OLD_NAMES = next(contract["forbidden_modules"] for contract in CONTRACTS if "names of before" in contract["name"])
AWS_CLIENTS = {"shared.functions", "shared.logs", "shared.metrics"}
"""Only `cli` uses these, and only `shared` may talk to AWS."""


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_file(module: str) -> Path:
    return REPOSITORY / f"{module.replace('.', '/')}.py"


def imported(tree: ast.Module) -> set[str]:
    """Return the top-level names of all modules that are imported anywhere in the file."""
    nodes = list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in names}


def clock_calls(tree: ast.Module) -> list[str]:
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if isinstance(call, ast.Attribute) and call.attr in CLOCKS]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_import_keeps_to_the_contracts() -> None:
    # In a separate process, because it silences every logger.
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout


@cache
def import_graph() -> dict[str, set[str]]:
    """Return the modules of ours that each module imports."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def floors(package: str) -> dict[str, int]:
    """Return the floor of each module of a package: one above the highest module that it imports there."""
    floor: dict[str, int] = {}
    for module in TopologicalSorter(import_graph()).static_order():
        if module.startswith(f"{package}."):
            floor[module] = 1 + max((floor.get(name, 0) for name in import_graph()[module]), default=0)
    return floor


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = import_graph()
    assert len(graph) > 100
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def room(module: str) -> str:
    """Return the service that a module belongs to, the reader, or the package."""
    parts = module.split(".")
    if parts[0] == "fiblake" and (len(parts) == 1 or parts[1] in {"reader", "export"}):
        return "fiblake.reader"
    return ".".join(parts[:2]) if parts[0] == "services" else parts[0]


def rooms_that_use(module: str) -> set[str]:
    """Return the other rooms that import a module, directly or through its neighbours."""
    users: set[str] = set()
    waiting, seen = [module], {module}
    while waiting:
        used = waiting.pop()
        for name in (name for name, imports in import_graph().items() if used in imports and name not in seen):
            seen.add(name)
            if room(name) == room(module):
                waiting.append(name)
            else:
                users.add(room(name))
    return users


def test_a_module_that_only_one_room_uses_is_in_that_room() -> None:
    packages = {name.rpartition(".")[0] for name in import_graph()}
    scripts = {"shared.data.renew_rds_authorities", "fiblake.data.generate_sessions"}
    modules = import_graph().keys() - packages - scripts - set(OLD_NAMES)
    shared = {name for name in modules if room(name) == "shared"}
    assert {name for name in shared if len(rooms_that_use(name)) <= 1} == AWS_CLIENTS
    # A part of the format may have one user, a service or the reader. A module that only the command line uses is no
    # format.
    lake_format = {name for name in modules if room(name) == "fiblake"}
    assert {name for name in lake_format if rooms_that_use(name) <= {"cli"}} == set()


@pytest.mark.parametrize("service", ["consolidator", "fetcher", "reconcile", "resampler", "vacuum"])
def test_a_service_has_six_floors_at_most(service: str) -> None:
    floor = floors(f"services.{service}")
    assert {module: number for module, number in floor.items() if number > MOST_FLOORS} == {}
    assert max(floor.values()) > 1


@pytest.mark.parametrize("module", DOMAIN)
def test_a_domain_module_uses_no_environment_no_random_numbers_and_no_clock(module: str) -> None:
    tree = parsed(module_file(module))
    assert imported(tree) & IMPURE == set()
    assert clock_calls(tree) == []


@pytest.mark.parametrize("path", ENTRY_POINTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_entry_points_functions_are_25_lines_at_most(path: Path) -> None:
    lengths = {function.name: (function.end_lineno or 0) - function.lineno + 1 for function in functions(parsed(path))}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize("path", HANDLERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_handler_is_last_in_its_file_or_right_before_what_it_awaits(path: Path) -> None:
    names = [function.name for function in functions(parsed(path))]
    assert "handler" in names[-2:]

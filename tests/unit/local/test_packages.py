"""The check of a package without importing it, and the interpreter that imports it."""

import sys
from pathlib import Path

import pytest

from local.packages import PackageError, check_graph, check_imports, interpreter

HANDLER = "services.fetcher.handler.handler"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER = "3.99"


def package(folder: Path, **modules: str) -> Path:
    """Write modules into a package; `__` in a name stands for a dot."""
    for name, source in modules.items():
        file = folder.joinpath(*name.split("__")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        for parent in list(file.relative_to(folder).parents)[:-1]:
            (folder / parent / "__init__.py").touch()
        file.write_text(source)
    return folder


def script(file: Path, answer: str, code: int = 0) -> Path:
    """Make a file with the name of an interpreter."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\necho {answer}\nexit {code}\n")
    file.chmod(0o755)
    return file


def test_modules_are_followed_from_the_handler_on(tmp_path: Path) -> None:
    built = package(
        tmp_path,
        services__fetcher__handler="from shared import lake\nfrom fiblake.errors import Fault\nhandler = print",
        shared__lake="import json\nimport os.path",
        fiblake__errors="class Fault(Exception): ...",
        fiblake__unused="import nowhere",
    )
    assert check_graph(built, HANDLER) == 7, "the handler, one module of shared and one of fiblake, and their folders"


@pytest.mark.parametrize(
    "source",
    [
        "import shared.gone",
        "from shared.gone import name",
        "def later():\n    from shared.gone import name",
        "try:\n    import shared.gone\nfinally:\n    pass",
        "import fiblake.lake\nif fiblake.lake:\n    import gone",
        "from gone.inside import name",
    ],
)
def test_what_is_not_there_is_named_wherever_it_is_imported(tmp_path: Path, source: str) -> None:
    built = package(tmp_path, services__fetcher__handler=source, shared__lake="")
    with pytest.raises(PackageError, match=r"lacks (shared\.)?gone"):
        check_graph(built, HANDLER)


def test_what_only_a_type_checker_reads_need_not_be_there(tmp_path: Path) -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import gone\nelse:\n    import json\n"
    assert check_graph(package(tmp_path, services__fetcher__handler=source), HANDLER) == 3


@pytest.mark.parametrize("file", ["boto3/__init__.py", "boto3.py", "boto3.cpython-313-x86_64-linux-gnu.so"])
def test_a_library_is_a_folder_or_a_file_and_is_not_looked_into(tmp_path: Path, file: str) -> None:
    built = package(tmp_path, services__fetcher__handler="import boto3.session")
    (built / file).parent.mkdir(exist_ok=True)
    (built / file).write_text("import gone")
    assert check_graph(built, HANDLER) == 3


def test_a_library_of_a_longer_name_is_another_one(tmp_path: Path) -> None:
    built = package(tmp_path, services__fetcher__handler="import boto3")
    (built / "boto3_stubs").mkdir()
    with pytest.raises(PackageError, match="lacks boto3"):
        check_graph(built, HANDLER)


def test_the_handler_is_imported_with_nothing_else_on_the_path(tmp_path: Path) -> None:
    built = package(tmp_path, services__fetcher__handler="import json\nhandler = print")
    check_imports(built, HANDLER, Path(sys.executable))
    assert list(built.rglob("*.pyc")) == [], "what is written into a package makes another one of it"
    (built / "services/fetcher/handler.py").write_text("import pytest\nhandler = print")
    with pytest.raises(PackageError, match="No module named 'pytest'"):
        check_imports(built, HANDLER, Path(sys.executable))


def test_the_interpreter_that_runs_will_do_if_its_version_is_right() -> None:
    assert interpreter(VERSION, {}) == Path(sys.executable)


def test_an_interpreter_that_does_not_start_is_passed_over_for_the_next(tmp_path: Path) -> None:
    script(tmp_path / "shims/python3.99", "no such version", code=127)
    script(tmp_path / "wrong/python3.99", VERSION)
    (tmp_path / "empty").mkdir()
    right = script(tmp_path / "right/python3.99", OTHER)
    path = ":".join(str(tmp_path / name) for name in ("shims", "wrong", "empty", "right"))
    assert interpreter(OTHER, {"PATH": path, "HOME": str(tmp_path)}) == right


@pytest.mark.parametrize("place", [".pyenv/versions/3.99.1", ".local/share/uv/python/cpython-3.99.1-linux-x86_64-gnu"])
def test_one_that_uv_or_pyenv_installed_is_found_off_the_path(tmp_path: Path, place: str) -> None:
    right = script(tmp_path / place / "bin/python3.99", OTHER)
    assert interpreter(OTHER, {"HOME": str(tmp_path)}) == right


def test_one_that_is_named_is_taken_or_refused_but_never_replaced(tmp_path: Path) -> None:
    right, other = script(tmp_path / "right", OTHER), script(tmp_path / "bin/python3.99", OTHER)
    environment = {"PATH": str(other.parent), "PYTHON399": str(right)}
    assert interpreter(OTHER, environment) == right
    with pytest.raises(PackageError, match=r"PYTHON399=.*/gone is no Python 3\.99 that starts"):
        interpreter(OTHER, environment | {"PYTHON399": str(tmp_path / "gone")})


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert interpreter(OTHER, {"HOME": str(tmp_path), "PATH": ""}) is None

"""The functions' packages, as they are deployed: each has the modules that its handler needs, and none of another
service.
"""

import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.deploy import build
from local.emulator import PYTHON, REPOSITORY
from local.packages import PackageError, check_imports, handlers

HANDLERS = handlers((REPOSITORY / "template.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every function's package, unzipped; functions with the same zip share a folder."""
    built, folder = build(), tmp_path_factory.mktemp("packages")
    unzipped: dict[int, Path] = {}
    for function in HANDLERS:
        archive = built / f"{function}.zip"
        inode = archive.stat().st_ino
        if inode not in unzipped:
            zipfile.ZipFile(archive).extractall(folder / function)
            unzipped[inode] = folder / function
        if not (folder / function).exists():
            (folder / function).symlink_to(unzipped[inode])
    yield folder
    subprocess.run(["rm", "-r", str(folder)], check=True)


def test_there_is_a_handler_a_function() -> None:
    assert len(HANDLERS) > 5
    assert HANDLERS["RouterFunction"] == "services.consolidator.handler.handler"


@pytest.mark.parametrize("function", HANDLERS)
def test_a_package_imports_its_handler_with_nothing_else_on_the_path(packages: Path, function: str) -> None:
    check_imports(packages / function, HANDLERS[function], PYTHON)


@pytest.mark.parametrize("function", HANDLERS)
def test_every_module_is_compiled_so_that_many_cold_starts_at_once_are_quick(packages: Path, function: str) -> None:
    folder = (packages / function).resolve()
    modules = {path.relative_to(folder) for path in folder.rglob("*.py")}
    compiled = {path.relative_to(folder) for path in folder.rglob("__pycache__/*.pyc")}
    assert modules
    assert {path.parent.parent / f"{path.name.partition('.')[0]}.py" for path in compiled} == modules


def test_a_package_that_lacks_something_is_refused_with_what_it_lacks(packages: Path) -> None:
    with pytest.raises(PackageError, match=r"services\.fetcher"):
        check_imports(packages / "RouterFunction", HANDLERS["OhlcvFetcherFunction"], PYTHON)


@pytest.mark.parametrize("function", HANDLERS)
def test_a_package_carries_its_own_service_only_and_stays_far_below_lambdas_limit(
    packages: Path, function: str
) -> None:
    services = {path.name for path in (packages / function / "services").iterdir() if path.is_dir()}
    assert services - {"__pycache__"} == {HANDLERS[function].split(".")[1]}
    size = sum(path.stat().st_size for path in (packages / function).resolve().rglob("*") if path.is_file())
    assert size < 230 * 1024 * 1024

"""Check that each built function's package holds all imports of its handler, with nothing else on the path.

    [PYTHON313=/path/to/python3.13] python -m local.packages [.aws-sam/build]

Prints one line for each function. All imports of our own modules, also late ones, are looked up in the package. The
handler is imported by an interpreter of the functions' version and architecture, if there is one: a named one, one on
the PATH, or one that uv or pyenv has installed. Without one, the libraries are not imported, and the output says so.
"""

import ast
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from fiblake.errors import PermanentError
from local.emulator import REPOSITORY

_HANDLER: Final = re.compile(r"^  (\w+Function):\n(?:    .*\n)*?      Handler: (\S+)$", re.MULTILINE)
_RUNTIME: Final = re.compile(r"^    Runtime: python(\d+\.\d+)$", re.MULTILINE)
# Isolated, and without site-packages: only the standard library and the package can be imported.
_PROGRAM: Final = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
module, _, name = sys.argv[2].rpartition(".")
assert callable(getattr(importlib.import_module(module), name))
strange = [m.__file__ for m in list(sys.modules.values()) if "site-packages" in str(getattr(m, "__file__", None))]
assert not strange, strange
"""
# Read by Powertools and boto3 while they are imported, as on Lambda, which always sets them.
_ENVIRONMENT: Final = {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}


_OURS: Final = frozenset({"fiblake", "services", "shared"})


class PackageError(PermanentError):
    """A function's package does not hold what its handler imports."""


def handlers(template: str) -> dict[str, str]:
    """Return each function's handler, by the function's name in the template."""
    return dict(_HANDLER.findall(template))


def check_imports(package: Path, handler: str, python: Path) -> None:
    """Import the handler from the package alone; raise PackageError with the end of the traceback."""
    # Without byte code (-B): a file written into a package would change it, so that it is uploaded again.
    command = [str(python), "-B", "-I", "-S", "-c", _PROGRAM, str(package), handler]
    process = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    if process.returncode:
        raise PackageError(f"{package.name} does not import {handler} by itself: {process.stderr[-500:]}")


def check_graph(package: Path, handler: str) -> int:
    """Look up all imports of our modules, starting at the handler; return the number of our modules.

    Raises PackageError with the missing ones. A library counts as present if its folder or file exists: its own imports
    are not looked up.
    """
    todo, seen = [handler.rpartition(".")[0]], set[str]()
    while todo:
        module = todo.pop()
        source = _source(package, module)
        if module in seen or (source is None and _is_there(package, module)):
            continue
        if source is None:
            raise PackageError(f"{package.name} lacks {module}, which {handler} imports")
        seen.add(module)
        # `from a import b`: b may be a module of ours, or just a name in one. The folder above is imported first.
        named = [(module.rpartition(".")[0], False), *_imported(ast.parse(source.read_bytes()))]
        todo += [imported for imported, sure in named if sure or _source(package, imported)]
    return len(seen)


def _source(package: Path, module: str) -> Path | None:
    """Return our own module's file in the package."""
    if module.partition(".")[0] not in _OURS:
        return None
    place = package.joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _is_there(package: Path, module: str) -> bool:
    top = module.partition(".")[0]
    if top in _OURS:
        return False
    return top in sys.stdlib_module_names or (package / top).is_dir() or any(package.glob(f"{top}.*"))


def _imported(node: ast.AST) -> Iterator[tuple[str, bool]]:
    """Return all imports in the code, except those for the type checker, and whether each is certainly a module."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                for other in child.orelse:
                    yield from _imported(other)
            case ast.Import():
                yield from ((alias.name, True) for alias in child.names)
            case ast.ImportFrom(module=str(module)):
                yield module, True
                yield from ((f"{module}.{alias.name}", False) for alias in child.names)
            case _:
                yield from _imported(child)


def interpreter(version: str, environment: Mapping[str, str]) -> Path | None:
    """Return an interpreter of that version, if there is one; one that does not start is skipped.

    Raises PackageError if a named one (PYTHON313, for example) has another version.
    """
    variable = f"PYTHON{version.replace('.', '')}"
    if named := environment.get(variable):
        if _is_version(Path(named), version):
            return Path(named)
        raise PackageError(f"{variable}={named} is no Python {version} that starts")
    home = Path(environment.get("HOME", "/"))
    folders = [Path(folder) for folder in environment.get("PATH", "").split(os.pathsep) if folder]
    folders += [
        *Path(environment.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python")).glob("*/bin"),
        *Path(environment.get("PYENV_ROOT", home / ".pyenv")).glob("versions/*/bin"),
    ]
    candidates = [Path(sys.executable), *(folder / f"python{version}" for folder in folders)]
    return next((candidate for candidate in candidates if _is_version(candidate, version)), None)


def _is_version(python: Path, version: str) -> bool:
    if not os.access(python, os.X_OK):
        return False
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    process = subprocess.run([python, "-I", "-c", show], capture_output=True, text=True, check=False)
    return (process.returncode, process.stdout.strip()) == (0, version)


def _checked(build: Path) -> Iterator[str]:
    template = (REPOSITORY / "template.yaml").read_text(encoding="utf-8")
    runtime = _RUNTIME.search(template)
    if runtime is None:
        raise PackageError("template.yaml names no runtime")
    at_home = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    python = interpreter(runtime[1], os.environ) if at_home else None

    def check(function: str, handler: str) -> str:
        modules = check_graph(build / function, handler)
        if not python:
            return f"{function} has the {modules} modules of ours that {handler} needs, and the libraries they name"
        check_imports(build / function, handler, python)
        return f"{function} imports {handler} from its package alone; {modules} modules of ours are there"

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each import is a process, which compiles all that it imports
        yield from pool.map(check, *zip(*handlers(template).items(), strict=True))
    if python:
        yield f"imported by {python}"
    else:
        wish = (
            f"PYTHON{runtime[1].replace('.', '')}=/path/to/python{runtime[1]} names one" if at_home else "run it there"
        )
        yield f"NOT CHECKED: that the libraries work, for want of a Python {runtime[1]} on Linux, x86_64 ({wish})"


def main() -> int:
    """Check the packages below a build folder."""
    try:
        for line in _checked(Path(*(sys.argv[1:] or [".aws-sam/build"]))):
            print(line)  # noqa: T201 (what the command is for)
    except PackageError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

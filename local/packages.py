"""Whether each built function imports its handler from its own package, with nothing else on the path.

    python -m local.packages [.aws-sam/build]

Prints a line a function. Packages for another version of Python or another machine are not imported, which is said.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from local.emulator import REPOSITORY
from shared.errors import PermanentError

_HANDLER: Final = re.compile(r"^  (\w+Function):\n(?:    .*\n)*?      Handler: (\S+)$", re.MULTILINE)
_RUNTIME: Final = re.compile(r"^    Runtime: python(\d+)\.(\d+)$", re.MULTILINE)
# Isolated, and without site-packages: there is the standard library, and there is the package.
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


class PackageError(PermanentError):
    """A function's package does not hold what its handler imports."""


def handlers(template: str) -> dict[str, str]:
    """Give each function's handler, by the function's name in the template."""
    return dict(_HANDLER.findall(template))


def check_imports(package: Path, handler: str, python: Path) -> None:
    """Import the handler from the package alone; raise PackageError with the end of the traceback."""
    command = [str(python), "-I", "-S", "-c", _PROGRAM, str(package), handler]
    done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackageError(f"{package.name} does not import {handler} by itself: {done.stderr[-500:]}")


def _checked(build: Path) -> Iterator[str]:
    template = (REPOSITORY / "template.yaml").read_text(encoding="utf-8")
    runtime = _RUNTIME.search(template)
    if runtime is None:
        raise PackageError("template.yaml names no runtime")
    if sys.version_info[:2] != tuple(map(int, runtime.groups())):
        yield f"not imported: packages for Python {'.'.join(runtime.groups())}, and this is {sys.version.split()[0]}"
        return
    for function, handler in handlers(template).items():
        check_imports(build / function, handler, Path(sys.executable))
        yield f"{function} imports {handler} from its package alone"


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

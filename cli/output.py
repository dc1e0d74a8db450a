"""How does a command answer? With a table for a person, or with JSON for a program (`--json`)."""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from cli.target import Choice

if TYPE_CHECKING:
    import typer
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table
    from rich.text import Text

_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of writing."""
Advance = Callable[[int], None]
Show = Callable[[str, int, int], None]


def answer(context: "typer.Context", facts: object, show: "Callable[[Console], None]") -> None:
    """Print `facts` as JSON if that was asked for, else let `show` print them for a person.

    A person's console takes every text as it is: what others wrote (a symbol, a key, a reason) is no markup, and no
    command to the terminal.
    """
    if wants_json(context):
        sys.stdout.write(as_json(facts) + "\n")
        return
    from rich.console import Console

    class TextConsole(Console):
        def render_str(self, text: str, **options: Any) -> "Text":  # noqa: ANN401 (rich's own)
            return super().render_str(printable(text), **options)

    show(TextConsole(markup=False, emoji=False, highlight=False))


def printable(text: str) -> str:
    """Return a text with its control characters written out; line ends and tabs stay."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def as_json(facts: object) -> str:
    """Return `facts` as JSON that every program reads: a number that is none (NaN, infinity) is null."""
    return json.dumps(_finite(facts), default=str, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def wants_json(context: "typer.Context") -> bool:
    """Whether a program reads the answer."""
    choice = context.find_object(Choice)
    return choice is not None and choice.as_json


def table(
    title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], headers: Sequence[str] | None = None
) -> "Table":
    """Return rows as a table; numbers stand right, what is missing is a dash.

    `headers` are the columns' titles (None: their names, with blanks for underscores).
    """
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(printable(title)), title_justify="left")
    for name, header in zip(columns, headers or [name.replace("_", " ") for name in columns], strict=True):
        numbers = any(isinstance(row.get(name), int | float) for row in rows)
        drawn.add_column(Text(printable(header)), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(_cell(row.get(name)) for name in columns))
    return drawn


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Advance]:
    """Show on stderr how far a long work is, if a person watches; return what to call with each step's size."""
    with _bar(what, total) as (bar, task):
        yield lambda step: bar.advance(task, step)


@contextmanager
def progress_by_name() -> Iterator[Show]:
    """Show the same for a work that names its steps; return what to call with what is next, what is done, and all."""
    with _bar("starting", None) as (bar, task):
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


@contextmanager
def _bar(what: str, total: int | None) -> "Iterator[tuple[Progress, TaskID]]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar, bar.add_task(what, total=total)


def confirmed(question: str) -> bool:
    """Ask a person; nobody there to ask means no."""
    import typer

    return sys.stdin.isatty() and typer.confirm(question, err=True)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

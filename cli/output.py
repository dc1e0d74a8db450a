"""Print a command's answer: a table for a person, or JSON for a program (`--json`)."""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from cli.target import Choice
from fiblake.wording import instant, pluralize

if TYPE_CHECKING:
    import typer
    from rich.console import Console, ConsoleOptions
    from rich.progress import Progress, TaskID
    from rich.table import Table
    from rich.text import Text

_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that change the direction of writing."""
_UNBROKEN: Final = re.compile(r"[0-9 :.,+-]*Z?|-?[0-9.]+e[+-][0-9]+")
"""Numbers, days and instants, which are never split over lines."""
_LEAST_WIDTH: Final = 12
"""The minimum width of a column with longer texts."""
Advance = Callable[[int], None]
Show = Callable[[str, int, int], None]


def answer(context: "typer.Context", facts: object, show: "Callable[[Console], None]") -> None:
    """Print `facts` as JSON on request, else let `show` print them for a person.

    The console prints every text literally: foreign text (a symbol, a key, a reason) is no markup, and no command to
    the terminal.
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
    """Return a text with its control characters escaped; line ends and tabs stay."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def as_json(facts: object) -> str:
    """Return `facts` as standard JSON: NaN and infinity become null."""
    return json.dumps(_finite(facts), default=_as_text, allow_nan=False)


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _finite(value: object) -> object:
    if isinstance(value, Decimal):  # a query's sum or product
        value = int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def wants_json(context: "typer.Context") -> bool:
    """Return whether a program reads the answer."""
    choice = context.find_object(Choice)
    return choice is not None and choice.as_json


@dataclass(frozen=True, slots=True)
class Rows:
    """A table that fits the width of its console: texts are folded, numbers, days and instants are never broken.

    If even that is too wide, each row is a block of lines, with one line for each column.
    """

    title: str
    headers: Sequence[str]
    cells: Sequence[Sequence[str]]
    is_number: Sequence[bool]

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Table | Text]":
        """Yield the table, or the blocks of lines."""
        del console
        # A border on the left of each column and one at the end, a blank on both sides of each cell.
        widths = self._widths(options.max_width - 3 * len(self.headers) - 1)
        if widths:
            yield self._table(widths)
        else:
            yield from self._blocks()

    def _widths(self, room: int) -> list[int] | None:
        """Return the columns' widths, None if they need more than `room`."""
        from rich.cells import cell_len

        columns = [[row[place] for row in self.cells] for place in range(len(self.headers))]
        natural = [
            max(map(cell_len, [header, *(line for cell in cells for line in cell.splitlines())]))
            for header, cells in zip(self.headers, columns, strict=True)
        ]
        least = [
            min(most, max(_least_width(header), *map(_least_width, cells), 1)) if cells else most
            for header, cells, most in zip(self.headers, columns, natural, strict=True)
        ]
        spare = room - sum(least)
        if spare < 0:
            return None
        # Columns that need little more get it, the others share the rest.
        by_need = sorted(range(len(least)), key=lambda place: natural[place] - least[place])
        widths = list(least)
        for fitted, place in enumerate(by_need):
            more = min(natural[place] - least[place], spare // (len(by_need) - fitted))
            widths[place] += more
            spare -= more
        return widths

    def _table(self, widths: Sequence[int]) -> "Table":
        from rich.table import Table
        from rich.text import Text

        drawn = Table(title=Text(self.title), title_justify="left")
        for header, width, is_number in zip(self.headers, widths, self.is_number, strict=True):
            drawn.add_column(Text(header), justify="right" if is_number else "left", overflow="fold", width=width)
        for row in self.cells:
            drawn.add_row(*map(Text, row))
        return drawn

    def _blocks(self) -> "Iterator[Text]":
        from rich.text import Text

        if self.title:
            yield Text(self.title, style="italic")
        longest = max(map(len, self.headers))
        for row in self.cells:
            lines = [f"  {name:<{longest}}  {cell}" for name, cell in zip(self.headers, row, strict=True)]
            yield Text("\n".join(lines) + "\n")
        if not self.cells:
            yield Text("  no rows")


def table(
    title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], headers: Sequence[str] | None = None
) -> Rows:
    """Return rows as a table; numbers are aligned right, a missing value is a dash.

    `headers` are the columns' titles (None: their names, with blanks for underscores).
    """
    return Rows(
        printable(title),
        [printable(header) for header in headers or [name.replace("_", " ") for name in columns]],
        [[printable(_cell(row.get(name))) for name in columns] for row in rows],
        [any(isinstance(row.get(name), int | float) for row in rows) for name in columns],
    )


def _least_width(text: str) -> int:
    """Return the minimum width of a cell: that of a number, or of a text's longest word, at most _LEAST_WIDTH."""
    if _UNBROKEN.fullmatch(text):
        return len(text)
    return min(_LEAST_WIDTH, max(map(len, text.split()), default=1))


def draw_in_window(console: "Console", draw: "Callable[[Console], None]") -> None:
    """Let `draw` print; on a terminal into an empty window, and only as many lines as fit."""
    if not console.is_terminal:
        draw(console)
        return
    with console.capture() as capture:
        draw(console)
    lines, room = capture.get().splitlines(), console.height - 1
    if len(lines) > room:
        cut = pluralize(len(lines) - room + 1, "line")
        lines = [*lines[: room - 1], f"... and {cut} more: a taller window shows them"]
    console.clear()
    console.file.write("".join(f"{line}\n" for line in lines))
    console.file.flush()


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Advance]:
    """Show progress on stderr, if it is a terminal; return a function to call with each step's size."""
    with _bar(what, total) as (bar, task):
        yield lambda step: bar.advance(task, step)


@contextmanager
def progress_by_name() -> Iterator[Show]:
    """Show progress with named steps; return a function to call with step, finished amount and total."""
    with _bar("starting", None) as (bar, task):
        yield lambda what, completed, total: bar.update(task, description=what, completed=completed, total=total)


@contextmanager
def _bar(what: str, total: int | None) -> "Iterator[tuple[Progress, TaskID]]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar, bar.add_task(what, total=total)


def confirm(question: str) -> bool:
    """Ask a person for confirmation; without a terminal the answer is no."""
    import typer

    return sys.stdin.isatty() and typer.confirm(question, err=True)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return instant(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

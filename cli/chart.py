"""`fiblake chart AAPL 21d -o aapl.png`: candlesticks with volume."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.output import answer, progress
from cli.target import target
from shared.lake import INTERVALS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXAMPLE = "Example: fiblake chart AAPL 21d -o aapl.png --last 60"
DAILY: Final = "1d"
KNOWN: Final = (DAILY, *(f"{n}d" for n in INTERVALS))
UP, DOWN, UNFINISHED = "#26775b", "#b5382f", "#9a9a9a"
TICKS: Final = 10


def _intervals(incomplete: str) -> list[str]:
    return [name for name in KNOWN if name.startswith(incomplete)]


def chart(
    context: typer.Context,
    symbol: Annotated[str, typer.Argument(help="Whose bars.")],
    interval: Annotated[str, typer.Argument(help="1d, 3d, 5d, 8d, 13d, 21d or 34d.", autocompletion=_intervals)],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.png, .svg, .pdf).")],
    last: Annotated[int, typer.Option(min=1, help="How many of the last bars.")] = 120,
) -> None:
    """Draw a symbol's bars as candlesticks with volume; a bucket that is not complete yet is grey."""
    from cli import tables
    from shared.errors import ContractError, NotFoundError
    from shared.lake import check_symbol

    try:
        check_symbol(symbol)
    except ContractError as error:
        raise typer.BadParameter(str(error), param_hint="SYMBOL") from error
    if interval not in KNOWN:
        raise typer.BadParameter(f"{interval!r} is none of {', '.join(KNOWN)}", param_hint="INTERVAL")
    view, day, whole = (
        ("bronze", "timestamp", "true") if interval == DAILY else (f"silver_{interval}", "ts", "is_complete")
    )
    with progress("files of the lake") as advance:
        connection = tables.opened(target(context).store, {view}, (symbol,), advance)
    sql = f"SELECT {day}, open, high, low, close, volume, {whole} FROM {view} ORDER BY 1 DESC LIMIT {last}"  # noqa: S608
    with connection:
        rows = connection.sql(sql).fetchall()[::-1]
    if not rows:
        raise NotFoundError(f"the lake has no {interval} bars of {symbol}")
    draw(f"{symbol}, {interval}", rows, output)
    facts = {"file": str(output), "bars": len(rows), "first": rows[0][0], "last": rows[-1][0]}
    answer(context, facts, lambda console: console.print(f"{output}: {len(rows)} bars to {rows[-1][0]}"))


def draw(title: str, rows: list[tuple[Any, ...]], output: Path) -> None:
    """Draw rows (day, open, high, low, close, volume, complete), oldest first, into a file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    prices, volumes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _candles(prices, rows)
    volumes.bar(range(len(rows)), [row[5] for row in rows], width=0.7, color=[_color(row) for row in rows])
    prices.set_title(title, loc="left")
    prices.set_ylabel("USD")
    volumes.set_ylabel("shares")
    volumes.yaxis.set_major_formatter(_counted)
    # By position, not by date: nights and holidays leave no gaps.
    step = max(1, len(rows) // TICKS)
    volumes.set_xticks(range(0, len(rows), step), [str(row[0]) for row in rows[::step]], rotation=30, ha="right")
    for axes in (prices, volumes):
        axes.grid(axis="y", linewidth=0.4, alpha=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    prices.set_xlim(-1, len(rows))
    figure.savefig(output, dpi=120)


def _candles(axes: "Axes", rows: list[tuple[Any, ...]]) -> None:
    places, colors = range(len(rows)), [_color(row) for row in rows]
    axes.vlines(places, [row[3] for row in rows], [row[2] for row in rows], color=colors, linewidth=0.9)
    # A body of no height would not be seen: a hair's breadth is.
    least = (max(row[2] for row in rows) - min(row[3] for row in rows)) / 400
    bodies = [max(abs(row[4] - row[1]), least) for row in rows]
    axes.bar(places, bodies, bottom=[min(row[1], row[4]) for row in rows], width=0.7, color=colors)


def _color(row: tuple[Any, ...]) -> str:
    if not row[6]:
        return UNFINISHED
    return UP if row[4] >= row[1] else DOWN


def _counted(value: float, _place: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"

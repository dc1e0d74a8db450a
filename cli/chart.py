"""`fiblake chart AAPL 21d -o aapl.png`: candlesticks with volume."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import options
from cli.output import answer, progress
from cli.target import Target, target
from fiblake.lake import INTERVALS
from fiblake.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fiblake.bars import Consolidated

EXAMPLE = "Example: fiblake chart AAPL 21d -o aapl.png --last 60"
DAILY: Final = "1d"
KNOWN: Final = (DAILY, *(f"{n}d" for n in INTERVALS))
UP, DOWN, UNFINISHED = "#26775b", "#b5382f", "#9a9a9a"
TICKS: Final = 10
FORMATS: Final = (".png", ".svg", ".pdf")


def _intervals(incomplete: str) -> list[str]:
    return [name for name in KNOWN if name.startswith(incomplete)]


def chart(
    context: typer.Context,
    symbol: Annotated[str, typer.Argument(help="Whose bars.")],
    interval: Annotated[str, typer.Argument(help=f"One of {', '.join(KNOWN)}.", autocompletion=_intervals)],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.png, .svg, .pdf).")],
    last: Annotated[int, typer.Option(min=1, help="How many of the last bars.")] = 120,
) -> None:
    """Draw a symbol's bars as candlesticks with volume; a bucket that is not complete yet is grey.

    All intervals are adjusted for splits, unless the stack's silver is not: then the title says "as traded", and lines
    mark the splits.
    """
    from fiblake.bars import Consolidated
    from fiblake.errors import NotFoundError
    from fiblake.lake import Bronze

    options.symbol(symbol, "SYMBOL")
    if interval not in KNOWN:
        raise typer.BadParameter(f"{interval!r} is none of {', '.join(KNOWN)}", param_hint="INTERVAL")
    _check_output(output)
    stack = target(context)
    data = stack.store.find(Bronze().data_key(symbol))
    stored = Consolidated.decode(data.data, symbol, data.last_modified) if data else None
    if interval == DAILY:
        adjusted = stack.output("SplitAdjusted") == "true"
        rows = _daily(stored, adjusted=adjusted)[-last:] if stored else []
    else:
        rows, adjusted = _of_silver(stack, symbol, interval, last)
    if not rows:
        options.check_in_lake(stack.store, [symbol])
        raise NotFoundError(f"the lake has no {interval} bars of {symbol}")
    splits = [day for day, _ in stored.reference.splits] if stored and not adjusted else []
    draw(f"{symbol}, {interval}, {'adjusted for splits' if adjusted else 'as traded'}", rows, output, splits)
    facts = {"file": str(output), "bars": len(rows), "first": rows[0][0], "last": rows[-1][0], "adjusted": adjusted}
    answer(context, facts, lambda console: console.print(f"{output}: {counted(len(rows), 'bar')} to {rows[-1][0]}"))


def _check_output(output: Path) -> None:
    options.writable(output, "--output")
    if output.suffix not in FORMATS:
        raise typer.BadParameter(f"{output} ends in none of {', '.join(FORMATS)}", param_hint="--output")


def _daily(stored: "Consolidated", *, adjusted: bool) -> list[tuple[Any, ...]]:
    """Return the daily bars, adjusted as silver is: prices times the factor, volume divided by it."""
    import numpy as np

    sessions = np.asarray(stored.bars["timestamp"].to_numpy(), dtype="datetime64[D]")
    factors = np.ones(sessions.size)
    if adjusted and stored.reference.splits and sessions.size:
        factors = stored.reference.as_of(stored.last_session).factors(sessions)
    prices = [stored.bars[name].to_numpy() * factors for name in ("open", "high", "low", "close")]
    volume = stored.bars["volume"].to_numpy() / factors
    columns = [column.tolist() for column in (sessions, *prices, volume)]
    return [(*row, True) for row in zip(*columns, strict=True)]


def _of_silver(stack: Target, symbol: str, interval: str, last: int) -> tuple[list[tuple[Any, ...]], bool]:
    """Return the last buckets, and whether all of them are adjusted for splits."""
    from cli import tables

    view = f"silver_{interval}"
    columns = "ts, open, high, low, close, volume, is_complete, coalesce(adjusted, false)"
    sql = f"SELECT {columns} FROM {view} ORDER BY 1 DESC LIMIT {last}"  # noqa: S608
    with progress("files of the lake") as advance:
        lake = tables.opened(stack.store, {view}, (symbol,), advance)
    with lake.connection:
        rows = lake.answer(lambda connection: connection.sql(sql).fetchall())[::-1]
    lake.name_unreadable()
    return [row[:-1] for row in rows], all(row[-1] for row in rows)


def draw(title: str, rows: list[tuple[Any, ...]], output: Path, splits: Sequence[date] = ()) -> None:
    """Draw rows (day, open, high, low, close, volume, complete), oldest first, into a file; mark the splits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    prices, volumes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _candles(prices, rows)
    for day in splits:
        x = sum(row[0] < day for row in rows)
        if 0 < x < len(rows):
            prices.axvline(x - 0.5, color="#555555", linewidth=0.9, linestyle="--")
            prices.annotate(f" split {day}", (x - 0.5, 1), xycoords=("data", "axes fraction"), va="top", fontsize=8)
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
    positions, colors = range(len(rows)), [_color(row) for row in rows]
    axes.vlines(positions, [row[3] for row in rows], [row[2] for row in rows], color=colors, linewidth=0.9)
    # A body of no height would not be seen: a hair's breadth is.
    least = (max(row[2] for row in rows) - min(row[3] for row in rows)) / 400
    bodies = [max(abs(row[4] - row[1]), least) for row in rows]
    axes.bar(positions, bodies, bottom=[min(row[1], row[4]) for row in rows], width=0.7, color=colors)


def _color(row: tuple[Any, ...]) -> str:
    if not row[6]:
        return UNFINISHED
    return UP if row[4] >= row[1] else DOWN


def _counted(value: float, _place: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"

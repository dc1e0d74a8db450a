"""`fiblake chart AAPL 21d -o aapl.png`: candlesticks with volume."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import options
from cli.output import answer
from cli.target import target
from fiblake.lake import INTERVALS
from fiblake.wording import pluralize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXAMPLE = "Example: fiblake chart AAPL 21d -o aapl.png --last 60"
KNOWN: Final = ("1d", *(f"{n}d" for n in INTERVALS))
UP, DOWN, UNFINISHED = "#26775b", "#b5382f", "#9a9a9a"
TICKS: Final = 12
HAIRS: Final = 400
"""The minimum height of a candle's body, as a part of the axis."""
COLUMNS: Final = ["ts", "open", "high", "low", "close", "volume", "is_complete"]
FORMATS: Final = (".png", ".svg", ".pdf")


def _intervals(incomplete: str) -> list[str]:
    return [name for name in KNOWN if name.startswith(incomplete)]


def chart(
    context: typer.Context,
    symbol: Annotated[str, typer.Argument(help="The symbol.")],
    interval: Annotated[str, typer.Argument(help="1d, or an interval such as 21d.", autocompletion=_intervals)],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.png, .svg, .pdf).")],
    last: Annotated[int, typer.Option(min=1, help="The number of last bars.")] = 120,
    log: Annotated[bool, typer.Option("--log", help="Logarithmic prices: equal steps are equal returns.")] = False,
) -> None:
    """Draw a symbol's bars as candlesticks with volume; a bucket that is not complete yet is grey.

    All intervals are adjusted for splits, unless the stack's silver is not: the title says which. Lines mark splits.
    """
    from fiblake.reader.lake import Lake

    options.symbol(symbol, "SYMBOL")
    if interval not in KNOWN:
        raise typer.BadParameter(f"{interval!r} is none of {', '.join(KNOWN)}", param_hint="INTERVAL")
    _check_output(output)
    stack = target(context)
    lake, adjusted = Lake(stack.store), stack.output("SplitAdjusted") == "true"
    table = lake.bars(symbol, interval, adjust="splits" if adjusted else "raw").table
    table = table.slice(max(0, table.num_rows - last))
    rows = list(zip(*table.select(COLUMNS).to_pydict().values(), strict=True))
    days = lake.splits(symbol).table["execution_date"].to_pylist()
    splits = [day for day in days if rows[0][0] < day <= table["last_date"][-1].as_py()]
    first, end, close = rows[0][0], rows[-1][0], rows[-1][4]
    how = "adjusted for splits" if adjusted else "as traded"
    title = f"{symbol}, {interval}, {how}, {first} to {end}, last close {close:,.4g} USD"
    draw(title, rows, output, splits, log=log)
    facts = {
        "file": str(output), "bars": len(rows), "first": first, "last": end, "adjusted": adjusted, "last_close": close,
        "splits": splits,
    }  # fmt: skip
    text = f"{title}: {pluralize(len(rows), 'bar')}, {pluralize(len(splits), 'split')} marked, in {output}"
    answer(context, facts, lambda console: console.print(text, soft_wrap=True))


def _check_output(output: Path) -> None:
    options.check_writable(output, "--output")
    if output.suffix not in FORMATS:
        raise typer.BadParameter(f"{output} ends in none of {', '.join(FORMATS)}", param_hint="--output")


def draw(
    title: str, rows: list[tuple[Any, ...]], output: Path, splits: Sequence[date] = (), *, log: bool = False
) -> None:
    """Draw rows (day, open, high, low, close, volume, complete), oldest first, into a file; mark the splits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    prices, volumes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _candles(prices, rows, log=log)
    for day in splits:
        x = sum(row[0] < day for row in rows)  # at the first bar after it, or right of the last one
        prices.axvline(x - 0.5, color="#555555", linewidth=0.9, linestyle="--")
        prices.annotate(f" split {day}", (x - 0.5, 1), xycoords=("data", "axes fraction"), va="top", fontsize=8)
    volumes.bar(range(len(rows)), [row[5] for row in rows], width=0.7, color=[_color(row) for row in rows])
    prices.set_title(title, loc="left")
    prices.set_ylabel("USD, logarithmic" if log else "USD")
    if log:
        _make_logarithmic(prices)
    volumes.set_ylabel("shares")
    volumes.yaxis.set_major_formatter(_counted)
    # By position, not by date: nights and holidays leave no gaps.
    ticks = _ticks([row[0] for row in rows])
    volumes.set_xticks(list(ticks), list(ticks.values()))
    for axes in (prices, volumes):
        axes.grid(axis="y", linewidth=0.4, alpha=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    prices.set_xlim(-1, len(rows))
    figure.savefig(output, dpi=120)


def _ticks(days: Sequence[date]) -> dict[int, str]:
    """Return the places of ticks with labels: the first bar of each month, quarter or year, at most TICKS.

    A chart of a few weeks has ticks at days.
    """
    for months in (1, 3, 6, 12, 24, 60, 120):
        period = [(day.year * 12 + day.month - 1) // months for day in days]
        places = [place for place in range(1, len(days)) if period[place] != period[place - 1]]
        if len(places) <= TICKS:
            form = "%Y-%m" if months < 12 else "%Y"  # noqa: PLR2004 (a year's)
            labels = {place: days[place].strftime(form) for place in places}
            return labels if len(labels) > 1 else _ticks_of_days(days)
    return _ticks_of_days(days)


def _ticks_of_days(days: Sequence[date]) -> dict[int, str]:
    step = max(1, len(days) // (TICKS // 2))
    return {place: str(days[place]) for place in range(0, len(days), step)}


def _make_logarithmic(axes: "Axes") -> None:
    """Turn the prices' axis, with plain numbers at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _candles(axes: "Axes", rows: list[tuple[Any, ...]], *, log: bool) -> None:
    positions, colors = range(len(rows)), [_color(row) for row in rows]
    axes.vlines(positions, [row[3] for row in rows], [row[2] for row in rows], color=colors, linewidth=0.9)
    # A body without height would be invisible, so it gets a minimum height.
    highest, lowest = max(row[2] for row in rows), min(row[3] for row in rows)
    bottoms = [min(row[1], row[4]) for row in rows]
    if log:  # the same height on paper for every price
        hairs = [bottom * ((highest / lowest) ** (1 / HAIRS) - 1) for bottom in bottoms]
    else:
        hairs = [(highest - lowest) / HAIRS] * len(rows)
    bodies = [max(abs(row[4] - row[1]), hair) for row, hair in zip(rows, hairs, strict=True)]
    axes.bar(positions, bodies, bottom=bottoms, width=0.7, color=colors)


def _color(row: tuple[Any, ...]) -> str:
    if not row[6]:
        return UNFINISHED
    return UP if row[4] >= row[1] else DOWN


def _counted(value: float, _place: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"

"""Show the results: a table at the terminal, the same as Markdown, and a picture, with the targets."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.consolidate import APPEND_ONLY
from benchmarks.imports import FUNCTIONS
from benchmarks.measure import Result
from local.emulator import REPOSITORY

DOCS: Final = REPOSITORY / "docs"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
COLUMNS: Final = ("what", "contestant", "wall s", "CPU s", "peak MB", "ratio", "result", "target")
OURS: Final = "fiblake"
THROUGH_S3: Final = "through S3"
READ: Final = "read "
"""The prefix of the benchmarks' names for queries."""


@dataclass(frozen=True, slots=True)
class _Target:
    """The targets of the full size, on two cores."""

    sentence: str
    met: Callable[[Result], bool]


TARGETS: Final = {
    ("resample_full", OURS): _Target(
        "≤ 14 s, ≤ 20 CPU s, ≤ 1,500 MB", lambda r: r.wall <= 14 and r.cpu <= 20 and r.rss_mb <= 1_500  # noqa: PLR2004
    ),
    ("resample_full", "fiblake through S3"): _Target("≤ 45 s", lambda r: r.wall <= 45),  # noqa: PLR2004
    ("resample_incremental", OURS): _Target(
        "≤ 3 s, ≤ 5 CPU s, ≤ 300 requests", lambda r: r.wall <= 3 and r.cpu <= 5 and r.facts["requests"] <= 300  # noqa: PLR2004
    ),
    ("consolidate", OURS): _Target("≥ 250 symbols/s", lambda r: r.facts["symbols_per_second"] >= 250),  # noqa: PLR2004
    ("chain", OURS): _Target("p95 ≤ 3 s", lambda r: r.facts["one_p95"] <= 3),  # noqa: PLR2004
    ("flat_files", OURS): _Target("≤ 240 s, ≤ 1,500 MB", lambda r: r.wall <= 240 and r.rss_mb <= 1_500),  # noqa: PLR2004
    ("fetch", OURS): _Target("≤ 15 s", lambda r: r.wall <= 15),  # noqa: PLR2004
    **{("imports", name): _Target("≤ 0.6 s", lambda r: r.wall <= 0.6) for name in FUNCTIONS},  # noqa: PLR2004
}  # fmt: skip


def printed(results: Sequence[Result], facts: Mapping[str, Any]) -> None:
    """Print the table, and the machine and versions."""
    table = Table(*COLUMNS, title=_title(facts))
    for row in _rows(results, facts):
        table.add_row(*row)
    console = Console(width=160)
    console.print(table)
    console.print(_versions(facts))


def markdown(results: Sequence[Result], facts: Mapping[str, Any]) -> str:
    """Return the same, ready for docs/performance.md."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(results, facts)]
    return "\n".join([f"{_title(facts)}.", "", *lines, "", _versions(facts), ""])


def written_into_docs(out: Path) -> None:
    """Put table and picture into docs/, between the page's marks."""
    page = DOCS / "performance.md"
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    page.write_text(
        f"{head}{BEGIN}\n{(out / 'performance.md').read_text(encoding='utf-8')}{END}{tail}", encoding="utf-8"
    )
    shutil.copy(out / "performance.png", DOCS / "performance.png")
    shutil.copy(out / "results.json", DOCS / "performance.json")


def drawn(results: Sequence[Result], facts: Mapping[str, Any], path: Path) -> None:
    """Draw the benchmarks with contestants of the same work: the full resample, consolidation, and reading."""
    import matplotlib as mpl  # noqa: PLC0415 (a second, and only at the end)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = panels(results)
    if not shown:
        return
    heights = [len(some) + 1 for _, some, _ in shown]
    figure, axes = plt.subplots(
        len(shown), 1, figsize=(9, 0.5 * sum(heights) + 1), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axis, (title, some, value) in zip(axes[:, 0], shown, strict=True):
        values = [value(result) for result in some]
        colours = ["#1f6f8b" if result.contestant.startswith(OURS) else "#b8b8b8" for result in some]
        bars = axis.barh([_label(result) for result in some], values, color=colours)
        axis.bar_label(bars, fmt="{:,.1f}", padding=3)
        axis.set_title(title, loc="left")
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    figure.suptitle(_title(facts), fontsize=9, x=0.01, ha="left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def panels(results: Sequence[Result]) -> list[tuple[str, list[Result], Callable[[Result], float]]]:
    """Return the panels of the picture: title, contestants, and their figure. A panel compares equal work."""
    # Without our variants, whose names have a comma, except a reader that is queried again.
    contestants = [
        r for r in results
        if r.benchmark.startswith(READ) or not (r.contestant.startswith(OURS) and "," in r.contestant)
    ]  # fmt: skip
    # No other contestant works through S3.
    resample = [r for r in contestants if r.benchmark == "resample_full" and THROUGH_S3 not in r.contestant]
    merge = [r for r in contestants if r.benchmark == "consolidate" and APPEND_ONLY not in r.contestant]
    questions = dict.fromkeys(r.benchmark for r in contestants if r.benchmark.startswith(READ))
    all_panels: list[tuple[str, list[Result], Callable[[Result], float]]] = [
        ("All of silver anew: seconds", resample, lambda r: r.wall),
        ("Consolidation: symbols a second", merge, lambda r: r.facts["symbols_per_second"]),
    ]
    for question in questions:
        results_asked = [r for r in contestants if r.benchmark == question]
        all_panels.append(
            (f"Reading {question.removeprefix(READ)}: milliseconds", results_asked, lambda r: 1000 * r.wall)
        )
    return [panel for panel in all_panels if panel[1]]


def _label(result: Result) -> str:
    """Return a contestant's name in the picture, with its number of symbols if contestants have different ones."""
    symbols = result.facts.get("symbols")
    return f"{result.contestant}, {symbols:,} symbols" if symbols else result.contestant


def _rows(results: Sequence[Result], facts: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    ours = {r.benchmark: r for r in results if r.contestant == OURS}
    for result in results:
        target = TARGETS.get((result.benchmark, result.contestant)) if facts["size"] == "full" else None
        verdict = f"{target.sentence}: {'met' if target.met(result) else 'MISSED'}" if target else ""
        yield (
            result.benchmark, result.contestant, f"{result.wall:.2f}", f"{result.cpu:.1f}" if result.cpu else "",
            f"{result.rss_mb:,.0f}" if result.rss_mb else "",
            _ratio(result, ours.get(result.benchmark)), _described(result.facts), verdict,
        )  # fmt: skip


def _ratio(result: Result, ours: Result | None) -> str:
    """Return the ratio of its time to ours, or of our rate to its; empty for a contestant with less work."""
    if ours is None or result.contestant.startswith(OURS) or APPEND_ONLY in result.contestant:
        return ""
    rates = [r.facts.get("symbols_per_second") for r in (ours, result)]
    ratio = rates[0] / rates[1] if rates[0] and rates[1] else result.wall / ours.wall
    return f"{ratio:.2f}x"


def _described(facts: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,}" for name, value in facts.items() if not isinstance(value, str)
    )


def _title(facts: Mapping[str, Any]) -> str:
    return (
        f"Lake of size {facts['size']}; {facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB, load "
        f"{facts['load_before']} before; Python {facts['python']}; {facts['at'][:10]}"
    )


def _versions(facts: Mapping[str, Any]) -> str:
    return "Versions: " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + "."

"""README's excerpt is the demo's output: its steps, with tables computed from the real bars, without a stack."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
from rich.console import Console

from fiblake.aggregate import Bars
from fiblake.bars import ReportedBar
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS
from fiblake.reference import reference_of
from local import demo
from local.demo_market import read_market
from local.market_data.replay import sample
from local.recompute import expected_tables
from tests.fakes import REPOSITORY, bar, dividend, splits, table

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SPLITS = [*demo.EARLY_SPLITS, demo.LATE_SPLIT]
VARIES = [(re.compile(r"\d+\.\d s\b"), "# s"), (re.compile(r"\(\d+ s in all\)"), "(# s in all)")]
"""Numbers that differ at each run."""


@cache
def market() -> dict[str, list[ReportedBar]]:
    """Return the demo's bars; their file has 122,574 rows, and the demo's steps need them several times."""
    return read_market()


@dataclass
class Vendor:
    """The vendor's data, and the lake that a stack would compute from it."""

    last: date = date.min
    hidden_symbols: set[str] = field(default_factory=set)
    published: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)

    def as_of(self, last: date) -> None:
        self.last = last

    def hide(self, symbols: list[str]) -> None:
        self.hidden_symbols = set(symbols)

    def splits(self, ids: list[str] | None) -> None:
        self.published = {_id(split) for split in SPLITS} if ids is None else set(ids)

    def bars(self) -> list[ReportedBar]:
        return _bars(self.last, frozenset(self.hidden_symbols))

    def listed(self, day: date) -> set[str]:
        """Return the symbols that have a bar on a day."""
        return {bar.symbol for bar in self.bars() if bar.session == day}

    def refreshed(self) -> dict[str, Any]:
        """Return what the metadata fetcher answers."""
        new = {bar.symbol for bar in self.bars()} - self.known
        split = {identifier.partition("-")[0] for identifier in self.published - self.reported}
        self.known |= new
        self.reported |= self.published
        return {"new": len(new), "splits_changed": len(split), "histories_requested": len(new)}

    def table(self, interval: int) -> pd.DataFrame:
        """Return the interval's right rows at this point."""
        rows = _tables(self.last, frozenset(self.hidden_symbols), frozenset(self.published))[interval]
        return rows.assign(ts=rows["ts"].dt.date, last_date=rows["last_date"].dt.date)


@cache
def _bars(last: date, hidden_symbols: frozenset[str]) -> list[ReportedBar]:
    symbols = {symbol: bars for symbol, bars in market().items() if symbol not in hidden_symbols}
    return [bar for bars in symbols.values() for bar in bars if bar.session <= last]


@cache
def _tables(last: date, hidden_symbols: frozenset[str], published: frozenset[str]) -> dict[int, pd.DataFrame]:
    splits = [split for split in SPLITS if _id(split) in published]
    return expected_tables(_bars(last, hidden_symbols), INTERVALS, splits)


def _id(split: Any) -> str:  # noqa: ANN401
    return f"{split.symbol}-{split.execution_date}"


def total_closes(_demo: demo.Demo, symbol: str) -> Any:  # noqa: ANN401 (numpy's array)
    """Return the closes that a reader of the whole lake would get."""
    bars = market()[symbol]
    rows = table(*(bar(b.session, b.close, symbol=symbol) for b in bars))
    ratios = [(str(s.execution_date), s.split_from, s.split_to) for s in SPLITS if s.symbol == symbol]
    paid = [dividend(str(d.ex_dividend_date), d.cash_amount, symbol, id=d.id) for d in sample()[1].dividends]
    reference = reference_of(splits(*ratios, symbol=symbol), [], [d for d in paid if d.id.startswith(f"{symbol}-")])
    return Bars.of(symbol, rows, nyse(), reference, adjust="total").close


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Vendor:
    """Replace the stack by its steps, the vendor's control, and tables computed with pandas."""
    vendor = Vendor()

    def invoke(_demo: demo.Demo, function: str, event: dict[str, Any]) -> dict[str, Any]:
        if function == "MetadataFetcher":
            return vendor.refreshed()
        session = date.fromisoformat(event["as_of"])
        stored = sum(bar.session == session for bar in vendor.bars())
        now = datetime.now(UTC).isoformat()
        return {"done": [{"what": str(session), "stored": stored, "written_at": now}]}

    @contextmanager
    def running(folder: Path, *, say: Callable[[str], None], **_options: Any) -> Iterator[Mock]:  # noqa: ANN401
        steps = re.findall(r"""say\("(.+?)"\)""", (REPOSITORY / "local/stack.py").read_text(encoding="utf-8"))
        assert len(steps) == 4
        for step in steps:
            say(step)
        yield Mock(folder=folder)

    def fiblake(_demo: demo.Demo, *arguments: str, **_settings: str) -> dict[str, Any]:
        days = {bar.session for bar in vendor.bars() if bar.session >= demo.FIRST_FLAT_FILE}
        companies = {bar.symbol for bar in vendor.bars()}
        match arguments:
            case ("load", "companies", *_):
                return {"companies": len(companies), "delisted": int(demo.DEAD_SYMBOL in companies)}
            case ("load", "flatfiles", *_):
                stored = sum(bar.session in days for bar in vendor.bars())
                return {"files": len(days), "stored": stored, "unclaimed": len(days)}  # the test ticker's, one a day
            case ("universe", _):
                return {"companies": [{"symbol": symbol} for symbol in sorted(vendor.listed(demo.DEAD_SINCE))]}
            case _:
                raise AssertionError(arguments)

    rows = [{"symbol": demo.NEW_SYMBOL, "row_count": len(market()[demo.NEW_SYMBOL]) - 5}]
    watcher = Mock(table=lambda _key: Mock(to_pylist=lambda: rows))
    monkeypatch.setattr(demo, "run_stack", running)
    monkeypatch.setattr(demo, "read_market", market)
    monkeypatch.setattr(demo, "Control", lambda _url, _key: vendor)
    monkeypatch.setattr(demo, "Watcher", lambda _stack: watcher)
    monkeypatch.setattr(demo.Demo, "_invoke", invoke)
    monkeypatch.setattr(demo.Demo, "_fiblake", fiblake)
    monkeypatch.setattr(demo, "publish_flat_files", lambda *_: {})
    monkeypatch.setattr(demo.Demo, "_wait", lambda _demo: None)
    monkeypatch.setattr(demo.Demo, "_table", lambda _demo, interval: vendor.table(interval))
    monkeypatch.setattr(demo.Demo, "_arrived", lambda *_: True)
    monkeypatch.setattr(demo.Demo, "_total_closes", total_closes)
    expected = dict.fromkeys(INTERVALS, pd.DataFrame())  # the tables are computed from it here
    monkeypatch.setattr(demo, "expected_tables", lambda *_: expected)
    monkeypatch.setattr(demo, "differences", lambda _table, _expected: 0)
    return vendor


def masked(text: str) -> str:
    for pattern, mask in VARIES:
        text = pattern.sub(mask, text)
    return text


def shown_in_order(excerpt: list[str], printed: list[str]) -> None:
    """Check that the printed lines are the excerpt's; for "..." in the excerpt, any lines may be there."""
    place, skips = 0, False
    for line in excerpt:
        if line.strip().startswith(("...", "(")):
            skips = True
            continue
        wanted = masked(line).rstrip()
        rest = [masked(text).rstrip() for text in printed[place:]]
        assert wanted in rest if skips else rest[:1] == [wanted], (line, rest[:3])
        place += rest.index(wanted) + 1
        skips = False
    assert skips or place == len(printed), printed[place:]


def test_the_demos_excerpt_is_what_the_demo_prints(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del vendor
    out = io.StringIO()
    monkeypatch.setattr(demo, "REPOSITORY", tmp_path)
    monkeypatch.setattr(demo, "Console", lambda **_: Console(file=out, width=120))
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)
    assert demo.main([]) == 0, out.getvalue()
    excerpt = README.partition("### What `make demo` does and prints")[2].split("```\n", 2)[1].splitlines()
    assert len(excerpt) > 20
    shown_in_order(excerpt, out.getvalue().splitlines())
    assert [path.name for path in (tmp_path / ".local").iterdir()] == ["demo-runs"]
    assert len(INTERVALS) == 6

"""The code of docs/notebook.md runs from the first line to the last, with the results that the page shows."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fiblake
from fiblake.lake import tag_key
from fiblake.tags import tag_file
from tests.fakes import REPOSITORY, MemoryObjectStore
from tests.unit.fiblake.reader.lakes import Contents, lake_of
from tests.unit.resampler.daily import NOW, ORDINAL, SESSIONS, numbered

PAGE = (REPOSITORY / "docs/notebook.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LAST = ORDINAL[max(day for day in SESSIONS if day <= NOW.date())]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The names that the page's code defines, and its output."""
    some = {symbol: numbered(SESSIONS[LAST - 400 - 21 * place : LAST]) for place, symbol in enumerate(("AAPL", "MSFT"))}
    lake = lake_of(Contents(some), tmp_path / "cache", [21])
    assert isinstance(lake.store, MemoryObjectStore)
    lake.store.lay(tag_key("paper-2026"), tag_file(NOW, "jane", NOW))
    monkeypatch.setattr(fiblake, "open", lambda **_: lake, raising=False)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/notebook.md", "exec"), names)  # noqa: S102 (our own page)
    return names | {"printed": capsys.readouterr().out}


def test_the_page_draws_ranks_repeats_and_exports(ran: dict[str, Any], tmp_path: Path) -> None:
    assert (tmp_path / "aapl.png").read_bytes().startswith(b"\x89PNG")
    closes, ranking = ran["closes"], ran["ranking"]
    expected = {symbol: closes[symbol].iloc[-2] / closes[symbol].iloc[-13] - 1 for symbol in ("AAPL", "MSFT")}
    assert ranking.to_dict() == pytest.approx(expected)
    assert ranking.is_monotonic_decreasing
    assert "AAPL" in ran["printed"]
    pd.testing.assert_frame_equal(ran["closes_then"], closes)
    assert sorted(path.name for path in (tmp_path / "csvdir/daily").iterdir()) == ["AAPL.csv", "MSFT.csv"]
    assert sorted(path.name for path in (tmp_path / "lean/equity/usa/daily").iterdir()) == ["aapl.zip", "msft.zip"]
    assert list(ran["feeds"]) == ["AAPL", "MSFT"]


def test_the_chart_takes_ten_lines() -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line]) <= 10

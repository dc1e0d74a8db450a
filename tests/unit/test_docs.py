"""The pages of docs/ must be true. Their Python examples run, and their lists of columns are those of the schemas."""

import re
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fiblake.aggregate import SILVER, Bars, aggregate
from fiblake.bars import encode
from fiblake.calendar import nyse
from fiblake.lake import Month, silver_key
from tests.fakes import REPOSITORY, bar, table

SILVER_PAGE = (REPOSITORY / "docs/silver.md").read_text(encoding="utf-8")
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
ADDED = {"events/consolidation-complete-55d.json", "fiblake/data/lse_sessions.txt"}
"""Files that the page's instructions create."""
ENGINES_PAGE = (REPOSITORY / "docs/engines.md").read_text(encoding="utf-8")
SESSIONS = nyse().between(date(2024, 1, 2), date(2024, 3, 28))


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Return a folder with the silver of two symbols in interval 5."""
    bars = [
        Bars.of(name, table(*(bar(day, close, symbol=name) for close, day in enumerate(SESSIONS, start))), nyse())
        for name, start in (("AAPL", 100), ("MSFT", 300))
    ]
    rows = aggregate(bars, 5, nyse(), adjusted=True)
    months = [Month.of(day) for day in rows["ts"].to_pylist()]
    for month in set(months):
        path = tmp_path / silver_key(5, month)
        path.parent.mkdir(parents=True)
        path.write_bytes(encode(rows.filter(pa.array([month == other for other in months]))))
    return tmp_path


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", ENGINES_PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("example", examples(), ids=["pandas", "duckdb"])
def test_an_example_of_silver_gives_the_complete_closes_of_one_symbol(example: str, lake: Path) -> None:
    names: dict[str, object] = {"lake": str(lake)}
    exec(example, names)  # noqa: S102 (the page's own text)
    result = names["closes"]
    closes = [close for _, close in result] if isinstance(result, list) else list(np.asarray(result))
    last_of_bucket = [100 + i for i, day in enumerate(SESSIONS) if nyse().ordinal(day) % 5 == 4]
    assert closes == last_of_bucket


def test_the_page_of_silver_names_every_column_in_order() -> None:
    columns = SILVER_PAGE.partition("## Columns")[2].partition("**`is_complete`.**")[0]
    named = [name for line in columns.splitlines() for name in re.findall(r"`(\w+)`", line.partition(" | ")[0])]
    assert named == SILVER.names


def test_the_files_that_contributing_names_exist() -> None:
    named = set(
        re.findall(r"`((?:cli|docs|events|fiblake|local|migrations|services|shared|tests)/[\w./-]+)`", CONTRIBUTING)
    )
    assert len(named) > 30
    missing = {name for name in named if "NAME" not in name and not (REPOSITORY / name).exists()}
    assert missing <= ADDED

"""The output on a terminal: tables that fit, numbers that are not broken, and no more lines than fit."""

import io
import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from cli.output import as_json, draw_in_window, table

MOMENT = datetime(2026, 11, 26, 17, 5, 3, tzinfo=UTC)
CELLS = st.one_of(
    st.none(), st.integers(-(10**12), 10**12), st.floats(allow_nan=False), st.just(MOMENT), st.just(date(2026, 11, 26)),
    st.text(st.characters(blacklist_categories=("C", "Z")), max_size=60), st.just("bronze/raw_ohlcv/symbol=AAPL/x"),
)  # fmt: skip


def drawn(rows: list[dict[str, Any]], columns: list[str], width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, markup=False, emoji=False, highlight=False).print(table("Title", rows, columns))
    return out.getvalue().splitlines()


@given(st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS, CELLS, CELLS), min_size=1, max_size=4), st.integers(60, 140))
def test_a_table_fits_its_console_and_no_number_is_broken(rows: list[tuple[Any, ...]], width: int) -> None:
    columns = [f"column_{n}" for n in range(6)]
    lines = drawn([dict(zip(columns, row, strict=True)) for row in rows], columns, width)
    assert max(map(cell_len, lines)) <= width
    for value in (value for row in rows for value in row):
        if isinstance(value, int | float | datetime | date):
            text = "2026-11-26 17:05:03Z" if value == MOMENT else f"{value:,}" if isinstance(value, int) else str(value)
            assert any(text in line for line in lines), (text, lines)


def test_a_row_too_wide_for_a_table_is_a_block_of_lines() -> None:
    columns = ["symbol", *(f"n{n}" for n in range(9))]
    lines = drawn([{"symbol": "AAPL", **dict.fromkeys(columns[1:], 123_456_789)}], columns, 80)
    assert lines[:3] == ["Title", "  symbol  AAPL", "  n0      123,456,789"]


def test_without_rows_there_is_a_header() -> None:
    assert any("symbol" in line for line in drawn([], ["symbol", "session"], 80))


@pytest.mark.parametrize("height", [6, 10, 40])
def test_a_window_is_filled_and_not_overrun(height: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, height=height, force_terminal=True, color_system=None)
    draw_in_window(console, lambda window: window.print("\n".join(f"line {n}" for n in range(20))))
    lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", out.getvalue()).splitlines()
    assert len(lines) == min(20, height - 1)
    cut = [line for line in lines if line.startswith("... and")]
    assert cut == ([] if height > 20 else [f"... and {20 - height + 2} lines more: a taller window shows them"])


def test_without_a_terminal_nothing_is_cut() -> None:
    out = io.StringIO()
    draw_in_window(Console(file=out, width=80, height=5), lambda console: console.print("\n".join("x" * 20)))
    assert out.getvalue() == "x\n" * 20


def test_json_has_one_form_of_instants() -> None:
    assert json.loads(as_json({"at": MOMENT, "day": date(2026, 11, 26)})) == {
        "at": "2026-11-26T17:05:03+00:00", "day": "2026-11-26",
    }  # fmt: skip


def test_a_decimal_is_a_number_in_json() -> None:
    decimals = [Decimal("12.50"), Decimal(7), Decimal("NaN")]
    assert as_json(decimals) == "[12.5, 7, null]"

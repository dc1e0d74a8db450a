from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.measure import Result
from benchmarks.report import APPEND_ONLY, BEGIN, END, drawn, markdown, panels, written_into_docs

FACTS = {
    "size": "full", "cpu": "Some CPU", "cores": 2, "memory_gb": 24, "load_before": 0.1, "python": "3.13.1",
    "at": "2025-11-20T10:00:00+00:00", "versions": {"duckdb": "2.0.1"},
}  # fmt: skip
RESULTS = [
    Result("resample_full", "fiblake", 10.0, 15.0, 1_000, 3, {"rows": 10_974_024}),
    Result("resample_full", "pandas", 25.0, 40.0, 3_000, 3),
    Result("resample_full", "fiblake through S3", 15.0, 17.0, 1_000, 3),
    Result("consolidate", "fiblake", 40.0, 60.0, 300, 3, {"symbols_per_second": 133.8}),
    Result("consolidate", "published (DuckDB a symbol)", 20.0, 20.0, 300, 1, {"symbols_per_second": 10.0}),
    Result("consolidate", f"Delta Lake ({APPEND_ONLY})", 1.0, 1.0, 300, 1, {"symbols_per_second": 5_350.0}),
    Result("consolidate", "fiblake, 30 files a symbol", 1.0, 1.0, 300, 1, {"symbols_per_second": 40.0}),
    Result("read one symbol", "fiblake", 0.01, 0.01, 300, 5, {"requests": 1}),
    Result("read one symbol", "fiblake, asked again", 0.01, 0.01, 300, 5, {"requests": 1}),
    Result("read one symbol", "Delta Lake", 0.05, 0.01, 300, 5, {"requests": 132}),
]


def test_the_table_has_ratios_targets_machine_and_versions() -> None:
    text = markdown(RESULTS, FACTS)
    assert "| resample_full | pandas | 25.00 | 40.0 | 3,000 | 2.50x |" in text
    assert "| 13.38x | symbols per second 10.0 |" in text, "of rates, the ratio is of the rates"
    assert "≤ 14 s, ≤ 20 CPU s, ≤ 1,500 MB: met" in text
    assert "≥ 250 symbols/s: MISSED" in text
    assert "Some CPU, 2 cores, 24 GB, load 0.1 before" in text
    assert "duckdb 2.0.1" in text


def test_the_picture_and_the_ratios_compare_equal_work_only() -> None:
    shown = {title: [result.contestant for result in results] for title, results, _ in panels(RESULTS)}
    assert shown == {
        "All of silver anew: seconds": ["fiblake", "pandas"],
        "Consolidation: symbols a second": ["fiblake", "published (DuckDB a symbol)"],
        "Reading one symbol: milliseconds": ["fiblake", "fiblake, asked again", "Delta Lake"],
    }
    text = markdown(RESULTS, FACTS)
    assert f"| consolidate | Delta Lake ({APPEND_ONLY}) | 1.00 | 1.0 | 300 |  | symbols per second 5,350.0 |" in text
    assert "| read one symbol | Delta Lake | 0.05 | 0.0 | 300 | 5.00x | requests 132 |" in text


def test_a_small_lake_is_held_to_no_target() -> None:
    assert "MISSED" not in markdown(RESULTS, FACTS | {"size": "small"})


def test_the_docs_keep_the_text_around_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "DOCS", tmp_path / "docs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/performance.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    (tmp_path / "performance.md").write_text("new\n")
    (tmp_path / "results.json").write_text("{}")
    drawn(RESULTS, FACTS, tmp_path / "performance.png")
    written_into_docs(tmp_path)
    assert (tmp_path / "docs/performance.md").read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert (tmp_path / "docs/performance.png").read_bytes().startswith(b"\x89PNG")

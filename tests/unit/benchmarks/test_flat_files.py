"""The benchmark of the whole history: its day files, and how it compares lakes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import flat_files
from benchmarks.flat_files import FIRST, LAST, Shape, day_files, differences
from services.fetcher.flat_files.days import decode_day
from services.fetcher.flat_files.sources import FolderSource
from tests.fakes import NOON


def test_the_day_files_are_always_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flat_files.SHAPES, "tiny", Shape(3, 2, 1))
    monkeypatch.setattr(flat_files, "ProcessPoolExecutor", ThreadPoolExecutor)
    versions = []
    for name in ("first", "second"):
        monkeypatch.setattr(flat_files, "FOLDER", tmp_path / name)
        source = FolderSource(day_files("tiny"))
        files = source.files(FIRST, LAST)
        days = [decode_day(file, source.read(file), 1 << 20) for file in files]
        versions.append([(file.session, file.etag, source.read(file)) for file in files])
    assert versions[0] == versions[1]
    assert [day.tickers for day in days] == [["AAAA", "AAAB", "AAAC"]] * 2


def test_two_lakes_differ_if_an_object_does_whenever_it_was_put() -> None:
    lake = {"a": ("1", NOON), "b": ("2", NOON)}
    later = NOON.replace(hour=13)
    assert differences(lake, {"a": ("1", later), "b": ("2", later)}) == []
    assert differences(lake, {"a": ("1", NOON)}) == ["killed and continued: 1 objects differ: b"]
    assert differences(lake, lake | {"a": ("3", NOON)}) == ["killed and continued: 1 objects differ: a"]

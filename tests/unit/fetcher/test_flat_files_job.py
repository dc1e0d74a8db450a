"""The Batch job that loads flat files: its settings, its exit codes, its log line."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from fiblake.errors import ConfigurationError, FiblakeError, UpstreamError
from services.fetcher.flat_files import __main__ as entry
from services.fetcher.flat_files.load import LoadReport, Progress
from services.fetcher.settings import FlatFileJobSettings

Call = tuple[FlatFileJobSettings, Path | None, date | None, date | None, bool, bool]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FlatFileJobSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("S3_BUCKET", "b")
    monkeypatch.setenv("RDS_SECRET_ARN", "arn:rds")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The loads; the report names no failure."""
    made: list[Call] = []
    load(monkeypatch, LoadReport(files=2), made)
    return made


def load(monkeypatch: pytest.MonkeyPatch, outcome: LoadReport | FiblakeError, made: list[Call]) -> None:
    async def load_flat_files(
        settings: FlatFileJobSettings, folder: Path | None, first: date | None, last: date | None, _show: Progress,
        *, all_tickers: bool, again: bool,
    ) -> LoadReport:  # fmt: skip
        made.append((settings, folder, first, last, all_tickers, again))
        if isinstance(outcome, FiblakeError):
            raise outcome
        return outcome

    monkeypatch.setattr(entry, "load_flat_files", load_flat_files)


def test_a_job_without_options_loads_all_that_is_not_loaded(calls: list[Call]) -> None:
    assert entry.main([]) == 0
    [(settings, *arguments)] = calls
    assert arguments == [None, None, None, False, False]
    assert settings.universe_types == {"CS", "ADRC", "ETF"}


def test_options_and_variables_name_the_sessions(calls: list[Call], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAT_FILES_TO", "2020-12-31")
    monkeypatch.setenv("UNIVERSE_TYPES", "CS")
    assert entry.main(["--flat-files-from", "2020-01-02", "--flat-files-all-tickers", "--flat-files-again"]) == 0
    [(settings, *arguments)] = calls
    assert arguments == [None, date(2020, 1, 2), date(2020, 12, 31), True, True]
    assert settings.universe_types == {"CS"}


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (LoadReport(failed={"2020/01/2020-01-02.csv.gz": "is not gzip"}), 3),
        (UpstreamError("S3 is down"), 1),
        (ConfigurationError("set FLAT_FILES_SECRET_ARN"), 2),
    ],
)
def test_exit_codes(
    outcome: LoadReport | FiblakeError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load(monkeypatch, outcome, [])
    assert entry.main([]) == code
    assert not isinstance(outcome, FiblakeError) or str(outcome) in capsys.readouterr().err


def test_sessions_in_the_wrong_order_are_exit_code_2(calls: list[Call], capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--flat-files-from", "2021-01-04", "--flat-files-to", "2020-12-31"]) == 2
    assert "FLAT_FILES_FROM 2021-01-04 lies after FLAT_FILES_TO 2020-12-31" in capsys.readouterr().err
    assert calls == []


def test_the_log_line_has_numbers_and_the_first_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    report = LoadReport(
        files=3, missing_sessions=[date(2020, 1, 2)], failed={f"{n}.csv.gz": "broken" for n in range(30)}
    )
    load(monkeypatch, report, [])
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(entry.logger, "info", lambda _text, extra: lines.append(extra))
    entry.main([])
    [line] = lines
    assert (line["files"], line["missing_sessions"], line["failed"], len(line["reasons"])) == (3, 1, 30, 20)

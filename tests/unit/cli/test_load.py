import json
from datetime import date
from typing import Any

import pytest

from cli import target
from services.fetcher import assembly
from services.fetcher.companies import CompaniesReport
from tests.unit.cli.conftest import Run


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, date]]:
    """Replace the vendor; return the settings that were read, and the first requested day of companies."""
    calls: list[tuple[str, date]] = []

    async def load_companies(settings: str, first: date, show: Any) -> CompaniesReport:  # noqa: ANN401 (a callback)
        show("tickers of a day", 0, 1)
        calls.append((settings, first))
        return CompaniesReport(lists=2, companies=7, delisted=3, without_type=1)

    monkeypatch.setattr(target, "settings_of", lambda _context, function, _settings: function)
    monkeypatch.setattr(assembly, "load_companies", load_companies)
    return calls


def test_companies_of_the_past_are_requested_since_a_day_and_counted(run: Run, calls: list[tuple[str, date]]) -> None:
    result = run("load", "companies", "--from", "2003-09-10", "--json")
    assert result.exit_code == 0, result.stderr
    assert calls == [("MetadataFetcherFunctionName", date(2003, 9, 10))]
    facts = json.loads(result.stdout)
    assert (facts["companies"], facts["delisted"], facts["without_type"]) == (7, 3, 1)
    assert "without type" in run("load", "companies", "--from", "2003-09-10").stdout


def test_the_first_day_is_needed(run: Run, calls: list[tuple[str, date]]) -> None:
    result = run("load", "companies")
    assert (result.exit_code, calls) == (2, [])

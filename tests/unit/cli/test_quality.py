import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from cli import quality as command
from cli.quality import page, verdict
from cli.quality_report import Sources, quality_of
from fiblake.adjustment import Reference
from fiblake.bars import Consolidated, encode
from fiblake.calendar import nyse
from fiblake.lake import revisions_key, splits_key
from fiblake.reference import Split, splits_file
from fiblake.revisions import revise
from tests.fakes import LAKE, NOON, bar, table
from tests.unit.cli.conftest import FakeTarget, Run

CLOSED = nyse().last_closed(datetime.now(UTC))
DAYS = nyse().between(date(CLOSED.year - 1, 1, 2), CLOSED)
EVIL = '<script>alert("x")</script>'


def lay(stack: FakeTarget, days: list[date]) -> None:
    bars = table(*(bar(day, 100.0 + number % 7) for number, day in enumerate(days)))
    stack.store.lay(LAKE.data_key("AAPL"), Consolidated(bars, {}, NOON, Reference()).encode())


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> set[date]:
    """Return the sessions that were requested from the vendor, according to Postgres."""
    sessions: set[date] = set()

    async def answer(*_: object) -> set[date]:
        return sessions

    monkeypatch.setattr(command, "_read_requested", answer)
    return sessions


@pytest.mark.usefixtures("requested")
def test_a_whole_symbol_ends_with_0(run: Run, stack: FakeTarget) -> None:
    lay(stack, DAYS)
    result = run("quality", "AAPL")
    assert result.exit_code == 0, result.output
    assert "Whole and plausible." in result.stdout


def test_a_missing_session_ends_with_3_and_one_without_a_trade_does_not(
    run: Run, stack: FakeTarget, requested: set[date]
) -> None:
    lay(stack, [day for day in DAYS if day != DAYS[40]])
    result = run("quality", "AAPL")
    assert (result.exit_code, "To look at: 1 missing session." in result.stdout) == (3, True)
    assert f"missing: {DAYS[40]}" in result.stdout
    requested.add(DAYS[40])
    result = run("quality", "AAPL")
    assert (result.exit_code, "1 session without a trade" in result.stdout) == (0, True)


def test_without_postgres_a_session_without_a_bar_is_unknown(run: Run, stack: FakeTarget) -> None:
    lay(stack, [day for day in DAYS if day != DAYS[40]])
    [facts] = json.loads(run("quality", "AAPL", "--json").stdout)
    assert (facts["totals"]["unknown"], facts["missing"]) == (1, [])


@pytest.mark.usefixtures("requested")
def test_a_data_parquet_that_cannot_be_read_is_named(run: Run, stack: FakeTarget) -> None:
    stack.store.lay(LAKE.data_key("AAPL"), b"no Parquet")
    result = run("quality", "AAPL")
    assert result.exit_code != 0
    assert f"{LAKE.data_key('AAPL')} cannot be used" in str(result.exception) + result.stderr


@pytest.mark.usefixtures("requested")
def test_a_symbol_that_cannot_be_read_hides_no_other(run: Run, stack: FakeTarget) -> None:
    lay(stack, DAYS)
    stack.store.lay(LAKE.data_key("BAD"), b"no Parquet")
    result = run("quality", "BAD", "AAPL", "--json")
    assert result.exit_code == 3
    assert [facts["symbol"] for facts in json.loads(result.stdout)] == ["AAPL"]
    assert f"fiblake: {LAKE.data_key('BAD')} cannot be used" in result.stderr


def test_a_page_for_paper_needs_no_other_file_and_keeps_text_text(run: Run, stack: FakeTarget, tmp_path: Path) -> None:
    lay(stack, DAYS)
    splits = [Split("AAPL", DAYS[n], 1, 2, EVIL, factor, EVIL + str(n)) for n, factor in ((3, 0.25), (4, 0.5))]
    stack.store.lay(splits_key("AAPL"), splits_file(splits))
    file = tmp_path / "quality.html"
    assert run("quality", "AAPL", "--html", str(file)).exit_code == 3
    text = file.read_text(encoding="utf-8")
    assert "1 duplicate split" in text
    assert f"2-for-1 as well on {DAYS[3]}" in text
    for outside in ("<script", "src=", "http:", "https:", "<link"):
        assert outside not in text


def test_text_of_others_is_escaped() -> None:
    bars = Consolidated(table(*(bar(day, 100.0) for day in DAYS[:2])), {}, NOON, Reference())
    assert EVIL not in page([quality_of(EVIL, bars, nyse(), DAYS[1], Sources(asked=set()))])


def test_the_verdict_names_each_kind_with_its_number() -> None:
    days = DAYS[:60]
    closes = [100.0 + n % 7 for n in range(60)]
    closes[20:26] = [100.0] * 6
    closes[40:] = [close * 10 for close in closes[40:]]
    bars = Consolidated(table(*(bar(d, c) for d, c in zip(days, closes, strict=True))), {}, NOON, Reference())
    sentence = verdict(quality_of("AAPL", bars, nyse(), DAYS[61], Sources(asked={DAYS[60]})))
    assert sentence == "To look at: 1 missing session, 1 stale repeat, 1 jump. 1 session without a trade."


@pytest.mark.usefixtures("requested")
def test_a_flat_file_that_differs_from_the_api_is_shown(run: Run, stack: FakeTarget) -> None:
    lay(stack, DAYS)
    before = table(bar(DAYS[5], 105.0, vwap=105.0), bar(DAYS[6], 100.0, vwap=100.0))
    first, _ = revise(None, Consolidated(before, {}, NOON, Reference()))
    data = stack.store.peek(LAKE.data_key("AAPL")) or b""
    _, revisions = revise(first, Consolidated.decode(data, "AAPL", NOON))
    stack.store.lay(revisions_key("AAPL"), encode(revisions))
    result = run("quality", "AAPL")
    assert result.exit_code == 3
    shown = " ".join(result.stdout.split())
    assert "To look at: 1 flat file differs. 2 sessions compared between the API and flat files (1 differ)" in shown
    assert f"{DAYS[6]} flat file differs: the API and a flat file have" in shown
    stack.store.lay(revisions_key("AAPL"), b"no Parquet")
    broken = run("quality", "AAPL")
    assert (broken.exit_code, revisions_key("AAPL") in broken.stderr) == (1, True)

"""`fiblake costs`: its table is the page's, and its counts are the code's."""

import os
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from cli import costs
from cli.costs import AUDIT, BATCH, REQUESTS, of_month, of_session, table
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS
from services.reconcile.reconcile import Reconciler
from services.reconcile.silver import Grid
from tests.fakes import LAKE, REPOSITORY
from tests.unit.cli.conftest import Run
from tests.unit.resampler.daily import NOW, ORDINAL, SESSIONS
from tests.unit.test_put_to_silver import World
from tests.unit.variants import GIVEN, deployed, properties

SYMBOLS = [f"S{number:03}" for number in range(40)]
PAGE = REPOSITORY / "docs/costs.md"
BEGIN, END = "<!-- fiblake costs --symbols 5350 --symbols 50000 -->\n", "<!-- end -->\n"


@pytest.fixture(scope="module")
def lake() -> World:
    """A lake with two weeks of each symbol, consolidated and resampled."""
    world = World(None)
    for symbol in SYMBOLS:
        world.history(symbol)
    world.consolidate(world.open_requests)
    for interval in INTERVALS:
        world.resample(interval, world.events)
    world.events.clear()
    return world


@pytest.fixture(scope="module")
def counted(lake: World) -> dict[str, Counter[str]]:
    """The requests of one more session: of the consolidation, and of one interval's batch."""
    for symbol in SYMBOLS:
        lake.bar(symbol, SESSIONS[ORDINAL[date(2025, 10, 1)]], 20)
    counts = {}
    lake.store.journal.clear()
    lake.consolidate(lake.open_requests)
    counts["consolidate"] = Counter(verb for verb, key in lake.store.journal if key.startswith("bronze/"))
    lake.store.journal.clear()
    lake.resample(3, lake.events)
    counts["resample"] = Counter(verb for verb, _ in lake.store.journal)
    lake.store.journal.clear()
    Reconciler(lake.store, LAKE, Grid(nyse(), adjusted=True), NOW.date()).audit([], NOW.date())
    counts["audit"] = Counter(verb for verb, key in lake.store.journal if key.startswith("bronze/"))
    return counts


def test_the_page_has_the_table_that_the_command_prints() -> None:
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    wanted = f"{head}{BEGIN}\n{table([5_350, 50_000])}\n{END}{tail}"
    if os.environ.get("UPDATE_COSTS"):
        PAGE.write_text(wanted, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == wanted


def test_the_goals_of_a_session_and_a_month_are_kept() -> None:
    # 0.12 USD a session, and 10 USD a month with 32 alarms and 8 event sources. An additional resource must be paid for
    # on purpose.
    scale = len(INTERVALS) / 6
    added = (costs.counts()["alarms"] - 32) * costs.ALARM
    added += (costs.counts()["event_sources"] - 8) * costs.POLLS * costs.SQS
    assert of_session(5_350) <= 0.12 * scale
    assert of_month(5_350) - added <= 10 * scale


def test_a_consolidation_costs_three_requests_a_symbol(counted: dict[str, Counter[str]]) -> None:
    verbs, symbols = counted["consolidate"], len(SYMBOLS)
    assert (verbs["get"], verbs["write"], sum(verbs.values())) == (2 * symbols, symbols, 3 * symbols)
    stated = REQUESTS["consolidate"]
    assert (int(stated.gets), int(stated.puts)) == (2, 1)


def test_a_resampled_batch_costs_no_request_a_symbol(counted: dict[str, Counter[str]]) -> None:
    verbs = counted["resample"]
    assert verbs["put"] + verbs["write"] + verbs["list"] <= BATCH.puts
    assert verbs["get"] + verbs["head"] <= BATCH.gets
    assert REQUESTS["resample"].gets == REQUESTS["resample"].puts == 0


def test_an_audit_costs_four_reads_a_symbol_and_one_listing_of_bronze(counted: dict[str, Counter[str]]) -> None:
    verbs, symbols = counted["audit"], len(SYMBOLS)
    assert verbs["list"] == 1, "all keys, 1,000 a request"
    assert verbs["get"] + verbs["head"] == AUDIT.gets * symbols


def test_alarms_and_event_sources_are_those_of_a_deployed_stack() -> None:
    kinds = {"alarms": "AWS::CloudWatch::Alarm", "event_sources": "AWS::Lambda::EventSourceMapping"}
    assert costs.counts() == {name: len(properties(deployed(GIVEN), kind)) for name, kind in kinds.items()}


def test_without_a_checkout_the_command_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run) -> None:
    monkeypatch.setattr("local.emulator.REPOSITORY", tmp_path)
    costs.counts.cache_clear()
    try:
        result = run("costs", "--symbols", "10")
    finally:
        costs.counts.cache_clear()
    assert result.exit_code == 2
    assert "run this command in a checkout" in " ".join(result.stderr.split())


def test_what_else_is_charged_is_that_of_the_template() -> None:
    resources = deployed(GIVEN)
    assert properties(resources, "AWS::CloudWatch::Dashboard") == {}
    default = properties(resources, "AWS::Lambda::Function")["RouterFunction"]["Environment"]["Variables"]
    assert int(default["SYMBOLS_PER_CHILD"]) == costs.SYMBOLS_PER_CHILD

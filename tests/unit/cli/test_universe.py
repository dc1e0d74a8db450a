import json

from fiblake.lake import UNIVERSE_KEY
from fiblake.symbols import BEGINNING
from fiblake.universe import universe_file, universe_of
from services.fetcher.identities import record_of
from tests.fakes import NOON
from tests.unit.cli.conftest import FakeTarget, Run
from tests.unit.fetcher.reference import ticker


def lay(stack: FakeTarget) -> None:
    tickers = [ticker("AAPL"), ticker("SPY", type="ETF"), ticker("BLANK", type=None)]
    records = [record_of(company, BEGINNING, NOON) for company in tickers]
    stack.store.lay(UNIVERSE_KEY, universe_file(universe_of(records, NOON.date())))


def test_the_companies_of_a_day_are_listed_and_counted_by_type(stack: FakeTarget, run: Run) -> None:
    lay(stack)
    result = run("universe", "2012-06-29")
    assert result.exit_code == 0, result.stderr
    assert "Companies listed on 2012-06-29" in result.stdout
    assert "3 companies: 1 CS, 1 of unknown type, 1 ETF" in result.stdout


def test_types_leave_out_others_and_never_those_without_one(stack: FakeTarget, run: Run) -> None:
    lay(stack)
    facts = json.loads(run("universe", "2012-06-29", "--types", "CS", "--json").stdout)
    assert [row["symbol"] for row in facts["companies"]] == ["AAPL", "BLANK"]


def test_of_a_day_before_anything_was_asked_it_says_that_only_survivors_are_known(stack: FakeTarget, run: Run) -> None:
    lay(stack)
    assert json.loads(run("universe", "2012-06-29", "--json").stdout)["survivors_only"]
    assert "fiblake load companies --from 2012-06-29" in " ".join(run("universe", "2012-06-29").stdout.split())
    assert "load companies" not in run("universe", str(NOON.date())).stdout


def test_a_lake_without_the_file_says_what_writes_it(run: Run) -> None:
    result = run("universe", "2012-06-29")
    assert (result.exit_code, "run `fiblake metadata`" in str(result.stderr)) == (2, True)


def test_a_file_that_is_none_is_named_with_the_remedy(stack: FakeTarget, run: Run) -> None:
    stack.store.lay(UNIVERSE_KEY, b"no Parquet")
    result = run("universe", "2012-06-29")
    assert result.exit_code == 1
    assert "delete it and run `fiblake metadata`" in result.stderr

import json
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fiblake.bars import BRONZE, read_bars
from fiblake.calendar import nyse
from fiblake.errors import ConfigurationError, NotFoundError, UpstreamError
from fiblake.lake import CLEANUP_RECORD_KEY
from services.consolidator.consolidate import Consolidator, Task
from services.consolidator.merge import merge
from services.vacuum.bronze import SYMBOLS_PER_ROUND, Plan, Vacuum, check_retention, execute, plan
from shared.cleanup import Counts
from tests.fakes import LAKE, NOON, MemoryObjectStore, bar, consolidated, later, parquet, table

OLD = [date(2025, 6, 2), date(2025, 6, 3), date(2025, 6, 4)]
YOUNG = date(2025, 11, 19)
DAYS = 30


def put(store: MemoryObjectStore, session: date, close: float = 10, symbol: str = "AAPL", minutes: float = 0) -> str:
    key = LAKE.date_key(symbol, session)
    store.lay(key, parquet(bar(session, close, later(minutes), symbol)))
    return key


def merged(store: MemoryObjectStore, symbol: str = "AAPL") -> None:
    Consolidator(store, LAKE, nyse()).consolidate(Task(symbol), NOON)


def planned(store: MemoryObjectStore, *symbols: str, days: int = DAYS) -> Plan:
    return plan(Vacuum(store, LAKE, 4), symbols, days, NOON)


def vacuumed(store: MemoryObjectStore, made: Plan) -> Counts:
    return execute(Vacuum(store, LAKE, 4), made, "vacuum-1")


def test_a_plan_names_what_may_go_and_deletes_nothing() -> None:
    store = MemoryObjectStore()
    keys = [put(store, session) for session in (*OLD, YOUNG)]
    merged(store)
    before = store.keys()
    made = planned(store)
    assert [info.key for info in made.due] == keys[:3]
    assert made.counts(LAKE) == {"AAPL": {"files": 3, "bytes": made.size}}
    assert store.keys() == before
    assert store.done("delete", "put", "write")[1:] == []


def test_what_the_plan_named_is_deleted_and_recorded() -> None:
    store = MemoryObjectStore()
    keys = [put(store, session) for session in (*OLD, YOUNG)]
    merged(store)
    made = planned(store)
    assert vacuumed(store, made) == {"AAPL": {"files": 3, "bytes": made.size}}
    assert store.keys(LAKE.symbol_prefix("AAPL")) == sorted([LAKE.data_key("AAPL"), keys[3]])
    (run,) = json.loads(store.peek(CLEANUP_RECORD_KEY) or b"")["runs"]
    assert (run["run"], run["files"], run["bytes"]) == ("vacuum-1", 3, made.size)


def test_a_symbol_without_a_data_parquet_is_not_touched() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    made = planned(store)
    assert (made.unconsolidated, made.due) == (["AAPL"], [])


def test_a_file_that_is_not_in_the_log_is_kept_however_old() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    merged(store)
    put(store, OLD[1])
    restated = put(store, OLD[0], close=99, minutes=1)
    assert planned(store).due == []
    assert store.peek(restated)


def test_a_data_parquet_without_a_log_proves_nothing() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    rows = consolidated(bar(OLD[0]))
    store.lay(LAKE.data_key("AAPL"), rows)
    assert planned(store).due == []


def test_a_file_restated_between_listing_and_deletion_survives() -> None:
    store = MemoryObjectStore()
    for session in OLD[:2]:
        put(store, session)
    merged(store)
    made = planned(store)
    restated = put(store, OLD[0], close=99, minutes=1)
    assert vacuumed(store, made)["AAPL"]["files"] == 1
    assert store.peek(restated)
    merged(store)
    bars = read_bars(store.peek(LAKE.data_key("AAPL")) or b"", "AAPL", NOON)
    assert bars["close"].to_pylist() == [99, 10]


def test_of_a_symbol_that_was_consolidated_since_the_plan_nothing_goes() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    merged(store)
    made = planned(store)
    put(store, OLD[1])
    merged(store)
    assert vacuumed(store, made) == {}
    assert store.done("delete") == []


def test_only_the_named_symbols_are_cleaned() -> None:
    store = MemoryObjectStore()
    for symbol in ("AAPL", "MSFT", "IBM"):
        put(store, OLD[0], symbol=symbol)
        merged(store, symbol)
    made = planned(store, "IBM", "AAPL", "IBM")
    assert (made.symbols, list(made.counts(LAKE))) == (2, ["AAPL", "IBM"])
    assert list(vacuumed(store, made)) == ["AAPL", "IBM"]


def test_a_symbol_that_the_lake_does_not_have_is_an_error_before_anything_is_looked_at() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    with pytest.raises(NotFoundError, match="the lake has no bars of GHOST, NOBODY"):
        planned(store, "AAPL", "NOBODY", "GHOST")
    assert store.done("get") == []


def test_a_symbol_that_cannot_be_read_does_not_keep_the_others() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    merged(store)
    store.lay(LAKE.data_key("BAD"), b"no Parquet")
    made = planned(store)
    assert list(made.faults) == ["BAD"]
    assert "cannot be read as bars" in str(made.faults["BAD"])
    assert list(vacuumed(store, made)) == ["AAPL"]


def test_if_s3_fails_there_is_no_plan_at_all() -> None:
    store = MemoryObjectStore()
    for symbol in ("AAPL", "MSFT"):
        put(store, OLD[0], symbol=symbol)
        merged(store, symbol)
    store.fail("list", of=lambda key: "MSFT" in key)
    with pytest.raises(UpstreamError):
        planned(store)


def test_many_symbols_are_cleaned_in_rounds_that_are_recorded_by_themselves() -> None:
    store = MemoryObjectStore()
    symbols = [f"S{n}" for n in range(SYMBOLS_PER_ROUND + 1)]
    for symbol in symbols:
        key = put(store, OLD[0], symbol=symbol)
        store.lay(LAKE.data_key(symbol), consolidated(bar(OLD[0], symbol=symbol), log={key: store.etag(key) or ""}))
    steps: list[int] = []
    gone = execute(Vacuum(store, LAKE, 4), planned(store), "run", steps.append)
    assert sorted(gone) == sorted(symbols)
    assert sorted(steps) == [1, SYMBOLS_PER_ROUND]
    (run,) = json.loads(store.peek(CLEANUP_RECORD_KEY) or b"")["runs"]
    assert run["files"] == len(symbols)


@pytest.mark.parametrize(("days", "force", "allowed"), [(7, False, True), (6, False, False), (6, True, True)])
def test_less_than_a_week_must_be_meant(days: int, force: bool, allowed: bool) -> None:  # noqa: FBT001
    if allowed:
        assert check_retention(days, force=force) == days
        return
    with pytest.raises(ConfigurationError) as raised:
        check_retention(days, force=force)
    assert str(raised.value) == (
        "a retention of 6 days is below the floor of 7: the files may be needed to find a fault; "
        "to delete them anyway, set --force-retention"
    )


class History(RuleBasedStateMachine):
    """Files arrive, are restated, merged and vacuumed in any order, also by outdated plans."""

    SESSIONS = (*OLD, YOUNG)
    SYMBOLS = ("AAPL", "MSFT")

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryObjectStore()
        self.puts: list[dict[str, Any]] = []
        self.plans: list[Plan] = []

    @rule(symbol=st.sampled_from(SYMBOLS), session=st.sampled_from(SESSIONS), close=st.sampled_from([1.0, 2.0]))
    def put_a_date_file(self, symbol: str, session: date, close: float) -> None:
        self._put(LAKE.date_key(symbol, session), symbol, [session], close)

    @rule(symbol=st.sampled_from(SYMBOLS), close=st.sampled_from([3.0, 4.0]))
    def put_a_range_file(self, symbol: str, close: float) -> None:
        self._put(LAKE.range_key(symbol, OLD[0], OLD[-1]), symbol, OLD, close)

    @rule(symbol=st.sampled_from(SYMBOLS))
    def merge(self, symbol: str) -> None:
        if self.store.keys(LAKE.symbol_prefix(symbol)):
            merged(self.store, symbol)

    @rule(days=st.sampled_from([0, DAYS]))
    def plan(self, days: int) -> None:
        self.plans.append(planned(self.store, days=days))

    @precondition(lambda self: self.plans)
    @rule(data=st.data())
    def vacuum(self, data: st.DataObject) -> None:
        vacuumed(self.store, data.draw(st.sampled_from(self.plans)))

    @invariant()
    def readable_bars_are_last_write_wins_over_everything_ever_put(self) -> None:
        for symbol in self.SYMBOLS:
            names = self.store.keys(LAKE.symbol_prefix(symbol))
            readable = [read_bars(self.store.peek(name) or b"", symbol, NOON) for name in names]
            expected = {row["timestamp"]: row for row in self.puts if row["symbol"] == symbol}
            bars = merge(None, readable).bars if readable else BRONZE.empty_table()
            assert bars.equals(table(*(expected[session] for session in sorted(expected))))

    def _put(self, key: str, symbol: str, sessions: list[date], close: float) -> None:
        # Ingested in the order of the puts, as by a fetcher, so every put has an effect.
        rows = [bar(session, close, NOON + timedelta(seconds=len(self.puts)), symbol) for session in sessions]
        self.puts += rows
        self.store.lay(key, parquet(*rows))


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=settings().max_examples // 4, stateful_step_count=15)

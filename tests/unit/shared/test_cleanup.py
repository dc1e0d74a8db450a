import json
import logging
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fiblake.bars import BRONZE, Consolidated, read_bars
from fiblake.calendar import nyse
from fiblake.errors import ContractError, UpstreamError
from fiblake.lake import CLEANUP_RECORD_KEY
from fiblake.source_log import SourceVersion
from services.consolidator.consolidate import Consolidation, Consolidator, Task
from services.consolidator.merge import merge
from shared.cleanup import (
    FILES_PER_LOT,
    RUNS_KEPT,
    Proof,
    clean_up,
    deletable,
    is_lot_due,
    oldest_session_kept,
    with_run,
)
from shared.objects import DELETES_PER_REQUEST, ObjectInfo
from tests.fakes import LAKE, NOON, MemoryObjectStore, bar, later, parquet, table

TODAY = NOON.date()
RETENTION = 30
MERGED = SourceVersion("e", NOON, stamped=True)
OLD = [date(2025, 6, 2), date(2025, 6, 3), date(2025, 6, 4)]


def key(session: date, symbol: str = "AAPL") -> str:
    return LAKE.date_key(symbol, session)


def put(store: MemoryObjectStore, session: date, close: float = 10, symbol: str = "AAPL") -> str:
    return store.lay(key(session, symbol), parquet(bar(session, close, symbol=symbol)))


def consolidated(store: MemoryObjectStore, symbol: str = "AAPL", now: datetime = NOON) -> Consolidation:
    return Consolidator(store, LAKE, nyse()).consolidate(Task(symbol), now)


def cleaned(store: MemoryObjectStore, *consolidations: Consolidation, run: str = "run-1", now: datetime = NOON) -> int:
    proofs = [
        Proof(consolidation.symbol, consolidation.etag, consolidation.stored.log, consolidation.listing)
        for consolidation in consolidations
    ]
    return sum(counts["files"] for counts in clean_up(store, LAKE, proofs, run, now, RETENTION).values())


def record(store: MemoryObjectStore) -> list[dict[str, Any]]:
    data = store.peek(CLEANUP_RECORD_KEY)
    assert data is not None
    runs: list[dict[str, Any]] = json.loads(data)["runs"]
    return runs


def test_no_source_file_is_deleted_before_it_is_in_the_log_of_the_data_parquet_in_s3() -> None:
    """Three old files exist; only one of them is in the log with its present version."""
    store = MemoryObjectStore()
    for session in OLD:
        put(store, session)
    consolidation = consolidated(store)
    merged, restated, unknown = map(key, OLD)
    # What the worker listed may differ from what it merged: another version, or a file it could not read.
    log = {merged: consolidation.stored.log[merged], restated: SourceVersion('"another version"')}
    stood = Consolidation(
        "AAPL", Consolidated(consolidation.stored.bars, log, NOON), consolidation.etag, consolidation.listing, OLD[0], 1
    )
    assert cleaned(store, stood) == 1
    assert store.done("delete") == [merged]
    assert store.keys(LAKE.symbol_prefix("AAPL")) == sorted([LAKE.data_key("AAPL"), restated, unknown])


def test_nothing_is_deleted_of_a_symbol_whose_data_parquet_has_changed() -> None:
    """An older data.parquet was put back: only the source files have these sessions."""
    store = MemoryObjectStore()
    put(store, OLD[0])
    older = store.peek(LAKE.data_key("AAPL") if consolidated(store) else "") or b""
    put(store, OLD[1])
    put(store, OLD[1], symbol="MSFT")
    consolidations = [consolidated(store, symbol, later(1)) for symbol in ("AAPL", "MSFT")]
    store.lay(LAKE.data_key("AAPL"), older)
    assert cleaned(store, *consolidations) == 1
    assert store.done("delete") == [key(OLD[1], "MSFT")]
    assert list(record(store)[0]["symbols"]) == ["MSFT"]
    assert cleaned(store, consolidated(store, now=later(2))) == 2


def test_of_a_symbol_whose_data_parquet_is_gone_nothing_is_deleted() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    consolidation = consolidated(store)
    store.take_away(LAKE.data_key("AAPL"))
    assert cleaned(store, consolidation) == 0
    assert store.peek(key(OLD[0]))
    assert record(store) == []


def test_if_the_version_of_a_data_parquet_is_unknown_nothing_is_deleted() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    consolidation = consolidated(store)
    store.fail("head")
    with pytest.raises(UpstreamError):
        cleaned(store, consolidation)
    assert store.peek(key(OLD[0]))


def test_only_symbols_with_something_to_delete_are_looked_up() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    put(store, TODAY - timedelta(days=1), symbol="MSFT")
    cleaned(store, *(consolidated(store, symbol) for symbol in ("AAPL", "MSFT")))
    assert store.done("head") == [LAKE.data_key("AAPL")]


def test_what_was_deleted_is_logged_with_its_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = MemoryObjectStore()
    for session in OLD[:2]:
        put(store, session)
    consolidation = consolidated(store)
    put(store, OLD[1], close=99)
    cleaned(store, consolidation)
    (line,) = [vars(record) for record in caplog.records if record.getMessage() == "merged source files deleted"]
    assert (line["run"], line["keys"]) == ("run-1", store.done("delete")) == ("run-1", [key(OLD[0])])


def test_nothing_is_deleted_whose_deletion_cannot_be_recorded() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    consolidation = consolidated(store)
    store.lay(CLEANUP_RECORD_KEY, b"damaged")
    with pytest.raises(ContractError, match="fiblake adopt"):
        cleaned(store, consolidation)
    store.take_away(CLEANUP_RECORD_KEY)
    store.fail("write", of=lambda key: key == CLEANUP_RECORD_KEY)
    with pytest.raises(UpstreamError):
        cleaned(store, consolidation)
    assert store.done("delete") == []
    assert cleaned(store, consolidation) == 1


def test_a_deletion_is_recorded_before_it_is_done_and_a_file_that_stays_is_taken_off_the_record() -> None:
    store = MemoryObjectStore()
    for session in OLD[:2]:
        put(store, session)
    consolidation = consolidated(store)
    put(store, OLD[1], close=99)
    start = len(store.journal)
    assert cleaned(store, consolidation) == 1
    record_write, deletion = ("write", CLEANUP_RECORD_KEY), ("delete", key(OLD[0]))
    steps = [step for step in store.journal[start:] if step in {record_write, deletion}]
    assert steps == [record_write, deletion, record_write]
    assert record(store)[0]["files"] == record(store)[0]["symbols"]["AAPL"]["files"] == 1


def test_a_clean_up_that_is_killed_leaves_too_much_in_the_record_never_too_little() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    consolidation = consolidated(store)
    store.fail("delete")
    with pytest.raises(UpstreamError):
        cleaned(store, consolidation)
    assert store.peek(key(OLD[0]))
    assert record(store)[0]["files"] == 1


def test_a_file_that_cannot_be_merged_is_not_deleted_however_old() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    store.lay(key(OLD[1]), b"no Parquet")
    assert cleaned(store, consolidated(store)) == 1
    assert store.peek(key(OLD[0])) is None
    assert store.peek(key(OLD[1])) == b"no Parquet"


def test_a_file_restated_between_listing_and_deletion_survives() -> None:
    store = MemoryObjectStore()
    for session in OLD[:2]:
        put(store, session)
    consolidation = consolidated(store)
    put(store, OLD[0], close=99)
    assert cleaned(store, consolidation) == 1
    assert store.done("delete") == [key(OLD[1])]
    assert record(store)[0]["files"] == 1
    again = consolidated(store, now=later(1))
    assert again.merged_files == 1


def test_a_file_that_another_client_deleted_first_is_not_counted() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    consolidation = consolidated(store)
    store.take_away(key(OLD[0]))
    assert cleaned(store, consolidation) == 0
    assert record(store) == []


@pytest.mark.parametrize(("age", "goes"), [(RETENTION - 1, False), (RETENTION, False), (RETENTION + 1, True)])
def test_a_file_goes_when_its_session_is_more_than_the_retention_ago(age: int, goes: bool) -> None:  # noqa: FBT001
    session = TODAY - timedelta(days=age)
    info = ObjectInfo(key(session), "e", 1, NOON)
    assert deletable(LAKE, [info], {info.key: MERGED}, TODAY, RETENTION) == ([info] if goes else [])


@pytest.mark.parametrize("retention", [800_000, 10**9, 10**12])
def test_a_retention_beyond_all_dates_keeps_every_file(retention: int) -> None:
    info = ObjectInfo(key(date(1962, 1, 2)), "e", 1, NOON)
    assert deletable(LAKE, [info], {info.key: MERGED}, TODAY, retention) == []
    days = nyse().between(date(1962, 1, 2), date(1962, 12, 31))[:FILES_PER_LOT]
    log = {key(day): MERGED for day in days}
    assert is_lot_due(log, oldest_session_kept(TODAY, RETENTION))
    assert not is_lot_due(log, oldest_session_kept(TODAY, retention))


def test_a_range_file_goes_by_its_last_session() -> None:
    young = LAKE.range_key("AAPL", date(1990, 1, 2), TODAY)
    old = LAKE.range_key("AAPL", date(1990, 1, 2), OLD[0])
    infos = [ObjectInfo(name, "e", 1, NOON) for name in (young, old)]
    assert deletable(LAKE, infos, {young: MERGED, old: MERGED}, TODAY, RETENTION) == infos[1:]


def test_with_nothing_to_delete_s3_is_not_even_asked() -> None:
    store = MemoryObjectStore()
    put(store, TODAY - timedelta(days=1))
    consolidation = consolidated(store)
    store.journal.clear()
    assert cleaned(store, consolidation) == 0
    assert store.journal == []


def test_deletions_go_a_thousand_at_a_time_and_each_thousand_is_recorded_by_itself() -> None:
    store = MemoryObjectStore()
    sessions = nyse().between(date(2018, 1, 2), date(2022, 12, 30))[: DELETES_PER_REQUEST + 1]
    for session in sessions:
        put(store, session)
    consolidation = consolidated(store)
    store.fail("write", times=40, of=lambda key: key == CLEANUP_RECORD_KEY and bool(store.deleter.requests))
    with pytest.raises(UpstreamError):
        cleaned(store, consolidation)
    assert [len(request) for request in store.deleter.requests] == [DELETES_PER_REQUEST]
    assert record(store)[0]["files"] == DELETES_PER_REQUEST


def test_the_record_adds_up_over_rounds_and_runs() -> None:
    store = MemoryObjectStore()
    sizes = {}
    for symbol in ("AAPL", "MSFT"):
        for session in OLD[:2]:
            put(store, session, symbol=symbol)
            sizes[symbol, session] = len(store.peek(key(session, symbol)) or b"")
    first_round = cleaned(store, consolidated(store, "AAPL"), now=NOON)
    second_round = cleaned(store, consolidated(store, "MSFT"), now=later(1))
    put(store, OLD[2])
    second_run = cleaned(store, consolidated(store, "AAPL", later(2)), run="run-2", now=later(3))
    assert (first_round, second_round, second_run) == (2, 2, 1)
    first, second = record(store)
    assert (first["run"], first["files"], first["bytes"]) == ("run-1", 4, sum(sizes.values()))
    assert first["symbols"]["MSFT"] == {"files": 2, "bytes": sizes["MSFT", OLD[0]] + sizes["MSFT", OLD[1]]}
    assert (first["started_at"], first["updated_at"]) == (NOON.isoformat(), later(1).isoformat())
    assert (second["run"], second["files"], list(second["symbols"])) == ("run-2", 1, ["AAPL"])


def test_the_record_keeps_a_rivals_entry_and_the_newest_runs() -> None:
    store = MemoryObjectStore()
    put(store, OLD[0])
    consolidation = consolidated(store)
    rival = with_run(None, "rival", NOON, {"MSFT": {"files": 1, "bytes": 5}})
    store.interfere(lambda: store.lay(CLEANUP_RECORD_KEY, rival))
    cleaned(store, consolidation)
    assert [entry["run"] for entry in record(store)] == ["rival", "run-1"]
    data = None
    for n in range(RUNS_KEPT + 2):
        if n in {0, 1, RUNS_KEPT, RUNS_KEPT + 1}:
            data = with_run(data, f"run-{n}", NOON, {"AAPL": {"files": 1, "bytes": 1}})
        elif n == 2:
            runs = json.loads(data or b"")["runs"] + [{"run": f"run-{m}"} for m in range(2, RUNS_KEPT)]
            data = json.dumps({"runs": runs}).encode()
    names = [entry["run"] for entry in json.loads(data or b"")["runs"]]
    assert (len(names), names[0], names[-1]) == (RUNS_KEPT, "run-2", f"run-{RUNS_KEPT + 1}")


@pytest.mark.parametrize("data", [b"no JSON", b"[]", b"{}", b'{"runs": [1]}', b'{"runs": {}}', b"[" * 100_000])
def test_a_record_that_cannot_be_read_is_an_error_that_says_what_to_do(data: bytes) -> None:
    with pytest.raises(ContractError, match=f"{CLEANUP_RECORD_KEY} cannot be read: .*; move it away: `fiblake adopt`"):
        with_run(data, "run", NOON, {"AAPL": {"files": 1, "bytes": 1}})


class History(RuleBasedStateMachine):
    """Files come, are restated, merged and cleaned up in any order, from a stale reading too."""

    SESSIONS = (*OLD, date(2025, 11, 19))

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryObjectStore()
        self.puts: list[dict[str, Any]] = []
        self.last: Consolidation | None = None

    @rule(session=st.sampled_from(SESSIONS), close=st.sampled_from([1.0, 2.0, 3.0]))
    def put(self, session: date, close: float) -> None:
        """Files are put in the order of their bars' ingestion, as by the fetcher, so every put has an effect."""
        row = bar(session, close, later(len(self.puts)))
        self.puts.append(row)
        self.store.lay(key(session), parquet(row))

    @precondition(lambda self: self.puts)
    @rule()
    def merge(self) -> None:
        self.last = consolidated(self.store)

    @precondition(lambda self: self.last)
    @rule()
    def clean_up(self) -> None:
        assert self.last
        cleaned(self.store, self.last)

    @invariant()
    def readable_bars_are_last_write_wins_over_everything_ever_put(self) -> None:
        names = self.store.keys(LAKE.symbol_prefix("AAPL"))
        readable = [read_bars(self.store.peek(name) or b"", "AAPL", NOON) for name in names]
        expected = {row["timestamp"]: row for row in self.puts}
        bars = merge(None, readable).bars
        assert bars.equals(table(*(expected[session] for session in sorted(expected))))
        assert bars.schema.equals(BRONZE)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=settings().max_examples // 4, stateful_step_count=12)

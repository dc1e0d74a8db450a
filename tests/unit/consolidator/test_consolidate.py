from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.adjustment import NO_REFERENCE, Reference
from fiblake.bars import BRONZE, Consolidated
from fiblake.calendar import nyse
from fiblake.errors import ConflictError, ContractError, FiblakeError, NotFoundError, UpstreamError
from fiblake.lake import identities_key, splits_key
from fiblake.reference import identities_file, splits_file
from services.consolidator.consolidate import ATTEMPTS, Consolidation, Consolidator, ReferenceFileError, Task
from services.consolidator.merge import merge
from shared.outcomes import UnexpectedError
from tests.fakes import (
    LAKE,
    NOON,
    MemoryObjectStore,
    bar,
    companies,
    consolidated,
    later,
    parquet,
    splits,
    table,
)

DATA = LAKE.data_key("AAPL")
FAR = datetime(9999, 1, 1, tzinfo=UTC)


def day(session: str) -> str:
    return LAKE.date_key("AAPL", date.fromisoformat(session))


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore()


def consolidate(
    store: MemoryObjectStore, hint: str | None = None, *, full: bool = False, minute: float = 0
) -> Consolidation:
    worker = Consolidator(store, LAKE, nyse())
    task = Task("AAPL", date.fromisoformat(hint) if hint else None, full=full)
    return worker.consolidate(task, later(minute))


def stored(store: MemoryObjectStore) -> Consolidated:
    data = store.peek(DATA)
    assert data is not None
    return Consolidated.decode(data, "AAPL", NOON)


def merged_etags(store: MemoryObjectStore) -> dict[str, str]:
    return {key: version.etag for key, version in stored(store).log.items()}


def reasons(consolidation: Consolidation) -> list[FiblakeError]:
    return [fault.error for fault in consolidation.faults]


def closes(store: MemoryObjectStore) -> dict[str, float]:
    return {str(row["timestamp"]): row["close"] for row in stored(store).bars.to_pylist()}


def as_parquet(columns: dict[str, object]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def test_the_first_file_makes_data_parquet_with_its_log(store: MemoryObjectStore) -> None:
    etag = store.lay(day("2025-11-19"), parquet(bar("2025-11-19", 10)))
    consolidation = consolidate(store, "2025-11-19")
    assert closes(store) == {"2025-11-19": 10}
    assert merged_etags(store) == {day("2025-11-19"): etag}
    assert (consolidation.symbol, consolidation.changed_from, consolidation.merged_files, consolidation.faults) == (
        "AAPL",
        date(2025, 11, 19),
        1,
        [],
    )
    assert consolidation.stored.bars.equals(stored(store).bars)


def test_a_late_file_older_than_everything_comes_first(store: MemoryObjectStore) -> None:
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19", 10)))
    consolidate(store)
    store.lay(day("1999-12-31"), parquet(bar("1999-12-31", 1)))
    consolidation = consolidate(store, "1999-12-31", minute=1)
    assert list(closes(store).items()) == [("1999-12-31", 1), ("2025-11-19", 10)]
    assert consolidation.changed_from == date(1999, 12, 31)


def test_a_restated_file_is_merged_again_under_its_new_version(store: MemoryObjectStore) -> None:
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 9)))
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19", 10)))
    consolidate(store)
    restated = store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 99, later(5))))
    consolidation = consolidate(store, "2025-11-18", minute=6)
    assert closes(store) == {"2025-11-18": 99, "2025-11-19": 10}
    assert merged_etags(store)[day("2025-11-18")] == restated
    assert (consolidation.merged_files, consolidation.changed_from) == (1, date(2025, 11, 18))


def test_a_range_file_gives_all_its_sessions(store: MemoryObjectStore) -> None:
    key = LAKE.range_key("AAPL", date(2025, 11, 17), date(2025, 11, 19))
    store.lay(key, parquet(bar("2025-11-17", 1), bar("2025-11-18", 2), bar("2025-11-19", 3)))
    consolidation = consolidate(store, "2025-11-17")
    assert closes(store) == {"2025-11-17": 1, "2025-11-18": 2, "2025-11-19": 3}
    assert (consolidation.merged_files, consolidation.changed_from) == (1, date(2025, 11, 17))


def test_with_nothing_new_nothing_is_written_but_what_the_message_names_is_reported_again(
    store: MemoryObjectStore,
) -> None:
    """The worker before may have died between its write and its event; each file's own message reports it."""
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 9)))
    store.lay(day("2025-11-20"), parquet(bar("2025-11-20", 9)))
    consolidate(store)
    version = store.etag(DATA)
    assert consolidate(store, "2025-11-20").changed_from == date(2025, 11, 20)
    assert consolidate(store, "2025-11-17").changed_from == date(2025, 11, 17)
    assert consolidate(store, "2025-11-17").merged_files == 0
    assert store.etag(DATA) == version
    assert store.done("write") == [DATA]


def test_without_a_hint_all_of_the_history_counts_as_changed(store: MemoryObjectStore) -> None:
    store.lay(DATA, consolidated(bar("2001-01-02"), bar("2025-11-18")))
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19")))
    assert consolidate(store).changed_from == date(2001, 1, 2)


def test_what_changed_before_the_hint_is_reported_too(store: MemoryObjectStore) -> None:
    """Both files' messages are under way; this worker merges both although its own names the later one only."""
    store.lay(DATA, consolidated(bar("2001-01-02")))
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18")))
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19")))
    assert consolidate(store, "2025-11-19").changed_from == date(2025, 11, 18)


def test_a_writer_in_between_makes_us_start_over_and_nothing_is_lost(store: MemoryObjectStore) -> None:
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 8)))
    rival = Consolidator(store, LAKE, nyse())

    def others_are_faster() -> None:
        store.lay(day("2025-11-19"), parquet(bar("2025-11-19", 9)))
        rival.consolidate(Task("AAPL"), NOON)

    store.interfere(others_are_faster)
    consolidation = consolidate(store, "2025-11-18", minute=-5)
    assert closes(store) == {"2025-11-18": 8, "2025-11-19": 9}
    assert set(stored(store).log) == {day("2025-11-18"), day("2025-11-19")}
    assert consolidation.changed_from == date(2025, 11, 18)
    assert store.done("conflict") == [DATA]


def test_what_a_rival_merges_and_cleans_up_after_our_listing_is_not_lost(store: MemoryObjectStore) -> None:
    store.lay(DATA, consolidated(bar("2025-11-14", 4)))
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 8)))
    listed, rival = store.list_objects, Consolidator(store, LAKE, nyse())

    def listed_before_the_rival_came(prefix: str) -> list:
        listing = listed(prefix)
        store.list_objects = listed  # type: ignore[method-assign]
        store.lay(day("2025-11-17"), parquet(bar("2025-11-17", 7)))
        rival.consolidate(Task("AAPL"), NOON)
        store.take_away(day("2025-11-17"))
        return listing

    store.list_objects = listed_before_the_rival_came  # type: ignore[method-assign]
    consolidate(store)
    assert closes(store) == {"2025-11-14": 4, "2025-11-17": 7, "2025-11-18": 8}


def test_a_data_parquet_deleted_in_between_is_made_again_from_what_is_there(store: MemoryObjectStore) -> None:
    store.lay(DATA, consolidated(bar("2025-11-17")))
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18")))
    store.interfere(lambda: store.take_away(DATA))
    consolidate(store)
    assert list(closes(store)) == ["2025-11-18"]


def test_it_gives_up_with_a_conflict_when_others_never_stop(store: MemoryObjectStore, naps: list[float]) -> None:
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18")))
    for n in range(ATTEMPTS):
        # Each rival's version differs, and each is written before one of our writes.
        store.interfere(lambda n=n: store.lay(DATA, consolidated(bar("2025-11-17", n + 1))), before_write=n + 1)
    with pytest.raises(ConflictError, match=f"data.parquet of AAPL was rewritten by others {ATTEMPTS} times"):
        consolidate(store)
    assert len(naps) == ATTEMPTS
    assert max(naps) <= 1


SESSIONS = nyse().between(date(2025, 11, 3), date(2025, 11, 12))


@st.composite
def puts(draw: st.DrawFn) -> list[dict]:
    """Return bars to put as date files; a session that is drawn twice is restated."""
    days = draw(st.lists(st.sampled_from(SESSIONS), min_size=1, max_size=5))
    return [bar(d, draw(st.sampled_from([1.0, 2.0])), later(draw(st.integers(0, 3)))) for d in days]


@given(st.lists(puts(), min_size=1, max_size=4), puts(), st.booleans())
def test_however_writers_interleave_the_result_is_last_write_wins_over_everything(
    rivals: list[list[dict]], ours: list[dict], full: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    """Before each of our writes another worker puts files and consolidates them; some of it restates ours."""
    store, rows = MemoryObjectStore(), list[dict]()

    def put(some: list[dict]) -> None:
        for row in some:
            rows.append(row)
            store.lay(LAKE.date_key("AAPL", row["timestamp"]), parquet(row))

    def rival(some: list[dict]) -> Callable[[], object]:
        def act() -> None:
            put(some)
            Consolidator(store, LAKE, nyse()).consolidate(Task("AAPL", full=full), NOON)

        return act

    for n, some in enumerate(rivals):
        # The rival's own write counts as well: it is the next one after ours.
        store.interfere(rival(some), before_write=2 * n + 1)
    put(ours)
    consolidate(store)
    consolidate(store)
    # A file that was restated before it was merged is lost; merged bars must not be lost.
    last_files = {row["timestamp"]: row for row in rows}
    merged = stored(store)
    assert merged.bars.equals(merge(merged.bars, [table(*last_files.values())]).bars)
    assert set(merged.log) == {LAKE.date_key("AAPL", d) for d in last_files}
    assert all(store.etag(key) == version.etag for key, version in merged.log.items())


def test_a_file_without_ingested_at_is_as_new_as_its_object(store: MemoryObjectStore) -> None:
    row = bar("2025-11-19", 7)
    columns = {name: [value] for name, value in row.items() if name != "ingested_at"}
    store.lay(day("2025-11-19"), as_parquet(columns))
    (info,) = store.list_objects(LAKE.symbol_prefix("AAPL"))
    consolidate(store)
    assert stored(store).bars["ingested_at"].to_pylist() == [info.last_modified]


def test_a_file_written_by_pandas_with_more_columns_is_read(store: MemoryObjectStore) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame([{**bar("2025-11-19", 7), "otc": True}])
    frame["timestamp"] = pd.to_datetime(frame["timestamp"]) + pd.Timedelta(hours=5)
    store.lay(day("2025-11-19"), as_parquet({name: pa.array(frame[name]) for name in frame}))
    consolidate(store)
    assert stored(store).bars.schema.equals(BRONZE)
    assert closes(store) == {"2025-11-19": 7}


@pytest.mark.parametrize(
    ("key", "data", "reason"),
    [
        (day("2025-11-19"), b"no parquet at all", "cannot be read as bars"),
        (day("2025-11-19"), parquet(bar("2025-11-19"))[:-30], "cannot be read as bars"),
        (day("2025-11-19"), parquet(bar("2025-11-19", symbol="MSFT")), "holds rows whose symbol is 'MSFT'"),
        (day("2025-11-19"), as_parquet({"timestamp": [date(2025, 11, 19)], "open": [1.0]}), "has no column 'high'"),
    ],
    ids=[
        "not Parquet",
        "cut off",
        "foreign symbol",
        "a column is missing",
    ],
)
def test_a_file_that_cannot_be_merged_is_a_fault_while_the_others_are_merged(
    store: MemoryObjectStore, key: str, data: bytes, reason: str
) -> None:
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 8)))
    store.lay(key, data)
    consolidation = consolidate(store)
    assert closes(store) == {"2025-11-18": 8}
    assert set(stored(store).log) == {day("2025-11-18")}
    (fault,) = reasons(consolidation)
    assert isinstance(fault, ContractError)
    assert str(fault).startswith(f"{key}: ")
    assert str(fault).count(key) == 1
    assert reason in str(fault)
    assert store.peek(key) == data


def test_a_file_beyond_the_calendar_is_a_fault_that_names_its_key_and_says_what_to_do(store: MemoryObjectStore) -> None:
    key = day("2030-01-02")
    store.lay(key, parquet(bar("2030-01-02")))
    store.lay(day("2029-12-31"), parquet(bar("2029-12-31", 8)))
    now = datetime(2030, 1, 3, tzinfo=UTC)
    (fault,) = reasons(Consolidator(store, LAKE, nyse()).consolidate(Task("AAPL"), now))
    assert isinstance(fault, ContractError)
    assert str(fault).startswith(f"{key}: 2030-01-02 is outside the trading calendar")
    assert "run `make calendar`" in str(fault)
    assert str(fault).count(key) == 1
    assert closes(store) == {"2029-12-31": 8}


DAILY, RANGE = day("2025-11-18"), LAKE.range_key("AAPL", date(2025, 11, 14), date(2025, 11, 18))


@pytest.mark.parametrize("bad", [DAILY, RANGE])
def test_a_file_that_cannot_be_merged_is_a_fault_with_its_key_and_stays(store: MemoryObjectStore, bad: str) -> None:
    store.lay(bad, b"no Parquet")
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19", 9)))
    consolidation = consolidate(store, "2025-11-19")
    assert [(fault.key, str(fault.error).partition(": ")[0]) for fault in consolidation.faults] == [(bad, bad)]
    assert closes(store) == {"2025-11-19": 9}
    assert set(stored(store).log) == {day("2025-11-19")}
    assert store.peek(bad) == b"no Parquet"


def test_a_fault_of_our_own_in_one_file_is_retried_and_not_called_a_breach_of_contract(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: object) -> None:
        raise ZeroDivisionError("a fault of our own")

    store.lay(DATA, consolidated(bar("2025-11-17", 7)))
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 8)))
    monkeypatch.setattr("shared.source_files.read_bars", surprise)
    (fault,) = reasons(consolidate(store, "2025-11-18"))
    assert isinstance(fault, UnexpectedError)


def test_the_reported_version_is_that_of_the_data_parquet_in_s3(store: MemoryObjectStore) -> None:
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 8)))
    assert consolidate(store).etag == store.etag(DATA)
    assert consolidate(store).etag == store.etag(DATA)
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19", 9)))
    store.interfere(lambda: store.lay(DATA, consolidated(bar("2025-11-14", 4))))
    assert consolidate(store, minute=1).etag == store.etag(DATA)
    assert store.done("conflict") == [DATA]


def test_a_merge_whose_answer_was_lost_reports_all_that_it_merged(store: MemoryObjectStore) -> None:
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 8)))
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19", 9)))
    store.fail("answer", ConflictError("the write was done and its answer lost"))
    consolidation = consolidate(store, "2025-11-19")
    assert (consolidation.changed_from, consolidation.etag) == (date(2025, 11, 18), store.etag(DATA))
    assert store.done("write") == [DATA]


def test_only_unmergeable_files_is_an_error_with_their_reasons(store: MemoryObjectStore) -> None:
    store.lay(day("2025-11-19"), b"")
    with pytest.raises(ContractError, match=r"AAPL has no file that can be merged: .*date=2025-11-19\.parquet"):
        consolidate(store)
    assert store.peek(DATA) is None


def test_an_empty_file_is_logged_and_harmless(store: MemoryObjectStore) -> None:
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 8)))
    store.lay(day("2025-11-19"), parquet())
    assert consolidate(store).faults == []
    assert set(stored(store).log) == {day("2025-11-18"), day("2025-11-19")}
    consolidate(store)
    assert store.done("write") == [DATA]


def test_a_symbol_without_anything_does_not_exist(store: MemoryObjectStore) -> None:
    store.lay(f"{LAKE.symbol_prefix('AAPL')}notes.txt", b"not a source file")
    with pytest.raises(NotFoundError, match=r"AAPL has no bars: no data\.parquet"):
        consolidate(store)


def test_another_symbol_with_the_same_beginning_is_not_touched(store: MemoryObjectStore) -> None:
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19")))
    store.lay(LAKE.date_key("AAPL.B", date(2025, 11, 18)), parquet(bar("2025-11-18", symbol="AAPL.B")))
    consolidate(store)
    assert list(closes(store)) == ["2025-11-19"]


def test_the_log_drops_files_that_no_longer_exist(store: MemoryObjectStore) -> None:
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 8)))
    consolidate(store)
    store.take_away(day("2025-11-18"))
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19", 9)))
    consolidate(store, minute=1)
    assert set(stored(store).log) == {day("2025-11-19")}
    assert closes(store) == {"2025-11-18": 8, "2025-11-19": 9}


def test_a_file_deleted_between_listing_and_reading_is_no_fault(store: MemoryObjectStore) -> None:
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 8)))
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19", 9)))
    listed = store.list_objects

    def listed_then_deleted(prefix: str) -> list:
        listing = listed(prefix)
        store.take_away(day("2025-11-18"))
        return listing

    store.list_objects = listed_then_deleted  # type: ignore[method-assign]
    consolidation = consolidate(store)
    assert (list(closes(store)), consolidation.faults, consolidation.merged_files) == (["2025-11-19"], [], 1)


def test_last_updated_grows_even_when_the_clock_goes_back(store: MemoryObjectStore) -> None:
    store.lay(day("2025-11-18"), parquet(bar("2025-11-18")))
    first = consolidate(store, minute=10).stored.last_updated
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19")))
    second = consolidate(store, minute=0).stored.last_updated
    assert (first, second) == (later(10), later(10) + timedelta(microseconds=1))


def test_a_data_parquet_of_another_program_is_adopted(store: MemoryObjectStore) -> None:
    store.lay(DATA, parquet(bar("2025-11-17", 7), bar("2025-11-18", 8)))
    etag = store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 88, later(1))))
    consolidation = consolidate(store, "2025-11-18", minute=2)
    assert closes(store) == {"2025-11-17": 7, "2025-11-18": 88}
    assert merged_etags(store) == {day("2025-11-18"): etag}
    assert consolidation.changed_from == date(2025, 11, 17), "nobody was told of its bars yet"
    assert not stored(store).adopted


def test_a_data_parquet_of_another_program_is_put_in_order_when_it_is_adopted(store: MemoryObjectStore) -> None:
    """Our file is sorted, with one row for each session; merging relies on it, so another program's file is sorted
    first.
    """
    store.lay(DATA, parquet(bar("2025-11-18", 8), bar("2025-11-17", 7), bar("2025-11-18", 88, later(1))))
    consolidation = consolidate(store, "2025-11-18")
    assert list(closes(store).items()) == [("2025-11-17", 7), ("2025-11-18", 88)]
    assert consolidation.changed_from == date(2025, 11, 17)
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19", 9)))
    consolidate(store, minute=1)
    assert list(closes(store).items()) == [("2025-11-17", 7), ("2025-11-18", 88), ("2025-11-19", 9)]


def test_a_data_parquet_alone_is_reported_unchanged(store: MemoryObjectStore) -> None:
    store.lay(DATA, consolidated(bar("2025-11-17", 7)))
    consolidation = consolidate(store, "2025-11-19")
    assert (consolidation.changed_from, consolidation.merged_files, consolidation.stored.bars.num_rows) == (
        date(2025, 11, 19),
        0,
        1,
    )
    assert store.done("write") == []


def test_full_mode_merges_logged_files_again(store: MemoryObjectStore) -> None:
    etag = store.lay(day("2025-11-18"), parquet(bar("2025-11-18", 8)))
    store.lay(DATA, consolidated(bar("2025-11-17", 7), log={day("2025-11-18"): etag}))
    consolidate(store)
    assert closes(store) == {"2025-11-17": 7}
    consolidation = consolidate(store, full=True)
    assert closes(store) == {"2025-11-17": 7, "2025-11-18": 8}
    assert consolidation.merged_files == 1


# ----------------------------------------------------------------------------------------------- splits and identities

SPLITS, IDENTITIES = splits_key("AAPL"), identities_key("AAPL")
TWO_FOR_ONE = splits_file(splits(("2025-11-19", 1, 2)))
HALF = ((date(2025, 11, 19), 0.5),)
TWO = identities_file(companies("1980-12-12", "2025-11-18"))


@pytest.fixture
def split_lake(store: MemoryObjectStore) -> MemoryObjectStore:
    """A bucket in which AAPL has three consolidated bars, and then a split arrived."""
    for n, session in enumerate(("2025-11-17", "2025-11-18", "2025-11-19")):
        store.lay(day(session), parquet(bar(session, n + 1)))
    consolidate(store)
    store.lay(SPLITS, TWO_FOR_ONE)
    store.journal.clear()
    return store


def test_splits_that_arrive_are_stored_and_all_of_the_history_is_reported(split_lake: MemoryObjectStore) -> None:
    before = stored(split_lake)
    consolidation = consolidate(split_lake, minute=1)
    assert stored(split_lake).reference == consolidation.stored.reference == Reference(HALF)
    assert (consolidation.changed_from, consolidation.merged_files, consolidation.faults) == (date(2025, 11, 17), 0, [])
    assert stored(split_lake).bars.equals(before.bars)
    assert stored(split_lake).log == before.log
    assert stored(split_lake).last_updated > before.last_updated


def test_splits_and_identities_are_stored_together(split_lake: MemoryObjectStore) -> None:
    split_lake.lay(IDENTITIES, TWO)
    consolidate(split_lake)
    assert stored(split_lake).reference == Reference(HALF, (date(2025, 11, 18),))


def test_a_reference_that_is_known_already_is_reported_again_and_not_written_again(
    split_lake: MemoryObjectStore,
) -> None:
    consolidate(split_lake)
    split_lake.journal.clear()
    assert consolidate(split_lake).changed_from == date(2025, 11, 17)
    assert split_lake.done("write") == []


def test_bars_that_arrive_keep_the_reference_and_cost_no_request_for_it(split_lake: MemoryObjectStore) -> None:
    consolidate(split_lake)
    split_lake.lay(day("2025-11-20"), parquet(bar("2025-11-20", 4)))
    split_lake.lay(SPLITS, splits_file([]))
    split_lake.journal.clear()
    assert consolidate(split_lake, "2025-11-20").changed_from == date(2025, 11, 20)
    assert stored(split_lake).reference == Reference(HALF)
    assert split_lake.done("get") == [DATA, day("2025-11-20")]


def test_the_first_consolidation_reads_what_came_before_the_bars(store: MemoryObjectStore) -> None:
    store.lay(SPLITS, TWO_FOR_ONE)
    with pytest.raises(NotFoundError, match="AAPL has no bars"):
        consolidate(store)
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19", 9)))
    consolidate(store, "2025-11-19")
    assert stored(store).reference == Reference(HALF)


def test_a_data_parquet_of_another_program_gets_the_reference_that_it_lost(split_lake: MemoryObjectStore) -> None:
    consolidate(split_lake)
    split_lake.lay(DATA, parquet(bar("2025-11-17", 7)))
    consolidate(split_lake, "2025-11-19", minute=1)
    assert stored(split_lake).reference == Reference(HALF)


def test_in_full_mode_splits_are_read_again(split_lake: MemoryObjectStore) -> None:
    assert consolidate(split_lake, "2025-11-19", full=True).changed_from == date(2025, 11, 17)
    assert stored(split_lake).reference == Reference(HALF)


@pytest.mark.parametrize("withdraw", [lambda store: store.take_away(SPLITS), lambda s: s.lay(SPLITS, splits_file([]))])
def test_splits_that_are_withdrawn_are_no_longer_applied(
    split_lake: MemoryObjectStore, withdraw: Callable[[MemoryObjectStore], object]
) -> None:
    consolidate(split_lake)
    withdraw(split_lake)
    assert consolidate(split_lake).changed_from == date(2025, 11, 17)
    assert stored(split_lake).reference == NO_REFERENCE


@pytest.mark.parametrize("bad", [SPLITS, IDENTITIES])
@pytest.mark.parametrize("data", [b"no Parquet", splits_file(splits(("2025-11-19", 1, 2), symbol="MSFT"))])
def test_a_reference_file_that_cannot_be_read_is_a_fault_that_names_it_and_the_known_one_is_kept(
    split_lake: MemoryObjectStore, bad: str, data: bytes
) -> None:
    split_lake.lay(IDENTITIES, TWO)
    consolidate(split_lake)
    split_lake.lay(bad, data)
    split_lake.lay(day("2025-11-20"), parquet(bar("2025-11-20", 4)))
    consolidation = consolidate(split_lake)
    (fault,) = reasons(consolidation)
    assert isinstance(fault, ReferenceFileError)
    assert str(fault).startswith(f"{bad}: the ")
    assert stored(split_lake).reference == Reference(HALF, (date(2025, 11, 18),))
    assert closes(split_lake)["2025-11-20"] == 4
    assert split_lake.peek(bad) == data


def test_a_reference_file_that_cannot_be_read_is_no_fault_of_the_bars_first_consolidation(
    store: MemoryObjectStore,
) -> None:
    store.lay(SPLITS, b"no Parquet")
    with pytest.raises(ReferenceFileError, match=f"AAPL has no file that can be merged: {SPLITS}: "):
        consolidate(store)
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19", 9)))
    assert [fault.key for fault in consolidate(store, "2025-11-19").faults] == [SPLITS]
    assert stored(store).reference == NO_REFERENCE


def test_a_bucket_that_does_not_give_the_splits_is_an_error_to_retry_and_nothing_is_written(
    split_lake: MemoryObjectStore,
) -> None:
    split_lake.fail("get", of=lambda key: key == SPLITS)
    with pytest.raises(UpstreamError):
        consolidate(split_lake)
    assert split_lake.done("write") == []


def test_an_older_reading_of_the_splits_never_overwrites_a_newer_one(split_lake: MemoryObjectStore) -> None:
    """The rival reads and writes after we read the splits and before we write, so we start over and read them again."""

    def a_newer_file_is_taken_in_by_a_rival() -> None:
        split_lake.lay(SPLITS, splits_file(splits(("2025-11-19", 1, 4))))
        Consolidator(split_lake, LAKE, nyse()).consolidate(Task("AAPL"), NOON)

    split_lake.interfere(a_newer_file_is_taken_in_by_a_rival, of=lambda key: key == DATA)
    consolidate(split_lake)
    assert stored(split_lake).reference == Reference(((date(2025, 11, 19), 0.25),))
    assert split_lake.done("conflict") == [DATA]


def test_splits_and_bars_that_two_workers_take_in_at_once_are_both_kept(split_lake: MemoryObjectStore) -> None:
    split_lake.lay(day("2025-11-20"), parquet(bar("2025-11-20", 4)))
    split_lake.interfere(lambda: Consolidator(split_lake, LAKE, nyse()).consolidate(Task("AAPL"), NOON))
    consolidate(split_lake, "2025-11-20")
    assert stored(split_lake).reference == Reference(HALF)
    assert closes(split_lake)["2025-11-20"] == 4


def test_the_bar_that_is_the_first_to_show_a_split_changes_all_before_it(store: MemoryObjectStore) -> None:
    """The split was announced before: until this bar arrived, the earlier bars were as traded."""
    for session in ("2025-11-17", "2025-11-18"):
        store.lay(day(session), parquet(bar(session)))
    store.lay(SPLITS, TWO_FOR_ONE)
    consolidate(store)
    store.lay(day("2025-11-19"), parquet(bar("2025-11-19")))
    assert consolidate(store, "2025-11-19").changed_from == date(2025, 11, 17)
    store.lay(day("2025-11-20"), parquet(bar("2025-11-20")))
    assert consolidate(store, "2025-11-20").changed_from == date(2025, 11, 20)
    assert consolidate(store, "2025-11-20").changed_from == date(2025, 11, 20), "the split is 2025-11-19's to report"
    assert consolidate(store, "2025-11-19").changed_from == date(2025, 11, 17)

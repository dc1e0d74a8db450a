from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from fiblake.bars import BRONZE, Consolidated, encode, released
from fiblake.calendar import nyse
from fiblake.errors import UpstreamError
from fiblake.lake import quarantine_key, quarantine_range_key
from services.consolidator.consolidate import Consolidation, Consolidator, OnlyBrokenBarsError, Task
from services.fetcher.quarantine import find_quarantined, release
from shared.quarantine import MAX_OBJECTS, QuarantinedBar, list_quarantined, quarantine
from shared.source_files import MAX_BROKEN
from tests.fakes import LAKE, NOON, MemoryObjectStore, bar, later, parquet, table
from tests.unit.fetcher.rows import FakeDatabase

DATA = LAKE.data_key("AAPL")
FAR = datetime(9999, 1, 1, tzinfo=UTC)
WEEK = LAKE.range_key("AAPL", date(2025, 11, 15), date(2025, 11, 21))
EVER = LAKE.range_key("AAPL", date(1961, 12, 29), date(2025, 11, 21))
LENIENT = pa.schema([pa.field(field.name, field.type) for field in BRONZE])
NOTHING = dict.fromkeys(("timestamp", "open", "high", "low", "close", "volume"))


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore()


def file_of(*rows: dict[str, object]) -> bytes:
    """Return rows, in which values may be missing, as the bytes of a file."""
    return encode(pa.Table.from_pylist(list(rows), schema=LENIENT))


def consolidate(store: MemoryObjectStore, minute: float = 0, *, full: bool = False) -> Consolidation:
    return Consolidator(store, LAKE, nyse()).consolidate(Task("AAPL", full=full), later(minute))


def closes(store: MemoryObjectStore) -> dict[str, float]:
    rows = Consolidated.decode(store.peek(DATA) or b"", "AAPL", NOON).bars.to_pylist()
    return {str(row["timestamp"]): row["close"] for row in rows}


def _etags(consolidation: Consolidation) -> dict[str, str]:
    return {key: version.etag for key, version in consolidation.stored.log.items()}


def waiting(store: MemoryObjectStore) -> list[tuple[str, float]]:
    return [(str(held.bar.session), held.bar.close) for held in list_quarantined(store)]


@pytest.mark.parametrize(
    ("key", "row", "session", "reason"),
    [
        (WEEK, bar("2025-11-14"), "2025-11-14", "holds session 2025-11-14, which its name does not say"),
        (WEEK, bar("2025-11-16"), "2025-11-16", "2025-11-16 is not a session of the NYSE"),
        (WEEK, bar("2025-11-21"), "2025-11-21", "holds session 2025-11-21, which is yet to come"),
        (EVER, bar("1961-12-29"), "1961-12-29", "1961-12-29 is outside the trading calendar (1962-01-02 to"),
        (WEEK, bar("2025-11-19", ingested_at=FAR), "2025-11-19", "ingested_at 9999-01-01 00:00:00+00:00 of session"),
        (WEEK, bar("2025-11-19", volume=-1), "2025-11-19", "volume -1.0 is not a number of shares"),
        (WEEK, bar("2025-11-19") | {"open": None}, "2025-11-19", "open nan is not a positive number"),
        (WEEK, bar("2025-11-19") | {"high": 1.0}, "2025-11-19", "high 1.0 is below another price"),
        (WEEK, bar("2025-11-19") | NOTHING, "0001-01-01", "it names no session (timestamp is null); open nan is not"),
    ],
)
def test_a_row_that_breaks_a_rule_waits_in_quarantine_and_the_others_are_merged(
    store: MemoryObjectStore, key: str, row: dict[str, object], session: str, reason: str
) -> None:
    etag = store.lay(key, file_of(bar("2025-11-18", 8), row, bar("2025-11-20", 9)))
    consolidation = consolidate(store)
    assert closes(store) == {"2025-11-18": 8, "2025-11-20": 9}
    assert (list(consolidation.faults), _etags(consolidation)) == ([], {key: etag})
    (held,) = list_quarantined(store)
    assert (str(held.bar.session), held.bar.symbol, held.source, held.held_since) == (session, "AAPL", key, NOON)
    assert held.reason.startswith(f"row 2: {reason}")
    assert held.key == quarantine_key("AAPL", held.bar.session)


def test_a_broken_bar_is_in_quarantine_before_anything_says_that_its_file_is_merged(store: MemoryObjectStore) -> None:
    store.lay(WEEK, parquet(bar("2025-11-18", 8), bar("2025-11-19", -1)))
    store.fail("write", of=lambda key: key == DATA)
    with pytest.raises(UpstreamError):
        consolidate(store)
    assert (waiting(store), store.peek(DATA)) == ([("2025-11-19", -1)], None)
    store.journal.clear()
    consolidate(store, 1)
    assert (waiting(store), closes(store)) == ([("2025-11-19", -1)], {"2025-11-18": 8})
    assert store.done("put", "write") == [DATA], "what waits already is not written again"


def test_without_a_quarantine_nothing_says_that_the_file_is_merged(store: MemoryObjectStore) -> None:
    store.lay(WEEK, parquet(bar("2025-11-18", 8), bar("2025-11-19", -1)))
    store.fail("write", of=lambda key: "quarantine" in key)
    with pytest.raises(UpstreamError):
        consolidate(store)
    assert store.peek(DATA) is None


def test_a_symbol_that_has_only_broken_bars_gets_no_data_parquet(
    store: MemoryObjectStore,
) -> None:
    store.lay(WEEK, parquet(bar("2025-11-19", -1)))
    for minute in (0, 1):
        with pytest.raises(OnlyBrokenBarsError, match="AAPL has no bars but 1 broken ones, which wait in quarantine"):
            consolidate(store, minute)
    assert (waiting(store), store.peek(DATA)) == ([("2025-11-19", -1)], None)


def test_a_file_with_only_broken_bars_is_merged_as_one_without_bars(store: MemoryObjectStore) -> None:
    store.lay(LAKE.date_key("AAPL", date(2025, 11, 18)), parquet(bar("2025-11-18", 8)))
    store.lay(WEEK, parquet(bar("2025-11-19", -1)))
    consolidation = consolidate(store)
    assert (closes(store), set(consolidation.stored.log)) == (
        {"2025-11-18": 8},
        {WEEK, LAKE.date_key("AAPL", date(2025, 11, 18))},
    )


def test_many_broken_bars_of_one_file_share_one_object(store: MemoryObjectStore) -> None:
    days = nyse().between(date(2025, 1, 2), date(2025, 11, 19))[: MAX_OBJECTS + 2]
    rows = [bar(day, -1) for day in days[1:]]
    store.lay(LAKE.range_key("AAPL", days[0], days[-1]), parquet(bar(days[0], 7), *rows))
    consolidate(store)
    assert store.keys("bronze/quarantine/") == [quarantine_range_key("AAPL", days[1], days[-1])]
    assert [held.bar.session for held in list_quarantined(store)] == days[1:]


def test_a_file_with_more_broken_rows_than_there_are_sessions_is_refused_whole(store: MemoryObjectStore) -> None:
    store.lay(LAKE.date_key("AAPL", date(2025, 11, 18)), parquet(bar("2025-11-18", 8)))
    store.lay(WEEK, encode(table(bar("2025-11-19", -1)).take(pa.array([0] * (MAX_BROKEN + 1)))))
    consolidation = consolidate(store)
    (fault,) = consolidation.faults
    assert f"{WEEK}: 20,001 of 20,001 rows break a rule, more than the 20,000 that quarantine takes" in str(fault.error)
    assert (closes(store), waiting(store)) == ({"2025-11-18": 8}, [])


def test_what_a_better_bar_has_replaced_does_not_wait(store: MemoryObjectStore) -> None:
    store.lay(WEEK, parquet(bar("2025-11-18", 8), bar("2025-11-19", -1)))
    store.lay(LAKE.date_key("AAPL", date(2025, 11, 19)), parquet(bar("2025-11-19", 9, later(1))))
    consolidate(store)
    assert waiting(store) == []
    store.lay(WEEK, parquet(bar("2025-11-18", 8), bar("2025-11-19", -1, later(2))))
    consolidate(store)
    assert (waiting(store), closes(store)) == ([("2025-11-19", -1)], {"2025-11-18": 8, "2025-11-19": 9})


def test_what_a_file_reports_again_takes_the_place_of_what_it_reported_before(store: MemoryObjectStore) -> None:
    other = LAKE.date_key("AAPL", date(2025, 11, 19))
    store.lay(WEEK, parquet(bar("2025-11-18", 8), bar("2025-11-19", -1)))
    store.lay(other, parquet(bar("2025-11-19", -2)))
    consolidate(store)
    store.lay(WEEK, parquet(bar("2025-11-18", 8), bar("2025-11-19", -3)))
    consolidate(store, 1)
    assert sorted(waiting(store)) == [("2025-11-19", -3), ("2025-11-19", -2)]


def test_a_bar_that_a_person_released_is_merged_whatever_its_prices(store: MemoryObjectStore) -> None:
    day = LAKE.date_key("AAPL", date(2025, 11, 19))
    store.lay(WEEK, parquet(bar("2025-11-18", 8), bar("2025-11-19", -1)))
    consolidate(store)
    (held,) = list_quarantined(store)
    store.take_away(held.key)
    store.lay(day, encode(released(table(bar("2025-11-19", -1, later(1))), "jane")))
    consolidate(store, 2)
    assert closes(store) == {"2025-11-18": 8, "2025-11-19": -1}
    consolidate(store, 3, full=True)
    assert waiting(store) == []
    store.lay(WEEK, parquet(bar("2025-11-18", 8), bar("2025-11-19", -1, later(4))))
    consolidate(store, 5)
    assert waiting(store) == [], "it is in the lake as it is"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (bar("2025-11-18", -1), "holds session 2025-11-18, which its name does not say"),
        (bar("2025-11-19") | {"close": float("nan")}, "close nan is no number"),
        (bar("2025-11-19", volume=float("inf")), "volume inf is no number"),
    ],
)
def test_what_a_person_let_in_must_be_a_bar_all_the_same(
    store: MemoryObjectStore, row: dict[str, object], reason: str
) -> None:
    store.lay(LAKE.date_key("AAPL", date(2025, 11, 17)), parquet(bar("2025-11-17", 7)))
    store.lay(LAKE.date_key("AAPL", date(2025, 11, 19)), encode(released(table(row), "jane")))
    consolidate(store)
    (held,) = list_quarantined(store)
    assert (held.reason, closes(store)) == (f"row 1: {reason}", {"2025-11-17": 7})


def test_the_broken_bars_of_a_data_parquet_of_another_program_wait_like_any_other(store: MemoryObjectStore) -> None:
    store.lay(
        DATA, file_of(bar("2025-11-16", 7), bar("2025-11-17", 7), bar("2025-11-18", -1), bar("2025-11-19") | NOTHING)
    )
    consolidate(store)
    assert closes(store) == {"2025-11-17": 7}
    assert [held.source for held in list_quarantined(store)] == [DATA] * 3


def test_one_session_with_two_bars_of_one_instant_is_named_and_identical_ones_are_not(
    store: MemoryObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    twins = [bar("2025-11-17", 7), bar("2025-11-17", 7)]
    store.lay(WEEK, parquet(*twins, bar("2025-11-18", 8), bar("2025-11-18", 9), bar("2025-11-18", 5, later(-1))))
    consolidate(store)
    assert closes(store) == {"2025-11-17": 7, "2025-11-18": 9}
    (record,) = [record for record in caplog.records if record.message == "one session, two bars"]
    assert vars(record)["key"] == WEEK
    assert str(vars(record)["reason"]).startswith(
        "session 2025-11-18 is there twice, ingested at one instant, with open 7.5 and 8.5, "
    )


async def test_one_bad_row_among_2516_waits_and_is_let_in_by_one_command(store: MemoryObjectStore) -> None:
    days = nyse().between(date(2014, 1, 2), date(2023, 12, 29))
    rows = [bar(day) for day in days]
    rows[1200] |= {"high": 9.0}
    store.lay(LAKE.range_key("AAPL", days[0], days[-1]), parquet(*rows))
    consolidate(store)
    (held,) = list_quarantined(store)
    assert (len(days), len(closes(store)), held.bar.session) == (2516, 2515, days[1200])
    assert held.reason == "row 1201: high 9.0 is below another price"
    database = FakeDatabase(store.journal)
    await release(store, LAKE, database, nyse(), find_quarantined([held], "AAPL", days[1200], None), "jane", later(1))
    consolidation = consolidate(store, 2)
    assert (len(closes(store)), consolidation.changed_from, list_quarantined(store)) == (2516, days[0], [])
    assert database.rows["AAPL", days[1200]]["high"] == 9.0
    consolidate(store, 3, full=True)
    assert (len(closes(store)), list_quarantined(store)) == (2516, [])


def test_an_object_in_quarantine_that_cannot_be_read_is_named(store: MemoryObjectStore) -> None:
    store.lay(WEEK, parquet(bar("2025-11-18", 8), bar("2025-11-19", -1)))
    key = quarantine_key("AAPL", date(2025, 11, 19))
    store.lay(key, b"?")
    with pytest.raises(Exception, match=f"{key} is not a quarantine file: .*; move it away"):
        consolidate(store)
    assert store.peek(key) == b"?"


def test_bars_of_the_vendor_and_of_files_wait_side_by_side(store: MemoryObjectStore) -> None:
    store.lay(WEEK, parquet(bar("2025-11-18", 8), bar("2025-11-19", -1)))
    consolidate(store)
    (held,) = list_quarantined(store)
    quarantine(store, [(held.bar, "as the vendor says")], NOON + timedelta(hours=1))
    both: list[QuarantinedBar] = list_quarantined(store)
    assert [(quarantined.source, quarantined.row) for quarantined in both] == [(WEEK, 1), (None, 2)]

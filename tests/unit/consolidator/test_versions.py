"""Which worker writes, which may skip, and the state after a crash: each test is a schedule that is wrong without its
rule.
"""

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta

import pytest

from fiblake.adjustment import NO_REFERENCE, Reference
from fiblake.bars import Consolidated, encode
from fiblake.calendar import nyse
from fiblake.errors import ContractError, NotFoundError, UpstreamError
from fiblake.lake import LATEST_VERSION, splits_key
from fiblake.reference import splits_file
from services.consolidator.consolidate import TICK, Consolidation, Consolidator, Task
from shared.cleanup import FILES_PER_LOT, Proof, clean_up
from shared.events import ConsolidationRequest
from tests.fakes import LAKE, NOON, MemoryObjectStore, bar, consolidated, later, parquet, splits, table

DATA = LAKE.data_key("AAPL")
SPLITS = splits_key("AAPL")
RANGE = LAKE.range_key("AAPL", date(2025, 11, 14), date(2025, 11, 18))
TWO_FOR_ONE = splits_file(splits(("2025-11-19", 1, 2)))
HALF = Reference(((date(2025, 11, 19), 0.5),))


def day(session: str) -> str:
    return LAKE.date_key("AAPL", date.fromisoformat(session))


class Bucket(MemoryObjectStore):
    """A bucket with workers over it."""

    def __init__(self) -> None:
        super().__init__()
        self.announced: list[ConsolidationRequest] = []

    def consolidate(self, *keys: str, since: str | None = None, minute: float = 0, **more: object) -> Consolidation:
        """Consolidate as a worker with a message that names these files and a session."""
        task = Task("AAPL", date.fromisoformat(since) if since else None, frozenset(keys), lists=not keys, **more)  # type: ignore[arg-type]
        return Consolidator(self, LAKE, nyse()).consolidate(task, later(minute), self.announce)

    def announce(self, request: ConsolidationRequest) -> None:
        self.announced.append(request)
        self.journal.append(("send", request.symbol))

    def put(self, session: str, close: float = 10, at: datetime = NOON) -> str:
        self.lay(day(session), parquet(bar(session, close, at)))
        return day(session)

    def clean_up(self, consolidation: Consolidation, minute: float = 0) -> None:
        """Delete all files that are provably merged, as a worker without retention does."""
        proof = Proof(
            "AAPL", consolidation.etag, consolidation.stored.log, self.list_objects(LAKE.symbol_prefix("AAPL"))[1:]
        )
        clean_up(self, LAKE, [proof], "run", later(minute) + timedelta(days=900), 0)

    def before_reading(self, key: str, act: Callable[[], object]) -> None:
        """Let another client act right before the next GET of `key`."""
        read = self._read

        def interrupted(wanted: str, if_match: str | None = None) -> object:
            if wanted == key:
                self._read = read  # type: ignore[method-assign]
                act()
            return read(wanted, if_match)

        self._read = interrupted  # type: ignore[method-assign, assignment]

    @property
    def stored(self) -> Consolidated:
        data = self.peek(DATA)
        assert data is not None
        return Consolidated.decode(data, "AAPL", NOON)

    @property
    def closes(self) -> dict[str, float]:
        return {str(row["timestamp"]): row["close"] for row in self.stored.bars.to_pylist()}


@pytest.fixture
def bucket() -> Bucket:
    """A bucket in which AAPL has two bars and is consolidated."""
    bucket = Bucket()
    bucket.consolidate(bucket.put("2025-11-14", 4), bucket.put("2025-11-17", 7), since="2025-11-14")
    bucket.journal.clear()
    bucket.announced.clear()
    return bucket


def unstamped(session: str, close: float) -> bytes:
    rows = table(bar(session, close))
    return encode(rows.drop_columns(["ingested_at"]))


# ------------------------------------------------------------------------------------------------ requests and versions


def test_a_new_file_costs_three_requests(bucket: Bucket) -> None:
    key = bucket.put("2025-11-18", 8)
    consolidation = bucket.consolidate(key, since="2025-11-18", minute=1)
    assert bucket.journal == [("get", DATA), ("get", key), ("write", DATA)]
    assert (consolidation.changed_from, consolidation.merged_files, consolidation.stored.last_updated) == (
        date(2025, 11, 18),
        1,
        later(1),
    )
    assert bucket.closes == {"2025-11-14": 4, "2025-11-17": 7, "2025-11-18": 8}


@pytest.mark.parametrize("minute", [-60, 0, 60])
def test_the_version_grows_with_every_write_whatever_the_clock_says(bucket: Bucket, minute: float) -> None:
    before = bucket.stored.last_updated
    after = bucket.consolidate(bucket.put("2025-11-18"), since="2025-11-18", minute=minute).stored.last_updated
    assert after == max(before + TICK, later(minute))


@pytest.mark.parametrize("floor", [later(-5), NOON, later(500)])
def test_a_version_floor_is_exceeded_and_all_of_the_history_is_reported_without_a_tail(
    bucket: Bucket, floor: datetime
) -> None:
    before = bucket.stored
    consolidation = bucket.consolidate(version_floor=floor, minute=-9)
    assert consolidation.stored.last_updated > floor
    assert (consolidation.changed_from, consolidation.tail) == (date(2025, 11, 14), None)
    assert consolidation.stored.bars.equals(before.bars)
    assert (DATA in bucket.done("write")) == (floor >= before.last_updated), "a redelivery writes nothing again"


@pytest.mark.parametrize("floor", [LATEST_VERSION - TICK, LATEST_VERSION + TICK])
def test_a_version_that_none_could_follow_is_never_written(bucket: Bucket, floor: datetime) -> None:
    before = bucket.stored
    with pytest.raises(ContractError, match=r"the next version .* of AAPL would be 9999-01-01"):
        bucket.consolidate(version_floor=floor)
    assert bucket.stored == before


def test_a_restored_data_parquet_without_bars_to_merge_exceeds_the_floor_also_when_it_is_made_again(
    bucket: Bucket,
) -> None:
    bucket.take_away(DATA)
    assert bucket.consolidate(version_floor=later(500)).stored.last_updated > later(500)


# -------------------------------------------------------------------------------------------- nothing new, and absence


def test_a_worker_that_finds_nothing_new_in_a_stale_reading_starts_over_and_reports_the_version_of_a_dead_one(
    bucket: Bucket,
) -> None:
    """Another worker merged the file and died before its event; a clean-up deleted the file before we read it."""
    key = bucket.put("2025-11-18", 8)

    def the_mate_merges_dies_and_its_file_is_cleaned_up() -> None:
        bucket.clean_up(bucket.consolidate(key, since="2025-11-18", minute=1))

    bucket.before_reading(key, the_mate_merges_dies_and_its_file_is_cleaned_up)
    consolidation = bucket.consolidate(key, since="2025-11-18")
    assert bucket.peek(key) is None
    assert (consolidation.changed_from, consolidation.merged_files) == (date(2025, 11, 18), 0)
    assert consolidation.stored.last_updated == bucket.stored.last_updated == later(1)
    assert consolidation.tail
    assert consolidation.tail.timestamp[-1] == date(2025, 11, 18)


def test_a_worker_that_finds_nothing_at_all_checks_whether_another_one_has_created_data_parquet() -> None:
    bucket = Bucket()
    key = bucket.put("2025-11-18", 8)
    bucket.before_reading(key, lambda: bucket.clean_up(bucket.consolidate(key, since="2025-11-18")))
    assert bucket.consolidate(key, since="2025-11-18").changed_from == date(2025, 11, 18)
    assert bucket.closes == {"2025-11-18": 8}


def test_what_is_gone_without_a_data_parquet_does_not_exist() -> None:
    bucket = Bucket()
    with pytest.raises(NotFoundError, match="AAPL has no bars"):
        bucket.consolidate(day("2025-11-18"), since="2025-11-18")
    assert bucket.done("head") == [DATA]


# --------------------------------------------------------------------------------------------------------------- splits


def test_a_worker_that_finds_the_same_splits_writes_so_that_an_older_reading_of_them_loses(bucket: Bucket) -> None:
    """We read S1. Before we write, the file is restored to S0, and another worker finds nothing to change."""

    def the_splits_are_put_back_and_a_mate_takes_the_message() -> None:
        bucket.take_away(SPLITS)
        bucket.consolidate(reference_changed=True, minute=1)

    bucket.lay(SPLITS, TWO_FOR_ONE)
    bucket.interfere(the_splits_are_put_back_and_a_mate_takes_the_message)
    bucket.consolidate(reference_changed=True)
    assert bucket.stored.reference == NO_REFERENCE


def test_splits_that_come_while_the_first_bars_are_merged_are_not_lost() -> None:
    """Their own message finds no bars and succeeds, so no other worker will read them."""
    bucket = Bucket()
    key = bucket.put("2025-11-19")
    bucket.interfere(lambda: bucket.lay(SPLITS, TWO_FOR_ONE))
    consolidation = bucket.consolidate(key, since="2025-11-19")
    assert consolidation.stored.reference == bucket.stored.reference == HALF


def test_splits_that_came_while_the_first_bars_were_merged_by_a_worker_that_died_are_read_by_the_redelivery() -> None:
    bucket = Bucket()
    key = bucket.put("2025-11-19")

    def splits_arrive() -> None:
        bucket.lay(SPLITS, TWO_FOR_ONE)
        bucket.fail("get", KeyboardInterrupt(), of=lambda wanted: wanted == SPLITS)  # type: ignore[arg-type]

    bucket.interfere(splits_arrive)
    with pytest.raises(KeyboardInterrupt):
        bucket.consolidate(key, since="2025-11-19")
    assert bucket.stored.reference == NO_REFERENCE
    bucket.put("2025-11-20")
    consolidation = bucket.consolidate(key, day("2025-11-20"), since="2025-11-19", minute=1)
    assert consolidation.stored.reference == bucket.stored.reference == HALF


# ------------------------------------------------------------------------------------------- key, ETag and LastModified


@pytest.mark.parametrize("named", [True, False])
def test_the_same_bytes_put_again_are_a_new_version_and_win_over_what_came_between(
    bucket: Bucket,
    named: bool,  # noqa: FBT001
) -> None:
    """The bars have no `ingested_at`, so they count as ingested when they were put."""
    key = day("2025-11-18")
    bucket.lay(key, unstamped("2025-11-18", 1), later(1))
    bucket.consolidate(key, since="2025-11-18")
    bucket.lay(RANGE, unstamped("2025-11-18", 2), later(2))
    bucket.consolidate(RANGE, since="2025-11-14")
    assert bucket.closes["2025-11-18"] == 2
    bucket.put_again(key, later(3))
    bucket.consolidate(*([key] if named else []), since="2025-11-18")
    assert bucket.closes["2025-11-18"] == 1
    assert bucket.stored.log[key].last_modified == later(3)


def test_listed_files_in_the_log_are_not_read_also_if_an_older_log_has_etags_only() -> None:
    bucket = Bucket()
    key = bucket.put("2025-11-18", 8)
    log = json.dumps({key: bucket.etag(key)})
    old = table(bar("2025-11-17", 7)).replace_schema_metadata({"fiblake.merged": log})
    bucket.lay(DATA, encode(old))
    assert bucket.consolidate(since="2025-11-18").merged_files == 0
    assert bucket.consolidate(key, since="2025-11-18").merged_files == 1, "a named file is merged whatever the log says"
    assert bucket.closes == {"2025-11-17": 7, "2025-11-18": 8}


# --------------------------------------------------------------------------------------------------- deletions, in lots


def test_files_beyond_retention_are_deleted_in_lots_and_a_day_in_between_costs_no_listing() -> None:
    bucket = Bucket()
    sessions = nyse().between(date(2025, 8, 1), date(2025, 11, 19))
    listings, now = [], NOON
    for n, session in enumerate(sessions):
        now = datetime.combine(session, NOON.timetz()) + timedelta(hours=10)
        key = bucket.put(str(session), n + 1, now)
        task = Task("AAPL", session, frozenset([key]), lists=False, retention_days=10)
        bucket.journal.clear()
        consolidation = Consolidator(bucket, LAKE, nyse()).consolidate(task, now)
        proof = Proof("AAPL", consolidation.etag, consolidation.stored.log, consolidation.listing)
        clean_up(bucket, LAKE, [proof] if consolidation.listing else [], "run", now, 10)
        listings.append(len(bucket.done("list")))
    assert sum(listings[1:]) <= 2 * (len(sessions) // FILES_PER_LOT)
    sources = [key for key in bucket.keys(LAKE.symbol_prefix("AAPL")) if key != DATA]
    assert len(sources) <= FILES_PER_LOT + 10
    assert len(bucket.stored.log) <= 2 * FILES_PER_LOT + 10
    assert bucket.stored.bars.num_rows == len(sessions)


def test_a_file_that_wins_by_the_instant_of_its_put_is_kept_as_long_after_that() -> None:
    """The same bytes may be put again, and a deletion could not distinguish them from the merged ones."""
    bucket = Bucket()
    key = day("2025-06-02")
    bucket.lay(key, unstamped("2025-06-02", 1), later(-60 * 24 * 31))
    consolidation = bucket.consolidate(key, since="2025-06-02")
    for put_at, stays in ((later(-60 * 24 * 31), False), (later(-60 * 24 * 29), True)):
        bucket.put_again(key, put_at)
        consolidation = bucket.consolidate(key, since="2025-06-02")
        proof = Proof(
            "AAPL", consolidation.etag, consolidation.stored.log, bucket.list_objects(LAKE.symbol_prefix("AAPL"))[1:]
        )
        assert bool(proof.deletable(LAKE, NOON.date(), 30)) != stays


def test_the_same_bytes_put_again_and_not_merged_since_stay_however_long_ago_both_puts_were() -> None:
    bucket = Bucket()
    key = day("2025-06-02")
    bucket.lay(key, unstamped("2025-06-02", 1), later(-60 * 24 * 90))
    consolidation = bucket.consolidate(key, since="2025-06-02")
    for put_at, goes in ((later(-60 * 24 * 90), True), (later(-60 * 24 * 80), False)):
        bucket.put_again(key, put_at)
        proof = Proof(
            "AAPL", consolidation.etag, consolidation.stored.log, bucket.list_objects(LAKE.symbol_prefix("AAPL"))[1:]
        )
        assert [info.key for info in proof.deletable(LAKE, NOON.date(), 30)] == ([key] if goes else [])


# --------------------------------------------------------------------------- what no message names is announced first


def test_what_a_listing_finds_before_the_messages_session_is_announced_before_it_is_written(bucket: Bucket) -> None:
    earlier_file = bucket.put("2025-11-13", 3)
    bucket.put("2025-11-19", 9)
    consolidation = bucket.consolidate(since="2025-11-19", minute=1)
    assert [(verb, key) for verb, key in bucket.journal if verb in {"send", "write"}] == [
        ("send", "AAPL"),
        ("write", DATA),
    ]
    (request,) = bucket.announced
    assert (request.changed_from, {file.name for file in request.files}) == (
        date(2025, 11, 13), {"date=2025-11-13.parquet", "date=2025-11-19.parquet"},
    )  # fmt: skip
    assert consolidation.changed_from == date(2025, 11, 13)
    again = bucket.consolidate(earlier_file, since="2025-11-13", minute=2)
    assert (again.changed_from, again.stored.last_updated) == (date(2025, 11, 13), later(1))


@pytest.mark.parametrize("since", ["2025-11-13", "2025-11-12", None])
def test_what_the_messages_report_anyway_is_not_announced(bucket: Bucket, since: str | None) -> None:
    bucket.put("2025-11-13", 3)
    bucket.consolidate(since=since)
    assert bucket.announced == []


def test_the_bars_of_an_adopted_data_parquet_are_announced_before_they_are_written() -> None:
    bucket = Bucket()
    bucket.lay(DATA, parquet(bar("2025-11-13", 3), bar("2025-11-14", 4)))
    bucket.consolidate(bucket.put("2025-11-19", 9), since="2025-11-19")
    assert [request.changed_from for request in bucket.announced] == [date(2025, 11, 13)]
    assert bucket.journal.index(("send", "AAPL")) < bucket.journal.index(("write", DATA))


def test_beside_an_adopted_data_parquet_files_that_no_message_names_are_merged(bucket: Bucket) -> None:
    """Its writer kept no log, so it is unknown which files it has."""
    bucket.put("2025-11-13", 3)
    bucket.lay(DATA, parquet(bar("2025-11-14", 4)))
    merged = bucket.consolidate(bucket.put("2025-11-19", 9), since="2025-11-13").stored
    assert [str(day) for day in merged.bars["timestamp"].to_pylist()][:2] == ["2025-11-13", "2025-11-14"]


def test_if_the_announcement_is_not_taken_nothing_is_written(bucket: Bucket) -> None:
    def refuse(_request: ConsolidationRequest) -> None:
        raise UpstreamError("SQS is away")

    bucket.put("2025-11-13", 3)
    bucket.announce = refuse  # type: ignore[method-assign]
    with pytest.raises(UpstreamError):
        bucket.consolidate(since="2025-11-19")
    assert bucket.done("write") == []


def test_it_is_announced_once_however_often_a_rival_makes_us_start_over(bucket: Bucket) -> None:
    bucket.put("2025-11-13", 3)
    for n in range(3):
        bucket.interfere(lambda n=n: bucket.lay(DATA, consolidated(bar("2025-11-17", n))), before_write=n + 1)
    assert bucket.consolidate(since="2025-11-19").changed_from == date(2025, 11, 13)
    assert len(bucket.announced) == 1

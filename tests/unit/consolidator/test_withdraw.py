"""A bar that a person withdraws: it stays out, a later bar is merged, and silver gets an event."""

import json
from dataclasses import replace
from datetime import date

import pytest

from fiblake.bars import Consolidated, decode_manifest
from fiblake.errors import ConfigurationError, ConflictError, ContractError, NotFoundError, UpstreamError
from fiblake.lake import MANIFEST_KEY, WITHDRAWAL_RECORD_KEY, revisions_key, splits_key
from fiblake.reference import splits_file
from services.consolidator import withdraw as module
from services.consolidator.withdraw import Withdrawal, withdraw
from tests.fakes import LAKE, NOON, bar, consolidated, later, parquet, splits
from tests.unit.consolidator.test_worker import Lake

DATA = LAKE.data_key("AAPL")
DAYS = ("2025-11-17", "2025-11-18", "2025-11-19")
MIDDLE = date(2025, 11, 18)


@pytest.fixture
def lake() -> Lake:
    lake = Lake()
    for day in DAYS:
        lake.put("AAPL", day)
    lake.worker().consolidate(["AAPL"], 1, full=False)
    lake.complete.published.clear()
    lake.journal.clear()
    return lake


def withdrawn(lake: Lake, session: date = MIDDLE) -> Withdrawal:
    return withdraw(lake.worker(clock=lambda: later(60)), "AAPL", session, "jane", "a test trade")


def stored(lake: Lake) -> Consolidated:
    return Consolidated.decode(lake.store.peek(DATA) or b"", "AAPL", NOON)


def sessions(lake: Lake) -> list[str]:
    return [str(day) for day in stored(lake).bars["timestamp"].to_pylist()]


def records(lake: Lake) -> list[dict]:
    data = lake.store.peek(WITHDRAWAL_RECORD_KEY)
    return json.loads(data)["withdrawals"] if data else []


@pytest.mark.parametrize("day", DAYS)
def test_the_bar_goes_in_a_new_version_which_event_and_manifest_report(lake: Lake, day: str) -> None:
    before = stored(lake)
    report = withdrawn(lake, date.fromisoformat(day))
    after = stored(lake)
    assert sessions(lake) == [other for other in DAYS if other != day]
    assert after.last_updated > before.last_updated
    assert after.log == before.log
    (event,) = lake.complete.published
    assert (event.symbol, event.version, event.last_session) == ("AAPL", after.last_updated, after.last_session)
    assert event.changed_from == report.changed_from == date.fromisoformat(day)
    (row,) = decode_manifest(lake.store.peek(MANIFEST_KEY) or b"").to_pylist()
    assert (row["row_count"], row["last_updated"]) == (2, after.last_updated)


def test_person_instant_reason_and_bar_are_recorded_before_anything_changes(lake: Lake) -> None:
    withdrawn(lake)
    (entry,) = records(lake)
    assert (entry["by"], entry["reason"], entry["withdrawn_at"]) == ("jane", "a test trade", later(60).isoformat())
    row = bar(MIDDLE) | {"timestamp": str(MIDDLE), "ingested_at": NOON.isoformat()}
    assert entry["bar"] == row
    writes = [entry for entry in lake.journal if entry[0] in {"write", "publish"}]
    assert writes == [
        ("write", WITHDRAWAL_RECORD_KEY), ("write", revisions_key("AAPL")), ("write", DATA), ("publish", "AAPL"),
        ("write", MANIFEST_KEY),
    ]  # fmt: skip


def test_a_record_that_cannot_be_read_keeps_the_bar_in_the_lake(lake: Lake) -> None:
    lake.store.lay(WITHDRAWAL_RECORD_KEY, b"damaged")
    with pytest.raises(ContractError, match=f"{WITHDRAWAL_RECORD_KEY} cannot be read: .*move it away and run again"):
        withdrawn(lake)
    assert sessions(lake) == [*DAYS]


def test_the_old_file_named_listed_or_merged_in_full_does_not_bring_the_bar_back(lake: Lake) -> None:
    withdrawn(lake)
    key = LAKE.date_key("AAPL", MIDDLE)
    lake.request_named("AAPL", str(MIDDLE), key)
    lake.drained()
    assert sessions(lake) == [DAYS[0], DAYS[2]]
    lake.store.put_again(key, later(99))
    lake.request("AAPL")
    lake.drained()
    lake.worker().consolidate(["AAPL"], 1, full=True)
    assert sessions(lake) == [DAYS[0], DAYS[2]]
    assert lake.queue.dead == []


def test_a_bar_that_is_ingested_later_brings_the_session_back_and_ends_the_withdrawal(lake: Lake) -> None:
    withdrawn(lake)
    assert stored(lake).withdrawn == {MIDDLE: NOON}
    key = LAKE.date_key("AAPL", MIDDLE)
    lake.store.lay(key, parquet(bar(MIDDLE, 12, later(1))))
    lake.request_named("AAPL", str(MIDDLE), key)
    lake.drained()
    assert sessions(lake) == [*DAYS]
    assert stored(lake).withdrawn == {}
    assert stored(lake).bars["close"].to_pylist() == [10, 12, 10]


def test_a_withdrawal_of_a_session_without_a_bar_counts_and_an_earlier_one_does_not_weaken_it(lake: Lake) -> None:
    day = date(2025, 11, 20)
    for minute in (5, 0):
        lake.worker().withdraw("AAPL", day, later(minute))
    assert stored(lake).withdrawn == {day: later(5)}
    lake.store.lay(LAKE.date_key("AAPL", day), parquet(bar(day, ingested_at=later(3))))
    lake.request("AAPL")
    lake.drained()
    assert sessions(lake) == [*DAYS]


def test_bars_of_other_sessions_that_arrive_keep_the_withdrawal(lake: Lake) -> None:
    withdrawn(lake)
    lake.arrive("AAPL", "2025-11-20")
    lake.drained()
    assert sessions(lake) == [DAYS[0], DAYS[2], "2025-11-20"]
    assert stored(lake).withdrawn == {MIDDLE: NOON}


def test_a_rival_that_merges_in_between_loses_nothing_and_the_bar_is_withdrawn(lake: Lake) -> None:
    def rival() -> None:
        lake.put("AAPL", "2025-11-20")
        lake.worker().consolidate(["AAPL"], 1, full=False)

    lake.store.interfere(rival, of=lambda key: key == DATA)
    withdrawn(lake)
    assert sessions(lake) == [DAYS[0], DAYS[2], "2025-11-20"]
    assert len(records(lake)) == 1


def test_a_later_bar_that_a_rival_merges_in_between_stays(lake: Lake) -> None:
    def rival() -> None:
        lake.store.lay(LAKE.date_key("AAPL", MIDDLE), parquet(bar(MIDDLE, 12, later(1))))
        lake.worker().consolidate(["AAPL"], 1, full=False)

    lake.store.interfere(rival, of=lambda key: key == DATA)
    withdrawn(lake)
    assert stored(lake).bars["close"].to_pylist() == [10, 12, 10]


def test_a_run_that_died_between_data_parquet_and_the_event_is_repeated_and_publishes(lake: Lake) -> None:
    lake.complete.refuse = lambda _event: True
    with pytest.raises(UpstreamError, match="SNS did not take"):
        withdrawn(lake)
    version = stored(lake).last_updated
    assert lake.complete.published == []
    lake.complete.refuse = lambda _event: False
    withdrawn(lake)
    (event,) = lake.complete.published
    assert (event.changed_from, event.version) == (MIDDLE, version)
    assert stored(lake).last_updated == version
    assert len(records(lake)) == 1


def test_a_run_that_died_before_data_parquet_was_written_is_repeated(lake: Lake) -> None:
    lake.store.fail("write", of=lambda key: key == DATA)
    with pytest.raises(UpstreamError):
        withdrawn(lake)
    assert sessions(lake) == [*DAYS]
    withdrawn(lake)
    assert sessions(lake) == [DAYS[0], DAYS[2]]
    assert [entry["bar"]["timestamp"] for entry in records(lake)] == [str(MIDDLE)] * 2


def test_all_of_the_history_is_reported_if_the_symbol_has_splits_also_when_it_is_done_again(lake: Lake) -> None:
    """The bar may have been the only one after the split: then the bars before it are no longer adjusted."""
    lake.store.lay(splits_key("AAPL"), splits_file(splits((DAYS[2], 1, 2))))
    lake.worker().consolidate(["AAPL"], 1, full=False)
    lake.complete.published.clear()
    for _ in range(2):
        withdrawn(lake, date(2025, 11, 19))
    assert [str(event.changed_from) for event in lake.complete.published] == [DAYS[0]] * 2


def test_the_first_bar_of_a_symbol_with_splits_is_reported_although_it_is_gone(lake: Lake) -> None:
    lake.store.lay(splits_key("AAPL"), splits_file(splits((DAYS[2], 1, 2))))
    lake.worker().consolidate(["AAPL"], 1, full=False)
    assert str(withdrawn(lake, date(2025, 11, 17)).changed_from) == DAYS[0]


def test_what_is_not_there_cannot_be_withdrawn(lake: Lake) -> None:
    with pytest.raises(NotFoundError, match="AAPL has no bar of 2025-11-20: it has 3 bars from 2025-11-17"):
        withdrawn(lake, date(2025, 11, 20))
    with pytest.raises(NotFoundError, match=r"GHOST has no data.parquet"):
        withdraw(lake.worker(), "GHOST", MIDDLE, "jane", "")
    assert records(lake) == []


def test_the_last_bar_of_a_symbol_cannot_be_withdrawn(lake: Lake) -> None:
    lake.store.lay(DATA, consolidated(bar(MIDDLE)))
    with pytest.raises(ConfigurationError, match="the bar of 2025-11-18 is the last one of AAPL"):
        withdrawn(lake)
    assert records(lake) == []


def test_a_data_parquet_of_another_program_is_consolidated_first(lake: Lake) -> None:
    lake.store.lay(DATA, parquet(bar(DAYS[0]), bar(MIDDLE)))
    with pytest.raises(ConfigurationError, match="run `fiblake consolidate --symbols AAPL` first"):
        withdrawn(lake)


def test_the_number_of_withdrawn_sessions_is_bounded(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WITHDRAWN", 1)
    withdrawn(lake)
    with pytest.raises(ConfigurationError, match="AAPL has 1 withdrawn sessions already"):
        withdrawn(lake, date(2025, 11, 17))


def test_the_worker_may_lose_every_conflict_and_says_so(lake: Lake) -> None:
    def rival() -> None:
        before = stored(lake)
        lake.store.lay(DATA, replace(before, last_updated=later(len(lake.journal))).encode())

    for number in range(1, 21):
        lake.store.interfere(rival, number, of=lambda key: key == DATA)
    with pytest.raises(ConflictError, match="20 times in a row"):
        withdrawn(lake)

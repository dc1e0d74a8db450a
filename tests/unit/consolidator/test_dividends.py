"""Dividends are stored in data.parquet: each time with a version and without an event: silver does not use them."""

import logging
from datetime import date

import pytest

from fiblake.adjustment import Payout
from fiblake.bars import Consolidated
from fiblake.errors import UpstreamError
from fiblake.lake import dividends_key, revisions_key, splits_key
from fiblake.reference import Dividend, dividends_file, splits_file
from shared.events import ConsolidationRequest
from tests.fakes import LAKE, NOON, dividend, splits
from tests.unit.consolidator.test_worker import Lake

DATA = LAKE.data_key("AAPL")
DIVIDENDS = dividends_key("AAPL")
TWO = [dividend("2025-11-19", 0.5), dividend("2025-11-21", 0.25)]
PAYOUTS = (Payout(date(2025, 11, 19), 0.5), Payout(date(2025, 11, 21), 0.25))


@pytest.fixture
def lake() -> Lake:
    lake = Lake()
    for session in ("2025-11-17", "2025-11-18", "2025-11-19"):
        lake.arrive("AAPL", session)
    lake.drained()
    lake.complete.published.clear()
    lake.journal.clear()
    return lake


def pay(lake: Lake, dividends: list[Dividend] | bytes, **also: object) -> None:
    """Put AAPL's dividends and the request that the router sends."""
    lake.store.lay(DIVIDENDS, dividends if isinstance(dividends, bytes) else dividends_file(dividends))
    lake.queue.put(ConsolidationRequest(symbol="AAPL", dividends_changed=True, **also).model_dump_json())  # type: ignore[arg-type]


def stored(lake: Lake) -> Consolidated:
    data = lake.store.peek(DATA)
    assert data
    return Consolidated.decode(data, "AAPL", NOON)


def split(lake: Lake) -> None:
    """Put a split without a request."""
    lake.store.lay(splits_key("AAPL"), splits_file(splits(("2025-11-19", 1, 2))))


def test_dividends_are_stored_in_data_parquet_without_an_event(lake: Lake) -> None:
    before = stored(lake)
    pay(lake, TWO)
    worker = lake.drained()
    after = stored(lake)
    assert after.reference.dividends == PAYOUTS
    assert after.bars.equals(before.bars)
    assert after.last_updated > before.last_updated
    assert (lake.complete.published, lake.queue.bodies(), lake.queue.dead) == ([], [], [])
    assert worker.summary.symbols == 1
    assert [key for verb, key in lake.journal if verb == "list"] == [], "nothing but the reference files is looked for"
    pay(lake, [])
    lake.drained()
    assert stored(lake).reference == before.reference
    assert lake.complete.published == []


def test_the_manifest_follows_the_version_that_dividends_made(lake: Lake) -> None:
    pay(lake, TWO)
    lake.drained()
    assert [key for verb, key in lake.journal if verb == "write"][:2] == [revisions_key("AAPL"), DATA]
    assert lake.manifest == ["AAPL"]
    assert lake.manifest_versions() == [stored(lake).last_updated]


def test_a_message_about_dividends_writes_a_version_also_if_they_are_as_they_were(lake: Lake) -> None:
    """Another worker may have read older dividends, and must lose."""
    pay(lake, TWO)
    lake.drained()
    before = stored(lake)
    pay(lake, TWO)
    lake.drained()
    assert stored(lake).last_updated > before.last_updated


def test_dividends_beside_a_bar_leave_the_events_session_and_tail_as_they_are(lake: Lake) -> None:
    lake.arrive_named("AAPL", "2025-11-20")
    pay(lake, TWO)
    lake.drained()
    assert stored(lake).reference.dividends == PAYOUTS
    (event,) = lake.complete.published
    assert (event.changed_from, event.version) == (date(2025, 11, 20), stored(lake).last_updated)
    assert event.tail


def test_one_request_for_bars_and_dividends_does_both(lake: Lake) -> None:
    lake.put("AAPL", "2025-11-20")
    pay(lake, TWO, changed_from="2025-11-20")
    lake.drained()
    assert stored(lake).reference.dividends == PAYOUTS
    assert lake.sessions("AAPL")[-1] == "2025-11-20"
    assert [event.changed_from for event in lake.complete.published] == [date(2025, 11, 20)]


def test_splits_that_a_message_about_dividends_finds_are_announced_and_reported(lake: Lake) -> None:
    split(lake)
    pay(lake, TWO)
    taken = lake.queue.receive(10)
    worker = lake.worker()
    lake.queue.delete(taken)
    worker._process_round(lake.queue, taken, taken, 6)  # noqa: SLF001 (one round, as drain does)
    assert stored(lake).reference.splits == ((date(2025, 11, 19), 0.5),)
    (announced,) = [ConsolidationRequest.model_validate_json(body) for body in lake.queue.bodies()]
    assert announced.changed_from == date(2025, 11, 17)
    assert [event.changed_from for event in lake.complete.published] == [date(2025, 11, 17)]


def test_a_file_of_dividends_that_cannot_be_read_is_a_dead_letter_and_keeps_nothing_else_out(lake: Lake) -> None:
    pay(lake, TWO)
    lake.drained()
    pay(lake, b"no Parquet")
    lake.arrive("AAPL", "2025-11-20")
    lake.split("AAPL")
    assert lake.drained().summary.dead_lettered == 1
    (letter,) = lake.queue.dead
    assert letter.reason.startswith(f"{DIVIDENDS}: the dividends of AAPL cannot be read")
    assert ConsolidationRequest.model_validate_json(letter.body).dividends_changed
    assert lake.sessions("AAPL")[-1] == "2025-11-20"
    assert lake.factors("AAPL") == [0.5]
    assert stored(lake).reference.dividends == PAYOUTS, "those of before stay"


def test_a_file_of_bars_that_cannot_be_read_is_not_the_fault_of_a_message_about_dividends(lake: Lake) -> None:
    broken = LAKE.date_key("AAPL", date(2025, 11, 20))
    lake.store.lay(broken, b"no Parquet")
    lake.request_named("AAPL", "2025-11-20", broken)
    pay(lake, TWO)
    assert lake.drained().summary.dead_lettered == 1
    (letter,) = lake.queue.dead
    assert not ConsolidationRequest.model_validate_json(letter.body).dividends_changed
    assert stored(lake).reference.dividends == PAYOUTS


def test_splits_that_cannot_be_read_keep_no_dividends_out(lake: Lake) -> None:
    lake.store.lay(splits_key("AAPL"), b"no Parquet")
    pay(lake, TWO)
    assert lake.drained().summary.dead_lettered == 0
    assert stored(lake).reference.dividends == PAYOUTS


def test_dividends_may_come_before_the_first_bar_and_wait_for_it() -> None:
    lake = Lake()
    pay(lake, TWO)
    assert lake.drained().summary.dead_lettered == 0
    assert (lake.queue.dead, lake.store.peek(DATA)) == ([], None)
    lake.arrive("AAPL", "2025-11-18")
    lake.drained()
    assert stored(lake).reference.dividends == PAYOUTS


def test_broken_dividends_before_the_first_bar_are_a_dead_letter_and_the_bar_is_merged() -> None:
    lake = Lake()
    pay(lake, b"no Parquet")
    lake.drained()
    (letter,) = lake.queue.dead
    assert DIVIDENDS in letter.reason
    lake.arrive("AAPL", "2025-11-18")
    assert lake.drained().summary.dead_lettered == 0
    assert lake.sessions("AAPL") == ["2025-11-18"]


def test_dividends_that_come_while_the_first_bars_are_merged_are_not_lost() -> None:
    lake = Lake()
    lake.arrive_named("AAPL", "2025-11-18")
    lake.store.interfere(lambda: lake.store.lay(DIVIDENDS, dividends_file(TWO)), of=lambda key: key == DATA)
    lake.drained()
    assert stored(lake).reference.dividends == PAYOUTS


def test_a_file_that_s3_fails_to_return_is_requested_again(lake: Lake) -> None:
    pay(lake, TWO)
    lake.store.fail("get", UpstreamError("S3 fails"), of=lambda key: key == DIVIDENDS)
    assert lake.drained().summary.retried == 1


def test_a_dividend_whose_factor_contradicts_cash_and_close_is_logged_once(
    lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    wrong = [dividend("2025-11-19", 0.5, historical_adjustment_factor=0.9)]
    for _ in range(2):
        pay(lake, wrong)
        lake.drained()
    lake.arrive("AAPL", "2025-11-20")
    lake.drained()
    (record,) = [r for r in caplog.records if r.message == "dividend factor contradicts cash and close"]
    assert record.__dict__["dividend"] == "2025-11-19: cash 0.5 makes 0.950000, the vendor says 0.900000"
    assert record.__dict__["symbol"] == "AAPL"

import asyncio
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest

from fiblake.calendar import nyse
from fiblake.errors import EntitlementError, FiblakeError, UpstreamError
from fiblake.lake import UNIVERSE_KEY, identities_key, splits_key
from fiblake.reference import Identity, Split, identities_file, read_identities, read_splits
from fiblake.symbols import BEGINNING, SymbolRecord
from fiblake.universe import read_universe
from services.fetcher import metadata
from services.fetcher.metadata import MetadataFetcher, Refreshed, Rules
from services.fetcher.settings import MetadataEvent
from services.fetcher.tickers import Details, Ticker, TickerChange
from services.fetcher.vendor import BadRequestError
from shared.events import HistoryRequest, parse
from tests.fakes import Clock, FakeQueue, MemoryObjectStore
from tests.unit.fetcher.reference import Fate, KilledError, ReferenceDatabase, ReferenceVendor, ticker

NOW = datetime(2025, 11, 21, 11, tzinfo=UTC)
"""Six o'clock in New York on a Friday: before the open."""
WED, THU, FRI, MON = (date(2025, 11, day) for day in (19, 20, 21, 24))
DAY = timedelta(days=1)


def split(symbol: str, day: date = date(2020, 8, 31), factor: float = 0.25) -> Split:
    return Split(symbol, day, 1.0, 1 / factor, "forward_split", factor, f"{symbol}-{day}")


@dataclass
class World:
    vendor: ReferenceVendor = field(default_factory=ReferenceVendor)
    database: ReferenceDatabase = field(default_factory=ReferenceDatabase)
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    queue: FakeQueue = field(default_factory=lambda: FakeQueue("test-history"))
    rules: Rules = field(default_factory=lambda: Rules(frozenset({"CS", "ETF"})))
    clock: Clock = field(default_factory=lambda: Clock(NOW))

    async def refresh(self, deadline: datetime | None = None, **event: object) -> Refreshed:
        vendor: Any = self.vendor
        fetcher = MetadataFetcher(vendor, self.store, self.database, nyse(), self.queue, self.rules, self.clock)
        return await fetcher.refresh(MetadataEvent.model_validate(event), deadline)

    async def day_after(self, days: int = 1) -> Refreshed:
        self.clock.now += days * DAY
        return await self.refresh()

    def record(self, symbol: str) -> SymbolRecord:
        """Return the symbol's only record."""
        [match] = [record for (name, _), record in self.database.records.items() if name == symbol]
        return match

    def periods(self, symbol: str) -> list[tuple[date, date | None]]:
        return [(r.valid_from, r.valid_to) for (name, _), r in sorted(self.database.records.items()) if name == symbol]

    def identities(self, symbol: str) -> tuple[Identity, ...] | None:
        data = self.store.peek(identities_key(symbol))
        return read_identities(data, symbol) if data else None

    def splits(self, symbol: str) -> list[Split] | None:
        data = self.store.peek(splits_key(symbol))
        return list(read_splits(data, symbol)) if data else None

    def requested(self) -> list[str]:
        return [parse(HistoryRequest, body).symbol for body in self.queue.sent]


@pytest.fixture
def world() -> World:
    return World(ReferenceVendor([ticker("AAPL", "F-AAPL"), ticker("MSFT", "F-MSFT"), ticker("SPY", None, type="ETF")]))


# ------------------------------------------------------------------------------------------------------------- the list


async def test_a_first_run_takes_over_the_list_and_requests_every_history(world: World) -> None:
    world.vendor.listed += [ticker("AACBW", type="WARRANT"), ticker("A B"), ticker("")]
    report = await world.refresh()
    assert (report.listed, report.left_out, report.new, report.renamed, report.vanished) == (4, 2, 4, 0, 0)
    assert [r.symbol for r in await world.database.metadata()] == ["AACBW", "AAPL", "MSFT", "SPY"]
    assert world.record("AAPL").valid_from == BEGINNING
    assert world.requested() == ["AAPL", "MSFT", "SPY"]
    assert report.histories_requested == 3
    # The beginning of each of them is not requested, and a symbol of one company needs no file.
    assert world.vendor.questions("ticker_changes") == []
    assert world.store.keys() == [UNIVERSE_KEY]
    universe = read_universe(world.store.peek(UNIVERSE_KEY) or b"")
    assert universe.known_since == FRI
    assert universe.listed_on(FRI)["symbol"].to_pylist() == ["AACBW", "AAPL", "MSFT", "SPY"]


async def test_the_universe_of_a_day_has_the_companies_listed_then_and_an_equal_list_writes_nothing(
    world: World,
) -> None:
    await world.refresh()
    world.vendor.listed = [*world.vendor.listed[1:], ticker("NEWCO", "F-NEW", type=None)]
    world.store.journal.clear()
    await world.day_after(3)
    universe = read_universe(world.store.peek(UNIVERSE_KEY) or b"")
    assert universe.listed_on(FRI)["symbol"].to_pylist() == ["AAPL", "MSFT", "SPY"]
    # Its listing date is unknown: it was not on the first list, and it has no bars yet.
    assert universe.listed_on(MON)["symbol"].to_pylist() == ["MSFT", "NEWCO", "SPY"]
    world.store.journal.clear()
    await world.refresh()
    assert world.store.done("put", "write") == []


async def test_a_symbol_without_a_type_is_no_reason_to_leave_its_history_out(world: World) -> None:
    world.vendor.listed.append(ticker("BLANK", type=None))
    await world.refresh()
    assert "BLANK" in world.requested()


async def test_the_same_list_again_changes_nothing_but_when_it_was_seen(world: World) -> None:
    await world.refresh()
    before = dict(world.database.records)
    report = await world.day_after()
    assert (report.new, report.changed, report.vanished, report.handed_over, report.back) == (0, 0, 0, 0, 0)
    seen = world.clock.now
    # Their histories are not loaded a day later, and are requested once more.
    assert world.database.records == {
        key: replace(record, last_seen=seen, history_requested_at=seen) for key, record in before.items()
    }


async def test_a_changed_name_is_counted_and_taken_over(world: World) -> None:
    await world.refresh()
    world.vendor.listed[0] = replace(world.vendor.listed[0], name="Apple")
    assert (await world.day_after()).changed == 1
    assert world.record("AAPL").name == "Apple"


async def test_a_vanished_symbol_stays_with_its_last_day(world: World) -> None:
    await world.refresh()
    gone = world.vendor.listed.pop(0)
    world.vendor.gone["AAPL"] = replace(gone, active=False, delisted=THU)
    assert (await world.day_after(3)).vanished == 1
    record = world.record("AAPL")
    assert (record.active, record.valid_to, record.delisted_date) == (False, THU, THU)
    assert (await world.day_after()).vanished == 0
    assert world.vendor.questions("delisted") == ["AAPL"]


async def test_a_list_of_fewer_than_half_deactivates_nothing_and_the_other_parts_go_on(world: World) -> None:
    await world.refresh()
    before = dict(world.database.records)
    world.vendor.listed, world.vendor.reported = world.vendor.listed[:1], [split("AAPL")]
    with pytest.raises(UpstreamError, match="lists 1 of the 3 symbols"):
        await world.day_after()
    now = {key: replace(record, history_requested_at=NOW) for key, record in world.database.records.items()}
    assert now == before
    assert world.splits("AAPL") == [split("AAPL")]


async def test_a_symbol_that_comes_back_is_active_and_its_history_is_requested_again(world: World) -> None:
    await world.refresh()
    apple = world.vendor.listed.pop(0)
    await world.day_after()
    world.vendor.listed.append(apple)
    world.queue.sent.clear()
    world.rules = replace(world.rules, history_retry_hours=1_000)
    report = await world.day_after()
    assert (report.back, report.new, world.requested()) == (1, 0, ["AAPL"])
    assert world.record("AAPL").valid_to is None


async def test_a_symbol_of_another_company_is_cut_in_two_and_its_file_says_where(world: World) -> None:
    await world.refresh()
    world.vendor.listed[0] = ticker("AAPL", "F-OTHER")
    world.vendor.changes["AAPL"] = [TickerChange(THU, "AAPL")]
    report = await world.day_after()
    assert (report.handed_over, report.renamed, report.identities_written) == (1, 0, 1)
    assert world.periods("AAPL") == [(BEGINNING, WED), (THU, None)]
    assert world.identities("AAPL") == (
        Identity("AAPL", BEGINNING, WED, "F-AAPL", "AAPL Inc."), Identity("AAPL", THU, None, "F-OTHER", "AAPL Inc."),
    )  # fmt: skip
    world.store.journal.clear()
    assert (await world.day_after()).identities_written == 0
    assert world.store.done("put") == []


async def test_a_renamed_companys_symbol_begins_with_the_change(world: World) -> None:
    await world.refresh()
    world.vendor.listed[0] = ticker("APPL", "F-AAPL")
    world.vendor.changes["APPL"] = [TickerChange(THU, "APPL")]
    report = await world.day_after()
    assert (report.new, report.renamed, report.vanished) == (1, 1, 1)
    assert world.periods("AAPL") == [(BEGINNING, WED)]
    assert world.periods("APPL") == [(THU, None)]
    assert "APPL" in world.requested()


async def test_a_new_symbol_begins_when_the_vendor_says_it_did(world: World) -> None:
    await world.refresh()
    world.vendor.listed += [ticker("NEWCO", "F-NEW"), ticker("OTHER")]
    world.vendor.changes["NEWCO"] = [TickerChange(FRI, "NEWCO")]
    await world.refresh()
    assert world.periods("NEWCO") == [(FRI, None)]
    assert world.periods("OTHER") == [(BEGINNING, None)]
    assert world.vendor.questions("ticker_changes") == ["NEWCO", "OTHER"]


async def test_a_list_with_more_news_than_there_is_time_to_ask_about_gets_in_all_the_same(world: World) -> None:
    await world.refresh()
    world.vendor.listed = [ticker("AAPL", "F-OTHER"), ticker("MSFT", "F-MSFT"), ticker("NEWCO")]
    world.vendor.asked.clear()
    report = await world.refresh(deadline=NOW)
    assert (report.new, report.doubtful, report.vanished) == (1, 1, 1)
    assert world.vendor.asked == []
    assert world.periods("AAPL") == [(BEGINNING, None)]
    assert world.periods("SPY") == [(BEGINNING, THU)]


@pytest.mark.parametrize(
    "error",
    [BadRequestError("no such ticker can be"), UpstreamError("the vendor fails"), EntitlementError("not in the plan")],
)
@pytest.mark.parametrize("question", ["ticker_changes", "delisted"])
async def test_a_vendor_that_has_no_answer_about_one_symbol_does_not_keep_the_list_out(
    world: World, question: str, error: FiblakeError
) -> None:
    await world.refresh()
    world.vendor.listed = [ticker("AAPL", "F-AAPL"), ticker("MSFT", "F-MSFT"), ticker("NEWCO")]
    world.vendor.error[question] = error
    report = await world.refresh()
    assert (report.new, report.vanished) == (1, 1)
    assert (world.periods("NEWCO"), world.periods("SPY")) == ([(BEGINNING, None)], [(BEGINNING, THU)])
    assert "NEWCO" in world.requested()


@pytest.mark.parametrize("listed", [ticker("AAPL", "F-OTHER"), ticker("APPL", "F-AAPL")], ids=["another's", "renamed"])
async def test_a_symbol_that_would_begin_too_late_waits_for_the_vendor_and_the_list_does_not(
    world: World, listed: Ticker
) -> None:
    await world.refresh()
    world.vendor.listed[0] = listed
    world.vendor.listed.append(ticker("NEWCO"))
    world.vendor.error["ticker_changes"] = UpstreamError("the vendor fails")
    report = await world.day_after()
    assert (report.new, report.handed_over, report.vanished, "NEWCO" in world.requested()) == (1, 0, 0, True)
    assert world.periods("AAPL") == [(BEGINNING, None)]
    del world.vendor.error["ticker_changes"]
    world.vendor.changes[listed.symbol] = [TickerChange(FRI, listed.symbol)]
    await world.day_after()
    assert world.periods(listed.symbol)[-1] == (FRI, None)
    assert world.periods("AAPL")[0] == (BEGINNING, THU)


async def test_a_renamed_company_does_not_wait_for_ever_and_begins_where_the_old_symbol_was_last_seen(
    world: World,
) -> None:
    await world.refresh()
    world.vendor.listed[0] = ticker("APPL", "F-AAPL")
    world.vendor.error["ticker_changes"] = UpstreamError("the vendor fails")
    for _ in range(5):
        await world.day_after()
    assert world.periods("APPL") == [(MON, None)]
    assert world.periods("AAPL")[0][0] == BEGINNING


async def test_on_a_list_with_a_row_that_names_no_ticker_only_those_vanish_whom_the_vendor_says_to_be_gone(
    world: World,
) -> None:
    await world.refresh()
    world.vendor.listed = [ticker(""), ticker("MSFT", "F-MSFT"), ticker("SPY", None, type="ETF")]
    assert (await world.day_after()).vanished == 0
    assert world.periods("AAPL") == [(BEGINNING, None)]
    world.vendor.gone["AAPL"] = ticker("AAPL", "F-AAPL", active=False, delisted=THU)
    assert (await world.day_after()).vanished == 1
    assert world.periods("AAPL") == [(BEGINNING, THU)]


class StuckVendor(ReferenceVendor):
    """Answers no request about a single symbol."""

    async def ticker_changes(self, symbol: str) -> list[TickerChange]:
        return await self._never(symbol)

    async def find_delisted(self, symbol: str) -> Ticker | None:
        return await self._never(symbol)

    async def details(self, symbol: str) -> Details | None:
        return await self._never(symbol)

    async def _never(self, symbol: str) -> Any:  # noqa: ANN401 (there is no answer)
        self.asked.append(("never", symbol))
        await asyncio.Event().wait()


@pytest.mark.parametrize("is_stored", [False, True])
async def test_a_vendor_whose_answers_do_not_come_before_the_deadline_is_not_waited_for(
    world: World, *, is_stored: bool
) -> None:
    if is_stored:
        await world.refresh()
        world.queue.sent.clear()
    world.vendor = StuckVendor([ticker("AAPL", "F-OTHER"), ticker("MSFT", "F-MSFT"), ticker("NEWCO")])
    report = await world.refresh(deadline=NOW + timedelta(milliseconds=20))
    assert (report.listed, report.details) == (3, 0)
    assert "NEWCO" in world.requested()


async def test_where_another_company_may_have_borne_the_symbol_the_vendor_is_asked_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.refresh()
    monkeypatch.setattr(metadata, "ASKED_AT_ONCE", 1)
    world.vendor.listed = [
        ticker("NEWCO"), ticker("APPL", "F-AAPL"), ticker("MSFT", "F-OTHER"), ticker("SPY", type="ETF"),
    ]  # fmt: skip
    await world.refresh()
    assert world.vendor.questions("ticker_changes") == ["MSFT", "APPL", "NEWCO"]


async def test_a_file_of_identities_that_is_wrong_or_no_file_of_ours_is_written_again(world: World) -> None:
    await world.refresh()
    world.store.lay(identities_key("MSFT"), b"not Parquet")
    glued = (Identity("AAPL", BEGINNING, WED, "F-X", None), Identity("AAPL", THU, None, "F-AAPL", None))
    world.store.lay(identities_key("AAPL"), identities_file(glued))
    world.store.lay("bronze/identities/symbol=~.parquet", b"not ours")
    assert (await world.day_after()).identities_written == 2
    for symbol in ("AAPL", "MSFT"):
        assert world.identities(symbol) == (Identity(symbol, BEGINNING, None, f"F-{symbol}", f"{symbol} Inc."),)


# --------------------------------------------------------------------------------------------------------------- splits


async def test_splits_reach_file_and_table_symbol_by_symbol(world: World) -> None:
    world.vendor.reported = [split("AAPL"), split("OTC"), split("MSFT"), split("AAPL", MON, 0.5)]
    assert (await world.refresh()).splits_changed == 2
    assert world.database.stored == {"AAPL": [split("AAPL")], "MSFT": [split("MSFT")]}
    assert (world.splits("AAPL"), world.splits("OTC")) == ([split("AAPL")], None)
    world.store.journal.clear()
    assert (await world.refresh()).splits_changed == 0
    assert world.store.done("put") == []


async def test_an_announced_split_comes_on_its_day_and_touches_no_other_symbol(world: World) -> None:
    world.vendor.reported = [split("AAPL", MON, 0.5), split("MSFT")]
    await world.refresh()
    assert (await world.day_after(2)).splits_changed == 0
    world.store.journal.clear()
    assert (await world.day_after()).splits_changed == 1
    assert world.store.done("put") == [splits_key("AAPL")]
    assert world.splits("AAPL") == [split("AAPL", MON, 0.5)]


async def test_a_split_that_was_put_and_then_taken_back_before_the_rows_were_stored_is_taken_back_in_bronze(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.refresh()
    world.vendor.reported = [split("AAPL")]
    with monkeypatch.context() as patch:
        patch.setattr(world.database, "replace_splits", AsyncMock(side_effect=UpstreamError("the database fails")))
        with pytest.raises(UpstreamError, match="the database fails"):
            await world.refresh()
    assert (world.splits("AAPL"), await world.database.splits()) == ([split("AAPL")], {})
    world.vendor.reported = []
    assert (await world.refresh()).splits_changed == 1
    assert (world.splits("AAPL"), await world.database.splits(), world.database.notes) == ([], {}, set())


async def test_splits_that_are_withdrawn_leave_a_file_that_says_so(world: World) -> None:
    world.vendor.reported = [split("AAPL"), split("MSFT")]
    await world.refresh()
    world.vendor.reported.pop()
    assert (await world.day_after()).splits_changed == 1
    assert (world.splits("MSFT"), world.splits("AAPL")) == ([], [split("AAPL")])
    assert await world.database.splits() == {"AAPL": [split("AAPL")]}


async def test_a_list_of_fewer_than_half_of_the_splits_withdraws_none_and_histories_are_requested_all_the_same(
    world: World,
) -> None:
    world.vendor.reported = [split("AAPL"), split("MSFT"), split("SPY")]
    await world.refresh()
    world.vendor.reported = world.vendor.reported[:1]
    world.vendor.listed.append(ticker("NEWCO"))
    with pytest.raises(UpstreamError, match="reports 1 splits where 3 are known"):
        await world.day_after()
    assert len(await world.database.splits()) == 3
    assert "NEWCO" in world.requested()


async def test_a_split_that_cannot_be_is_counted_and_its_symbol_keeps_what_it_has(world: World) -> None:
    world.vendor.reported = [split("AAPL"), split("MSFT")]
    await world.refresh()
    world.vendor.reported.append(replace(split("AAPL", WED), split_to=0.0))
    report = await world.day_after()
    assert (report.splits_refused, report.splits_changed) == (1, 0)
    assert world.splits("AAPL") == [split("AAPL")]


async def test_splits_alone_may_be_requested(world: World) -> None:
    await world.refresh()
    world.vendor.listed, world.vendor.asked, world.queue.sent = [], [], []
    world.vendor.reported = [split("AAPL")]
    report = await world.refresh(splits_only=True)
    assert (report.splits_changed, report.listed, report.details) == (1, 0, 0)
    assert (world.vendor.asked, world.queue.sent) == ([], [])


# -------------------------------------------------------------------------------------------------------------- details


def detailed(*symbols: str) -> dict[str, Any]:
    return {s: Details(s, date(1980, 12, 12), "3571", "ELECTRONIC COMPUTERS") for s in symbols}


async def test_details_tell_industry_sector_and_listing(world: World) -> None:
    world.vendor.known = detailed("AAPL")
    assert (await world.refresh()).details == 3
    record = world.record("AAPL")
    assert (record.list_date, record.sic_code, record.industry, record.sector, record.details_at) == (
        date(1980, 12, 12), "3571", "ELECTRONIC COMPUTERS", "Manufacturing", NOW,
    )  # fmt: skip
    # What the vendor does not know is not asked for again tomorrow.
    assert (world.record("MSFT").details_at, world.record("MSFT").sector) == (NOW, None)


async def test_a_record_that_a_load_of_the_past_moves_meanwhile_stays_where_it_is(world: World) -> None:
    world.vendor.known = detailed("AAPL")
    await world.refresh()
    details, moved_to = world.vendor.details, date(1980, 12, 12)

    async def moving(symbol: str) -> Details | None:
        records = world.database.records
        if symbol == "AAPL":
            [key] = [place for place in records if place[0] == "AAPL"]
            records["AAPL", moved_to] = replace(records.pop(key), valid_from=moved_to, name="Apple Computer")
        return await details(symbol)

    world.vendor.details = moving  # type: ignore[method-assign]
    assert (await world.day_after(31)).details == 3
    [record] = [record for record in await world.database.metadata() if record.symbol == "AAPL"]
    assert (record.valid_from, record.name) == (moved_to, "Apple Computer")
    assert record.details_at == NOW + timedelta(days=31)


async def test_details_are_requested_again_when_they_are_old(world: World) -> None:
    world.vendor.known = detailed("AAPL", "MSFT", "SPY")
    await world.refresh()
    assert (await world.day_after(29)).details == 0
    world.vendor.known = {}
    assert (await world.day_after(2)).details == 3
    assert world.record("AAPL").sector == "Manufacturing"


async def test_a_run_requests_a_limited_number_of_details_and_the_next_ones_continue(world: World) -> None:
    world.rules = replace(world.rules, details_per_run=2)
    report = await world.refresh()
    assert (report.details, report.details_left) == (2, 1)
    report = await world.day_after()
    assert (report.details, report.details_left) == (1, 0)
    assert sorted(world.vendor.questions("details")) == ["AAPL", "MSFT", "SPY"]


async def test_details_stop_at_the_deadline_and_what_comes_after_them_is_done(world: World) -> None:
    report = await world.refresh(deadline=NOW)
    assert (report.details, report.details_left, report.histories_requested) == (0, 3, 3)


async def test_a_vendor_that_fails_on_one_ticker_costs_neither_the_others_nor_the_histories(world: World) -> None:
    world.vendor.known = {**detailed("AAPL", "SPY"), "MSFT": UpstreamError("the vendor fails, as arranged")}
    report = await world.refresh()
    assert (report.details, report.details_failed, report.details_left) == (2, 1, 1)
    assert [world.record(s).sector for s in ("AAPL", "MSFT", "SPY")] == ["Manufacturing", None, "Manufacturing"]
    assert world.requested() == ["AAPL", "MSFT", "SPY"]
    world.vendor.known, world.vendor.asked = detailed("MSFT"), []
    await world.day_after()
    assert world.vendor.questions("details") == ["MSFT"]


@pytest.mark.parametrize(
    ("error", "raised"), [(UpstreamError("the vendor is down"), True), (EntitlementError("not in the plan"), False)]
)
async def test_a_vendor_without_any_details_is_not_asked_for_all_and_blocks_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch, error: FiblakeError, *, raised: bool
) -> None:
    monkeypatch.setattr(metadata, "ASKED_AT_ONCE", 1)
    world.vendor.error["details"] = error
    with pytest.raises(UpstreamError, match="is down") if raised else nullcontext():
        await world.refresh()
    assert len(world.vendor.questions("details")) == metadata.BATCHES_FAILED_AT_MOST
    assert world.requested() == ["AAPL", "MSFT", "SPY"]


async def test_a_list_of_splits_that_fails_keeps_details_and_histories_not_out_and_fails_the_run(world: World) -> None:
    world.vendor.known, world.vendor.error["splits"] = detailed("AAPL"), EntitlementError("not in the plan")
    with pytest.raises(EntitlementError, match="not in the plan"):
        await world.refresh()
    assert world.record("AAPL").sector == "Manufacturing"
    assert world.requested() == ["AAPL", "MSFT", "SPY"]


async def test_a_ticker_that_the_vendor_does_not_understand_blocks_no_other(world: World) -> None:
    world.vendor.known = {"AAPL": BadRequestError("no such ticker can be")}
    assert (await world.refresh()).details == 3
    assert world.record("AAPL").details_at == NOW


# ------------------------------------------------------------------------------------------------------------ histories


async def test_a_history_is_requested_once_a_day_until_it_is_loaded(world: World) -> None:
    await world.refresh()
    world.clock.now += timedelta(hours=21)
    assert (await world.refresh()).histories_requested == 0
    world.database.records = {
        key: replace(record, history_loaded_at=NOW if record.symbol == "AAPL" else None)
        for key, record in world.database.records.items()
    }
    world.clock.now += timedelta(hours=2)
    assert (await world.refresh()).histories_requested == 2
    assert world.requested()[3:] == ["MSFT", "SPY"]


async def test_of_a_universe_that_is_named_only_those_histories_are_requested(world: World) -> None:
    world.rules = replace(world.rules, only=frozenset({"MSFT", "OTHER"}))
    assert (await world.refresh()).histories_requested == 1
    assert world.requested() == ["MSFT"]


async def test_requests_carry_the_runs_correlation_id(world: World) -> None:
    await world.refresh()
    ids = {parse(HistoryRequest, body).correlation_id for body in world.queue.sent}
    assert len(ids) == 1
    assert "" not in ids
    assert {parse(HistoryRequest, body).first for body in world.queue.sent} == {None}


async def test_requests_that_are_not_taken_are_an_error_that_says_how_many_and_the_next_run_sends_them(
    world: World,
) -> None:
    world.queue.refuse_sends = lambda body: "AAPL" in body
    with pytest.raises(UpstreamError, match=r"the histories of 1 of 3 symbols could not be requested"):
        await world.refresh()
    assert world.requested() == ["MSFT", "SPY"]
    world.queue.refuse_sends = lambda _body: False
    await world.refresh()
    assert world.requested() == ["MSFT", "SPY", "AAPL"]


# ----------------------------------------------------------------------------------------------------------- the record


async def test_a_run_is_recorded_with_what_was_asked_and_done(world: World) -> None:
    report = await world.refresh(splits_only=True)
    [run] = world.database.runs.values()
    assert (run["kind"], run["asked"], run["status"]) == ("metadata", {"splits_only": True}, "done")
    assert run["result"]["seconds"] == report.seconds
    assert json.dumps(run["result"])


async def test_a_run_that_fails_is_recorded_with_what_it_did_until_then(world: World) -> None:
    world.vendor.error["splits"] = EntitlementError("not entitled")
    with pytest.raises(EntitlementError):
        await world.refresh()
    [run] = world.database.runs.values()
    assert (run["status"], run["result"]["error"], run["result"]["new"]) == ("failed", "not entitled", 3)


async def test_a_run_may_be_as_of_a_past_evening(world: World) -> None:
    world.vendor.reported = [split("AAPL", THU, 0.5), split("MSFT", WED)]
    await world.refresh(as_of="2025-11-19")
    assert world.database.stored == {"MSFT": [split("MSFT", WED)]}
    assert world.record("AAPL").last_seen == datetime(2025, 11, 19, 21, tzinfo=UTC)


# ----------------------------------------------------------------------------------------------------- a run is cut off


def eventful() -> World:
    """Yesterday's lake, and a day with every kind of change."""
    world = World(ReferenceVendor([ticker(s, f"F-{s}") for s in ("AAPL", "FB", "IBM", "META", "MSFT", "SPY")]))
    world.vendor.reported = [split("AAPL"), split("MSFT"), split("IBM")]
    return world


def everything_happens(world: World) -> None:
    world.vendor.listed = [
        ticker("AAPL", "F-AAPL", name="Apple"), ticker("META", "F-FB"), ticker("MSFT", "F-MSFT"), ticker("NEWCO"),
        ticker("SPY", "F-OTHER"),
    ]  # fmt: skip
    world.vendor.changes["META"] = [TickerChange(THU, "META")]
    world.vendor.changes["SPY"] = [TickerChange(FRI, "SPY")]
    world.vendor.reported = [split("AAPL"), split("AAPL", FRI, 0.5), split("IBM"), split("NEWCO")]
    world.vendor.known = detailed("AAPL", "NEWCO")


def outcome(world: World) -> tuple[object, ...]:
    """Return the result of a run, without the requests and their number."""
    objects = {key: world.store.peek(key) for key in world.store.keys()}  # noqa: SIM118 (a method, not a mapping)
    splits = {symbol: of for symbol, of in world.database.stored.items() if of}
    return world.database.records, splits, objects, set(world.requested())


async def prepared(fate: Fate) -> World:
    world = eventful()
    await world.refresh()
    world.clock.now += DAY / 24
    everything_happens(world)
    world.database.fate = fate
    world.store.fail("put", KilledError(), times=1_000, of=lambda _key: fate.ends())
    send = world.queue.send

    def sending(bodies: Sequence[str]) -> list[int]:
        fate.step()
        unsent = send(bodies)
        fate.step()
        return unsent

    world.queue.send = sending  # type: ignore[method-assign]
    return world


async def test_a_run_that_is_cut_off_anywhere_is_completed_by_the_next_and_nothing_is_doubled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for batch in ("SPLITS_AT_ONCE", "ASKED_AT_ONCE", "REQUESTS_AT_ONCE"):
        monkeypatch.setattr(metadata, batch, 1)
    whole = await prepared(counted := Fate())
    await whole.refresh()
    expected = outcome(whole)
    # Identity files, records, splits one by one, details one by one, requests one by one: before and after each.
    assert counted.steps > 25
    for end in range(1, counted.steps + 1):
        world = await prepared(Fate(end))
        with pytest.raises(KilledError):
            await world.refresh()
        world.database.fate.end = 0
        await world.refresh()
        assert outcome(world) == expected, f"cut off before step {end}"
        assert [run["status"] for run in world.database.runs.values()] == ["done", "running", "done"]

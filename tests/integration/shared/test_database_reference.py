from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from fiblake.errors import UpstreamError
from fiblake.reference import Dividend, Split
from shared.database import DatabaseAddress, Settled, SymbolRecord
from tests.integration.databases import ask, opened

NOW = datetime(2025, 11, 20, 12, tzinfo=UTC)
BEGINNING, DAY = date(1962, 1, 2), date(2025, 11, 20)
TYPES = {"CS", "ETF"}


def record(symbol: str = "AAPL", valid_from: date = BEGINNING, valid_to: date | None = None) -> SymbolRecord:
    """A record with a value in every field."""
    return SymbolRecord(
        symbol=symbol, valid_from=valid_from, valid_to=valid_to, composite_figi="BBG1", share_class_figi="BBG2",
        name="Apple Inc.", industry="ELECTRONIC COMPUTERS", sector="Manufacturing", sic_code="3571", exchange="XNAS",
        type="CS", currency="usd", list_date=date(1980, 12, 12), delisted_date=valid_to, active=valid_to is None,
        first_seen=NOW, last_seen=NOW, details_at=NOW,
    )  # fmt: skip


def split(symbol: str = "AAPL", day: date = DAY, to: float = 2.0, name: str = "E1") -> Split:
    return Split(symbol, day, 1.0, to, "forward_split", 1 / to, name)


# ----------------------------------------------------------------------------------------------------- symbol_metadata


async def test_records_are_given_as_they_were_saved_by_symbol_and_age(migrated: DatabaseAddress) -> None:
    bare = SymbolRecord(
        "KIMpL", BEGINNING, None, None, None, None, None, None, None, None, None, None, None, None, True, NOW, NOW,  # noqa: FBT003
    )  # fmt: skip
    old = record("AAPL", BEGINNING, DAY - timedelta(days=1))
    async with opened(migrated) as database:
        assert (await database.metadata(), await database.current_record("AAPL")) == ([], None)
        await database.save_metadata([record("MSFT"), bare, record("AAPL", DAY), old])
        assert await database.metadata() == [old, record("AAPL", DAY), bare, record("MSFT")]
        assert await database.current_record("AAPL") == record("AAPL", DAY)
        assert await database.current_record("kimpl") is None
        await database.save_metadata([])


async def test_a_record_saved_again_is_replaced(migrated: DatabaseAddress) -> None:
    other = replace(record(), name="Apple", exchange="XNYS", composite_figi="BBG9", last_seen=NOW + timedelta(days=1))
    async with opened(migrated) as database:
        await database.save_metadata([record()])
        await database.save_metadata([other])
        assert await database.metadata() == [other]


async def test_a_record_that_moves_keeps_what_is_known_of_its_history_and_makes_room(migrated: DatabaseAddress) -> None:
    other = record("AAPL", BEGINNING, DAY - timedelta(days=1))
    async with opened(migrated) as database:
        await database.save_metadata([record()])
        await database.history_loaded("AAPL", NOW, {BEGINNING: DAY})
        await database.save_metadata([other, record("AAPL", DAY)], {("AAPL", BEGINNING): DAY})
        before, now = await database.metadata()
    assert before == other
    assert now == replace(record("AAPL", DAY), history_loaded_at=NOW, history_from=DAY)


async def test_details_are_saved_of_the_company_wherever_its_record_begins_and_change_nothing_else(
    migrated: DatabaseAddress,
) -> None:
    detailed = replace(record(), sic_code="6770", sector="Finance", details_at=NOW + timedelta(days=1), name="Other")
    async with opened(migrated) as database:
        await database.save_metadata([record("AAPL", DAY), record("AAPL", BEGINNING, DAY - timedelta(days=1))])
        await database.save_details([detailed, replace(record("MSFT"), sector="Nobody's")])
        first, current = await database.metadata()
        assert first == record("AAPL", BEGINNING, DAY - timedelta(days=1))
        saved = {"sic_code": "6770", "sector": "Finance", "details_at": detailed.details_at}
        assert current == replace(record("AAPL", DAY), **saved)
        await database.save_details([replace(detailed, composite_figi="BBG9", sector="Another company's")])
        assert await database.metadata() == [first, current]
        await database.save_details([])


async def test_a_symbol_is_handed_over_in_one_call_and_has_one_current_record(migrated: DatabaseAddress) -> None:
    ended = record("AAPL", BEGINNING, DAY - timedelta(days=1))
    async with opened(migrated) as database:
        await database.save_metadata([record()])
        with pytest.raises(UpstreamError, match="UniqueViolationError"):
            await database.save_metadata([record("MSFT"), record("AAPL", DAY)])
        assert await database.metadata() == [record()]
        await database.save_metadata([record("AAPL", DAY), ended])
        assert await database.metadata() == [ended, record("AAPL", DAY)]


async def test_a_time_that_ends_before_it_begins_is_refused(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        with pytest.raises(UpstreamError, match="CheckViolationError"):
            await database.save_metadata([record("AAPL", DAY, DAY - timedelta(days=1))])


async def test_the_universe_of_a_session_has_the_companies_with_a_symbol_then(migrated: DatabaseAddress) -> None:
    yesterday = DAY - timedelta(days=1)
    records = [
        record("AAPL"), record("GONE", BEGINNING, yesterday), record("NEW", DAY),
        record("REUSED", BEGINNING, yesterday), record("REUSED", DAY),
        replace(record("WARRANT"), type="WARRANT"), replace(record("UNTYPED"), type=None),
    ]  # fmt: skip
    async with opened(migrated) as database:
        await database.save_metadata(records)
        assert await database.universe(TYPES, yesterday) == {"AAPL", "GONE", "REUSED", "UNTYPED"}
        assert await database.universe(TYPES, DAY) == {"AAPL", "NEW", "REUSED", "UNTYPED"}
        assert await database.universe({"WARRANT"}, DAY) == {"WARRANT", "UNTYPED"}
        assert await database.universe((), DAY) == {"UNTYPED"}


async def test_a_history_is_due_until_it_is_loaded_and_not_again_while_it_is_on_its_way(
    migrated: DatabaseAddress,
) -> None:
    hour, day = timedelta(hours=1), timedelta(days=1)
    others = [
        replace(record("WARRANT"), type="WARRANT"), record("GONE", BEGINNING, DAY),
        replace(record("IDLE"), active=False), replace(record("UNTYPED"), type=None),
    ]  # fmt: skip
    async with opened(migrated) as database:
        await database.save_metadata([record("AAPL"), record("MSFT"), *others])
        assert await database.history_due(TYPES, NOW - day) == ["AAPL", "GONE", "MSFT", "UNTYPED"]
        await database.history_requested(["AAPL", "GONE", "MSFT", "UNTYPED"], NOW)
        await database.history_loaded("UNTYPED", NOW + hour, {BEGINNING: DAY})
        assert await database.history_due(TYPES, NOW - day + hour) == []
        await database.history_loaded("AAPL", NOW + hour, {BEGINNING: date(1980, 12, 12)})
        assert await database.history_due(TYPES, NOW + hour) == ["MSFT"]
        await database.history_loaded("MSFT", NOW + hour, {BEGINNING: None})
        await database.history_loaded("NOBODY", NOW + hour, {BEGINNING: DAY})
        assert await database.history_due(TYPES, NOW + day) == []
        loaded = await database.current_record("AAPL")
        assert loaded == replace(
            record(), history_requested_at=NOW, history_loaded_at=NOW + hour, history_from=date(1980, 12, 12)
        )


async def test_saving_a_record_leaves_what_it_says_of_its_history(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        await database.save_metadata([record()])
        await database.history_loaded("AAPL", NOW, {BEGINNING: DAY})
        await database.save_metadata([replace(record(), name="Apple")])
        assert await database.history_due(TYPES, NOW) == []
        await database.save_metadata([record("AAPL", BEGINNING, DAY)])
        [vanished] = await database.metadata()
        assert vanished == replace(record("AAPL", BEGINNING, DAY), history_loaded_at=NOW, history_from=DAY)


async def test_a_symbol_that_comes_back_needs_its_history_again(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        await database.save_metadata([record()])
        await database.history_requested(["AAPL"], NOW)
        await database.history_loaded("AAPL", NOW, {BEGINNING: DAY})
        await database.save_metadata([record("AAPL", BEGINNING, DAY)])
        await database.save_metadata([record()])
        assert await database.history_due(TYPES, NOW) == ["AAPL"]
        assert await database.metadata() == [record()]


async def test_each_company_of_a_symbol_has_its_own_history(migrated: DatabaseAddress) -> None:
    first, second = record("AAPL", BEGINNING, DAY - timedelta(days=1)), record("AAPL", DAY)
    async with opened(migrated) as database:
        await database.save_metadata([first, second, record("MSFT")])
        await database.history_loaded("AAPL", NOW, {DAY: DAY})
        assert [company.history_from for company in await database.companies("AAPL")] == [None, DAY]
        assert await database.history_due(TYPES, NOW) == ["AAPL", "MSFT"]
        await database.history_loaded("AAPL", NOW, {BEGINNING: date(1990, 1, 2), DAY: DAY})
        assert [company.history_from for company in await database.companies("AAPL")] == [date(1990, 1, 2), DAY]
        assert await database.history_due(TYPES, NOW) == ["MSFT"]


async def test_eleven_thousand_records_are_one_call_and_may_be_repeated(migrated: DatabaseAddress) -> None:
    records = [record(f"S{i:05d}") for i in range(11_000)]
    async with opened(migrated) as database:
        await database.save_metadata(records)
        await database.save_metadata(records)
        assert await database.metadata() == records


# --------------------------------------------------------------------------------------------------------------- splits


async def test_a_symbols_splits_are_replaced_whole_and_others_stay(migrated: DatabaseAddress) -> None:
    older = split("AAPL", DAY - timedelta(days=9), 4.0, "E0")
    async with opened(migrated) as database:
        assert await database.splits() == {}
        await database.replace_splits({"AAPL": [split(), older], "MSFT": [split("MSFT")]})
        assert await database.splits() == {"AAPL": [older, split()], "MSFT": [split("MSFT")]}
        assert await database.splits("MSFT") == {"MSFT": [split("MSFT")]}
        assert await database.splits("IBM") == {}
        await database.replace_splits({"AAPL": [split("AAPL", DAY, 3.0)], "IBM": []})
        assert await database.splits() == {"AAPL": [split("AAPL", DAY, 3.0)], "MSFT": [split("MSFT")]}
        await database.replace_splits({"AAPL": []})
        assert await database.splits() == {"MSFT": [split("MSFT")]}


async def test_splits_that_cannot_be_stored_leave_those_that_were(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        await database.replace_splits({"AAPL": [split()]})
        with pytest.raises(UpstreamError, match="UniqueViolationError"):
            await database.replace_splits({"AAPL": [], "MSFT": [split("MSFT"), split("MSFT")]})
        assert await database.splits() == {"AAPL": [split()]}


async def test_the_ratio_of_a_symbol_is_that_of_all_splits_in_between(migrated: DatabaseAddress) -> None:
    day = timedelta(days=1)
    splits = [split("AAPL", DAY, 2.0, "E1"), split("AAPL", DAY + day, 5.0, "E2"), split("AAPL", DAY - day, 7.0, "E0")]
    reverse = Split("MSFT", DAY, 10.0, 1.0, "reverse_split", 10.0, "E3")
    async with opened(migrated) as database:
        await database.replace_splits({"AAPL": splits, "MSFT": [reverse]})
        assert await database.split_ratios(DAY - day, DAY + day) == {"AAPL": 0.1, "MSFT": 10.0}
        assert await database.split_ratios(DAY - day, DAY) == {"AAPL": 0.5, "MSFT": 10.0}
        assert await database.split_ratios(DAY, DAY + day) == {"AAPL": 0.2}
        assert await database.split_ratios(DAY + day, DAY + day) == {}


# ----------------------------------------------------------------------------------------------------------------- runs


async def test_a_run_is_recorded_when_it_begins_and_when_it_ends(migrated: DatabaseAddress) -> None:
    async with opened(migrated) as database:
        killed = await database.begin_run("ohlcv", {"from": "2025-11-17"}, NOW)
        run = await database.begin_run("metadata", {}, NOW + timedelta(minutes=1))
        await database.end_run(run, "done", {"new": 3}, NOW + timedelta(minutes=2))
    runs = await ask(migrated, "SELECT * FROM runs ORDER BY started_at")
    assert runs == [
        {
            "run": killed, "kind": "ohlcv", "asked": '{"from": "2025-11-17"}', "started_at": NOW, "ended_at": None,
            "status": "running", "result": None,
        },
        {
            "run": run, "kind": "metadata", "asked": "{}", "started_at": NOW + timedelta(minutes=1),
            "ended_at": NOW + timedelta(minutes=2), "status": "done", "result": '{"new": 3}',
        },
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- dividends


async def test_a_symbols_dividends_are_replaced_whole_and_its_check_is_noted(migrated: DatabaseAddress) -> None:
    bare = Dividend("AAPL", DAY - timedelta(days=9), 0.5, *(None,) * 8, "E0")
    whole = Dividend("AAPL", DAY, 0.26, "USD", DAY, DAY, DAY, 4, "recurring", 0.26, 0.997899, "E1")
    other = replace(whole, symbol="MSFT")
    scope, later = "dividends", NOW + timedelta(days=1)
    async with opened(migrated) as database:
        await database.note(scope, ["a", "b"])
        await database.replace_dividends(
            {"AAPL": [whole, bare], "MSFT": [other]}, ["AAPL", "IBM"], NOW, Settled(scope, ["a"])
        )
        assert await database.dividends(["AAPL", "IBM"]) == {"AAPL": [bare, whole]}
        assert await database.dividends_since(DAY) == {"AAPL": [whole], "MSFT": [other]}
        assert await database.dividends_checked() == {"AAPL": NOW, "IBM": NOW}
        assert await database.noted(scope) == ["b"]
        await database.replace_dividends({"AAPL": []}, ["AAPL"], later, Settled(scope))
        assert await database.dividends(["AAPL", "MSFT"]) == {"MSFT": [other]}
        assert await database.dividends_checked() == {"AAPL": later, "IBM": NOW}
        assert await database.noted(scope) == []


async def test_dividends_that_cannot_be_stored_leave_those_that_were_and_the_notes(migrated: DatabaseAddress) -> None:
    whole = Dividend("AAPL", DAY, 0.26, *(None,) * 8, "E1")
    async with opened(migrated) as database:
        await database.replace_dividends({"AAPL": [whole]}, ["AAPL"], NOW, Settled("dividends"))
        await database.note("dividends", ["a"])
        with pytest.raises(UpstreamError, match="UniqueViolationError"):
            await database.replace_dividends({"AAPL": [whole, whole]}, ["IBM"], NOW, Settled("dividends"))
        assert await database.dividends(["AAPL"]) == {"AAPL": [whole]}
        assert await database.dividends_checked() == {"AAPL": NOW}
        assert await database.noted("dividends") == ["a"]

"""2025-01-09 was announced as closed ten days before. The lake's calendar has it as a session, and then the calendar is
corrected.
"""

import threading
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from typing import Any

import numpy as np
import pytest

from fiblake.aggregate import SILVER_CALENDAR, decode_silver
from fiblake.bars import OLDEST_VERSION, encode
from fiblake.calendar import TradingCalendar, nyse
from fiblake.errors import ConflictError
from fiblake.lake import INTERVALS, Month, silver_key, silver_prefix
from services.resampler.full import FullResampler
from services.resampler.resample import Change, Resampler
from tests.fakes import LAKE, FakeTopic, MemoryObjectStore
from tests.unit.resampler.daily import NOW, Daily, numbered
from tests.unit.resampler.silver_lake import lay, silver, whole_silver

MENDED = nyse()
BEFORE = TradingCalendar(np.sort(np.append(MENDED.sessions, np.datetime64("2025-01-09"))))
DAYS = MENDED.between(date(2024, 10, 1), date(2025, 3, 31))

PLENTY = 1 << 30


def resampler(store: MemoryObjectStore, calendar: TradingCalendar, interval: int) -> Resampler:
    return Resampler(store, LAKE, calendar, FakeTopic(), interval, 0)


def full(store: MemoryObjectStore, calendar: TradingCalendar, years: int = 0) -> FullResampler:
    return FullResampler(store, LAKE, calendar, FakeTopic(), years, adjusted=True, most_bytes=PLENTY)


def lake(days: Iterable[date] = DAYS[:-30]) -> tuple[MemoryObjectStore, dict[str, dict[date, Daily]]]:
    """Two symbols whose silver was cut by the calendar that lists the day."""
    store, bronze = MemoryObjectStore(), {"AAPL": numbered(days), "MSFT": numbered(days)}
    for symbol, own in bronze.items():
        lay(store, symbol, own)
    full(store, BEFORE).run(NOW)
    return store, bronze


def arrive(store: MemoryObjectStore, bronze: dict[str, dict[date, Daily]], symbol: str, day: date) -> Change:
    bronze[symbol] |= numbered([day])
    lay(store, symbol, bronze[symbol])
    return Change(symbol, day)


def stored(store: MemoryObjectStore, interval: int) -> list[dict[str, Any]]:
    keys = store.keys(silver_prefix(interval))
    return [row for key in keys for row in decode_silver(store.peek(key) or b"", key).to_pylist()]


@pytest.mark.parametrize("interval", INTERVALS)
def test_an_ordinary_days_event_after_the_mended_calendar_was_deployed_cuts_every_symbol_again(interval: int) -> None:
    store, bronze = lake()
    change = arrive(store, bronze, "AAPL", DAYS[-30])
    assert resampler(store, MENDED, interval).resample([change], NOW) == {}
    assert silver(store, interval) == whole_silver(bronze, interval)
    assert sum(row["bars"] for row in stored(store, interval)) == sum(map(len, bronze.values()))


def test_all_tables_are_cut_again_by_a_full_resample_and_only_the_files_that_differ_are_written() -> None:
    store, bronze = lake()
    before = {key: store.peek(key) for key in store.keys("silver/")}
    full(store, MENDED).run(NOW)
    for interval in INTERVALS:
        assert silver(store, interval) == whole_silver(bronze, interval)
    unchanged = {key for key, data in before.items() if store.peek(key) == data}
    assert silver_key(3, Month(2024, 11)) in unchanged
    assert silver_key(3, Month(2025, 1)) not in unchanged
    assert full(store, MENDED).run(NOW).written == 0


def test_the_files_before_a_history_window_are_cut_again_as_well() -> None:
    store, bronze = lake()
    full(store, MENDED, years=1).run(datetime(2026, 3, 10, tzinfo=UTC))  # the window begins in March 2025
    for interval in INTERVALS:
        assert silver(store, interval) == whole_silver(bronze, interval)


def test_both_calendars_at_once_mix_no_grids_and_the_last_one_wins() -> None:
    store, bronze = lake()
    for n, (calendar, day) in enumerate(zip((MENDED, BEFORE, MENDED), DAYS[-30:], strict=False)):
        change = arrive(store, bronze, ("AAPL", "MSFT")[n % 2], day)
        assert resampler(store, calendar, 5).resample([change], NOW) == {}
        assert sum(row["bars"] for row in stored(store, 5)) == sum(map(len, bronze.values()))
    assert silver(store, 5) == whole_silver(bronze, 5)


def test_an_event_that_makes_the_first_file_of_a_month_sees_the_other_calendar_in_the_file_before() -> None:
    days = MENDED.between(date(2024, 12, 16), date(2025, 1, 31))
    store, bronze = lake(days)
    change = arrive(store, bronze, "AAPL", date(2025, 2, 6))
    assert silver_key(3, Month(2025, 2)) not in store.keys("silver/")
    assert resampler(store, MENDED, 3).resample([change], NOW) == {}
    assert silver(store, 3) == whole_silver(bronze, 3)


@pytest.mark.parametrize("killed_at", [Month(2025, 1), Month(2025, 2)])
def test_files_are_cut_again_oldest_first_so_that_the_rest_after_a_kill_is_found_again(killed_at: Month) -> None:
    store, bronze = lake()
    change = arrive(store, bronze, "AAPL", DAYS[-30])
    is_later_written = threading.Event()

    def kill() -> None:
        is_later_written.wait(0.2)  # a thread that cuts a later file at the same time would write it now
        raise KilledError

    store.interfere(kill, of=lambda key: key == silver_key(3, killed_at))
    store.interfere(is_later_written.set, of=lambda key: silver_key(3, killed_at) < key < silver_key(3, Month(2099, 1)))
    with pytest.raises(KilledError):
        resampler(store, MENDED, 3).resample([change], NOW)
    assert resampler(store, MENDED, 3).resample([change], NOW) == {}
    assert silver(store, 3) == whole_silver(bronze, 3)


class KilledError(BaseException):
    """The process ends here."""


def test_a_symbol_that_cannot_be_read_keeps_its_rows_until_it_can() -> None:
    store, bronze = lake()
    good = store.peek(LAKE.data_key("MSFT")) or b""
    store.lay(LAKE.data_key("MSFT"), b"no Parquet")
    assert list(full(store, MENDED).run(NOW).failed) == ["MSFT"]
    rows = [row for row in stored(store, 5) if row["symbol"] == "MSFT"]
    assert sum(row["bars"] for row in rows) == len(bronze["MSFT"])
    assert OLDEST_VERSION in {row["version"] for row in rows}
    store.lay(LAKE.data_key("MSFT"), good)
    full(store, MENDED).run(NOW)
    assert silver(store, 5) == whole_silver(bronze, 5)


def test_rows_that_a_resampler_of_the_other_calendar_wrote_later_are_not_lost() -> None:
    store, bronze = lake()
    key = silver_key(5, Month(2025, 2))

    def meanwhile() -> None:
        change = arrive(store, bronze, "AAPL", DAYS[-30])
        resampler(store, BEFORE, 5).resample([change], NOW)

    store.interfere(meanwhile, of=lambda name: name == key)
    with pytest.raises(ConflictError, match="run again"):
        full(store, MENDED).run(NOW)
    full(store, MENDED).run(NOW)
    assert silver(store, 5) == whole_silver(bronze, 5)


def test_a_file_without_a_stamp_counts_as_one_of_todays_calendar_and_a_rebuild_stamps_it() -> None:
    store, bronze = lake([])
    for symbol in ("AAPL", "MSFT"):
        bronze[symbol] = numbered(DAYS)
        lay(store, symbol, bronze[symbol])
    full(store, MENDED).run(NOW)
    for key in store.keys("silver/"):
        store.lay(key, encode(decode_silver(store.peek(key) or b"", key).replace_schema_metadata(None)))
    assert full(store, MENDED).run(NOW).written == 0
    FullResampler(store, LAKE, MENDED, FakeTopic(), 0, adjusted=True, most_bytes=PLENTY, rebuild=True).run(NOW)
    for key in store.keys("silver/"):
        assert SILVER_CALENDAR in decode_silver(store.peek(key) or b"", key).schema.metadata
    for interval in INTERVALS:
        assert silver(store, interval) == whole_silver(bronze, interval)


def test_the_first_bar_of_a_symbol_in_a_month_without_a_file_finds_how_the_month_before_was_cut() -> None:
    store, bronze = lake(MENDED.between(date(2024, 10, 1), date(2025, 1, 31)))
    first = date(2025, 2, 10)
    bronze["NEW"] = {}
    change = arrive(store, bronze, "NEW", first)
    now = datetime.combine(first, time(22), UTC)
    assert resampler(store, MENDED, 3).resample([change], now) == {}
    assert silver(store, 3) == whole_silver(bronze, 3)

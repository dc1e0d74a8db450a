"""Day files in, range files out: the result of the vendor's flat files, and the faults that are refused."""

import gzip
import io
import os
import random
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiblake.bars import BRONZE, read_bars
from fiblake.calendar import nyse
from fiblake.errors import ConfigurationError, ContractError, UpstreamError
from fiblake.lake import BRONZE_PREFIX, QUARANTINE_PREFIX, UNCLAIMED_PREFIX, quarantine_key, unclaimed_key
from fiblake.symbols import SymbolRecord
from services.fetcher.flat_files import days, set_aside
from services.fetcher.flat_files import load as loading
from services.fetcher.flat_files.assembly import claims_of
from services.fetcher.flat_files.chunk import Claims
from services.fetcher.flat_files.days import DayFile, day_file, decode_day
from services.fetcher.flat_files.ledger import LEDGER_KEY
from services.fetcher.flat_files.load import FlatFileLoader, LoadReport
from services.fetcher.flat_files.sources import PREFIX, BucketSource, FolderSource
from services.fetcher.settings import DEFAULT_TYPES
from shared.objects import ObjectInfo
from shared.quarantine import list_quarantined
from shared.source_files import bars_of_source
from tests.fakes import LAKE, NOON, MemoryObjectStore

HEADER = "ticker,volume,open,close,high,low,window_start,transactions"
DAYS = nyse().between(date(2012, 6, 1), date(2012, 7, 31))
MIB = 1 << 20
LOADED_AT = NOON + timedelta(days=10)


def line(ticker: str, close: float = 10.0, volume: float = 100, trades: int | str = 7) -> str:
    return f"{ticker},{volume},{close - 0.5},{close},{close + 1},{close - 1},1339128000000000000,{trades}"


def write(folder: Path, session: date, lines: Sequence[str], changed_at: datetime = NOON, header: str = HEADER) -> Path:
    path = folder / f"{session:%Y/%m}" / f"{session}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join([header, *lines, ""]).encode("latin-1"), mtime=0))
    os.utime(path, (changed_at.timestamp(), changed_at.timestamp()))
    return path


def load(
    folder: Path, store: MemoryObjectStore, claims: Claims | None = None, memory: int = MIB, *,
    first: date = DAYS[0], last: date = DAYS[-1], again: bool = False,
) -> LoadReport:  # fmt: skip
    loader = FlatFileLoader(
        FolderSource(folder), store, LAKE, nyse(), claims, memory, most_bytes_per_file=MIB, clock=lambda: LOADED_AT
    )
    return loader.load(first, last, lambda *_: None, again=again)


def stored(store: MemoryObjectStore) -> dict[tuple[str, date], float]:
    """Return the close of every bar in the lake's source files, by symbol and session; the last file put wins."""
    bars: dict[tuple[str, date], tuple[datetime, float]] = {}
    for key in store.keys(f"{BRONZE_PREFIX}/"):
        source = LAKE.parse_source(key)
        for row in read_bars(store.peek(key) or b"", source.symbol, NOON).to_pylist():
            place = source.symbol, row["timestamp"]
            bars[place] = max(
                bars.get(place, (datetime.min.replace(tzinfo=UTC), 0.0)), (row["ingested_at"], row["close"])
            )
    return {place: close for place, (_, close) in bars.items()}


def contents(store: MemoryObjectStore) -> dict[str, bytes | None]:
    names = store.keys()
    return {name: store.peek(name) for name in names}


def test_a_ticker_gets_one_range_file_with_all_its_bars(tmp_path: Path) -> None:
    write(tmp_path, DAYS[0], [line("AAPL", 10), line("BRK.B", 50)])
    write(tmp_path, DAYS[1], [line("AAPL", 11)], NOON + timedelta(hours=1))
    store = MemoryObjectStore()
    report = load(tmp_path, store)
    key = f"{BRONZE_PREFIX}/symbol=AAPL/range={DAYS[0]}_{DAYS[1]}.parquet"
    assert store.keys(f"{BRONZE_PREFIX}/") == [
        key, f"{BRONZE_PREFIX}/symbol=BRK.B/range={DAYS[0]}_{DAYS[0]}.parquet"
    ]  # fmt: skip
    first, second = read_bars(store.peek(key) or b"", "AAPL", NOON).to_pylist()
    assert first == dict.fromkeys(BRONZE.names) | {
        "symbol": "AAPL", "timestamp": DAYS[0], "open": 9.5, "high": 11.0, "low": 9.0, "close": 10.0, "volume": 100.0,
        "vwap": None, "trades": 7, "interval": "1d", "ingested_at": NOON,
    }  # fmt: skip
    assert (second["timestamp"], second["close"], second["ingested_at"]) == (DAYS[1], 11.0, NOON + timedelta(hours=1))
    assert (report.files, report.rows, report.stored, report.range_files) == (2, 3, 3, 2)
    assert report.missing_sessions == DAYS[2:]


@pytest.mark.parametrize("ahead", [timedelta(seconds=1), timedelta(hours=3), timedelta(days=400)])
def test_a_file_of_a_clock_that_is_ahead_is_loaded_as_if_it_had_been_changed_now(
    tmp_path: Path, ahead: timedelta
) -> None:
    write(tmp_path, DAYS[0], [line("AAPL")], LOADED_AT + ahead)
    store = MemoryObjectStore()
    load(tmp_path, store)
    key = LAKE.range_key("AAPL", DAYS[0], DAYS[0])
    content = bars_of_source(store.peek(key) or b"", LAKE.parse_source(key), LOADED_AT, nyse(), LOADED_AT.date())
    assert [row["ingested_at"] for row in content.to_pylist()] == [LOADED_AT]
    assert load(tmp_path, store).unchanged == 1


def test_upper_and_lower_case_are_two_tickers(tmp_path: Path) -> None:
    write(tmp_path, DAYS[0], [line("AAP", 10), line("AAp", 90)])
    store = MemoryObjectStore()
    load(tmp_path, store)
    assert stored(store) == {("AAP", DAYS[0]): 10.0, ("AAp", DAYS[0]): 90.0}


def test_tickers_that_look_like_nothing_are_tickers(tmp_path: Path) -> None:
    write(tmp_path, DAYS[0], [line("NA", 10), line("NULL", 11), line("TRUE", 12), line("1E5", 13)])
    store = MemoryObjectStore()
    load(tmp_path, store)
    assert {symbol for symbol, _ in stored(store)} == {"NA", "NULL", "TRUE", "1E5"}


def test_the_session_is_the_files_and_never_the_rows(tmp_path: Path) -> None:
    wrong = line("AAPL").replace("1339128000000000000", "1565668800000000000")
    write(tmp_path, DAYS[0], [wrong])
    store = MemoryObjectStore()
    load(tmp_path, store)
    assert list(stored(store)) == [("AAPL", DAYS[0])]


def test_what_is_loaded_is_not_read_again_and_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path, DAYS[0], [line("AAPL")])
    store = MemoryObjectStore()
    load(tmp_path, store)
    before = len(store.done("put", "write"))
    report = load(tmp_path, store)
    assert (report.files, report.unchanged) == (0, 1)
    assert len(store.done("put", "write")) == before
    assert load(tmp_path, store, again=True).files == 1


def test_a_replaced_file_is_read_again_and_its_bars_win(tmp_path: Path) -> None:
    for day in DAYS[:3]:
        write(tmp_path, day, [line("AAPL", 10)])
    store = MemoryObjectStore()
    load(tmp_path, store)
    write(tmp_path, DAYS[1], [line("AAPL", 20)], NOON + timedelta(days=1))
    report = load(tmp_path, store)
    assert (report.files, report.unchanged) == (1, 2)
    assert stored(store) == {("AAPL", DAYS[0]): 10.0, ("AAPL", DAYS[1]): 20.0, ("AAPL", DAYS[2]): 10.0}


def test_a_broken_bar_costs_one_bar(tmp_path: Path) -> None:
    broken = "AAPL,100,9,10,8,9,0,7"  # the high is below the close
    write(tmp_path, DAYS[0], [broken, line("MSFT", 30)])
    write(tmp_path, DAYS[1], [line("AAPL", 11)])
    store = MemoryObjectStore()
    report = load(tmp_path, store)
    assert stored(store) == {("MSFT", DAYS[0]): 30.0, ("AAPL", DAYS[1]): 11.0}
    (waiting,) = list_quarantined(store)
    assert (waiting.bar.symbol, waiting.bar.session) == ("AAPL", DAYS[0])
    assert "high 8.0 is below another price" in waiting.reason
    assert (report.quarantined, report.stored) == (1, 2)


@pytest.mark.parametrize("at_once", [1, 50_000])
def test_the_broken_bars_of_a_session_share_one_object_and_each_is_found_by_its_symbol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(set_aside, "REFUSED_AT_ONCE", at_once)
    monkeypatch.setattr(loading, "TICKERS_PER_REQUEST", 2)
    symbols = [f"S{number}" for number in range(9)]
    files = [write(tmp_path, day, [f"{symbol},100,9,10,8,9,0,7" for symbol in symbols]) for day in DAYS[:2]]
    store = MemoryObjectStore()
    assert load(tmp_path, store).quarantined == 18
    assert store.keys(f"{QUARANTINE_PREFIX}/") == [quarantine_key("~", day) for day in DAYS[:2]]
    bars = list_quarantined(store, "S3")
    sources = [path.relative_to(tmp_path).as_posix() for path in files]
    assert [(held.bar.symbol, held.bar.session, held.source) for held in bars] == [
        ("S3", day, source) for day, source in zip(DAYS[:2], sources, strict=True)
    ]
    assert len(list_quarantined(store)) == 18
    # When the file is read again, each row is there once; a changed row replaces the earlier one.
    load(tmp_path, store, again=True)
    assert len(list_quarantined(store)) == 18
    write(tmp_path, DAYS[0], ["S3,100,9,10,7,9,0,7"], NOON + timedelta(days=1))
    load(tmp_path, store)
    assert len(list_quarantined(store)) == 18
    assert "high 7.0" in list_quarantined(store, "S3")[0].reason


def test_bars_of_a_day_without_trade_go_to_quarantine(tmp_path: Path) -> None:
    saturday = date(2012, 6, 2)
    write(tmp_path, saturday, [line("AAPL")])
    store = MemoryObjectStore()
    report = load(tmp_path, store)
    assert stored(store) == {}
    assert [bar.reason for bar in list_quarantined(store)] == ["2012-06-02 was no session of the exchange"]
    assert report.not_sessions == [saturday]


@pytest.mark.parametrize(
    "bad",
    [
        "AAPL,100,9",
        "AAPL,100,9,10,11,8,0,7,8",
        "AAPL,many,9,10,11,8,0,7",
        "A\xc4PL,100,9,10,11,8,0,7",
        "A\xc4PL,100",
    ],
)
def test_a_line_that_cannot_be_read_costs_that_line(tmp_path: Path, bad: str) -> None:
    write(tmp_path, DAYS[0], [line("IBM", 20), bad, line("MSFT", 30)])
    store = MemoryObjectStore()
    report = load(tmp_path, store)
    assert stored(store) == {("IBM", DAYS[0]): 20.0, ("MSFT", DAYS[0]): 30.0}
    assert report.bad_line_count == 1
    assert report.bad_lines[0].startswith(f"2012/06/{DAYS[0]}.csv.gz: ")


@pytest.mark.parametrize("trades", ["99999999999999999999", "9" * 5_000, "12.0", "abc", "-5", "nan", ""])
def test_a_number_of_trades_that_is_none_costs_neither_its_bar_nor_the_day(trades: str, tmp_path: Path) -> None:
    write(tmp_path, DAYS[0], [line("AAPL", 10, trades=trades), line("MSFT", 30)])
    store = MemoryObjectStore()
    report = load(tmp_path, store)
    assert stored(store) == {("AAPL", DAYS[0]): 10.0, ("MSFT", DAYS[0]): 30.0}
    assert (report.bad_line_count, report.failed) == (0, {})
    data = store.peek(LAKE.range_key("AAPL", DAYS[0], DAYS[0])) or b""
    assert read_bars(data, "AAPL", NOON)["trades"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("header", "more", "reason"),
    [
        (f"{HEADER},ticker", ",ZZZ", "has two columns ticker"), (f"{HEADER},volume", ",7", "has two columns volume"),
        ("x" * 200_000, "", "has no column ticker"),
        (HEADER.replace("ticker", '"ticker'), "", "has no column"),
        (HEADER.replace("high", "\rhigh"), "", "its header cannot be read as CSV"),
    ],
)  # fmt: skip
def test_a_header_that_is_none_of_a_day_file_is_refused_by_name(
    header: str, more: str, reason: str, tmp_path: Path
) -> None:
    write(tmp_path, DAYS[0], [line("AAPL") + more], header=header)
    write(tmp_path, DAYS[1], [line("MSFT")])
    report = load(tmp_path, MemoryObjectStore())
    assert report.files == 1
    (failure,) = report.failed.values()
    assert failure.startswith(f"2012/06/{DAYS[0]}.csv.gz: {reason}")


def test_a_day_file_with_more_broken_rows_than_quarantine_takes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the session's object could no longer be read, and the list of the quarantine would fail."""
    monkeypatch.setattr(days, "MAX_BROKEN", 3)
    broken = [line("AAPL", -1), line("IBM", -1)]
    write(tmp_path, DAYS[0], [*broken, line("MSFT"), line("MSFT", 11)])
    write(tmp_path, DAYS[1], [*broken, line("MSFT"), line("MSFT", 11), line("MSFT", 12)])
    store = MemoryObjectStore()
    report = load(tmp_path, store)
    assert report.quarantined == len(list_quarantined(store)) == 3
    (failure,) = report.failed.values()
    assert f"{DAYS[1]}.csv.gz: up to 4 of 5 rows break a rule or repeat a ticker, more than the 3" in failure


def test_what_is_no_day_file_in_the_folder_stops_no_load(tmp_path: Path) -> None:
    write(tmp_path, DAYS[0], [line("AAPL")])
    hidden = write(tmp_path / ".ipynb_checkpoints", DAYS[0], [line("AAPL", 99)], NOON + timedelta(days=1))
    (tmp_path / f"{DAYS[1]}.csv.gz").symlink_to("/nowhere")
    (tmp_path / f"{DAYS[2]}.csv.gz").mkdir()
    store = MemoryObjectStore()
    report = load(tmp_path, store)
    assert (hidden.exists(), stored(store)) == (True, {("AAPL", DAYS[0]): 10.0})
    assert (report.failed, report.missing_sessions) == ({}, DAYS[1:])


def test_a_bar_without_a_price_goes_to_quarantine(tmp_path: Path) -> None:
    write(tmp_path, DAYS[0], ["AAPL,100,,10,11,8,0,7", line("MSFT", 30)])
    store = MemoryObjectStore()
    load(tmp_path, store)
    assert stored(store) == {("MSFT", DAYS[0]): 30.0}
    assert [bar.reason for bar in list_quarantined(store)] == ["open nan is not a positive number"]


def test_of_a_ticker_reported_twice_the_first_bar_stays(tmp_path: Path) -> None:
    write(tmp_path, DAYS[0], [line("AAPL", 10), line("MSFT", 30), line("AAPL", 10), line("AAPL", 12)])
    store = MemoryObjectStore()
    load(tmp_path, store)
    assert stored(store) == {("AAPL", DAYS[0]): 10.0, ("MSFT", DAYS[0]): 30.0}
    assert [(bar.bar.close, bar.reason) for bar in list_quarantined(store)] == [
        (12.0, "the file has another bar of this ticker before this one")
    ]


def test_bars_that_no_company_claims_are_kept_beside_the_lake(tmp_path: Path) -> None:
    for day in DAYS[:3]:
        write(tmp_path, day, [line("AAPL"), line("GONE"), line("ZVZZT"), line("A/B")])
    store = MemoryObjectStore()
    claims = {"AAPL": [(date.min, date.max)], "GONE": [(date.min, DAYS[1])]}
    report = load(tmp_path, store, claims)
    assert set(stored(store)) == {("AAPL", day) for day in DAYS[:3]} | {("GONE", day) for day in DAYS[:2]}
    (key,) = store.keys(UNCLAIMED_PREFIX)
    assert LAKE.remedy_for_stray(key) is None
    rows = pq.read_table(io.BytesIO(store.peek(key) or b"")).to_pylist()
    assert sorted((row["ticker"], row["session"], row["reason"]) for row in rows) == sorted(
        [("GONE", DAYS[2], "no company is known to have borne the ticker in this session")]
        + [("ZVZZT", day, "no company is known to have borne the ticker in this session") for day in DAYS[:3]]
        + [("A/B", day, "the ticker cannot be a symbol") for day in DAYS[:3]]
    )
    assert report.unclaimed == 7
    assert report.without_bars == []
    more = {**claims, "SILENT": [(DAYS[1], date.max)], "LATER": [(DAYS[-1] + timedelta(days=1), date.max)]}
    assert load(tmp_path, store, more).without_bars == ["SILENT"]
    assert report.unclaimed_tickers == {"GONE": 1, "ZVZZT": 3, "A/B": 3}


def test_unclaimed_rows_are_put_part_by_part_while_the_chunk_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So memory holds only a part of them: most tickers of a file may be unclaimed."""
    monkeypatch.setattr(set_aside, "UNCLAIMED_ROWS_PER_PART", 4)
    monkeypatch.setattr(loading, "TICKERS_PER_REQUEST", 1)
    for day in DAYS[:3]:
        write(tmp_path, day, [line(ticker) for ticker in ("AAA", "BBB", "CCC", "ZZZ")])
    store = MemoryObjectStore()
    assert load(tmp_path, store, {"ZZZ": [(date.min, date.max)]}).unclaimed == 9
    keys = store.keys(f"{UNCLAIMED_PREFIX}/")
    assert keys == [unclaimed_key(DAYS[0], DAYS[2], part) for part in range(3)]
    parts = [pq.read_table(io.BytesIO(store.peek(key) or b"")) for key in keys]
    assert [part.num_rows for part in parts] == [4, 4, 1]
    rows = [(row["ticker"], row["session"]) for part in parts for row in part.to_pylist()]
    assert rows == [(ticker, day) for ticker in ("AAA", "BBB", "CCC") for day in DAYS[:3]]
    puts = [key for verb, key in store.journal if verb in {"put", "write"}]
    bars = LAKE.range_key("ZZZ", DAYS[0], DAYS[2])
    assert puts.index(keys[1]) < puts.index(bars), "the last ticker's bars come after the parts of those before"


def test_a_file_that_is_none_is_named_and_the_others_are_loaded(tmp_path: Path) -> None:
    write(tmp_path, DAYS[0], [line("AAPL")])
    write(tmp_path, DAYS[1], []).write_bytes(b"<html>403</html>")
    write(tmp_path, DAYS[2], ["AAPL"], header="ticker")
    good = write(tmp_path, DAYS[3], [line("AAPL")])
    good.write_bytes(good.read_bytes()[:-12])
    store = MemoryObjectStore()
    report = load(tmp_path, store)
    assert list(stored(store)) == [("AAPL", DAYS[0])]
    reasons = {Path(key).name[:10]: reason for key, reason in report.failed.items()}
    assert "is not gzip" in reasons[str(DAYS[1])]
    assert "has no column open, high, low, close, volume" in reasons[str(DAYS[2])]
    assert "end too early" in reasons[str(DAYS[3])]
    assert load(tmp_path, store).unchanged == 1  # the three are tried again


def test_a_file_that_would_fill_memory_is_refused_with_the_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, DAYS[0], [])
    path.write_bytes(gzip.compress(b"a" * (5 * MIB)))
    report = load(tmp_path, MemoryObjectStore())
    (reason,) = report.failed.values()
    assert f"{DAYS[0]}.csv.gz" in reason
    assert "more than 1,048,576 bytes when unpacked" in reason
    assert "FLAT_FILE_MAX_BYTES" in reason


def test_a_gzip_file_of_several_members_is_read_whole() -> None:
    file = day_file(f"{DAYS[0]}.csv.gz", "e", 1, NOON)
    assert file
    data = gzip.compress(f"{HEADER}\n{line('AAPL')}\n".encode()) + gzip.compress(f"{line('MSFT')}\n".encode())
    assert decode_day(file, data, MIB).tickers == ["AAPL", "MSFT"]


@pytest.mark.parametrize("key", ["2012-06-01.csv", "notes.csv.gz", "2012-02-31.csv.gz", "2012-06-01.csv.gz.part"])
def test_other_files_are_no_day_files(key: str) -> None:
    assert day_file(key, "e", 1, NOON) is None


def test_files_failing_to_be_written_end_the_run_and_the_next_one_does_them(tmp_path: Path) -> None:
    write(tmp_path, DAYS[0], [line("AAPL"), line("MSFT")])
    store = MemoryObjectStore()
    store.fail("write", times=1)
    with pytest.raises(UpstreamError, match="1 range files were not written"):
        load(tmp_path, store)
    assert store.peek(LEDGER_KEY) is None
    load(tmp_path, store)
    assert {symbol for symbol, _ in stored(store)} == {"AAPL", "MSFT"}


def test_a_damaged_ledger_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, DAYS[0], [line("AAPL")])
    store = MemoryObjectStore()
    store.lay(LEDGER_KEY, b'{"sessions": 3}')
    with pytest.raises(ContractError, match="move it away and run again"):
        load(tmp_path, store)


@settings(max_examples=settings().max_examples // 4)
@given(chance=st.randoms(use_true_random=False), memory_rows=st.integers(1, 60), failures=st.integers(0, 4))
def test_killed_anywhere_and_run_again_the_lake_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, chance: random.Random, memory_rows: int, failures: int
) -> None:
    folder = tmp_path_factory.mktemp("days")
    wanted: dict[tuple[str, date], float] = {}
    for day in DAYS[:10]:
        closes = {name: chance.randint(2, 99) for name in "ABCDEFG" if chance.random() < 0.7}
        write(folder, day, [line(name, close) for name, close in chance.sample(list(closes.items()), len(closes))])
        wanted |= {(name, day): float(close) for name, close in closes.items()}
    memory = memory_rows * 110
    whole = MemoryObjectStore()
    load(folder, whole, memory=memory)
    store = MemoryObjectStore()
    for _ in range(failures):
        store.fail("write", of=lambda _key: chance.random() < 0.2)
        with suppress(UpstreamError):
            load(folder, store, memory=memory)
    load(folder, store, memory=memory)
    assert stored(store) == stored(whole) == wanted
    assert contents(store) == contents(whole)


def test_a_day_of_more_rows_than_a_chunk_holds_is_loaded_whole(tmp_path: Path) -> None:
    write(tmp_path, DAYS[0], [line(f"T{number}") for number in range(50)])
    store = MemoryObjectStore()
    load(tmp_path, store, memory=110)
    assert len(stored(store)) == 50


def test_the_vendors_bucket_is_listed_by_year_and_a_refused_file_is_named(tmp_path: Path) -> None:
    vendor, lake = MemoryObjectStore(), MemoryObjectStore()
    for day in DAYS[:2]:
        key = f"{PREFIX}/{day:%Y/%m}/{day}.csv.gz"
        vendor.lay(key, write(tmp_path, day, [line("AAPL")]).read_bytes())
    vendor.lay(f"{PREFIX}/2013/01/2013-01-02.csv.gz", b"of another year")
    vendor.fail("get", UpstreamError("S3 refuses it"), of=lambda key: str(DAYS[0]) in key)
    loader = FlatFileLoader(BucketSource(vendor), lake, LAKE, nyse(), None, MIB, MIB, lambda: NOON)
    report = loader.load(DAYS[0], DAYS[-1], lambda *_: None)
    assert vendor.done("list") == [f"{PREFIX}/2012/"]
    assert list(stored(lake)) == [("AAPL", DAYS[1])]
    assert report.failed == {f"{PREFIX}/2012/06/{DAYS[0]}.csv.gz": "S3 refuses it"}


def record(symbol: str, kind: str | None, valid_from: date, valid_to: date | None) -> SymbolRecord:
    nothing = dict.fromkeys(
        ("composite_figi", "share_class_figi", "name", "industry", "sector", "sic_code", "exchange", "currency")
    )
    return SymbolRecord(
        symbol=symbol, valid_from=valid_from, valid_to=valid_to, type=kind, list_date=None, delisted_date=None,
        active=valid_to is None, first_seen=NOON, last_seen=NOON, **nothing,
    )  # fmt: skip


def test_companies_claim_their_tickers_for_their_time_and_a_blank_type_counts() -> None:
    claims = claims_of(
        [
            record("AAPL", "CS", DAYS[0], None),
            record("META", "ETF", DAYS[0], DAYS[1]),
            record("META", "CS", DAYS[3], None),
            record("OLD", None, DAYS[0], DAYS[1]),
            record("WRNT", "WARRANT", DAYS[0], None),
        ],
        DEFAULT_TYPES,
        frozenset(),
    )
    assert claims == {
        "AAPL": [(DAYS[0], date.max)],
        "META": [(DAYS[0], DAYS[1]), (DAYS[3], date.max)],
        "OLD": [(DAYS[0], DAYS[1])],
    }


def test_without_companies_nothing_is_loaded_in_silence() -> None:
    with pytest.raises(ConfigurationError, match="fiblake metadata"):
        claims_of([record("MSFT", "CS", DAYS[0], None)], DEFAULT_TYPES, frozenset({"AAPL"}))


def test_a_file_knows_its_version(tmp_path: Path) -> None:
    path = write(tmp_path, DAYS[0], [line("AAPL")])
    (before,) = FolderSource(tmp_path).files(DAYS[0], DAYS[0])
    os.utime(path, (NOON.timestamp() + 1, NOON.timestamp() + 1))
    (after,) = FolderSource(tmp_path).files(DAYS[0], DAYS[0])
    assert isinstance(before, DayFile)
    assert before.etag != after.etag


@given(names=st.permutations(["a/2012-06-01.csv.gz", "b/2012-06-01.csv.gz", "2012-06-01.csv.gz"]))
def test_of_two_files_of_one_session_and_instant_the_same_is_loaded_in_whatever_order_they_are_listed(
    names: list[str],
) -> None:
    bucket = MemoryObjectStore()
    infos = [ObjectInfo(f"{PREFIX}/2012/{name}", "etag", 1, NOON) for name in names]
    with patch.object(bucket, "list_objects", return_value=infos):
        (file,) = BucketSource(bucket).files(DAYS[0], DAYS[0])
    assert file.key == f"{PREFIX}/2012/b/2012-06-01.csv.gz"

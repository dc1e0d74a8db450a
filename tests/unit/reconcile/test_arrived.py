import time
from datetime import date

from fiblake.calendar import nyse
from services.consolidator.consolidate import Consolidator, Task
from services.reconcile.arrived import FOOTER_BYTES, find_left_out, find_waiting
from shared.objects import ObjectInfo
from tests.fakes import LAKE, NOON, MemoryObjectStore, bar, consolidated, later, parquet


def info(key: str, minutes: float) -> ObjectInfo:
    return ObjectInfo(key, "e", 1, later(minutes))


def source(symbol: str, minutes: float) -> ObjectInfo:
    return info(LAKE.date_key(symbol, NOON.date()), minutes)


def test_a_symbol_waits_if_a_file_is_younger_than_its_data_parquet_or_it_has_none() -> None:
    listing = [
        source("NEW", 1),
        source("LATE", 3), info(LAKE.data_key("LATE"), 2),
        source("DONE", 1), info(LAKE.data_key("DONE"), 2),
        info(LAKE.data_key("ALONE"), 2),
        info(f"{LAKE.prefix}/notes/readme.txt", 9),
    ]  # fmt: skip
    assert find_waiting(LAKE, listing) == ["LATE", "NEW"]


def refused_keys(store: MemoryObjectStore) -> list[str]:
    return [source.key for source in find_left_out(store, LAKE, store.list_objects(f"{LAKE.prefix}/"))]


def test_a_refused_file_that_hides_behind_a_good_one_is_found() -> None:
    store = MemoryObjectStore()
    store.lay(LAKE.date_key("AAPL", date(2025, 11, 18)), parquet(bar("2025-11-18")))
    store.lay(LAKE.date_key("MSFT", date(2025, 11, 18)), parquet(bar("2025-11-18", symbol="MSFT")))
    refused = LAKE.range_key("AAPL", date(2024, 1, 2), date(2025, 11, 17))
    store.lay(refused, b"no Parquet")
    assert refused_keys(store) == [], "nothing was consolidated yet: the symbol waits"
    time.sleep(0.001)
    Consolidator(store, LAKE, nyse()).consolidate(Task("AAPL", NOON.date()), NOON)
    store.lay(LAKE.data_key("MSFT"), b"damaged")
    listing = store.list_objects(f"{LAKE.prefix}/")
    assert find_waiting(LAKE, listing) == []
    store.journal.clear()
    assert refused_keys(store) == [refused]
    assert store.done("get") == [LAKE.data_key("MSFT")], (
        "of AAPL only the end is read, and one that is damaged costs its own symbol"
    )
    store.take_away(refused)
    assert find_left_out(store, LAKE, listing) == [], "it went meanwhile"


def test_a_log_that_is_longer_than_the_footer_that_is_read_is_read_whole() -> None:
    store = MemoryObjectStore()
    keys = [LAKE.date_key("AAPL", day.item()) for day in nyse().sessions[-1000:]]
    log = dict.fromkeys(keys, "e" * 60)
    refused = LAKE.date_key("AAPL", date(2025, 11, 18))
    store.lay(refused, parquet(bar("2025-11-18")))
    time.sleep(0.001)
    store.lay(LAKE.data_key("AAPL"), consolidated(bar("2025-11-19"), log=log))
    assert len(store.peek(LAKE.data_key("AAPL")) or b"") > FOOTER_BYTES
    assert refused_keys(store) == [refused]

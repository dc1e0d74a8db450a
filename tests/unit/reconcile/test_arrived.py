from services.reconcile.arrived import waiting
from shared.objects import ObjectInfo
from tests.fakes import LAKE, NOON, later


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
    assert waiting(LAKE, listing) == ["LATE", "NEW"]

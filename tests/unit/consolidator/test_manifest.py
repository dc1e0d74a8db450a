import random
from datetime import date, datetime, timedelta

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.bars import MANIFEST, Consolidated, decode
from fiblake.errors import ConflictError, ContractError
from fiblake.lake import MANIFEST_KEY
from services.consolidator import manifest
from services.consolidator.consolidate import Consolidation
from shared.objects import ATTEMPTS_AT_UPDATE
from tests.fakes import NOON, MemoryObjectStore, bar, later, parquet, table


def version(symbol: str, rows: int, at: datetime) -> Consolidation:
    """Return a symbol's consolidation with bars of this many sessions from 2025-11-03 on."""
    bars = table(*(bar(date(2025, 11, 3) + timedelta(days=n), symbol=symbol) for n in range(rows)))
    return Consolidation(symbol, Consolidated(bars, {}, at), "etag", [], date(2025, 11, 3), 0)


def rows(store: MemoryObjectStore) -> dict[str, tuple[date, int, datetime]]:
    data = store.peek(MANIFEST_KEY)
    assert data is not None
    return {
        row["symbol"]: (row["last_consolidated_date"], row["row_count"], row["last_updated"])
        for row in decode(data, MANIFEST, MANIFEST_KEY).to_pylist()
    }


versions = st.lists(
    st.builds(version, st.sampled_from(["AAPL", "MSFT", "brk.B"]), st.integers(1, 5), st.integers(0, 9).map(later)),
    max_size=12,
    unique_by=lambda one: (one.symbol, one.stored.last_updated),
)


@given(versions, st.randoms(use_true_random=False))
def test_flushes_in_any_order_and_repeated_converge_to_the_newest_versions(
    all_versions: list[Consolidation], shuffle: random.Random
) -> None:
    store = MemoryObjectStore()
    flushes = [[consolidation] for consolidation in all_versions] + [
        shuffle.choices(all_versions, k=2) for _ in all_versions
    ]
    shuffle.shuffle(flushes)
    for some in flushes:
        # A worker writes each symbol once in a flush.
        manifest.add_symbols(store, list({consolidation.symbol: consolidation for consolidation in some}.values()))
    newest: dict[str, Consolidation] = {}
    for consolidation in sorted(all_versions, key=lambda consolidation: consolidation.stored.last_updated):
        newest[consolidation.symbol] = consolidation
    if newest:
        assert rows(store) == {
            symbol: (
                consolidation.stored.last_session,
                consolidation.stored.bars.num_rows,
                consolidation.stored.last_updated,
            )
            for symbol, consolidation in newest.items()
        }
        assert list(rows(store)) == sorted(newest)


def test_a_stale_row_never_overwrites_a_newer_version() -> None:
    store = MemoryObjectStore()
    manifest.add_symbols(store, [version("AAPL", 5, later(5))])
    manifest.add_symbols(store, [version("AAPL", 2, later(1))])
    assert rows(store)["AAPL"] == (date(2025, 11, 7), 5, later(5))
    assert store.done("write") == [MANIFEST_KEY]


def test_a_rival_in_between_keeps_its_row() -> None:
    store = MemoryObjectStore()
    store.interfere(lambda: manifest.add_symbols(store, [version("MSFT", 1, NOON)]))
    manifest.add_symbols(store, [version("AAPL", 1, NOON)])
    assert set(rows(store)) == {"AAPL", "MSFT"}
    assert store.done("conflict") == [MANIFEST_KEY]


def test_rivals_that_never_stop_are_a_conflict() -> None:
    store = MemoryObjectStore()
    for n in range(ATTEMPTS_AT_UPDATE):
        data = manifest.with_symbols(None, [version("MSFT", 1, later(n))])
        assert data is not None
        store.interfere(lambda data=data: store.lay(MANIFEST_KEY, data), before_write=n + 1)
    with pytest.raises(ConflictError):
        manifest.add_symbols(store, [version("AAPL", 1, NOON)])


def test_nothing_done_touches_nothing() -> None:
    store = MemoryObjectStore()
    manifest.add_symbols(store, [])
    assert store.journal == []


@pytest.mark.parametrize("data", [b"garbage", parquet(bar("2025-11-19"))], ids=["not Parquet", "other columns"])
def test_a_manifest_that_cannot_be_read_is_named_and_left_alone(data: bytes) -> None:
    store = MemoryObjectStore()
    store.lay(MANIFEST_KEY, data)
    with pytest.raises(ContractError, match=MANIFEST_KEY):
        manifest.add_symbols(store, [version("AAPL", 1, NOON)])
    assert store.peek(MANIFEST_KEY) == data


def test_anyone_can_read_it_as_parquet(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = manifest.with_symbols(None, [version("AAPL", 2, NOON), version("MSFT", 1, NOON)])
    assert data is not None
    file = tmp_path_factory.mktemp("manifest") / "manifest.parquet"
    file.write_bytes(data)
    rows = duckdb.sql(f"SELECT symbol, last_consolidated_date, row_count FROM '{file}'").fetchall()  # noqa: S608
    assert rows == [("AAPL", date(2025, 11, 4), 2), ("MSFT", date(2025, 11, 3), 1)]

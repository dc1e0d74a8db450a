"""Files that are joined at once share a limit of memory: a file waits while the others' rows fill it."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest

from services.resampler import month_files
from services.resampler.month_files import Memory
from tests.fakes import MemoryObjectStore
from tests.unit.shared import test_readable as tables


def test_blocks_that_fit_together_run_at_once() -> None:
    memory, together = Memory(lambda: 10), Barrier(2, timeout=10)

    def work() -> None:
        with memory.reserve(5):
            together.wait()

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work), pool.submit(work)]:
            future.result()


@pytest.mark.parametrize("nbytes", [6, 10, 1_000])
def test_a_block_that_does_not_fit_waits_for_the_others_even_if_they_fail(nbytes: int) -> None:
    memory, begun, ended = Memory(lambda: 10), Event(), []

    def second() -> None:
        begun.set()
        with memory.reserve(nbytes):
            ended.append("second")

    def first() -> None:
        with memory.reserve(5):
            pool.submit(second)
            begun.wait(10)
            ended.append("first")
            raise ValueError("as arranged")

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="arranged"):
        first()
    assert ended == ["first", "second"]


@pytest.mark.parametrize(("memory", "files_with_rows"), [("_MADE", (1, 1)), ("_MEMORY", (1, 2))])
def test_rows_are_made_and_joined_while_they_have_their_memory(
    memory: str, files_with_rows: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = tables.names(100)
    taken: list[int] = []

    class Watched(Memory):
        def reserve(self, nbytes: int):  # type: ignore[no-untyped-def] # noqa: ANN202
            taken.append(nbytes)
            return super().reserve(nbytes)

    monkeypatch.setattr(month_files, memory, Watched(lambda: 1_000))
    store = MemoryObjectStore()
    tables.write_month_file(store, symbols)
    tables.write_month_file(store, symbols)
    new = 100 * tables.BUCKETS * 96
    assert taken == [new * count for count in files_with_rows]

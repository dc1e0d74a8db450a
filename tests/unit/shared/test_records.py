"""Records of persons' actions: no entry is lost, and no record becomes too large to be read."""

import json
from collections.abc import Iterator
from datetime import date

import pytest

from fiblake.decoding import TooLargeError, json_limit, limit
from fiblake.errors import ContractError
from fiblake.lake import QUARANTINE_RECORD_KEY
from shared.records import add_entry, full_record_key
from tests.fakes import MemoryObjectStore

KEY = QUARANTINE_RECORD_KEY
FOLDER = KEY.removesuffix(".json") + "/"


@pytest.fixture(autouse=True)
def one_megabyte(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("READ_LIMIT_MB", "1")
    limit.cache_clear()
    yield
    limit.cache_clear()


def entry(number: int) -> dict[str, object]:
    return {"number": number, "reason": "x" * 30_000}


def entries(store: MemoryObjectStore) -> list[int]:
    """Return the numbers of all entries, those that moved out first."""
    keys = [info.key for info in store.list_objects(FOLDER)]
    texts = [store.peek(key) or b"" for key in keys] + [store.peek(KEY) or b'{"releases": []}']
    return sorted(each["number"] for text in texts for each in json.loads(text)["releases"])


def test_every_entry_is_kept_and_every_object_can_be_read() -> None:
    store = MemoryObjectStore()
    for number in range(30):
        add_entry(store, KEY, "releases", entry(number))
    assert entries(store) == list(range(30))
    sizes = [info.size for info in store.list_objects("processing_metadata/")]
    assert len(sizes) > 3
    assert max(sizes) <= json_limit()


def test_a_run_that_dies_while_the_entries_move_loses_and_doubles_none() -> None:
    store = MemoryObjectStore()
    number = 0
    while len(store.peek(KEY) or b"") <= json_limit() // 2:
        add_entry(store, KEY, "releases", entry(number))
        number += 1
    store.fail("write", of=lambda key: key == KEY)
    with pytest.raises(Exception, match="as arranged"):
        add_entry(store, KEY, "releases", entry(number))
    assert [info.key for info in store.list_objects(FOLDER)] == [full_record_key(KEY, store.peek(KEY) or b"")]
    add_entry(store, KEY, "releases", entry(number))
    assert entries(store) == list(range(number + 1))


def test_two_persons_at_once_lose_no_entry() -> None:
    store = MemoryObjectStore()
    number = 0
    while len(store.peek(KEY) or b"") <= json_limit() // 2:
        add_entry(store, KEY, "releases", entry(number))
        number += 1
    store.interfere(lambda: add_entry(store, KEY, "releases", entry(number)))
    add_entry(store, KEY, "releases", entry(number + 1))
    assert entries(store) == list(range(number + 2))


def test_an_entry_that_is_too_large_alone_is_refused_and_the_others_stay() -> None:
    store = MemoryObjectStore()
    add_entry(store, KEY, "releases", entry(0))
    before = store.peek(KEY)
    with pytest.raises(TooLargeError, match=f"{KEY} is not written, because it could not be read again: .* allowed"):
        add_entry(store, KEY, "releases", {"reason": "x" * json_limit(), "day": str(date.min)})
    assert store.peek(KEY) == before


@pytest.mark.parametrize(
    "content", ["damaged", "[]", "{}", '{"releases": {"a": 1}}', '{"releases": "text"}', '{"releases": [1]}'],
)  # fmt: skip
def test_a_record_that_cannot_be_read_is_named_with_the_remedy_and_stays(content: str) -> None:
    store = MemoryObjectStore()
    store.lay(KEY, content.encode())
    with pytest.raises(ContractError, match=f"{KEY} cannot be read: .*move it away and run again"):
        add_entry(store, KEY, "releases", entry(0))
    assert store.peek(KEY) == content.encode()

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shared.batching import chunks


@given(st.lists(st.integers(), max_size=30), st.integers(1, 12))
def test_chunks_are_all_items_in_order_and_full_but_for_the_last(items: list[int], size: int) -> None:
    parts = list(chunks(items, size))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
    assert all(parts)


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 12), st.integers(1, 20))
def test_no_chunk_weighs_too_much_unless_it_is_one_item(items: list[int], size: int, weight: int) -> None:
    parts = list(chunks(items, size, weight, float))
    assert [item for part in parts for item in part] == items
    assert all(0 < len(part) <= size and (sum(part) <= weight or len(part) == 1) for part in parts)
    assert all(len(part) == size or sum(part) + following[0] > weight for part, following in pairwise(parts))

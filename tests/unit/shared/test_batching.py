from hypothesis import given
from hypothesis import strategies as st

from shared.batching import chunks


@given(st.lists(st.integers(), max_size=30), st.integers(1, 12))
def test_chunks_are_all_items_in_order_and_full_but_for_the_last(items: list[int], size: int) -> None:
    parts = list(chunks(items, size))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
    assert all(parts)

"""Split long sequences into batches that fit into one request."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

ItemT = TypeVar("ItemT")


def chunks(
    items: Iterable[ItemT], size: int, weight: float = float("inf"), weigh: Callable[[ItemT], float] = lambda _: 0
) -> Iterator[list[ItemT]]:
    """Split `items` into lists of at most `size` that weigh at most `weight`; a heavier item is a list by itself."""
    chunk: list[ItemT] = []
    total = 0.0
    for item in items:
        own = weigh(item)
        if chunk and (len(chunk) == size or total + own > weight):
            yield chunk
            chunk, total = [], 0.0
        chunk.append(item)
        total += own
    if chunk:
        yield chunk

"""How much goes into one request: a long row of things cut into short ones."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

ItemT = TypeVar("ItemT")


def chunks(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    """Split `items` into lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk

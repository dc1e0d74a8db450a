"""A bucket and its resampler."""

import pytest

from services.resampler.resample import Resampler
from tests.fakes import FakeTopic, MemoryObjectStore
from tests.unit.resampler.silver_lake import resampler


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore()


@pytest.fixture
def topic(store: MemoryObjectStore) -> FakeTopic:
    return FakeTopic(store.journal)


@pytest.fixture
def three(store: MemoryObjectStore, topic: FakeTopic) -> Resampler:
    """The resampler of silver_3d, all of history."""
    return resampler(store, 3, topic)

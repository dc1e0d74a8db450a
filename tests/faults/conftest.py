"""Every test here runs the product's own code in simulated worlds."""

from collections.abc import Iterator

import pytest

from tests.faults.actors import simulated
from tests.faults.world import INTERVALS


@pytest.fixture(autouse=True)
def _simulated() -> Iterator[None]:
    with simulated(INTERVALS):
        yield

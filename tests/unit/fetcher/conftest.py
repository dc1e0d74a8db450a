"""No pauses between attempts; a vendor with prepared answers."""

import asyncio

import pytest

from tests.unit.fetcher.deployed import deployed
from tests.unit.fetcher.vendor import Vendor

__all__ = ["deployed"]


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no coroutine sleep; return the requested seconds."""
    pauses: list[float] = []

    async def rest(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", rest)
    return pauses


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()

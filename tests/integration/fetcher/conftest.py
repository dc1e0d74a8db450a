"""A market-data replay for the client, and no waiting between attempts."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.integration.market import Market, replaying


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no coroutine sleep; give the seconds that were asked for."""
    asked: list[float] = []

    async def rest(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", rest)
    return asked


@pytest.fixture(scope="session")
def running_market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with replaying(tmp_path_factory.mktemp("market") / "port") as market:
        yield market


@pytest.fixture
def market(running_market: Market) -> Market:
    """The built-in sample, all of it shown and nothing going wrong."""
    running_market.reset()
    return running_market

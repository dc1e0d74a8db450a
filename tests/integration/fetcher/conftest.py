"""No waiting between attempts."""

import asyncio

import pytest


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no coroutine sleep; return the seconds that were asked for."""
    asked: list[float] = []

    async def rest(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", rest)
    return asked

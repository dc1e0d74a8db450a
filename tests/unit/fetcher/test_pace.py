import asyncio
import selectors
from collections.abc import Coroutine
from datetime import date
from typing import Any

import httpx
import pytest

from services.fetcher.massive import MassiveClient
from tests.unit.fetcher.vendor import Vendor, client_of, grouped_row, page, refusal

DAY = date(2025, 11, 19)


class SkippingSelector(selectors.DefaultSelector):
    """Does not wait: a sleep advances the clock at once. Each reading advances it a little, as with any clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        self.now += 1e-7 if ready or not timeout else timeout
        return ready


class SkippingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = SkippingSelector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(coroutine)


class Timed(Vendor):
    """Notes when each request came."""

    def __init__(self) -> None:
        super().__init__([page([grouped_row("AAPL", DAY)])])
        self.instants: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.instants.append(asyncio.get_running_loop().time())
        return super().__call__(request)


async def ask(client: MassiveClient, times: int) -> None:
    await asyncio.gather(*(client.grouped_daily(DAY) for _ in range(times)))


@pytest.mark.parametrize(("rate", "apart"), [(5, 12.0), (6000, 0.01), (0.5, 120.0)])
def test_requests_leave_at_even_distances_however_many_are_wanted_at_once(rate: float, apart: float) -> None:
    vendor = Timed()

    async def all_at_once() -> None:
        async with client_of(vendor, requests_per_minute=rate) as client:
            await ask(client, 12)

    run(all_at_once())
    assert vendor.instants == pytest.approx([apart * n for n in range(12)], abs=1e-3)


def test_an_attempt_that_is_tried_again_counts_as_a_request() -> None:
    vendor = Timed()
    vendor.answers = [refusal(500, "oops"), refusal(429, "slow", headers={"Retry-After": "1"}), *vendor.answers]

    async def one_after_another() -> None:
        async with client_of(vendor, requests_per_minute=5) as client:
            await ask(client, 1)

    run(one_after_another())
    assert vendor.instants == pytest.approx([0, 12, 24], abs=1e-3)


def test_without_a_rate_no_request_waits() -> None:
    vendor = Timed()

    async def unpaced() -> None:
        async with client_of(vendor) as client:
            await ask(client, 50)

    run(unpaced())
    assert vendor.instants == pytest.approx([0] * 50, abs=1e-3)

"""The vendor's API without a network: prepared answers in order, and the recorded requests."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from fiblake.calendar import NEW_YORK
from services.fetcher.massive import MassiveClient, massive

KEY = "s3cret-K3Y"
BASE = "https://api.massive.test"
PIECE = 65_536
Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


def milliseconds(session: date, at: time) -> int:
    return int(datetime.combine(session, at, NEW_YORK).timestamp() * 1000)


def grouped_row(symbol: str, session: date, close: float = 10.0, **more: object) -> dict[str, Any]:
    """One row of grouped daily as the vendor documents it: `t` is the end of the window, 16:00 New York."""
    return {
        "T": symbol, "v": 25933.6, "vw": close, "o": close - 0.5, "c": close, "h": close + 1, "l": close - 1,
        "t": milliseconds(session, time(16)), "n": 917, **more,
    }  # fmt: skip


def range_row(session: date, close: float = 10.0, **more: object) -> dict[str, Any]:
    """One row of a ticker's range: no `T`, and `t` is the start of the window, midnight New York."""
    row = grouped_row("", session, close, **{"t": milliseconds(session, time(0))} | more)
    del row["T"]
    return row


def page(rows: Sequence[Mapping[str, Any]] | None, **more: object) -> httpx.Response:
    envelope: dict[str, Any] = {"adjusted": False, "queryCount": len(rows or ()), "status": "OK", "request_id": "r-1"}
    if rows is not None:
        envelope |= {"resultsCount": len(rows), "results": list(rows)}
    return httpx.Response(200, json=envelope | more)


def coded(content: bytes, coding: str = "gzip") -> Callable[[httpx.Request], httpx.Response]:
    """Answer with content that claims this encoding."""

    async def whole() -> AsyncIterator[bytes]:
        yield content

    return lambda _: httpx.Response(200, headers={"Content-Encoding": coding}, content=whole())


def grouped_page(*symbols: str) -> Callable[[httpx.Request], httpx.Response]:
    """Answer with a bar of each symbol in the requested session."""

    def answer(request: httpx.Request) -> httpx.Response:
        session = date.fromisoformat(request.url.path.rpartition("/")[2])
        return page([grouped_row(symbol, session) for symbol in symbols])

    return answer


def refusal(status: int, message: str, **more: Any) -> httpx.Response:  # noqa: ANN401 (httpx's own arguments)
    body = {"status": "ERROR", "request_id": "r-9", "message": message}
    return httpx.Response(status, json=body, **more)


async def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield a prepared answer's content as a socket does: in pieces, and once."""
    if not response.is_stream_consumed:
        async for piece in response.aiter_raw():
            yield piece
        return
    for start in range(0, len(response.content), PIECE):
        yield response.content[start : start + PIECE]


@dataclass
class Vendor:
    """Answers in order; the last one is repeated."""

    answers: list[Answer] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        response = answer if isinstance(answer, httpx.Response) else answer(request)
        return httpx.Response(response.status_code, headers=response.headers, content=_pieces(response))

    @property
    def paths(self) -> list[str]:
        return [request.url.raw_path.decode().partition("?")[0] for request in self.requests]


@asynccontextmanager
async def client_of(
    vendor: Vendor, base: str = BASE, requests_per_minute: float | None = None
) -> AsyncIterator[MassiveClient]:
    """Open the service's own client with the prepared answers."""
    real = httpx.AsyncClient

    def over_the_mock(**arguments: Any) -> httpx.AsyncClient:  # noqa: ANN401 (httpx's own arguments)
        return real(transport=httpx.MockTransport(vendor), **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx, "AsyncClient", over_the_mock)
        async with massive(base, SecretStr(KEY), requests_per_minute) as client:
            yield client

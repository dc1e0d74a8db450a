"""What the vendor says: a small client of the Massive (formerly Polygon) REST API.

Shapes are those of the vendor's OpenAPI file. An answer that may be short is an error, never an empty list: counts are
checked, pages are followed to the end, and a session without results is something to ask for again.
"""

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
from pydantic import BaseModel, BeforeValidator, SecretStr, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from services.fetcher.validation import VendorBar
from shared.calendar import NEW_YORK
from shared.errors import EntitlementError, PermanentError, TransientError, UpstreamError

ATTEMPTS: Final = 5
PAGE_LIMIT: Final = 50_000
RATE_PAUSE_SECONDS: Final = 20.0
"""Pause when the vendor limits the rate without saying for how long: the free plan allows 5 requests a minute."""
LONGEST_PAUSE_SECONDS: Final = 60.0
TIMEOUT: Final = httpx.Timeout(connect=5, read=60, write=10, pool=60)
_BEFORE_CLOSE: Final = "before end of day"


class PendingError(TransientError):
    """The session's data is not there yet: not a failure, ask again later."""


class RateLimitedError(UpstreamError):
    """The vendor asks us to wait."""

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRequestError(PermanentError):
    """The vendor does not understand the request."""


def _number(value: object) -> object:
    """Let one bar's missing or garbled number be no number, so that validation refuses this bar and not the page."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _whole(value: object) -> object:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> object:
    return value if isinstance(value, str) else ""


_Number = Annotated[float, BeforeValidator(_number)]
_Whole = Annotated[int | None, BeforeValidator(_whole)]


class _Row(BaseModel):
    T: Annotated[str, BeforeValidator(_text)] = ""
    o: _Number = math.nan
    h: _Number = math.nan
    l: _Number = math.nan  # noqa: E741 (the vendor's name)
    c: _Number = math.nan
    v: _Number = math.nan
    t: _Whole = None
    vw: _Number = math.nan
    n: _Whole = None

    def bar(self, symbol: str, session: date) -> VendorBar:
        vwap = self.vw if math.isfinite(self.vw) else None
        return VendorBar(symbol, session, self.o, self.h, self.l, self.c, self.v, vwap, self.n)


class _Page(BaseModel):
    status: str = ""
    request_id: str = ""
    resultsCount: int | None = None  # noqa: N815 (the vendor's name)
    results: list[_Row] = []
    next_url: str | None = None


@dataclass(frozen=True, slots=True)
class MassiveClient:
    """Reads daily bars, unadjusted. Raises EntitlementError, PendingError, BadRequestError, or UpstreamError."""

    http: httpx.AsyncClient

    async def grouped_daily(self, session: date) -> list[VendorBar]:
        """Give every ticker's bar of one session (one request); raise UpstreamError if there are none."""
        path = f"/v2/aggs/grouped/locale/us/market/stocks/{session.isoformat()}"
        page = await self._page(path, {"adjusted": "false", "include_otc": "false"})
        if not page.results:
            raise UpstreamError(f"{path}: no results for a session (request {page.request_id})")
        # The session asked for, not `t`: grouped `t` is the end of the window, range `t` its start.
        # A row without a ticker is kept as well: validation refuses it by name, nothing is dropped silently.
        return [row.bar(row.T, session) for row in page.results]

    async def daily_range(self, symbol: str, first: date, last: date) -> list[VendorBar]:
        """Give one ticker's bars from `first` to `last`, following pages to the end; none is a valid answer."""
        path = f"/v2/aggs/ticker/{quote(symbol, safe='')}/range/1/day/{first.isoformat()}/{last.isoformat()}"
        query = {"adjusted": "false", "sort": "asc", "limit": str(PAGE_LIMIT)}
        rows = [row async for row in self._rows(path, query)]
        if any(row.t is None for row in rows):
            raise UpstreamError(f"{path}: a row does not say which session it is of")
        return [row.bar(symbol, _new_york_day(row.t or 0)) for row in rows]

    async def _rows(self, path: str, query: Mapping[str, str]) -> AsyncIterator[_Row]:
        seen = {(path, tuple(query.items()))}
        while True:
            page = await self._page(path, query)
            for row in page.results:
                yield row
            if page.next_url is None:
                return
            # Only its path and query are taken: the key goes to our own base URL and nowhere else.
            following = urlsplit(page.next_url)
            path, query = following.path, dict(parse_qsl(following.query))
            here = (path, tuple(query.items()))
            if here in seen:
                raise UpstreamError(f"{path}: the pages go round in a circle (request {page.request_id})")
            seen.add(here)

    async def _page(self, path: str, query: Mapping[str, str]) -> _Page:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(UpstreamError), stop=stop_after_attempt(ATTEMPTS), wait=_pause, reraise=True
        )
        return await retrying(self._page_once, path, query)

    async def _page_once(self, path: str, query: Mapping[str, str]) -> _Page:
        try:
            response = await self.http.get(path, params=query)
        except httpx.RequestError as error:
            raise UpstreamError(f"{path}: {type(error).__name__}") from error
        _check_status(response, path)
        try:
            page = _Page.model_validate_json(response.content)
        except ValidationError as error:
            raise UpstreamError(f"{path}: answer is not the vendor's shape: {error.error_count()} faults") from error
        if page.resultsCount is not None and page.resultsCount != len(page.results):
            raise UpstreamError(
                f"{path}: {page.resultsCount} results announced, {len(page.results)} came (request {page.request_id})"
            )
        return page


@asynccontextmanager
async def massive(base_url: str, key: SecretStr) -> AsyncIterator[MassiveClient]:
    """Open a client; the key travels in the Authorization header only."""
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=TIMEOUT) as http:
        yield MassiveClient(http)


_backoff = wait_exponential_jitter(multiplier=0.5, max=20)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, RateLimitedError):
        return min(LONGEST_PAUSE_SECONDS, RATE_PAUSE_SECONDS if error.retry_after is None else error.retry_after)
    return _backoff(state)


def _check_status(response: httpx.Response, path: str) -> None:
    if response.is_success:
        return
    request_id, message = _explanation(response)
    text = f"{path}: status {response.status_code}, {message or 'no message'} (request {request_id or 'unknown'})"
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise RateLimitedError(text, _seconds(response.headers.get("Retry-After")))
    if response.status_code == httpx.codes.FORBIDDEN and _BEFORE_CLOSE in message:
        raise PendingError(text)
    if response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise EntitlementError(text)
    if response.is_server_error:
        raise UpstreamError(text)
    raise BadRequestError(text)


def _explanation(response: httpx.Response) -> tuple[str, str]:
    try:
        body: Any = response.json()
    except ValueError:
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    return str(body.get("request_id", "")), str(body.get("message") or body.get("error") or "")


def _seconds(retry_after: str | None) -> float | None:
    """Read Retry-After; a form other than seconds counts as absent, and our own back-off applies."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else None


def _new_york_day(milliseconds: int) -> date:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone(NEW_YORK).date()


@dataclass(frozen=True, slots=True)
class Ticker:
    """A ticker as the vendor lists it."""

    symbol: str
    name: str | None
    type: str | None
    exchange: str | None
    currency: str | None
    active: bool
    composite_figi: str | None
    share_class_figi: str | None
    delisted: date | None


@dataclass(frozen=True, slots=True)
class Details:
    """What the vendor says of one ticker beyond its line in the list."""

    symbol: str
    list_date: date | None
    sic_code: str | None
    sic_description: str | None


@dataclass(frozen=True, slots=True)
class TickerChange:
    """From `date` on the company bore `symbol`."""

    date: date
    symbol: str

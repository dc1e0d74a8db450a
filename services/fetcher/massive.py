"""A client of the Massive (formerly Polygon) REST API.

An answer that may be short is an error, never an empty list: counts are checked, pages are followed to the end, and a
session without results is requested again. An answer is compared with the request. An answer about another session or
ticker, or with adjusted prices, is an UpstreamError with both: a cache or a gateway may have mixed up answers, so the
next one may be right. A bad row is left out, logged, and counted in `left_out`; the other rows are used.
"""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
from aiolimiter import AsyncLimiter
from pydantic import BaseModel, SecretStr, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from fiblake.calendar import NEW_YORK
from fiblake.decoding import JSON_GROWTH, limit, too_large
from fiblake.errors import EntitlementError, UpstreamError
from fiblake.reference import Dividend, Split
from services.fetcher import wire
from services.fetcher.splits import usable, with_factors
from services.fetcher.tickers import Details, Ticker, TickerChange
from services.fetcher.validation import VendorBar
from services.fetcher.vendor import BadRequestError, OutOfPlanError, PendingError, UnknownTickerError
from shared.telemetry import logger

ATTEMPTS: Final = 5
RATE_PAUSE_SECONDS: Final = 20.0
"""Pause when the vendor limits the rate without saying for how long: the free plan allows 5 requests a minute."""
LONGEST_PAUSE_SECONDS: Final = 60.0
SHORTEST_PAUSE_SECONDS: Final = 1.0
"""Retry-After: 0 requests no pause, which would use up all attempts within a second."""
LONGEST_MESSAGE: Final = 300
"""Characters of a vendor's message that an error repeats."""
_SEND_AGAIN: Final = frozenset({408, 425, 499})
"""Timeout, too early, and a gateway whose client closed first: statuses without a fault of the request."""
_PLAIN: Final = "identity"
TIMEOUT: Final = httpx.Timeout(connect=5, read=60, write=10, pool=60)
BARS_A_PAGE: Final = 50_000
TICKERS_A_PAGE: Final = 1000
SPLITS_A_PAGE: Final = 5000
DIVIDENDS_A_PAGE: Final = 5000
_BEFORE_CLOSE: Final = "before end of day"
_TOO_OLD: Final = "data timeframe"

_Answer = TypeVar("_Answer", bound=wire.Answer)


class RateLimitedError(UpstreamError):
    """The vendor asks us to wait."""

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class MassiveClient:
    """Reads daily bars (unadjusted) and reference data of stocks.

    Raises EntitlementError (OutOfPlanError), PendingError, BadRequestError, or UpstreamError (RateLimitedError).
    """

    http: httpx.AsyncClient
    pace: AsyncLimiter | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    """The number of unusable rows that were left out, by kind: bars, tickers, splits, dividends, events."""

    async def grouped_daily(self, session: date) -> list[VendorBar]:
        """Return every ticker's bar of one session (one request); raise UpstreamError if there are none."""
        path = f"/v2/aggs/grouped/locale/us/market/stocks/{session.isoformat()}"
        page = await self._get(wire.Bars, path, {"adjusted": "false", "include_otc": "false"})
        if not page.results:
            raise UpstreamError(f"{path}: no results for a session (request {page.request_id})")
        # A bar counts for the requested session: grouped `t` is the end of the window, range `t` its start. A bar whose
        # `t` is of another day goes to quarantine, and so does a row without a ticker: validation names both.
        instants = {row.t: _new_york_day(row.t) for row in page.results if row.t is not None}
        days = [instants.get(row.t) if row.t is not None else None for row in page.results]
        others = [day for day in days if day not in {None, session}]
        if 2 * len(others) >= len(days):
            raise UpstreamError(
                f"{path}: requested bars of {session}, and {len(others)} of the {len(days)} that came are of another "
                f"day ({others[0]}) (request {page.request_id})"
            )
        rows = zip(page.results, days, strict=True)
        return [row.bar(row.T, session, None if day == session else day) for row, day in rows]

    async def daily_range(self, symbol: str, first: date, last: date) -> list[VendorBar]:
        """Return one ticker's bars from `first` to `last`, following pages to the end; an empty answer is valid."""
        path = f"/v2/aggs/ticker/{_part(symbol)}/range/1/day/{first.isoformat()}/{last.isoformat()}"
        query = {"adjusted": "false", "sort": "asc", "limit": str(BARS_A_PAGE)}
        rows = await self._rows(wire.Bars, path, query, ticker=symbol)
        bars = [row.bar(symbol, _new_york_day(row.t)) for row in rows if row.t is not None]
        if rows and not bars:
            raise UpstreamError(f"{path}: no row says which session it is of")
        self._leave_out("bars", [row for row in rows if row.t is None], path)
        outside = [bar.session for bar in bars if not first <= bar.session <= last]
        if outside:
            raise UpstreamError(
                f"{path}: requested bars from {first} to {last}, and {len(outside)} of the {len(bars)} that came are "
                f"not of these sessions ({outside[0]})"
            )
        return bars

    async def tickers(self, on: date | None = None) -> list[Ticker]:
        """Return all US stocks that are active, or were on the day `on`; raise UpstreamError if there are none.

        The result has a symbol twice if the vendor lists it twice (`identities.compare` chooses). A row that two pages
        repeat is in it once, because pages shift while they are read. A row without a ticker has the symbol "".
        """
        listed = await self._tickers(_tickers_query(active=True, on=on), active=True)
        if not listed:
            raise UpstreamError(f"/v3/reference/tickers: not one active ticker{f' on {on}' if on else ''}")
        return listed

    async def delisted_tickers(self) -> list[Ticker]:
        """Return all US stocks that are no longer active."""
        return await self._tickers(_tickers_query(active=False), active=False)

    async def listed_as(self, symbol: str, on: date) -> list[Ticker]:
        """Return the stocks that had the symbol on the day `on`; an empty answer is valid."""
        query = {"ticker": symbol, **_tickers_query(active=True, on=on)}
        rows = await self._rows(wire.Tickers, "/v3/reference/tickers", query)
        return [_ticker(row) for row in rows if row.ticker == symbol and row.active is not False]

    async def _tickers(self, query: Mapping[str, str], *, active: bool) -> list[Ticker]:
        """Return the stocks of a whole list, without the vendor's own test tickers."""
        path = "/v3/reference/tickers"
        rows = [row for row in await self._rows(wire.Tickers, path, query) if not row.is_test]
        stocks = [row for row in rows if row.active in {None, active} and row.market in {None, "stocks"}]
        others = [row for row in rows if row.active not in {None, active} or row.market not in {None, "stocks"}]
        self._leave_out("tickers", [*others, *(row for row in stocks if not row.ticker)], path)
        return list(dict.fromkeys(_ticker(row) for row in stocks))

    async def find_delisted(self, symbol: str) -> Ticker | None:
        """Return the inactive stock of that symbol, the latest one of several; None if there is none."""
        query = {"ticker": symbol, **_tickers_query(active=False)}
        rows = await self._rows(wire.Tickers, "/v3/reference/tickers", query)
        inactive = [_ticker(row) for row in rows if row.ticker == symbol and row.active is not True]
        return max(inactive, key=lambda ticker: ticker.delisted or date.min, default=None)

    async def details(self, symbol: str) -> Details | None:
        """Return a ticker's details; None if the vendor knows no such ticker."""
        try:
            answer = await self._get(wire.OneDetails, f"/v3/reference/tickers/{_part(symbol)}", {})
        except UnknownTickerError:
            return None
        row = answer.results
        if row.ticker not in {"", symbol}:
            raise UpstreamError(f"requested the details of {symbol}, and those of {row.ticker} came")
        return Details(symbol, row.list_date, row.sic_code, row.sic_description)

    async def ticker_changes(self, symbol: str) -> list[TickerChange]:
        """Return the tickers of the ticker's company with their first days, oldest first; empty: the vendor has none.

        An event without its day, or without the new ticker, is left out.
        """
        path = f"/vX/reference/tickers/{_part(symbol)}/events"
        try:
            answer = await self._get(wire.OneEvents, path, {"types": "ticker_change"})
        except UnknownTickerError:
            return []
        events = [event for event in answer.results.events if event.type in {"", "ticker_change"}]
        changes = [TickerChange(e.date, e.ticker_change.ticker) for e in events if e.date and e.ticker_change.ticker]
        self._leave_out("events", [e for e in events if not (e.date and e.ticker_change.ticker)], path)
        return sorted(changes, key=lambda change: (change.date, change.symbol))

    async def splits(self) -> list[Split]:
        """Return all splits, announced ones too, oldest first.

        A missing or invalid cumulative factor is computed from the ratios. A split without a day or without a valid
        ratio has NaN as its ratio: `split_changes` refuses it.
        """
        path, query = "/stocks/v1/splits", {"limit": str(SPLITS_A_PAGE), "sort": "execution_date.asc"}
        rows = await self._rows(wire.Splits, path, query)
        read = [(row, usable(row)) for row in rows]
        self._leave_out("splits", [row for row, split in read if split is None], path)
        return with_factors({(split.symbol, split.id): split for _, split in read if split}.values())

    async def dividends(self, symbols: Collection[str] = (), since: date | None = None) -> list[Dividend]:
        """Return the dividends of these symbols (none named: of all) with ex-dates from `since` on, announced ones too.

        An empty answer is valid. Invalid numbers are returned: `dividend_changes` refuses them by name. Raises
        UpstreamError if the answer is about another symbol or time.
        """
        path = "/stocks/v1/dividends"
        query = {"limit": str(DIVIDENDS_A_PAGE), "sort": "ex_dividend_date.asc"}
        query |= {"ticker.any_of": ",".join(symbols)} if symbols else {}
        query |= {"ex_dividend_date.gte": since.isoformat()} if since else {}
        rows = await self._rows(wire.Dividends, path, query)
        read = [(row, row.dividend()) for row in rows]
        self._leave_out("dividends", [row for row, dividend in read if dividend is None], path)
        dividends = [dividend for _, dividend in read if dividend]
        others = [
            d for d in dividends if (symbols and d.symbol not in symbols) or d.ex_dividend_date < (since or date.min)
        ]
        if others:
            raise UpstreamError(
                f"{path}: requested dividends of {len(symbols) or 'all'} symbols since {since or 'ever'}, and "
                f"{len(others)} of the {len(dividends)} that came are others ({others[0].symbol} on "
                f"{others[0].ex_dividend_date})"
            )
        return dividends

    def _leave_out(self, kind: str, rows: Sequence[BaseModel], path: str) -> None:
        """Log and count rows of an answer that cannot be used."""
        for row in rows:
            logger.warning("row left out", extra={"kind": kind, "path": path, "row": row.model_dump(mode="json")})
        self.left_out[kind] += len(rows)

    async def _rows(
        self, shape: type[wire.Page[wire.Row]], path: str, query: Mapping[str, str], ticker: str | None = None
    ) -> list[wire.Row]:
        """Return the rows of all pages; raise if any page is missing. `ticker`: the requested ticker of bars."""
        rows: list[wire.Row] = []
        seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
        while (here := (path, tuple(query.items()))) not in seen:
            page = await self._get(shape, path, query, further=bool(seen), ticker=ticker)
            seen.add(here)
            rows += page.results or []
            if page.next_url is None:
                return rows
            # Only its path and query are taken: the key goes to our own base URL and nowhere else.
            try:
                following = urlsplit(page.next_url)
            except ValueError as error:
                raise UpstreamError(f"{path}: the link to the next page is no URL: {error}") from error
            path, query = following.path, dict(parse_qsl(following.query, keep_blank_values=True))
        raise UpstreamError(f"{path}: the pages go round in a circle (request {page.request_id})")

    async def _get(
        self, shape: type[_Answer], path: str, query: Mapping[str, str], *, further: bool = False,
        ticker: str | None = None,
    ) -> _Answer:  # fmt: skip
        """Send a request until there is a valid answer; `further`: it is not for the first page."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(UpstreamError), stop=stop_after_attempt(ATTEMPTS), wait=_pause, reraise=True
        )
        return await retrying(self._get_once, shape, path, query, further=further, ticker=ticker)

    async def _get_once(
        self, shape: type[_Answer], path: str, query: Mapping[str, str], *, further: bool, ticker: str | None
    ) -> _Answer:
        async with self.pace or nullcontext():
            try:
                async with self.http.stream("GET", path, params=query) as stream:
                    response = await _received(stream, path)
            except (httpx.RequestError, httpx.InvalidURL) as error:
                raise UpstreamError(f"{path}: {type(error).__name__}") from error
        _check_status(response, path)
        try:
            answer = shape.model_validate(wire.decode(response.content))
        except ValueError as error:
            reason = f"{error.error_count()} faults" if isinstance(error, ValidationError) else "it is not JSON"
            raise UpstreamError(
                f"{path}: status {response.status_code}, the answer is not the vendor's shape: {reason}"
            ) from error
        if isinstance(answer, wire.Page):
            _check_whole(answer, path, further=further)
        if isinstance(answer, wire.Bars):
            _check_asked(answer, path, ticker)
        return answer


@asynccontextmanager
async def massive(
    base_url: str, key: SecretStr, requests_per_minute: float | None = None
) -> AsyncIterator[MassiveClient]:
    """Open a client; the key is sent in the Authorization header only.

    With a rate, requests (also retries) are sent at even intervals: the vendor would refuse a burst.
    """
    headers = {"Authorization": f"Bearer {key.get_secret_value()}", "Accept-Encoding": wire.CODING}
    pace = AsyncLimiter(1, 60 / requests_per_minute) if requests_per_minute else None
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=TIMEOUT) as http:
        yield MassiveClient(http, pace)


_backoff = wait_exponential_jitter(multiplier=0.5, max=20)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, RateLimitedError):
        seconds = error.retry_after or RATE_PAUSE_SECONDS
        return min(LONGEST_PAUSE_SECONDS, max(SHORTEST_PAUSE_SECONDS, seconds))
    return _backoff(state)


async def _received(stream: httpx.Response, path: str) -> httpx.Response:
    """Return the answer with its content; raise UpstreamError if it is larger than the limit, before it is stored."""
    allowed, content = limit() // JSON_GROWTH, bytearray()
    async for piece in stream.aiter_raw():
        content += piece
        _check_size(len(content), allowed, path)
    data = bytes(content)
    if (coding := stream.headers.get("Content-Encoding", _PLAIN)) != _PLAIN:
        try:
            data = wire.decompress(data, coding, allowed + 1)
        except ValueError as error:
            raise UpstreamError(f"{path}: the answer cannot be decompressed: {error}") from error
        _check_size(len(data), allowed, path)
    headers = [(name, value) for name, value in stream.headers.raw if name.lower() in {b"location", b"retry-after"}]
    return httpx.Response(stream.status_code, headers=headers, content=data, request=stream.request)


def _check_size(size: int, allowed: int, path: str) -> None:
    if size > allowed:
        raise UpstreamError(str(too_large(f"{path}: the answer", f"is {size:,} bytes or more", allowed)))


def _check_status(response: httpx.Response, path: str) -> None:
    if response.is_success:
        return
    status, request_id, message = _explanation(response)
    text = f"{path}: status {response.status_code}, {message or 'no message'} (request {request_id or 'unknown'})"
    if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        raise RateLimitedError(text, _seconds(response.headers.get("Retry-After")))
    if response.status_code == HTTPStatus.FORBIDDEN and _BEFORE_CLOSE in message:
        raise PendingError(text)
    if response.status_code == HTTPStatus.FORBIDDEN and _TOO_OLD in message:
        raise OutOfPlanError(
            f"{text}: raise the first requested session (FIRST_SESSION, HISTORY_FROM) to where the plan begins"
        )
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        raise EntitlementError(
            "the vendor refuses the API key: set MASSIVE_API_KEY, or the secret that POLYGON_API_KEY_SECRET_ARN names, "
            f"right ({text})"
        )
    if response.status_code == HTTPStatus.FORBIDDEN:
        raise EntitlementError(f"the API key is not entitled to this: {text}")
    if response.status_code == HTTPStatus.NOT_FOUND and status == "NOT_FOUND":  # a wrong base URL gives a 404, too
        raise UnknownTickerError(text)
    # The vendor never redirects. A gateway or a log-in page answered, which may be temporary.
    if response.is_server_error or response.is_redirect or response.status_code in _SEND_AGAIN:
        raise UpstreamError(text)
    raise BadRequestError(text)


def _check_whole(page: wire.Page[Any], path: str, *, further: bool) -> None:
    came = len(page.results or [])
    if page.announced not in (None, came):
        raise UpstreamError(f"{path}: {page.announced} results announced, {came} came (request {page.request_id})")
    if page.results is None and (further or not page.says_none):
        raise UpstreamError(f"{path}: no results, nor a word that there are none (request {page.request_id})")


def _check_asked(page: wire.Bars, path: str, ticker: str | None) -> None:
    if page.adjusted:
        raise UpstreamError(f"{path}: requested bars as traded, and adjusted ones came (request {page.request_id})")
    if ticker is not None and page.ticker not in {"", ticker}:
        raise UpstreamError(f"{path}: requested {ticker}, and {page.ticker} came (request {page.request_id})")


def _explanation(response: httpx.Response) -> tuple[str, str, str]:
    """Read a refusal's status, request id and message; the key is removed if the vendor repeats it."""
    try:
        body: Any = wire.decode(response.content)
    except ValueError:
        return "", "", ""
    if not isinstance(body, dict):
        return "", "", ""
    key = response.request.headers["Authorization"].removeprefix("Bearer ")
    message = str(body.get("message") or body.get("error") or "")
    safe_message = message.replace(key, "***") if key else message
    texts = (str(body.get("status", "")), str(body.get("request_id", "")), safe_message)
    status, request_id, safe_message = (wire.replace_surrogates(text)[:LONGEST_MESSAGE] for text in texts)
    return status, request_id, safe_message


def _seconds(retry_after: str | None) -> float | None:
    """Read Retry-After; a form other than seconds counts as absent, and our own back-off applies."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else None


def _new_york_day(milliseconds: int) -> date:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone(NEW_YORK).date()


def _part(symbol: str) -> str:
    return quote(symbol, safe="")


def _tickers_query(*, active: bool, on: date | None = None) -> dict[str, str]:
    chosen = {"market": "stocks", "active": str(active).lower(), **({"date": on.isoformat()} if on else {})}
    return {**chosen, "sort": "ticker", "order": "asc", "limit": str(TICKERS_A_PAGE)}


def _ticker(row: wire.TickerRow) -> Ticker:
    active = row.delisted_utc is None if row.active is None else row.active
    currency = row.currency_name and row.currency_name.upper()
    return Ticker(
        row.ticker, row.name, row.type, row.primary_exchange, currency,
        active, row.composite_figi, row.share_class_figi, row.delisted_utc,
    )  # fmt: skip

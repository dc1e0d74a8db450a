"""Where the embedded stack fetches its bars: a replay of real ones in the market-data vendor's exact shapes.

    python -m local.market_data_server --port-file PATH [--port 0] [--api-key KEY] [--as-of YYYY-MM-DD]

Grouped daily bars, and range aggregates of one day. Prices are as traded whatever `adjusted` asks for (it is echoed).
With --as-of, later dates are refused as the vendor refuses today's before the end of the day.
"""

import argparse
import base64
import binascii
import hmac
import json
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from zoneinfo import ZoneInfo

from local.processes import LoopbackServer, Termination, listening
from local.sample_bars import SampleBar, read_sample_bars

Json = dict[str, Any]

_NEW_YORK: Final = ZoneInfo("America/New_York")
_MIDNIGHT: Final = time_of_day(0)
_CLOSE: Final = time_of_day(16)
_DEFAULT_LIMIT: Final = 5000
_MAX_LIMIT: Final = 50_000
_GROUPED: Final = re.compile(r"/v2/aggs/grouped/locale/us/market/stocks/(?P<session>[^/]+)")
_RANGE: Final = re.compile(
    r"/v2/aggs/ticker/(?P<ticker>[^/]+)/range/(?P<multiplier>[^/]+)/(?P<timespan>[^/]+)/(?P<first>[^/]+)/(?P<last>[^/]+)"
)


class RefusedError(Exception):
    """A request that is answered with an error: its HTTP status, and the body's fields."""

    def __init__(self, code: HTTPStatus, **body: str) -> None:
        super().__init__(code, body)
        self.code = code
        self.body = body


@dataclass(frozen=True, slots=True)
class Query:
    """The parameters of one request, with the vendor's defaults."""

    adjusted: bool = True
    limit: int = _DEFAULT_LIMIT
    descending: bool = False

    @classmethod
    def parse(cls, text: str) -> "Query":
        """Read a query string; a `cursor` stands for the parameters of the page before."""
        fields = dict(parse_qsl(text))
        if "cursor" in fields:
            fields = dict(parse_qsl(_decode(fields["cursor"])))
        adjusted = _one_of(fields, "adjusted", ("true", "false"))
        sort = _one_of(fields, "sort", ("asc", "desc"))
        limit = fields.get("limit", str(_DEFAULT_LIMIT))
        if not limit.isdecimal() or not 1 <= int(limit) <= _MAX_LIMIT:
            raise _bad_request(f"'limit' must be a number from 1 to {_MAX_LIMIT}, not {limit!r}")
        return cls(adjusted == "true", int(limit), sort == "desc")

    def cursor(self) -> str:
        """Give these parameters as the opaque text that `parse` reads."""
        sort = "desc" if self.descending else "asc"
        fields = {"adjusted": str(self.adjusted).lower(), "limit": self.limit, "sort": sort}
        return base64.urlsafe_b64encode(urlencode(fields).encode()).decode()


def _one_of(fields: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    value = fields.get(name, allowed[0])
    if value not in allowed:
        raise _bad_request(f"{name!r} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def _decode(cursor: str) -> str:
    try:
        return base64.urlsafe_b64decode(cursor).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise _bad_request(f"'cursor' is not one of ours: {error}") from error


def _bad_request(reason: str) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, status="ERROR", error=reason)


def _parse_date(text: str) -> date:
    """Read YYYY-MM-DD or Unix milliseconds, the two forms the vendor takes."""
    try:
        if re.fullmatch(r"\d{9,}", text):
            return datetime.fromtimestamp(int(text) / 1000, tz=UTC).astimezone(_NEW_YORK).date()
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return date.fromisoformat(text)
    except (ValueError, OverflowError, OSError) as error:
        raise _bad_request(f"could not parse the date {text!r}: {error}") from error
    raise _bad_request(f"could not parse the date {text!r}: use YYYY-MM-DD or Unix milliseconds")


def _milliseconds(session: date, moment: time_of_day) -> int:
    return int(datetime.combine(session, moment, _NEW_YORK).timestamp() * 1000)


def _row(bar: SampleBar, moment: time_of_day) -> Json:
    # The sample has neither trades nor a volume-weighted price: two plausible ones that are the same every time.
    return {
        "o": bar.open,
        "h": bar.high,
        "l": bar.low,
        "c": bar.close,
        "v": bar.volume,
        "t": _milliseconds(bar.session, moment),
        "n": int(bar.volume / 100),
        "vw": round((bar.high + bar.low + bar.close) / 3, 4),
    }


def _envelope(rows: list[Json], query: Query) -> Json:
    counts: Json = {"adjusted": query.adjusted, "queryCount": len(rows), "resultsCount": len(rows)}
    # A day without bars has no `results` at all, as at the vendor.
    return counts | ({"results": rows} if rows else {}) | {"status": "OK"}


@dataclass(frozen=True)
class Replay:
    """The bars that are served, and the last date that is (None: all)."""

    by_symbol: Mapping[str, list[SampleBar]]
    as_of: date | None = None
    by_session: dict[date, list[SampleBar]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for series in self.by_symbol.values():
            for bar in series:
                self.by_session.setdefault(bar.session, []).append(bar)

    def answer(self, path: str, query_text: str, base_url: str) -> Json:
        """Give the body of one GET; raise RefusedError."""
        if (match := _GROUPED.fullmatch(path)) is not None:
            return self._grouped(_parse_date(match["session"]), Query.parse(query_text))
        if (match := _RANGE.fullmatch(path)) is not None:
            return self._range({name: unquote(part) for name, part in match.groupdict().items()}, query_text, base_url)
        raise RefusedError(HTTPStatus.NOT_FOUND, status="NOT_FOUND", message=f"no such endpoint: {path}")

    def _grouped(self, session: date, query: Query) -> Json:
        self._check_over(session)
        bars = self.by_session.get(session, [])
        return _envelope([{"T": bar.symbol} | _row(bar, _CLOSE) for bar in bars], query)

    def _range(self, part: Mapping[str, str], query_text: str, base_url: str) -> Json:
        if (part["multiplier"], part["timespan"]) != ("1", "day"):
            raise _bad_request("only bars of 1 day are replayed")
        query = Query.parse(query_text)
        first, last = _parse_date(part["first"]), _parse_date(part["last"])
        if first > last:
            raise _bad_request("'from' must not lie after 'to'")
        self._check_over(first)
        bars = self._between(part["ticker"], first, last, descending=query.descending)
        rows = [_row(bar, _MIDNIGHT) for bar in bars[: query.limit]]
        body: Json = {"ticker": part["ticker"]} | _envelope(rows, query)
        if len(bars) > query.limit:
            body["next_url"] = base_url + _next_page(part["ticker"], bars[query.limit].session, first, last, query)
        return body

    def _check_over(self, session: date) -> None:
        if self.as_of is not None and session > self.as_of:
            reason = "Attempted to request today's data before end of day."
            raise RefusedError(HTTPStatus.FORBIDDEN, status="NOT_AUTHORIZED", message=reason)

    def _between(self, ticker: str, first: date, last: date, *, descending: bool) -> list[SampleBar]:
        end = last if self.as_of is None else min(last, self.as_of)
        bars = [bar for bar in self.by_symbol.get(ticker, []) if first <= bar.session <= end]
        return bars[::-1] if descending else bars


def _next_page(ticker: str, resume: date, first: date, last: date, query: Query) -> str:
    # As at the vendor: the path holds where to go on, in milliseconds; the cursor holds the parameters.
    stamp = _milliseconds(resume, _MIDNIGHT)
    part = f"{first}/{stamp}" if query.descending else f"{stamp}/{last}"
    return f"/v2/aggs/ticker/{quote(ticker, safe='')}/range/1/day/{part}?cursor={query.cursor()}"


class MarketDataServer(LoopbackServer):
    """Serves one replay on 127.0.0.1 to whoever has the key."""

    def __init__(self, port: int, replay: Replay, api_key: str) -> None:
        super().__init__(port, _Handler)
        self.replay = replay
        self.api_key = api_key


class _Handler(BaseHTTPRequestHandler):
    server: MarketDataServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        try:
            self._check_key()
            base_url = f"http://{self.headers.get('Host', f'127.0.0.1:{self.server.server_port}')}"
            self._send(HTTPStatus.OK, self.server.replay.answer(url.path, url.query, base_url))
        except RefusedError as refused:
            self._send(refused.code, refused.body)

    def _check_key(self) -> None:
        given = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self.server.api_key}".encode()):
            raise RefusedError(HTTPStatus.UNAUTHORIZED, status="ERROR", error="Unknown API Key")

    def _send(self, status: HTTPStatus, body: Mapping[str, Any]) -> None:
        content = json.dumps({**body, "request_id": uuid.uuid4().hex}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Replay real daily bars in the market-data vendor's shapes.")
    parser.add_argument("--port-file", type=Path, required=True, help="where to write the port once it answers")
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1 (default: any free one)")
    parser.add_argument("--api-key", default="local-replay", help="key that requests must bear")
    parser.add_argument("--as-of", type=date.fromisoformat, help="last date that is served")
    return parser.parse_args()


def main() -> None:
    """Serve until SIGTERM."""
    arguments = _arguments()
    termination = Termination()
    server = MarketDataServer(arguments.port, Replay(read_sample_bars(), arguments.as_of), arguments.api_key)
    with listening(server, arguments.port_file):
        while not termination.requested:
            time.sleep(0.1)


if __name__ == "__main__":
    main()

"""Answer requests for bars: grouped daily, and range aggregates of one day, in the vendor's shapes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Final
from urllib.parse import quote

from fiblake.bars import ReportedBar
from fiblake.calendar import NEW_YORK
from local.market_data.query import Json, bad_request, choice, cursor, limit_of, parameters, parse_date
from local.market_data.shown import Shown

_MIDNIGHT: Final = time(0)
_CLOSE: Final = time(16)
_LIMITS: Final = (5000, 50_000)


@dataclass(frozen=True, slots=True)
class Query:
    """The parameters of one request, with the vendor's defaults."""

    adjusted: bool
    limit: int
    descending: bool

    @classmethod
    def parse(cls, text: str) -> "Query":
        """Read a query string."""
        fields = parameters(text)
        adjusted = choice(fields, "adjusted", ("true", "false"))
        sort = choice(fields, "sort", ("asc", "desc"))
        return cls(adjusted == "true", limit_of(fields, *_LIMITS), sort == "desc")

    def cursor(self) -> str:
        """Return these parameters as a cursor."""
        sort = "desc" if self.descending else "asc"
        return cursor({"adjusted": str(self.adjusted).lower(), "limit": self.limit, "sort": sort})


def grouped(shown: Shown, part: Mapping[str, str], query_text: str, _base_url: str) -> Json:
    """Return every ticker's bar of one session."""
    session, query = parse_date(part["session"]), Query.parse(query_text)
    shown.check(session)
    return _envelope([{"T": bar.symbol} | _row(bar, _CLOSE) for bar in shown.of_session(session)], query)


def one_range(shown: Shown, part: Mapping[str, str], query_text: str, base_url: str) -> Json:
    """Return one page of a ticker's bars."""
    if (part["multiplier"], part["timespan"]) != ("1", "day"):
        raise bad_request("only bars of 1 day are replayed")
    query = Query.parse(query_text)
    first, last = parse_date(part["first"]), parse_date(part["last"])
    if first > last:
        raise bad_request("'from' must not lie after 'to'")
    shown.check(first)
    bars = shown.of_symbol(part["ticker"], first, last)
    if query.descending:
        bars = bars[::-1]
    rows = [_row(bar, _MIDNIGHT) for bar in bars[: query.limit]]
    body: Json = {"ticker": part["ticker"]} | _envelope(rows, query)
    if len(bars) > query.limit:
        body["next_url"] = base_url + _next_page(part["ticker"], bars[query.limit].session, first, last, query)
    return body


def _row(bar: ReportedBar, moment: time) -> Json:
    """Return a bar as the vendor does; a number that is not one is left out."""
    typical = (bar.high + bar.low + bar.close) / 3
    numbers = {
        "o": bar.open,
        "h": bar.high,
        "l": bar.low,
        "c": bar.close,
        "v": bar.volume,
        # Without trades and a volume-weighted price: two plausible values, which are the same at each request.
        "n": bar.volume // 100 if bar.trades is None else bar.trades,
        "vw": round(typical, 4) if bar.vwap is None else bar.vwap,
    }
    row: Json = {name: number for name, number in numbers.items() if math.isfinite(number)}
    if "n" in row:
        row["n"] = int(row["n"])
    return row | {"t": _milliseconds(bar.session, moment)}


def _envelope(rows: list[Json], query: Query) -> Json:
    counts: Json = {"adjusted": query.adjusted, "queryCount": len(rows), "resultsCount": len(rows)}
    # A day without bars has no `results`, as at the vendor.
    return counts | ({"results": rows} if rows else {}) | {"status": "OK"}


def _next_page(ticker: str, resume: date, first: date, last: date, query: Query) -> str:
    # As at the vendor: the path has the place to continue, in milliseconds; the cursor has the parameters.
    stamp = _milliseconds(resume, _MIDNIGHT)
    part = f"{first}/{stamp}" if query.descending else f"{stamp}/{last}"
    return f"/v2/aggs/ticker/{quote(ticker, safe='')}/range/1/day/{part}?cursor={query.cursor()}"


def _milliseconds(session: date, moment: time) -> int:
    return int(datetime.combine(session, moment, NEW_YORK).timestamp() * 1000)

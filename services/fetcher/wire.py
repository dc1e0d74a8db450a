"""The vendor's answers on the wire, after its OpenAPI file.

One bad row affects no other row. A missing or invalid field is read as NaN or None, a null row as a row without fields;
the code that uses the row refuses it by name. A page of another format is refused as a whole.
"""

import json
import math
import zlib
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator

from fiblake.calendar import NEW_YORK
from fiblake.reference import Dividend
from services.fetcher.validation import VendorBar

CODING: Final = "gzip"
"""The only compression that requests accept."""
_TOO_LARGE: Final = 2**63
_TOO_FAR: Final = 6 * 10**13
"""Milliseconds since 1970 that are outside the range of dates."""
_LONGEST_NUMBER: Final = 400
"""Digits; Python refuses to parse much longer numbers, and with them the page."""


def decompress(content: bytes, coding: str, most: int) -> bytes:
    """Return the first `most` bytes of an answer's decompressed content: ten bytes may become a gigabyte.

    Raises ValueError if it has another compression, or is damaged.
    """
    if coding != CODING:
        raise ValueError(f"its Content-Encoding is {coding[:40]!r}, not {CODING}")
    try:
        unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)
        data = unpacking.decompress(content, most)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not unpacking.eof and len(data) < most:
        raise ValueError("it ends in the middle")
    return data


def decode(content: bytes) -> Any:  # noqa: ANN401 (what JSON holds)
    """Return the values of the answer's JSON; raise ValueError if it is not JSON.

    Each byte that is not UTF-8 becomes U+FFFD, so that only its text is damaged and not the page.
    """
    try:
        return json.loads(content.decode("utf-8-sig", "replace"), parse_int=_integer)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def replace_surrogates(text: str) -> str:
    """Return the text with U+FFFD for each half of a surrogate pair: no file, table or log accepts a half."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else math.nan


def _number(value: object) -> object:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _whole(value: object) -> object:
    # A number beyond 64 bits fits into no file and no table.
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _TOO_LARGE else None


def _milliseconds(value: object) -> object:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _TOO_FAR else None


def _text(value: object) -> object:
    # Postgres accepts no text with a zero byte.
    return replace_surrogates(value) if isinstance(value, str) and value and "\0" not in value else None


def _flag(value: object) -> object:
    return value if isinstance(value, bool) else None


def _name(value: object) -> object:
    return replace_surrogates(value) if isinstance(value, str) and "\0" not in value else ""


def _link(value: object) -> object:
    # An empty link means the last page, like a missing one.
    return replace_surrogates(value) if isinstance(value, str) and value else value or None


def _fields(value: object) -> object:
    return value if isinstance(value, dict) else {}


def _rows(value: object) -> object:
    """Read a list of rows; refuse a list without any valid row."""
    if isinstance(value, list) and value and not any(row is None or isinstance(row, dict) for row in value):
        raise ValueError("none of the results is a row")
    return value


def _each(value: object) -> object:
    return value if isinstance(value, list) else []


def _day(value: object) -> object:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _day_of_instant(value: object) -> object:
    """Read the day of an instant, which the vendor writes as midnight of that day, in UTC or in New York."""
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
        if instant is None or instant.tzinfo is None or instant.astimezone(UTC).time() == time(0):
            return instant and instant.date()
        return instant.astimezone(NEW_YORK).date()
    except (ValueError, OverflowError):
        return None


Number = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int | None, BeforeValidator(_whole)]
Milliseconds = Annotated[int | None, BeforeValidator(_milliseconds)]
Text = Annotated[str | None, BeforeValidator(_text)]
Flag = Annotated[bool | None, BeforeValidator(_flag)]
Name = Annotated[str, BeforeValidator(_name)]
Day = Annotated[date | None, BeforeValidator(_day)]
DayOfInstant = Annotated[date | None, BeforeValidator(_day_of_instant)]
Link = Annotated[str | None, BeforeValidator(_link)]
Row = TypeVar("Row", bound=BaseModel)


class Answer(BaseModel):
    """The fields of every answer."""

    request_id: Name = ""


class Page(Answer, Generic[Row]):
    """One page of a list."""

    results: Annotated[list[Annotated[Row, BeforeValidator(_fields)]] | None, BeforeValidator(_rows)] = None
    next_url: Link = None

    @property
    def announced(self) -> int | None:
        """The page's own count of its rows, if it has one."""
        return None

    @property
    def says_none(self) -> bool:
        """Whether a page without `results` states that there are none; otherwise it may have lost them."""
        return False


class BarRow(BaseModel):
    """A daily bar; `T` is in grouped daily only."""

    T: Name = ""
    o: Number = math.nan
    h: Number = math.nan
    l: Number = math.nan  # noqa: E741 (the vendor's name)
    c: Number = math.nan
    v: Number = math.nan
    t: Milliseconds = None
    vw: Number = math.nan
    n: Whole = None

    def bar(self, symbol: str, session: date, dated: date | None = None) -> VendorBar:
        """Return the bar with its session: the meaning of `t` differs between endpoints."""
        vwap = self.vw if math.isfinite(self.vw) else None
        return VendorBar(
            symbol, session, open=self.o, high=self.h, low=self.l, close=self.c, volume=self.v, vwap=vwap,
            trades=self.n, dated=dated,
        )  # fmt: skip


class Bars(Page[BarRow]):
    """Grouped daily, and a page of a range, which names its `ticker`."""

    ticker: Name = ""
    adjusted: Flag = None
    queryCount: Whole = None  # noqa: N815 (the vendor's name)
    resultsCount: int | None = None  # noqa: N815 (the vendor's name)

    @property
    def announced(self) -> int | None:
        """How many rows the page says it has."""
        return self.resultsCount

    @property
    def says_none(self) -> bool:
        """Whether one of its counts is 0."""
        return 0 in (self.queryCount, self.resultsCount)


class TickerRow(BaseModel):
    """One ticker of the list."""

    ticker: Name = ""
    market: Text = None
    name: Text = None
    type: Text = None
    primary_exchange: Text = None
    currency_name: Text = None
    active: Flag = None
    is_test: Flag = None
    composite_figi: Text = None
    share_class_figi: Text = None
    delisted_utc: DayOfInstant = None


class Tickers(Page[TickerRow]):
    """A page of the list of tickers."""

    count: int | None = None

    @property
    def announced(self) -> int | None:
        """How many rows the page says it has."""
        return self.count

    @property
    def says_none(self) -> bool:
        """Whether it counts no row; in this case the count may be missing."""
        return not self.count


class SplitRow(BaseModel):
    """One split."""

    id: Name = ""
    ticker: Name = ""
    execution_date: Day = None
    split_from: Number = math.nan
    split_to: Number = math.nan
    adjustment_type: Name = ""
    historical_adjustment_factor: Number = math.nan


class Splits(Page[SplitRow]):
    """A page of the list of splits, which has no count."""


class DividendRow(BaseModel):
    """One dividend."""

    id: Name = ""
    ticker: Name = ""
    ex_dividend_date: Day = None
    cash_amount: Number = math.nan
    currency: Text = None
    declaration_date: Day = None
    record_date: Day = None
    pay_date: Day = None
    frequency: Whole = None
    distribution_type: Text = None
    split_adjusted_cash_amount: Number = math.nan
    historical_adjustment_factor: Number = math.nan

    def dividend(self) -> Dividend | None:
        """Return the dividend, or None if it names no ticker or no ex-date; `dividend_fault` finds other faults."""
        if not self.ticker or self.ex_dividend_date is None:
            return None
        return Dividend(
            self.ticker, self.ex_dividend_date, self.cash_amount, self.currency, self.declaration_date,
            self.record_date, self.pay_date, self.frequency, self.distribution_type,
            _number_or_none(self.split_adjusted_cash_amount), _number_or_none(self.historical_adjustment_factor),
            self.id or f"{self.ticker}:{self.ex_dividend_date}:{self.distribution_type}:{self.cash_amount:g}",
        )  # fmt: skip


class Dividends(Page[DividendRow]):
    """A page of the list of dividends, which has no count."""


class DetailsRow(BaseModel):
    """Further fields of one ticker, which the list does not have."""

    ticker: Name = ""
    list_date: Day = None
    sic_code: Text = None
    sic_description: Text = None


class OneDetails(Answer):
    """The details of one ticker."""

    results: DetailsRow


class ChangedTo(BaseModel):
    """The ticker that a change led to."""

    ticker: Name = ""


class EventRow(BaseModel):
    """One event of a company; an event of type `ticker_change` has the new ticker."""

    type: Name = ""
    date: Day = None
    ticker_change: Annotated[ChangedTo, BeforeValidator(_fields)] = ChangedTo()


class EventsRow(BaseModel):
    """The events of one company."""

    events: Annotated[list[Annotated[EventRow, BeforeValidator(_fields)]], BeforeValidator(_each)] = []


class OneEvents(Answer):
    """The events of one ticker's company."""

    results: EventsRow


def _number_or_none(number: float) -> float | None:
    return None if math.isnan(number) else number

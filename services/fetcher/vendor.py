"""The interface of a vendor, and its errors (pure).

Another vendor is another module: a class with these methods, and a function that opens it, which `assembly.VENDORS`
names. Such a class raises UpstreamError for an answer that may be short or wrong (the next attempt may be right), and
the errors below.
"""

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from datetime import date
from typing import Protocol

from pydantic import SecretStr

from fiblake.errors import EntitlementError, PermanentError, TransientError
from fiblake.reference import Dividend, Split
from services.fetcher.tickers import Details, Ticker, TickerChange
from services.fetcher.validation import VendorBar


class PendingError(TransientError):
    """The session's data is not available yet: no failure, try again later."""


class BadRequestError(PermanentError):
    """The vendor does not understand the request."""


class UnknownTickerError(BadRequestError):
    """The vendor knows no such ticker."""


class OutOfPlanError(EntitlementError):
    """The plan does not include the requested sessions."""


class Vendor(Protocol):
    """A source of daily bars as traded, and of reference data of stocks."""

    @property
    def left_out(self) -> Counter[str]:
        """The number of unusable rows that were left out, by kind."""

    async def grouped_daily(self, session: date) -> list[VendorBar]:
        """Return every ticker's bar of one session; raise UpstreamError if there are none."""

    async def daily_range(self, symbol: str, first: date, last: date) -> list[VendorBar]:
        """Return one ticker's bars from `first` to `last`; an empty result is valid."""

    async def tickers(self, on: date | None = None) -> list[Ticker]:
        """Return all stocks that are active, or were on the day `on`; raise UpstreamError if there are none."""

    async def delisted_tickers(self) -> list[Ticker]:
        """Return all stocks that are no longer active."""

    async def listed_as(self, symbol: str, on: date) -> list[Ticker]:
        """Return the stocks that had the symbol on the day `on`."""

    async def find_delisted(self, symbol: str) -> Ticker | None:
        """Return the latest inactive stock of that symbol; None if there is none."""

    async def details(self, symbol: str) -> Details | None:
        """Return a ticker's details; None if the vendor knows no such ticker."""

    async def ticker_changes(self, symbol: str) -> list[TickerChange]:
        """Return the tickers of the ticker's company with their first days, oldest first."""

    async def splits(self) -> list[Split]:
        """Return all splits, announced ones too, oldest first, each with its cumulative factor."""

    async def dividends(self, symbols: Collection[str] = (), since: date | None = None) -> list[Dividend]:
        """Return the dividends of these symbols (none named: of all) with ex-dates from `since` on, announced ones too.

        An empty result is valid.
        """


OpenVendor = Callable[[str, SecretStr, float | None], AbstractAsyncContextManager[Vendor]]
"""A function that opens a vendor at a base URL, with a key and a number of requests per minute (None: no limit)."""

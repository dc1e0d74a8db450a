"""The reference data that a vendor reports of a stock (pure)."""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class Ticker:
    """One stock as the vendor lists it; `symbol` is not validated yet, and empty if the vendor gives none."""

    symbol: str
    name: str | None
    type: str | None
    exchange: str | None
    """Market identifier code of the primary exchange."""
    currency: str | None
    """ISO 4217."""
    active: bool
    composite_figi: str | None
    share_class_figi: str | None
    delisted: date | None


@dataclass(frozen=True, slots=True)
class Details:
    """Further fields of one ticker, which the list does not have."""

    symbol: str
    list_date: date | None
    sic_code: str | None
    sic_description: str | None


@dataclass(frozen=True, slots=True)
class TickerChange:
    """A change of ticker: from `date` on the company's ticker is `symbol`."""

    date: date
    symbol: str

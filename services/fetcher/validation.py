"""Which bars may enter the lake, and why others may not (pure)."""

import math
from dataclasses import dataclass
from datetime import date

from shared.calendar import TradingCalendar
from shared.errors import FiblakeError
from shared.lake import valid_symbol


@dataclass(frozen=True, slots=True)
class VendorBar:
    """A daily bar as the vendor reports it, under the session it belongs to; not validated yet."""

    symbol: str
    session: date
    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float | None
    trades: int | None


def faults(bar: VendorBar, calendar: TradingCalendar) -> list[str]:
    """Give every reason why `bar` may not enter the lake; none means that it may."""
    prices = {"open": bar.open, "high": bar.high, "low": bar.low, "close": bar.close}
    found = [] if valid_symbol(bar.symbol) else [f"symbol {bar.symbol!r} cannot be a key"]
    found += [f"{name} {value} is not a positive number" for name, value in prices.items() if not _positive(value)]
    if not (math.isfinite(bar.volume) and bar.volume >= 0):
        found.append(f"volume {bar.volume} is not a number of shares")
    if not found and bar.high < max(bar.open, bar.close, bar.low):
        found.append(f"high {bar.high} is below another price")
    if not found and bar.low > min(bar.open, bar.close):
        found.append(f"low {bar.low} is above another price")
    try:
        calendar.ordinal(bar.session)
    except FiblakeError as error:
        found.append(str(error))
    return found


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0

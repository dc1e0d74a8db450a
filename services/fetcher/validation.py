"""Which bars may enter the lake, and why others may not (pure)."""

from dataclasses import asdict, dataclass
from datetime import date

from shared.calendar import TradingCalendar
from shared.errors import FiblakeError
from shared.lake import valid_symbol
from shared.rules import broken_rules


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
    found = [] if valid_symbol(bar.symbol) else [f"symbol {bar.symbol!r} cannot be a key"]
    found += broken_rules(asdict(bar))
    try:
        calendar.ordinal(bar.session)
    except FiblakeError as error:
        found.append(str(error))
    return found

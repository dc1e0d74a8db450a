"""Check bars: which ones may be stored, why others may not, and which ones are suspicious (pure)."""

from dataclasses import asdict, dataclass
from datetime import date

from fiblake.bars import ReportedBar
from fiblake.calendar import TradingCalendar
from fiblake.lake import valid_symbol
from fiblake.rules import broken_rules


@dataclass(frozen=True, slots=True)
class VendorBar(ReportedBar):
    """A daily bar as the vendor reports it, under the session it belongs to; not validated yet."""

    dated: date | None = None
    """The day that the bar's own instant names, if that is not `session`."""


def faults(bar: VendorBar, calendar: TradingCalendar) -> list[str]:
    """Return every reason why `bar` may not be stored; empty: it may."""
    reasons = [] if valid_symbol(bar.symbol) else [f"symbol {bar.symbol!r} cannot be a key"]
    reasons += broken_rules(asdict(bar))
    if bar.dated:
        reasons.append(f"its instant is of {bar.dated}, and bars of {bar.session} were asked for")
    return reasons + calendar.faults(bar.session)

"""Decide whether bars before a company's listing date are its own (pure)."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Final

from fiblake.calendar import TradingCalendar
from fiblake.reference import Split
from fiblake.rules import is_jump, positive
from services.fetcher.validation import VendorBar
from shared.telemetry import logger

GAP_SESSIONS: Final = 20
"""Bars before a longer gap than this belong to another company; a halt of trading is shorter."""


def since_listing(
    bars: Sequence[VendorBar], listed: date | None, ratios: Mapping[tuple[str, date], float], jump_limit: float,
    calendar: TradingCalendar,
) -> tuple[list[VendorBar], str]:  # fmt: skip
    """Return the present company's bars, and the decision about bars before its listing date.

    The vendor's listing date may be years late, and earlier bars may be of another company of the ticker. They are the
    present company's as far back as no more than GAP_SESSIONS are between one bar and the next, unless the price
    jumps at the listing date.
    """
    ordered = sorted(bars, key=lambda bar: bar.session)
    place = next((n for n, bar in enumerate(ordered) if listed is None or bar.session >= listed), len(ordered))
    if place == 0:
        return ordered, ""
    first, at_listing = place, place
    while first > 0 and not _another_companys(ordered, first, at_listing, ratios, jump_limit, calendar):
        first -= 1
    left_out = ordered[:first]
    own = ordered[first].session if first < len(ordered) else None
    decided = f"listed on {listed} by the vendor, and its bars begin on {own}" if first < place else ""
    if left_out:
        more = f"{len(left_out)} bars up to {left_out[-1].session} are another company's or unexplained, and left out"
        decided = f"{decided}; {more}" if decided else f"listed on {listed} by the vendor; {more}"
    logger.warning("bars before the listing date", extra={"symbol": ordered[0].symbol, "decided": decided})
    return ordered[first:], decided


def _another_companys(  # noqa: PLR0917
    bars: Sequence[VendorBar], place: int, at_listing: int, ratios: Mapping[tuple[str, date], float],
    jump_limit: float, calendar: TradingCalendar,
) -> bool:  # fmt: skip
    """Return whether the bar before `place` is of another company than the one at it."""
    if place == len(bars):
        return False  # no bar since the listing date: there is nothing to compare with
    before, after = bars[place - 1], bars[place]
    gap = calendar.ordinal_on_or_after(after.session) - calendar.ordinal_on_or_after(before.session)
    if gap > GAP_SESSIONS:
        return True
    ratio = ratios.get((after.symbol, after.session), 1.0)
    comparable = positive(before.close) and positive(after.close)
    return place == at_listing and comparable and is_jump(after.close, before.close, ratio, jump_limit)


def split_ratios(symbol: str, bars: Iterable[VendorBar], splits: Iterable[Split]) -> Mapping[tuple[str, date], float]:
    """Return the factor of the splits between a bar and the one before it, for the bars that have such splits."""
    sessions = sorted({bar.session for bar in bars})
    ratios: dict[tuple[str, date], float] = {}
    for split in splits:
        after = next((session for session in sessions if session >= split.execution_date), None)
        if after:
            place = (symbol, after)
            ratios[place] = ratios.get(place, 1.0) * split.split_from / split.split_to
    return ratios

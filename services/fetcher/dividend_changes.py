"""Compare the dividends that the vendor reports with the stored ones, and choose the symbols to request (pure)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Final

from fiblake.errors import UpstreamError
from fiblake.reference import Dividend, dividend_fault

_NEVER: Final = datetime.min.replace(tzinfo=UTC)

MIN_PAYERS: Final = 10
"""An empty answer about this many payers is a fault; for fewer symbols a plan of two years may have no dividend."""


@dataclass(frozen=True, slots=True)
class DividendChanges:
    """The symbols whose dividends differ from the stored ones, with all their present dividends."""

    changed: dict[str, list[Dividend]] = field(default_factory=dict)
    refused: list[Dividend] = field(default_factory=list)
    """Invalid dividends. The stored dividend with the same id stays."""


def dividends_due(
    symbols: Collection[str], checked: Mapping[str, datetime], first: Collection[str], stale_before: datetime
) -> list[str]:
    """Return the symbols to request: `first` those with changes, then those that were never requested.

    After them come symbols whose last request is before `stale_before`, oldest first: the vendor also corrects old
    dividends.
    """
    others = [s for s in symbols if s not in first and checked.get(s, _NEVER) < stale_before]
    return [*sorted(first), *sorted(others, key=lambda symbol: (checked.get(symbol, _NEVER), symbol))]


def symbols_with_news(
    stored: Mapping[str, Sequence[Dividend]], recent: Iterable[Dividend], symbols: Collection[str]
) -> set[str]:
    """Return those of `symbols` whose `recent` dividends differ from the `stored` ones of the same time."""
    reported = by_symbol(d for d in recent if d.symbol in symbols and not dividend_fault(d))
    named = {*reported, *(symbol for symbol in stored if symbol in symbols)}
    return {symbol for symbol in named if reported.get(symbol, []) != _sorted(stored.get(symbol, []))}


def dividend_changes(
    stored: Mapping[str, Sequence[Dividend]], reported: Iterable[Dividend], in_doubt: Collection[str] = ()
) -> DividendChanges:
    """Compare an answer about some symbols with their stored dividends, including announced ones.

    An answer does not cover the time before its earliest dividend of any symbol, because a plan may include two years
    only. Stored dividends from before stay, without the vendor's factor, which is no longer updated. A stored dividend
    of the covered time that is missing from the answer is withdrawn. Symbols `in_doubt` count as different, because the
    content of their files is unknown.

    Raises UpstreamError if fewer than half of the dividends of the covered time are reported: such an answer is not
    used.
    """
    everything = list(reported)
    refused = [dividend for dividend in everything if dividend_fault(dividend)]
    good = [dividend for dividend in everything if not dividend_fault(dividend)]
    reach = min((dividend.ex_dividend_date for dividend in everything), default=date.max)
    _check_complete(stored, everything, reach)
    refused_ids = {(dividend.symbol, dividend.id) for dividend in refused}
    now = by_symbol([*good, *_remaining(stored, good, refused_ids, reach)])
    named = sorted({*stored, *now, *in_doubt})
    changed = [s for s in named if s in in_doubt or now.get(s, []) != _sorted(stored.get(s, []))]
    return DividendChanges({symbol: now.get(symbol, []) for symbol in changed}, refused)


def by_symbol(dividends: Iterable[Dividend]) -> dict[str, list[Dividend]]:
    """Return each symbol's dividends, oldest first; a dividend that two pages repeat is in the result once."""
    distinct = {(dividend.symbol, dividend.id): dividend for dividend in dividends}
    grouped: dict[str, list[Dividend]] = {}
    for dividend in _sorted(distinct.values()):
        grouped.setdefault(dividend.symbol, []).append(dividend)
    return grouped


def _remaining(
    stored: Mapping[str, Sequence[Dividend]],
    good: Iterable[Dividend],
    refused: Collection[tuple[str, str]],
    reach: date,
) -> list[Dividend]:
    """Return the stored dividends that stay although the answer does not have them."""
    reported = {(dividend.symbol, dividend.id) for dividend in good}
    missing = [d for of_symbol in stored.values() for d in of_symbol if (d.symbol, d.id) not in reported]
    before = [replace(d, historical_adjustment_factor=None) for d in missing if d.ex_dividend_date < reach]
    return [*before, *(d for d in missing if d.ex_dividend_date >= reach and (d.symbol, d.id) in refused)]


def _check_complete(stored: Mapping[str, Sequence[Dividend]], reported: Sequence[Dividend], reach: date) -> None:
    payers = sorted(symbol for symbol, dividends in stored.items() if dividends)
    if len(payers) >= MIN_PAYERS and not reported:
        raise UpstreamError(
            f"the vendor reports no dividend of {len(payers)} symbols that paid some ({', '.join(payers[:5])}, ...): "
            "such an answer is not trusted; if it is right, empty the table dividends"
        )
    expected = sum(d.ex_dividend_date >= reach for of_symbol in stored.values() for d in of_symbol)
    if 2 * len(reported) < expected:
        raise UpstreamError(
            f"the vendor reports {len(reported)} dividends since {reach} where {expected} are known, fewer than half: "
            "no dividend is withdrawn on such an answer; if it is right, empty the table dividends"
        )


def _sorted(dividends: Iterable[Dividend]) -> list[Dividend]:
    return sorted(dividends, key=lambda dividend: (dividend.symbol, dividend.ex_dividend_date, dividend.id))

"""Which of the vendor's splits can be used, and by which cumulative factor (pure)."""

from collections.abc import Iterable
from dataclasses import replace

from services.fetcher.wire import SplitRow
from shared.reference import Split
from shared.rules import positive


def usable(row: SplitRow) -> Split | None:
    """Give the split, or None if it lacks a ticker, a day, or a ratio that can be; its factor may still be nonsense."""
    ratio = (row.split_from, row.split_to)
    if not row.ticker or row.execution_date is None or not all(positive(number) for number in ratio):
        return None
    key = row.id or f"{row.ticker}:{row.execution_date}:{row.split_from:g}:{row.split_to:g}"
    factor = row.historical_adjustment_factor
    return Split(row.ticker, row.execution_date, *ratio, row.adjustment_type, factor, key)


def with_factors(splits: Iterable[Split]) -> list[Split]:
    """Give the splits by date and symbol, each with a factor: the vendor's, or else the ratio times the next factor.

    The factor of a symbol's last split is its ratio, that of an earlier one its ratio times that of the split after it
    (the vendor's rule: cumulative, so that one factor is enough for a bar).
    """
    latest: dict[str, float] = {}
    found = []
    for split in sorted(splits, key=lambda split: (split.execution_date, split.symbol, split.id), reverse=True):
        ours = split.split_from / split.split_to * latest.get(split.symbol, 1.0)
        given = split.historical_adjustment_factor
        latest[split.symbol] = given if positive(given) else ours
        found.append(replace(split, historical_adjustment_factor=latest[split.symbol]))
    return found[::-1]

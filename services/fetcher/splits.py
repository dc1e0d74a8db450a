"""Read the vendor's splits, and complete their cumulative factors (pure)."""

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from itertools import groupby

from fiblake.reference import Split, distinct
from fiblake.rules import is_factor
from services.fetcher.wire import SplitRow


def usable(row: SplitRow) -> Split | None:
    """Return the split, or None if it names no ticker.

    A missing or invalid day or ratio becomes NaN: `split_changes` refuses the split by name, and its ticker keeps the
    stored ones. If the split were left out, the other splits' factors would seem to contradict the ratios.
    """
    if not row.ticker:
        return None
    ratio = (row.split_from, row.split_to) if row.execution_date else (math.nan, math.nan)
    key = row.id or f"{row.ticker}:{row.execution_date}:{row.split_from:g}:{row.split_to:g}"
    factor = row.historical_adjustment_factor
    return Split(row.ticker, row.execution_date or date.max, *ratio, row.adjustment_type, factor, key)


def with_factors(splits: Iterable[Split]) -> list[Split]:
    """Return the splits by date and symbol, each with a factor: the vendor's, or else that of the ratios.

    A split that the vendor reports under two ids is in the result once. The factor of a day's splits is the product of
    their ratios and the factor of the next day (the vendor's rule: cumulative, so that one factor suffices for a bar).
    `split_changes` checks whether the vendor's factors agree with the ratios.
    """
    by_symbol: dict[str, list[Split]] = {}
    for split in splits:
        by_symbol.setdefault(split.symbol, []).append(split)
    filled = [
        split for of_symbol in by_symbol.values()
        for split in (_filled(of_symbol) if all(split.has_ratio for split in of_symbol) else of_symbol)
    ]  # fmt: skip
    return sorted(filled, key=lambda split: (split.execution_date, split.symbol, split.id))


def _filled(splits: Iterable[Split]) -> list[Split]:
    latest = 1.0
    filled: list[Split] = []
    by_day = groupby(sorted(splits, key=_day, reverse=True), key=_day)
    for _, of_day in by_day:
        reported = list(of_day)
        whole_day = math.prod(split.split_from / split.split_to for split in distinct(reported)) * latest
        vendor_factors = [s.historical_adjustment_factor for s in reported if is_factor(s.historical_adjustment_factor)]
        if not is_factor(whole_day):
            vendor_factors = []  # nothing can be compared with it, and `split_changes` refuses the splits
        latest = min(vendor_factors, key=lambda factor: abs(math.log(factor / whole_day)), default=whole_day)
        distinct_splits = distinct(reported)
        for split in distinct_splits:
            factor = split.historical_adjustment_factor
            usual = is_factor(factor) and len(distinct_splits) == len(reported)
            filled.append(split if usual else replace(split, historical_adjustment_factor=latest))
    return filled


def _day(split: Split) -> date:
    return split.execution_date

"""Which symbols' splits have changed: what the vendor reports against what is known (pure)."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Final

from shared.errors import UpstreamError
from shared.reference import Split
from shared.rules import positive

SAME: Final = 1e-6
"""How far two factors may be apart, by their size, that are one: the vendor rounds."""


@dataclass(frozen=True, slots=True)
class SplitChanges:
    """The symbols whose splits differ from what is known, with all the splits they have now."""

    changed: dict[str, list[Split]] = field(default_factory=dict)
    refused: list[Split] = field(default_factory=list)
    """Splits that cannot be; their symbols keep what is known of them."""


def split_changes(
    known: Mapping[str, Sequence[Split]], reported: Iterable[Split], symbols: Collection[str], today: date
) -> SplitChanges:
    """Compare all splits that the vendor reports with those that are known, for the symbols there are.

    A split announced for a day after `today` waits for its day: its factor is not true before. One that is reported no
    more is withdrawn. Raises UpstreamError if fewer than half of the known splits are reported: that is not trusted.
    """
    # By id, so that one reported on two pages counts once.
    ours = {(split.symbol, split.id): split for split in reported if split.symbol in symbols}
    by_symbol: dict[str, list[Split]] = {}
    for split in sorted(ours.values(), key=lambda split: (split.symbol, split.execution_date, split.id)):
        by_symbol.setdefault(split.symbol, []).append(split)
    now = {symbol: _executed(splits, today) for symbol, splits in by_symbol.items()}
    _check_complete(known, now)
    refused = [split for splits in now.values() for split in splits if not _possible(split)]
    kept = {split.symbol for split in refused}
    different = [s for s in sorted({*known, *now} - kept) if now.get(s, []) != list(known.get(s, []))]
    return SplitChanges({symbol: now.get(symbol, []) for symbol in different}, refused)


def _check_complete(known: Mapping[str, Sequence[Split]], now: Mapping[str, Sequence[Split]]) -> None:
    before, after = (sum(len(splits) for splits in of.values()) for of in (known, now))
    if 2 * after < before:
        raise UpstreamError(
            f"the vendor reports {after} splits where {before} are known, fewer than half: no split is withdrawn on "
            "such a list; if it is right, empty the table splits"
        )


def _executed(splits: Sequence[Split], today: date) -> list[Split]:
    """Give those of a symbol's splits (oldest first) that are executed, with the factors that are true today.

    Factors are cumulative: once a split is announced, those before it may have its factor in them already.
    """
    executed = [split for split in splits if split.execution_date <= today]
    if not executed or len(executed) == len(splits):
        return executed
    last, ahead = executed[-1], splits[len(executed)].historical_adjustment_factor
    ratio = last.split_from / last.split_to if last.split_to else math.nan
    if not (math.isclose(last.historical_adjustment_factor, ratio * ahead, rel_tol=SAME) and ahead > 0):
        return executed
    return [replace(s, historical_adjustment_factor=s.historical_adjustment_factor / ahead) for s in executed]


def _possible(split: Split) -> bool:
    numbers = (split.split_from, split.split_to, split.historical_adjustment_factor)
    return all(map(positive, numbers))

"""Which symbols' splits have changed: what the vendor reports against what is known (pure)."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from shared.errors import UpstreamError
from shared.reference import Split


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
    due = {(s.symbol, s.id): s for s in reported if s.symbol in symbols and s.execution_date <= today}
    before = sum(len(splits) for splits in known.values())
    if 2 * len(due) < before:
        raise UpstreamError(
            f"the vendor reports {len(due)} splits where {before} are known, fewer than half: no split is withdrawn on "
            "such a list; if it is right, empty the table splits"
        )
    refused = [split for split in due.values() if not _possible(split)]
    kept = {split.symbol for split in refused}
    now: dict[str, list[Split]] = {}
    for split in sorted(due.values(), key=lambda split: (split.symbol, split.execution_date, split.id)):
        now.setdefault(split.symbol, []).append(split)
    different = [s for s in sorted({*known, *now} - kept) if now.get(s, []) != list(known.get(s, []))]
    return SplitChanges({symbol: now.get(symbol, []) for symbol in different}, refused)


def _possible(split: Split) -> bool:
    numbers = (split.split_from, split.split_to, split.historical_adjustment_factor)
    return all(math.isfinite(number) and number > 0 for number in numbers)

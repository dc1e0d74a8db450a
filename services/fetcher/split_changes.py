"""Compare the splits that the vendor reports with the stored ones (pure)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

from fiblake.errors import UpstreamError
from fiblake.reference import Split, split_days
from fiblake.rules import is_factor


@dataclass(frozen=True, slots=True)
class SplitChanges:
    """The symbols whose splits differ from the stored ones, with all their present splits."""

    changed: dict[str, list[Split]] = field(default_factory=dict)
    refused: list[Split] = field(default_factory=list)
    """Invalid splits; their symbols keep the stored ones."""
    repaired: list[Split] = field(default_factory=list)
    """Splits, as reported, whose factors contradict the ratios; they are stored with the factors of the ratios."""


def split_changes(
    stored: Mapping[str, Sequence[Split]], reported: Iterable[Split], symbols: Collection[str], today: date,
    in_doubt: Collection[str] = (),
) -> SplitChanges:  # fmt: skip
    """Compare all splits that the vendor reports with the stored ones, for `symbols`.

    A split announced for a day after `today` waits for its day: its factor is not valid before. A split that is no
    longer reported is withdrawn. Cumulative factors that contradict the ratios are replaced by those of the ratios,
    because the company announces the ratios, and the factors are computed from them.

    Symbols `in_doubt` count as different, because the content of their files is unknown.

    Raises UpstreamError if fewer than half of the stored splits are reported: such an answer is not used.
    """
    # By id, so that one reported on two pages counts once.
    ours = {(split.symbol, split.id): split for split in reported if split.symbol in symbols}
    by_symbol: dict[str, list[Split]] = {}
    for split in sorted(ours.values(), key=lambda split: (split.symbol, split.execution_date, split.id)):
        by_symbol.setdefault(split.symbol, []).append(split)
    refused = [split for splits in by_symbol.values() for split in splits if not _possible(split)]
    refused_symbols = {split.symbol for split in refused}
    repaired: list[Split] = []
    now = {s: _executed(splits, today, repaired) for s, splits in by_symbol.items() if s not in refused_symbols}
    _check_complete(stored, now | {symbol: stored[symbol] for symbol in refused_symbols & stored.keys()})
    now |= {symbol: list(stored.get(symbol, [])) for symbol in refused_symbols}
    named = sorted({*stored, *now, *in_doubt})
    different = [s for s in named if s in in_doubt or now.get(s, []) != list(stored.get(s, []))]
    return SplitChanges({symbol: now.get(symbol, []) for symbol in different}, refused, repaired)


def _check_complete(stored: Mapping[str, Sequence[Split]], now: Mapping[str, Sequence[Split]]) -> None:
    before, after = (sum(len(splits) for splits in of.values()) for of in (stored, now))
    if 2 * after < before:
        raise UpstreamError(
            f"the vendor reports {after} splits where {before} are known, fewer than half: no split is withdrawn on "
            "such a list; if it is right, empty the table splits"
        )


def _executed(splits: Sequence[Split], today: date, repaired: list[Split]) -> list[Split]:
    """Return the executed splits of a symbol (oldest first), with the factors that are valid today.

    Factors are cumulative: when a split is announced, the earlier factors may or may not include it already. Factors
    that fit neither case are `repaired`.
    """
    executed = [split for split in splits if split.execution_date <= today]
    if not executed or all(day.agrees for day in split_days(executed)):
        return executed
    announced = split_days(split for split in splits if split.execution_date > today)
    if announced:
        ahead = announced[0].factor
        rest = [replace(s, historical_adjustment_factor=s.historical_adjustment_factor / ahead) for s in executed]
        if all(day.agrees for day in split_days(rest)):
            return rest
    right: list[Split] = []
    for day in split_days(executed):
        repaired += [] if day.agrees else day.splits
        right += [s if day.agrees else replace(s, historical_adjustment_factor=day.factor) for s in day.splits]
    return right


def _possible(split: Split) -> bool:
    return split.has_ratio and is_factor(split.historical_adjustment_factor)

"""Which dead letters are of faults that have been mended since: what they are about lags no longer."""

import re
from collections.abc import Sequence
from typing import Final

from services.reconcile.lag import Lag
from services.reconcile.reconcile import Reconciler
from shared.dead_letters import DeadLetter

_RESAMPLE: Final = re.compile(r"resample-(\d+)d")
_OF_BRONZE: Final = ("bronze-arrivals", "consolidation")


def mended(letters: Sequence[DeadLetter], reconciler: Reconciler) -> set[str]:
    """Return the ids of the letters whose symbols the audit finds nothing wrong with any more.

    Only letters about files and completions of symbols that the lake knows can be told apart so; no other is among
    them, nor is one about another bucket.
    """
    known = set(reconciler.symbols_of_bronze())
    bucket = reconciler.store.bucket
    about = {
        letter.message.id: letter
        for letter in letters
        if letter.symbols
        and known.issuperset(letter.symbols)
        and (letter.queue in _OF_BRONZE or _interval(letter))
        and (letter.queue != "bronze-arrivals" or bucket in letter.message.body)
    }
    if not about:
        return set()
    symbols = sorted({symbol for letter in about.values() for symbol in letter.symbols})
    intervals = sorted({interval for letter in about.values() if (interval := _interval(letter))})
    lags = reconciler.audit(symbols, None, intervals=intervals).lags
    return {name for name, letter in about.items() if not any(_concerns(lag, letter) for lag in lags)}


def _concerns(lag: Lag, letter: DeadLetter) -> bool:
    """Return whether the letter's work cannot have been done as long as this lags."""
    return lag.symbol in {"", *letter.symbols} and lag.interval in {None, _interval(letter)}


def _interval(letter: DeadLetter) -> int | None:
    match = _RESAMPLE.fullmatch(letter.queue)
    return int(match[1]) if match else None

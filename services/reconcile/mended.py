"""Find the dead letters whose cause is gone: their symbol no longer lags."""

import re
from collections.abc import Sequence
from typing import Final

from services.reconcile.lag import Lag
from services.reconcile.reconcile import Reconciler
from shared.dead_letters import DeadLetter

_RESAMPLE: Final = re.compile(r"resample-(\d+)d")
_OF_BRONZE: Final = ("bronze-arrivals", "consolidation")


def find_mended(letters: Sequence[DeadLetter], reconciler: Reconciler) -> set[str]:
    """Return the ids of the letters whose symbols no longer lag, according to the audit.

    This can be said only of letters about files and completions of symbols in the lake. No other letter is returned,
    nor one about another bucket.
    """
    symbols_known = set(reconciler.symbols_of_bronze())
    bucket = reconciler.store.bucket
    about = {
        letter.message.id: letter
        for letter in letters
        if letter.symbols
        and symbols_known.issuperset(letter.symbols)
        and (letter.queue in _OF_BRONZE or _interval(letter))
        and (letter.queue != "bronze-arrivals" or bucket in letter.message.body)
    }
    if not about:
        return set()
    symbols = sorted({symbol for letter in about.values() for symbol in letter.symbols})
    intervals = sorted({interval for letter in about.values() if (interval := _interval(letter))})
    lags = reconciler.audit(symbols, None, intervals=intervals).lags
    return {name for name, letter in about.items() if not any(_can_block(lag, letter) for lag in lags)}


def _can_block(lag: Lag, letter: DeadLetter) -> bool:
    """Return whether this lag may be the letter's work that is not done."""
    return lag.symbol in {"", *letter.symbols} and lag.interval in {None, _interval(letter)}


def _interval(letter: DeadLetter) -> int | None:
    match = _RESAMPLE.fullmatch(letter.queue)
    return int(match[1]) if match else None

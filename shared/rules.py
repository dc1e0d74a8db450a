"""Which bars cannot be: the rules of prices and volumes (pure)."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

PRICES: Final = ("open", "high", "low", "close")


def broken_rules(bar: Mapping[str, float]) -> list[str]:
    """Give every rule that a bar (open, high, low, close in USD; volume in shares) breaks; none: it may be."""
    broken = [f"{name} {bar[name]} is not a positive number" for name in PRICES if not positive(bar[name])]
    if not (math.isfinite(bar["volume"]) and bar["volume"] >= 0):
        broken.append(f"volume {bar['volume']} is not a number of shares")
    if not broken and bar["high"] < max(bar["open"], bar["close"], bar["low"]):
        broken.append(f"high {bar['high']} is below another price")
    if not broken and bar["low"] > min(bar["open"], bar["close"]):
        broken.append(f"low {bar['low']} is above another price")
    return broken


def unbroken(bars: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Return, for each of many bars, whether it breaks no rule of `broken_rules`; `bars` has an array a column."""
    open_, high, low, close = (np.asarray(bars[name]) for name in PRICES)
    volume = np.asarray(bars["volume"])
    highest, lowest = np.maximum(open_, close), np.minimum(open_, close)
    # Comparisons with what is no number are false, and so is the whole.
    fine = (low > 0) & (low <= lowest) & (highest <= high) & (high < np.inf) & (volume >= 0) & (volume < np.inf)
    return np.asarray(fine, dtype=np.bool_)


def any_broken(bars: Mapping[str, Any]) -> bool:
    """Return whether any of many bars breaks a rule of `broken_rules`; `bars` has an array a column."""
    return not unbroken(bars).all()


def positive(value: float) -> bool:
    """Tell whether `value` is a number greater than 0, and finite."""
    return math.isfinite(value) and value > 0

"""The rules of prices and volumes (pure)."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

PRICE_COLUMNS: Final = ("open", "high", "low", "close")
NUMBER_COLUMNS: Final = (*PRICE_COLUMNS, "volume")
"""The numbers that every bar has."""
NOISE: Final = 1e-9
"""The relative difference by which a price may exceed an extreme: an effect of arithmetic, no contradiction."""
LARGEST_FACTOR: Final = 1e30
"""All reverse splits of a company together are below 1e12."""


def broken_rules(bar: Mapping[str, float]) -> list[str]:
    """Return every rule that a bar (open, high, low, close in USD; volume in shares) breaks; empty: it breaks none."""
    broken = [f"{name} {bar[name]} is not a positive number" for name in PRICE_COLUMNS if not positive(bar[name])]
    if not (math.isfinite(bar["volume"]) and bar["volume"] >= 0):
        broken.append(f"volume {bar['volume']} is not a number of shares")
    if broken:
        return broken
    highest, lowest = max(bar["open"], bar["close"]), min(bar["open"], bar["close"])
    if _passes(max(highest, bar["low"]), bar["high"]):
        broken.append(f"high {bar['high']} is below another price")
    if not broken and _passes(bar["low"], lowest):
        broken.append(f"low {bar['low']} is above another price")
    return broken


def unusable_numbers(bar: Mapping[str, float]) -> list[str]:
    """Return the values of a bar that are not numbers. Such a bar cannot be released from quarantine."""
    return [f"{name} {bar[name]} is no number" for name in NUMBER_COLUMNS if not math.isfinite(bar[name])]


def unbroken(bars: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Return, for each of many bars, whether it breaks no rule of `broken_rules`; `bars` has an array a column."""
    open_, high, low, close = (np.asarray(bars[name]) for name in PRICE_COLUMNS)
    volume = np.asarray(bars["volume"])
    highest, lowest = np.maximum(open_, close), np.minimum(open_, close)
    # Comparisons with NaN are false, and so is the result.
    strict = (low > 0) & (low <= lowest) & (highest <= high) & (high < np.inf) & (volume >= 0) & (volume < np.inf)
    if strict.all():  # nearly always true, and fast to check
        return np.asarray(strict, dtype=np.bool_)
    good = (low > 0) & (lowest > 0) & (highest < np.inf) & (high < np.inf) & (low < np.inf)
    good &= ~_passes(np.maximum(highest, low), high) & ~_passes(low, lowest) & (volume >= 0) & (volume < np.inf)
    return np.asarray(good, dtype=np.bool_)


def _passes(price: Any, extreme: Any) -> Any:  # noqa: ANN401 (numbers, or arrays of them)
    """Return whether a price exceeds an extreme by more than NOISE."""
    with np.errstate(over="ignore", invalid="ignore"):
        return price > extreme * (1 + NOISE)


def positive(value: float) -> bool:
    """Return whether `value` is a number greater than 0, and finite."""
    return math.isfinite(value) and value > 0


def is_factor(value: float) -> bool:
    """Return whether `value` can be a cumulative factor of prices: products and quotients of two stay finite."""
    return math.isfinite(value) and 1 / LARGEST_FACTOR < value < LARGEST_FACTOR


def is_jump(close: float, previous: float, split_ratio: float, limit: float) -> bool:
    """Return whether `close` is more than `limit` times the previous one, or less than one such part of it.

    A jump that a split between the two explains does not count: `split_ratio` is its effect on a price (2-for-1: 0.5).
    """
    changes = [close / expected for expected in (previous, previous * split_ratio)]
    return all(change > limit or change * limit < 1 for change in changes)

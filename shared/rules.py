"""Which bars cannot be: the rules of prices and volumes (pure)."""

import math
from collections.abc import Mapping

PRICES = ("open", "high", "low", "close")


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


def positive(value: float) -> bool:
    """Tell whether `value` is a number greater than 0, and finite."""
    return math.isfinite(value) and value > 0

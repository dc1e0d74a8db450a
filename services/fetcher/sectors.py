"""Find a company's sector: the division of its SIC code (pure)."""

from typing import Final

DIVISIONS: Final = (
    (range(1, 10), "Agriculture, Forestry and Fishing"),
    (range(10, 15), "Mining"),
    (range(15, 18), "Construction"),
    (range(20, 40), "Manufacturing"),
    (range(40, 50), "Transportation, Communications and Utilities"),
    (range(50, 52), "Wholesale Trade"),
    (range(52, 60), "Retail Trade"),
    (range(60, 68), "Finance, Insurance and Real Estate"),
    (range(70, 90), "Services"),
    (range(91, 99), "Public Administration"),
)
"""Divisions by major group, a code's first two digits (Standard Industrial Classification Manual, 1987)."""
DIGITS: Final = 4


def sector_of(sic_code: str | None) -> str | None:
    """Return the name of the division of a four-digit SIC code; None if it has none."""
    code = (sic_code or "").strip()
    if not (code.isascii() and code.isdigit()) or len(code) > DIGITS:
        return None
    # The vendor may have lost a leading zero: 100 is 0100, field crops.
    major = int(code.zfill(DIGITS)[:2])
    return next((name for groups, name in DIVISIONS if major in groups), None)

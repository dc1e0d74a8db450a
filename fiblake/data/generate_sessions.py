"""Refresh the calendar file: every NYSE session from 1962-01-02 to LAST (run `make calendar`, then `make test`).

Source: pandas_market_calendars' `NYSE`, which agrees with the S&P 500 index's dates since 1962. It needs pandas, which
is too large for a function, so the sessions are in a file. Raise LAST and run this again when sessions run out.
"""

from datetime import date
from pathlib import Path

import pandas_market_calendars

FIRST = date(1962, 1, 2)
LAST = date(2029, 12, 31)
FILE = Path(__file__).with_name("nyse_sessions.txt")


def sessions() -> list[date]:
    """Return all NYSE sessions from FIRST to LAST, both inclusive, as the source library knows them."""
    days = pandas_market_calendars.get_calendar("NYSE").valid_days(FIRST, LAST)
    return [day.date() for day in days]


def main() -> None:
    """Write the file the services read."""
    FILE.write_text("".join(f"{day.isoformat()}\n" for day in sessions()), encoding="ascii")


if __name__ == "__main__":
    main()

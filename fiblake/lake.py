"""The keys of the bucket: the one place that builds and parses them."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from difflib import get_close_matches
from typing import Final

from fiblake.errors import ContractError, NotFoundError

INTERVALS: Final = (3, 5, 8, 13, 21, 34)
"""Fibonacci intervals, in trading sessions."""

BRONZE_ROOT: Final = "bronze/"
SILVER_ROOT: Final = "silver/"
ARCHIVE_ROOT: Final = "archive/"
BRONZE_PREFIX: Final = "bronze/raw_ohlcv"
SPLITS_PREFIX: Final = "bronze/splits"
IDENTITIES_PREFIX: Final = "bronze/identities"
DIVIDENDS_PREFIX: Final = "bronze/dividends"
UNIVERSE_KEY: Final = "bronze/universe.parquet"
"""All known companies, with their symbols and times (schema UNIVERSE)."""
UNCLAIMED_PREFIX: Final = "bronze/unclaimed"
"""Rows of flat files that belong to no known company; a few objects for each chunk of sessions."""
REVISIONS_PREFIX: Final = "bronze/revisions"
QUARANTINE_PREFIX: Final = "bronze/quarantine"
MANIFEST_KEY: Final = "processing_metadata/consolidation_manifest.parquet"
CLEANUP_RECORD_KEY: Final = "processing_metadata/cleanup_manifest.json"
QUARANTINE_RECORD_KEY: Final = "processing_metadata/quarantine_releases.json"
WITHDRAWAL_RECORD_KEY: Final = "processing_metadata/withdrawals.json"
TAGS_PREFIX: Final = "processing_metadata/tags/"
LATEST_VERSION: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""A version of a data.parquet is before this instant, so that a later one is possible."""
UNNAMED: Final = "~"
"""Replaces a symbol that cannot be a key (quarantine only); no valid symbol contains it."""

_SYMBOL: Final = re.compile(r"[A-Za-z0-9.\-]{1,16}")
_SOURCE: Final = re.compile(
    r"date=(?P<date>\d{4}-\d{2}-\d{2})\.parquet|range=(?P<first>\d{4}-\d{2}-\d{2})_(?P<last>\d{4}-\d{2}-\d{2})\.parquet"
)
_ONE_FILE_A_SYMBOL: Final = (SPLITS_PREFIX, IDENTITIES_PREFIX, DIVIDENDS_PREFIX, REVISIONS_PREFIX)
_REFERENCE: Final = re.compile(rf"(?:{SPLITS_PREFIX}|{IDENTITIES_PREFIX}|{DIVIDENDS_PREFIX})/symbol=(.*)\.parquet")
_REVISIONS: Final = re.compile(rf"{REVISIONS_PREFIX}/symbol=(.*)\.parquet")
_DAY: Final = r"\d{4}-\d{2}-\d{2}"
_QUARANTINED: Final = re.compile(rf"{QUARANTINE_PREFIX}/symbol=[^/]+/(date={_DAY}|range={_DAY}_{_DAY})\.parquet")
_UNCLAIMED: Final = re.compile(rf"{UNCLAIMED_PREFIX}/range={_DAY}_{_DAY}/part=\d+\.parquet")
_MONTH_FILE: Final = re.compile(
    r"year=([0-9]{4})/month=(0[1-9]|1[0-2])/data_([0-9]{1,3})d_([0-9]{4})([0-9]{2})\.parquet"
)


def valid_symbol(symbol: str) -> bool:
    """Return whether `symbol` may become part of a key (letters, digits, dot, hyphen; 1 to 16)."""
    return _SYMBOL.fullmatch(symbol) is not None and symbol.strip(".") != ""


def check_symbol(symbol: str) -> str:
    """Return `symbol`; raise ContractError unless it may become part of a key."""
    if not valid_symbol(symbol):
        raise ContractError(f"{symbol[:40]!r} is not a symbol: 1 to 16 letters, digits, '.' or '-' are")
    return symbol


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that waits to be merged: one session (date=) or many (range=) of one symbol."""

    key: str
    symbol: str
    first: date
    last: date


@dataclass(frozen=True, slots=True)
class Bronze:
    """The bronze part of the lake under one prefix (environment variable S3_PREFIX)."""

    prefix: str = BRONZE_PREFIX

    def symbol_prefix(self, symbol: str) -> str:
        """Return the folder of one symbol, with its closing slash."""
        return f"{self.prefix}/symbol={check_symbol(symbol)}/"

    def symbols_in(self, folders: Iterable[str]) -> list[str]:
        """Return, sorted, the symbols whose folders are among `folders` (as a listing of the prefix gives them)."""
        names = (folder.removeprefix(f"{self.prefix}/symbol=").rstrip("/") for folder in folders)
        return sorted(name for name in names if valid_symbol(name))  # a listing sorts BRK.B/ before BRK/

    def data_key(self, symbol: str) -> str:
        """Return the key of the symbol's consolidated bars."""
        return f"{self.symbol_prefix(symbol)}data.parquet"

    def date_key(self, symbol: str, session: date) -> str:
        """Return the key of one session's bar."""
        return f"{self.symbol_prefix(symbol)}date={session.isoformat()}.parquet"

    def range_key(self, symbol: str, first: date, last: date) -> str:
        """Return the key of a file with many sessions."""
        return f"{self.symbol_prefix(symbol)}range={first.isoformat()}_{last.isoformat()}.parquet"

    def parse_source(self, key: str) -> SourceFile:
        """Parse a source file's key; raise ContractError with the problem if it is not a valid one."""
        head = f"{self.prefix}/symbol="
        symbol, slash, name = key.removeprefix(head).partition("/")
        if not key.startswith(head) or not slash:
            raise ContractError(f"key {key!r} is not of the form {head}SYMBOL/date=YYYY-MM-DD.parquet")
        match = _SOURCE.fullmatch(name)
        if match is None:
            raise ContractError(
                f"key {key!r}: {name!r} is neither date=YYYY-MM-DD.parquet nor range=FIRST_LAST.parquet"
            )
        first = match["date"] or match["first"]
        last = match["date"] or match["last"]
        try:
            source = SourceFile(key, check_symbol(symbol), date.fromisoformat(first), date.fromisoformat(last))
        except ValueError as error:
            raise ContractError(f"key {key!r}: {error}") from error
        if source.first > source.last:
            raise ContractError(f"key {key!r}: the range ends before it begins")
        return source

    def is_source(self, key: str) -> bool:
        """Return whether `key` is a well-formed date or range file of this lake."""
        try:
            self.parse_source(key)
        except ContractError:
            return False
        return True

    def is_consolidated(self, key: str) -> bool:
        """Return whether `key` is a symbol's data.parquet (which is no arrival)."""
        match = re.fullmatch(re.escape(self.prefix) + r"/symbol=([^/]+)/data\.parquet", key)
        return match is not None and valid_symbol(match[1])

    def roots(self) -> list[str]:
        """Return the folders of bronze, each with its closing slash."""
        own = f"{self.prefix}/"
        return [BRONZE_ROOT] if own.startswith(BRONZE_ROOT) else [own, BRONZE_ROOT]

    def symbol_of(self, key: str) -> str:
        """Return the symbol's part of the key of an object below a symbol's folder; else an empty text."""
        folder, slash, _ = key.removeprefix(f"{self.prefix}/symbol=").partition("/")
        return folder if slash and key.startswith(f"{self.prefix}/symbol=") else ""

    def remedy_for_stray(self, key: str) -> str | None:
        """Return the remedy for an object of bronze that no service reads; None if a service reads it.

        A folder marker (its key ends in a slash) is empty and needs no remedy, unless it is named like a file.
        """
        if key.endswith("/"):
            return "an empty folder that is named like a file: delete it" if key.endswith(".parquet/") else None
        if self.is_source(key) or self.is_consolidated(key) or key == UNIVERSE_KEY or is_reference(key):
            return None
        revisions = _REVISIONS.fullmatch(key)
        if is_quarantined(key) or is_unclaimed(key) or (revisions and valid_symbol(revisions[1])):
            return None
        if key.startswith(f"{self.prefix}/"):
            return self._stray_bars(key)
        if key.startswith(tuple(f"{prefix}/" for prefix in _ONE_FILE_A_SYMBOL)):
            return "not of the form symbol=SYMBOL.parquet: put it under such a name, and delete this one"
        return f"no service reads it: move it out of {BRONZE_ROOT}"

    def _stray_bars(self, key: str) -> str:
        folder, _, name = key.removeprefix(f"{self.prefix}/").partition("/")
        symbol = folder.removeprefix("symbol=")
        if not folder.startswith("symbol=") or not valid_symbol(symbol):
            return f"not below {self.prefix}/symbol=SYMBOL/: put its bars there, and delete this one"
        lower = name.lower()
        meant = next((n for n in (lower, f"date={lower}") if self.is_source(f"{self.symbol_prefix(symbol)}{n}")), None)
        if meant:
            return f"move it to {self.symbol_prefix(symbol)}{meant}"
        return "not named date=YYYY-MM-DD.parquet or range=FIRST_LAST.parquet: put its bars so, and delete this one"


def check_known(requested: Iterable[str], existing: Collection[str]) -> None:
    """Raise NotFoundError, with the nearest symbols, if the lake does not have a requested symbol."""
    unknown = sorted(set(requested) - set(existing))
    if not unknown:
        return
    raise NotFoundError(f"the lake has no bars of {', '.join(unknown)}{nearest_hint(unknown, existing)}")


def nearest_hint(unknown: Iterable[str], existing: Iterable[str]) -> str:
    """Return " (did you mean AAPL?)" with the known symbols nearest to the unknown ones, empty if none is near."""
    capitals = {symbol.upper(): symbol for symbol in existing}
    nearest = {
        capitals[match]: None
        for unknown_symbol in unknown
        for match in get_close_matches(unknown_symbol.upper(), capitals, 1)
    }
    return f" (did you mean {', '.join(nearest)}?)" if nearest else ""


def tag_key(name: str) -> str:
    """Return the key of a tag, a name for an instant that `fiblake.tags.check_tag` has passed."""
    return f"{TAGS_PREFIX}{name}.json"


def revisions_key(symbol: str) -> str:
    """Return the key of the superseded statements of the symbol's data.parquet (schema REVISIONS)."""
    return f"{REVISIONS_PREFIX}/symbol={check_symbol(symbol)}.parquet"


def splits_key(symbol: str) -> str:
    """Return the key of the symbol's splits (schema SPLITS)."""
    return f"{SPLITS_PREFIX}/symbol={check_symbol(symbol)}.parquet"


def identities_key(symbol: str) -> str:
    """Return the key of the companies that had the symbol (schema IDENTITIES)."""
    return f"{IDENTITIES_PREFIX}/symbol={check_symbol(symbol)}.parquet"


def dividends_key(symbol: str) -> str:
    """Return the key of the symbol's dividends (schema DIVIDENDS)."""
    return f"{DIVIDENDS_PREFIX}/symbol={check_symbol(symbol)}.parquet"


def parse_reference(key: str) -> str | None:
    """Return the symbol of a file of splits, identities or dividends, or None for others; raises as check_symbol."""
    match = _REFERENCE.fullmatch(key)
    return check_symbol(match[1]) if match else None


def is_reference(key: str) -> bool:
    """Return whether `key` is that of a file of splits, identities or dividends."""
    match = _REFERENCE.fullmatch(key)
    return match is not None and valid_symbol(match[1])


def is_dividends(key: str) -> bool:
    """Return whether `key` is of a file of dividends, which silver does not use."""
    return key.startswith(f"{DIVIDENDS_PREFIX}/")


def quarantine_key(symbol: str, session: date) -> str:
    """Return the key of the bars of one session that failed validation; an invalid symbol goes under `~`."""
    name = symbol if valid_symbol(symbol) else UNNAMED
    return f"{QUARANTINE_PREFIX}/symbol={name}/date={session.isoformat()}.parquet"


def quarantine_range_key(symbol: str, first: date, last: date) -> str:
    """Return the key of many bars of one symbol that failed validation, all from one file."""
    return f"{QUARANTINE_PREFIX}/symbol={check_symbol(symbol)}/range={first.isoformat()}_{last.isoformat()}.parquet"


def is_quarantined(key: str) -> bool:
    """Return whether `key` is that of bars in quarantine."""
    return _QUARANTINED.fullmatch(key) is not None


def is_unclaimed(key: str) -> bool:
    """Return whether `key` is that of rows of flat files that belong to no known company."""
    return _UNCLAIMED.fullmatch(key) is not None


def unclaimed_key(first: date, last: date, part: int) -> str:
    """Return the key of rows of flat files of these sessions that belong to no known company; parts count from 0."""
    return f"{UNCLAIMED_PREFIX}/range={first.isoformat()}_{last.isoformat()}/part={part:04d}.parquet"


def holds_all_symbols(key: str) -> bool:
    """Return whether `key` is of a table that has rows of all symbols: it may be larger than a file of one symbol.

    These are month files, a session's bars in quarantine or in the archive, and copies of such files.
    """
    return key.startswith((SILVER_ROOT, f"{QUARANTINE_PREFIX}/", ARCHIVE_ROOT))


def archive_key(session: date) -> str:
    """Return the key of the rows of one session that were moved out of Postgres (schema BRONZE, by symbol)."""
    return f"{ARCHIVE_ROOT}raw_ohlcv/year={session:%Y}/month={session:%m}/date={session.isoformat()}.parquet"


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A calendar month: silver has one file for each month."""

    year: int
    month: int

    @classmethod
    def of(cls, day: date) -> "Month":
        """Return the month of `day`."""
        return cls(day.year, day.month)


def silver_prefix(interval: int) -> str:
    """Return the folder of one interval's table, with its closing slash."""
    return f"{SILVER_ROOT}silver_{interval}d/"


def silver_key(interval: int, month: Month) -> str:
    """Return the key of the file with all symbols' buckets that start in `month`."""
    y, m = f"{month.year:04d}", f"{month.month:02d}"
    return f"{silver_prefix(interval)}year={y}/month={m}/data_{interval}d_{y}{m}.parquet"


def parse_silver_key(interval: int, key: str) -> Month | None:
    """Return the month of a silver file of `interval`, or None if `key` is something else."""
    match = _MONTH_FILE.fullmatch(key.removeprefix(silver_prefix(interval)))
    if match is None or match.group(1, 2) != match.group(4, 5) or int(match[3]) != interval:
        return None
    return Month(int(match[1]), int(match[2]))


def checkpoint_key(interval: int) -> str:
    """Return the key of one interval's checkpoint."""
    return f"processing_metadata/silver_{interval}d_checkpoint.json"

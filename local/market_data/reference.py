"""The companies, splits and dividends that are replayed: those of a folder's tickers.csv, splits.csv, ... (FILES).

Without tickers.csv every symbol with bars is a common stock, listed on the day of its first bar.
"""

import csv
import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

from fiblake.errors import ConfigurationError
from local.market_data.bars import Bars
from local.market_data.query import Json

FILES: Final = frozenset({"tickers.csv", "splits.csv", "dividends.csv", "ticker_changes.csv"})
_LISTED: Final = ("name", "primary_exchange", "type", "currency_name", "cik", "composite_figi", "share_class_figi")
BLANK: Final = "-"
"""In tickers.csv, the value of a field that the vendor leaves out."""
_DEFAULTS: Final = {"type": "CS", "primary_exchange": "XNAS", "currency_name": "usd"}


@dataclass(frozen=True, slots=True)
class Company:
    """A company under one ticker, from `listed` to `delisted`, its last day (None: always, and still)."""

    ticker: str
    listed: date | None
    delisted: date | None
    fields: Json
    """Its fields in the list of tickers, except whether it is active."""
    details: Json
    """Further fields, of its details."""

    def trades(self, day: date | None) -> bool:
        """Return whether it is listed on that day (None: now)."""
        if day is None:
            return self.delisted is None
        return (self.listed is None or self.listed <= day) and (self.delisted is None or day <= self.delisted)


@dataclass(frozen=True, slots=True)
class Split:
    """A split, known to /replay/splits by `id`."""

    id: str
    ticker: str
    execution_date: date
    split_from: float
    split_to: float
    adjustment_type: str


@dataclass(frozen=True, slots=True)
class Dividend:
    """A cash dividend; `fields` are those that the file says of it beyond the others."""

    id: str
    ticker: str
    ex_dividend_date: date
    cash_amount: float
    declaration_date: date | None
    fields: Json


@dataclass(frozen=True, slots=True)
class Change:
    """A change of ticker: from `date` on, the company that requests name as `ticker` has the ticker `changed_to`."""

    ticker: str
    date: date
    changed_to: str


@dataclass(frozen=True, slots=True)
class Reference:
    """The folder's companies, splits and dividends."""

    companies: list[Company]
    splits: list[Split]
    changes: list[Change]
    dividends: list[Dividend]

    @classmethod
    def read(cls, folder: Path, bars: Bars) -> "Reference":
        """Read the existing files of the folder; raise ConfigurationError with the name of an invalid one."""
        try:
            rows = _rows(folder / "tickers.csv")
            if rows is None:
                rows = [{"ticker": symbol, "list_date": str(bars.first_session(symbol))} for symbol in bars.places]
            return cls(
                sorted((_company(row) for row in rows), key=lambda company: company.ticker),
                [_split(row) for row in _rows(folder / "splits.csv") or []],
                [_change(row) for row in _rows(folder / "ticker_changes.csv") or []],
                [_dividend(row) for row in _rows(folder / "dividends.csv") or []],
            )
        except (KeyError, ValueError, csv.Error, OSError) as error:
            raise ConfigurationError(f"a file of {', '.join(sorted(FILES))} in {folder} is wrong: {error!r}") from error


def _rows(path: Path) -> list[dict[str, str]] | None:
    """Read a CSV file's rows without their empty cells, or return None if there is no such file; any case of header."""
    if not path.exists():
        return None
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines)
        return [{name.strip().lower(): value for name, value in row.items() if name and value} for row in rows]


def _company(row: Mapping[str, str]) -> Company:
    ticker = row["ticker"]
    figis = {"composite_figi": _figi(ticker, "composite"), "share_class_figi": _figi(ticker, "share class")}
    company_fields = {"name": f"{ticker} Inc.", **_DEFAULTS, **figis, **row}
    fields: Json = {"ticker": ticker, "market": "stocks", "locale": "us"}
    fields |= {name: company_fields[name] for name in _LISTED if company_fields.get(name, BLANK) != BLANK}
    fields |= {"is_test": True} if row.get("is_test") == "true" else {}
    details = {name: row[name] for name in ("list_date", "sic_code", "sic_description") if name in row}
    return Company(ticker, _day(row, "list_date"), _day(row, "delisted_date"), fields, details)


def _figi(ticker: str, what: str) -> str:
    """Return an identifier in FIGI's format that is always the same. It has a vowel, so no real company has it."""
    return f"BBGA{hashlib.sha256(f'{what} {ticker}'.encode()).hexdigest()[:8].upper()}"


def _split(row: Mapping[str, str]) -> Split:
    ticker, day = row["ticker"], date.fromisoformat(row["execution_date"])
    split_from, split_to = float(row["split_from"]), float(row["split_to"])
    kind = "forward_split" if split_to > split_from else "reverse_split"
    return Split(f"{ticker}-{day}", ticker, day, split_from, split_to, row.get("adjustment_type", kind))


def _dividend(row: Mapping[str, str]) -> Dividend:
    ticker, day = row["ticker"], date.fromisoformat(row["ex_dividend_date"])
    kind = row.get("distribution_type", "recurring")
    fields: Json = {name: row[name] for name in ("declaration_date", "record_date", "pay_date") if name in row}
    fields |= {"currency": row.get("currency", "USD"), "distribution_type": kind}
    fields |= {"frequency": int(row["frequency"])} if "frequency" in row else {}
    declared = _day(row, "declaration_date")
    return Dividend(f"{ticker}-{day}-{kind}", ticker, day, float(row["cash_amount"]), declared, fields)


def _change(row: Mapping[str, str]) -> Change:
    return Change(row["ticker"], date.fromisoformat(row["date"]), row["changed_to"])


def _day(row: Mapping[str, str], name: str) -> date | None:
    return date.fromisoformat(row[name]) if name in row else None


def payout_factors(dividends: Iterable[Dividend], splits: Iterable[Split], bars: Bars, last: date) -> dict[str, float]:
    """Return each dividend's factor by its id: the rounded product of its own factor and its ticker's later ones.

    All dividends of a day have one factor. A dividend after session `last`, or without a bar before it, has factor 1.
    """
    by_ticker: dict[str, dict[date, list[Dividend]]] = {}
    for dividend in dividends:
        by_ticker.setdefault(dividend.ticker, {}).setdefault(dividend.ex_dividend_date, []).append(dividend)
    known_splits = list(splits)
    factors: dict[str, float] = {}
    for ticker, days in by_ticker.items():
        latest, own = 1.0, bars.of_symbol(ticker, date.min, last)
        for day in sorted(days, reverse=True):
            place = bisect_left(own, day, key=lambda bar: bar.session)
            if place and day <= last:
                before = own[place - 1]
                between = [s for s in known_splits if s.ticker == ticker and before.session < s.execution_date <= day]
                close = before.close * math.prod(split.split_from / split.split_to for split in between)
                latest *= 1 - sum(dividend.cash_amount for dividend in days[day]) / close
            factors |= {dividend.id: round(latest, 6) for dividend in days[day]}
    return factors


def cumulative(splits: Iterable[Split]) -> dict[str, float]:
    """Return each split's factor by its id: the product of its own ratio and those of its ticker's later splits."""
    latest: dict[str, float] = {}
    factors = {}
    for split in sorted(splits, key=lambda split: split.execution_date, reverse=True):
        latest[split.ticker] = latest.get(split.ticker, 1.0) * split.split_from / split.split_to
        factors[split.id] = latest[split.ticker]
    return factors

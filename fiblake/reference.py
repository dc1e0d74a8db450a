"""The reference data of a symbol: its splits, its dividends, and the companies that had it (pure).

Splits, companies and dividends are small Parquet files, one for each symbol. They arrive like bars, and the worker
stores them in the metadata of data.parquet (`fiblake/adjustment.py`). The resampler applies splits and companies. A
reader of total return applies dividends, too. Bars in bronze stay as traded.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any, Final

import pyarrow as pa

from fiblake.adjustment import Payout, Reference
from fiblake.bars import decode_rows, encode_rows
from fiblake.errors import ContractError
from fiblake.rules import is_factor, positive

FACTOR_TOLERANCE: Final = 1e-3
"""The accepted relative difference of a cumulative factor and the product of the ratios: the vendor rounds both."""

LARGEST_CASH: Final = 1e12
"""The sum of many such amounts is still finite."""
_REMEDY: Final = "put a right file under the same key"
_USD: Final = "USD"
SPLITS: Final = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("execution_date", pa.date32(), nullable=False),
        pa.field("split_from", pa.float64(), nullable=False),
        pa.field("split_to", pa.float64(), nullable=False),
        pa.field("adjustment_type", pa.string(), nullable=False),
        pa.field("historical_adjustment_factor", pa.float64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
    ]
)
"""A split, as the vendor reports it: `split_from` shares became `split_to` on the morning of `execution_date`."""

IDENTITIES: Final = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("valid_from", pa.date32(), nullable=False),
        pa.field("valid_to", pa.date32()),
        pa.field("composite_figi", pa.string()),
        pa.field("name", pa.string()),
    ]
)
"""A company that had the symbol from session `valid_from` to session `valid_to` (null: until now)."""

DIVIDENDS: Final = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("ex_dividend_date", pa.date32(), nullable=False),
        pa.field("cash_amount", pa.float64(), nullable=False),
        pa.field("currency", pa.string()),
        pa.field("declaration_date", pa.date32()),
        pa.field("record_date", pa.date32()),
        pa.field("pay_date", pa.date32()),
        pa.field("frequency", pa.int64()),
        pa.field("distribution_type", pa.string()),
        pa.field("split_adjusted_cash_amount", pa.float64()),
        pa.field("historical_adjustment_factor", pa.float64()),
        pa.field("id", pa.string(), nullable=False),
    ]
)
"""A cash dividend, as the vendor reports it: the owner of a share before `ex_dividend_date` gets `cash_amount`.

`cash_amount` is per share as traded on that day (null `currency`: USD). `frequency` is the vendor's integer, because
its meaning differs between sources. The two adjusted columns are the vendor's values, and nothing is computed with
them: `split_adjusted_cash_amount` is per share of today, `historical_adjustment_factor` is cumulative.
"""


@dataclass(frozen=True, slots=True)
class Split:
    """One split (a row of SPLITS).

    `historical_adjustment_factor` is cumulative (vendor's rule). It multiplies prices before `execution_date`, and on
    or after the split before it, to compare them with today's prices. Volume is divided by it.
    """

    symbol: str
    execution_date: date
    split_from: float
    split_to: float
    adjustment_type: str
    historical_adjustment_factor: float
    id: str

    @property
    def has_ratio(self) -> bool:
        """Whether the split has a valid ratio: two positive numbers of shares, whose ratio can be a factor."""
        return positive(self.split_from) and positive(self.split_to) and is_factor(self.split_from / self.split_to)


@dataclass(frozen=True, slots=True)
class Identity:
    """One company that had the symbol (a row of IDENTITIES)."""

    symbol: str
    valid_from: date
    valid_to: date | None
    composite_figi: str | None
    name: str | None


@dataclass(frozen=True, slots=True)
class Dividend:
    """One cash dividend (a row of DIVIDENDS)."""

    symbol: str
    ex_dividend_date: date
    cash_amount: float
    currency: str | None
    declaration_date: date | None
    record_date: date | None
    pay_date: date | None
    frequency: int | None
    distribution_type: str | None
    split_adjusted_cash_amount: float | None
    historical_adjustment_factor: float | None
    id: str


def splits_file(splits: Sequence[Split]) -> bytes:
    """Return the bytes of a symbol's file of splits; an empty file is valid: its splits were withdrawn."""
    rows = _rows_of(sorted(splits, key=_by_day), SPLITS)
    return encode_rows(rows, SPLITS, _named("splits", rows))


def read_splits(data: bytes, symbol: str) -> tuple[Split, ...]:
    """Read a symbol's splits, oldest first; raise ContractError if the file or one of its numbers cannot be used.

    It also raises ContractError if the cumulative factors are not the product of the ratios: only the author of the
    file can say which of the two is right.
    """
    splits = tuple(Split(**row) for row in decode_rows(data, SPLITS, f"the splits of {symbol}", _REMEDY))
    for split in splits:
        factor = split.historical_adjustment_factor
        if split.symbol != symbol or not is_factor(factor):
            detail = f"{split.symbol[:40]} on {split.execution_date}, factor {factor}"
            raise ContractError(f"the splits of {symbol} hold one that cannot be: {detail}")
        if not positive(split.split_from) or not positive(split.split_to):
            detail = f"{split.split_from} shares became {split.split_to} on {split.execution_date}"
            raise ContractError(f"the splits of {symbol} hold one that cannot be: {detail}")
    for day in split_days(splits):
        if not day.agrees:
            vendor_factors = ", ".join(f"{split.historical_adjustment_factor:g}" for split in day.splits)
            raise ContractError(
                f"the splits of {symbol} contradict themselves: on {day.day} the cumulative factor is "
                f"{vendor_factors}, and the ratios of that day and of all later ones make {day.expected:g}; set "
                "historical_adjustment_factor or the ratios right and put the file again"
            )
    return tuple(sorted(splits, key=_by_day))


def identities_file(identities: Sequence[Identity]) -> bytes:
    """Return the bytes of a symbol's file of companies."""
    rows = _rows_of(sorted(identities, key=_by_beginning), IDENTITIES)
    return encode_rows(rows, IDENTITIES, _named("identities", rows))


def read_identities(data: bytes, symbol: str) -> tuple[Identity, ...]:
    """Read the companies that had a symbol, oldest first; raise ContractError if the file is not valid."""
    rows = decode_rows(data, IDENTITIES, f"the identities of {symbol}", _REMEDY)
    identities = tuple(Identity(**row) for row in rows)
    if any(identity.symbol != symbol for identity in identities):
        raise ContractError(f"the identities of {symbol} hold another symbol's")
    return tuple(sorted(identities, key=_by_beginning))


def dividends_file(dividends: Sequence[Dividend]) -> bytes:
    """Return the bytes of a symbol's file of dividends; without dividends the file is valid, too."""
    rows = _rows_of(sorted(dividends, key=_by_ex_date), DIVIDENDS)
    return encode_rows(rows, DIVIDENDS, _named("dividends", rows))


def read_dividends(data: bytes, symbol: str) -> tuple[Dividend, ...]:
    """Read a symbol's dividends, oldest first; raise ContractError if the file or one of its numbers cannot be used."""
    rows = decode_rows(data, DIVIDENDS, f"the dividends of {symbol}", _REMEDY)
    dividends = tuple(Dividend(**row) for row in rows)
    for dividend in dividends:
        if fault := dividend_fault(dividend):
            described = f"{dividend.symbol[:40]} on {dividend.ex_dividend_date}, {fault}"
            raise ContractError(f"the dividends of {symbol} hold one that cannot be: {described}; {_REMEDY}")
        if dividend.symbol != symbol:
            raise ContractError(f"the dividends of {symbol} hold one of {dividend.symbol[:40]}; {_REMEDY}")
    return tuple(sorted(dividends, key=_by_ex_date))


def dividend_fault(dividend: Dividend) -> str:
    """Return the fault of a dividend's numbers; empty: there is none."""
    if not positive(dividend.cash_amount):
        return f"cash_amount {dividend.cash_amount} is not a positive number"
    if dividend.cash_amount > LARGEST_CASH:
        return f"cash_amount {dividend.cash_amount} is more than {LARGEST_CASH:g} a share"
    factor = dividend.historical_adjustment_factor
    if factor is not None and not positive(factor):
        return f"historical_adjustment_factor {factor} is not a positive number"
    return ""


def _rows_of(
    items: Sequence[Split] | Sequence[Identity] | Sequence[Dividend], schema: pa.Schema
) -> list[dict[str, Any]]:
    """Return the values by column; `dataclasses.asdict` takes ten times as long, because it copies each value."""
    return [{name: getattr(item, name) for name in schema.names} for item in items]


def _named(kind: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of a symbol's file, for errors."""
    return f"the {kind} of {rows[0]['symbol']}" if rows else f"the {kind}"


def reference_of(
    splits: Sequence[Split], identities: Sequence[Identity], dividends: Sequence[Dividend] = ()
) -> Reference:
    """Return the content of the files in the form that is applied to bars; one company twice in a row is no handover.

    All splits of a day are one entry, with the product of their factors and the later ones. A split of a day on which
    no company had the symbol is left out. (A dividend of such a day has no bar and changes nothing.)
    """
    companies = sorted(identities, key=_by_beginning)
    handovers = [(old.valid_to, new.valid_from) for old, new in pairwise(companies) if not _same(old, new)]
    factors = [(day.day, day.factor) for day in split_days(splits)]
    for ended, begins in handovers:
        factors = _without(factors, ended, begins) if ended else factors
    return Reference(tuple(factors), tuple(begins for _, begins in handovers), payouts(dividends))


def payouts(dividends: Iterable[Dividend]) -> tuple[Payout, ...]:
    """Return one entry for each ex-date, oldest first: all cash of the day, and the vendor's factor of the whole day.

    A dividend that is reported twice, under two ids, counts once: the vendor has many of these. The cash of a dividend
    in another currency is unknown in USD. The smallest factor of a day includes all of its dividends.
    """
    by_day: dict[date, dict[tuple[object, ...], Dividend]] = {}
    for dividend in sorted(dividends, key=_by_ex_date):
        meaning = (f"{dividend.cash_amount:.9g}", dividend.currency, dividend.distribution_type, dividend.pay_date)
        by_day.setdefault(dividend.ex_dividend_date, {}).setdefault(meaning, dividend)
    return tuple(_payout(day, list(of_day.values())) for day, of_day in by_day.items())


def _payout(day: date, dividends: Sequence[Dividend]) -> Payout:
    in_dollars = [dividend.cash_amount for dividend in dividends if (dividend.currency or _USD).upper() == _USD]
    vendor_factors = [d.historical_adjustment_factor for d in dividends if d.historical_adjustment_factor is not None]
    return Payout(day, math.fsum(in_dollars), min(vendor_factors, default=None))


@dataclass(frozen=True, slots=True)
class SplitDay:
    """All splits of one symbol on one day; `expected` is the factor of the ratios of these and all later splits."""

    day: date
    splits: tuple[Split, ...]
    expected: float

    @property
    def agrees(self) -> bool:
        """Whether the splits' own factors agree with the ratios: one of them is the factor of the whole day."""
        return any(self._is_expected(split.historical_adjustment_factor) for split in self.splits)

    @property
    def factor(self) -> float:
        """The day's cumulative factor: the vendor's one, or that of the ratios if no vendor factor agrees."""
        vendor_factors = (split.historical_adjustment_factor for split in self.splits)
        agreeing = [factor for factor in vendor_factors if self._is_expected(factor)]
        return min(agreeing, key=lambda factor: abs(factor - self.expected), default=self.expected)

    def _is_expected(self, factor: float) -> bool:
        return math.isclose(factor, self.expected, rel_tol=FACTOR_TOLERANCE)


def split_days(splits: Iterable[Split]) -> list[SplitDay]:
    """Return one symbol's splits by day, oldest first, each day with the factor of the ratios.

    The order of a day's splits does not matter. A split that is reported twice, under two ids, counts once: no known
    company splits its shares twice on one day by the same ratio.
    """
    by_day: dict[date, list[Split]] = {}
    for split in sorted(splits, key=_by_day):
        by_day.setdefault(split.execution_date, []).append(split)
    days: list[SplitDay] = []
    later = 1.0
    for day in sorted(by_day, reverse=True):
        of_day = by_day[day]
        ratio = math.prod(split.split_from / split.split_to for split in distinct(of_day))
        days.append(SplitDay(day, tuple(of_day), ratio * later))
        later = days[-1].factor
    return days[::-1]


def distinct(splits: Iterable[Split]) -> list[Split]:
    """Return the splits without repetitions: of one symbol, on one day, by one ratio."""
    by_meaning: dict[tuple[str, date, str], Split] = {}
    for split in sorted(splits, key=_by_day):
        ratio = f"{split.split_from / split.split_to:.9g}"
        by_meaning.setdefault((split.symbol, split.execution_date, ratio), split)
    return list(by_meaning.values())


def _without(factors: Sequence[tuple[date, float]], ended: date, begins: date) -> list[tuple[date, float]]:
    """Leave out splits of days between two companies, and divide them out of the cumulative factors before them."""
    before = [(day, factor) for day, factor in factors if day <= ended]
    since = [(day, factor) for day, factor in factors if day >= begins]
    first_after = factors[len(before)][1] if len(before) < len(factors) else 1.0
    ratio = (since[0][1] if since else 1.0) / first_after
    return [*((day, factor * ratio) for day, factor in before), *since]


def _by_day(split: Split) -> tuple[date, str]:
    # The id only fixes the order of two splits on one day; their effect does not depend on it.
    return split.execution_date, split.id


def _by_ex_date(dividend: Dividend) -> tuple[date, str]:
    return dividend.ex_dividend_date, dividend.id


def _by_beginning(identity: Identity) -> tuple[date, date, str, str]:
    # The order of the file's rows has no meaning, also for two companies that begin on one day.
    ends = identity.valid_to or date.max
    return identity.valid_from, ends, identity.composite_figi or "", identity.name or ""


def _same(old: Identity, new: Identity) -> bool:
    return old.composite_figi is not None and old.composite_figi == new.composite_figi

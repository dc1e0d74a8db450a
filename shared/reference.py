"""What makes a symbol's bars comparable with each other: its splits, and which companies have borne it (pure).

Both are small Parquet files, one a symbol, that travel the way of the bars: the worker takes them into data.parquet's
metadata (`shared/adjustment.py`), the resampler applies them. Bars in bronze stay as traded.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from typing import Final

import pyarrow as pa

from shared.adjustment import Reference
from shared.bars import decode, encode
from shared.errors import ContractError
from shared.rules import positive

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
"""A company that bore the symbol from session `valid_from` to session `valid_to` (null: it still does)."""


@dataclass(frozen=True, slots=True)
class Split:
    """One split (a row of SPLITS).

    `historical_adjustment_factor` is cumulative (vendor's rule): a price before `execution_date`, and on or after the
    split before it, times this factor is comparable with today's. Volume is divided by it.
    """

    symbol: str
    execution_date: date
    split_from: float
    split_to: float
    adjustment_type: str
    historical_adjustment_factor: float
    id: str


@dataclass(frozen=True, slots=True)
class Identity:
    """One company that bore the symbol (a row of IDENTITIES)."""

    symbol: str
    valid_from: date
    valid_to: date | None
    composite_figi: str | None
    name: str | None


def splits_file(splits: Sequence[Split]) -> bytes:
    """Give a symbol's splits as the bytes of its file; none is a valid file, the last word on a split withdrawn."""
    rows = [asdict(split) for split in sorted(splits, key=_by_day)]
    return encode(pa.Table.from_pylist(rows, schema=SPLITS))


def read_splits(data: bytes, symbol: str) -> tuple[Split, ...]:
    """Read a symbol's splits, oldest first; raise ContractError if the file or one of its numbers cannot be used."""
    splits = tuple(Split(**row) for row in decode(data, SPLITS, f"the splits of {symbol}").to_pylist())
    for split in splits:
        factor = split.historical_adjustment_factor
        if split.symbol != symbol or not positive(factor):
            told = f"{split.symbol} on {split.execution_date}, factor {factor}"
            raise ContractError(f"the splits of {symbol} hold one that cannot be: {told}")
    return tuple(sorted(splits, key=_by_day))


def identities_file(identities: Sequence[Identity]) -> bytes:
    """Give the companies that bore a symbol as the bytes of its file."""
    rows = [asdict(identity) for identity in sorted(identities, key=lambda identity: identity.valid_from)]
    return encode(pa.Table.from_pylist(rows, schema=IDENTITIES))


def read_identities(data: bytes, symbol: str) -> tuple[Identity, ...]:
    """Read the companies that bore a symbol, oldest first; raise ContractError if the file is not that."""
    rows = decode(data, IDENTITIES, f"the identities of {symbol}").to_pylist()
    identities = tuple(Identity(**row) for row in rows)
    if any(identity.symbol != symbol for identity in identities):
        raise ContractError(f"the identities of {symbol} hold another symbol's")
    return tuple(sorted(identities, key=lambda identity: identity.valid_from))


def reference_of(splits: Sequence[Split], identities: Sequence[Identity]) -> Reference:
    """Give what the two files say as it is applied to bars; one company twice in a row hands nothing over.

    A split of a day on which no company bore the symbol is none of theirs.
    """
    companies = sorted(identities, key=lambda identity: identity.valid_from)
    handovers = [(old.valid_to, new.valid_from) for old, new in pairwise(companies) if not _same(old, new)]
    factors = [(split.execution_date, split.historical_adjustment_factor) for split in sorted(splits, key=_by_day)]
    for ended, begins in handovers:
        factors = _without(factors, ended, begins) if ended else factors
    return Reference(tuple(factors), tuple(begins for _, begins in handovers))


def _without(factors: Sequence[tuple[date, float]], ended: date, begins: date) -> list[tuple[date, float]]:
    """Leave out the splits from between two companies' times, here and in the cumulative factors before them."""
    before = [(day, factor) for day, factor in factors if day <= ended]
    since = [(day, factor) for day, factor in factors if day >= begins]
    first_after = factors[len(before)][1] if len(before) < len(factors) else 1.0
    ratio = (since[0][1] if since else 1.0) / first_after
    return [*((day, factor * ratio) for day, factor in before), *since]


def _by_day(split: Split) -> tuple[date, str]:
    # The id only keeps the order of two splits on one day fixed, whatever order they were written in.
    return split.execution_date, split.id


def _same(old: Identity, new: Identity) -> bool:
    return old.composite_figi is not None and old.composite_figi == new.composite_figi

"""What makes a symbol's bars comparable with each other: its splits, and which companies have borne it (pure).

Both are small Parquet files, one a symbol, that travel the way of the bars: the worker takes them into data.parquet's
metadata, the resampler applies them. Bars in bronze stay as traded.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shared.bars import decode, encode
from shared.calendar import Days
from shared.errors import ContractError

Factors = npt.NDArray[np.float64]

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
    rows = [asdict(split) for split in sorted(splits, key=lambda split: split.execution_date)]
    return encode(pa.Table.from_pylist(rows, schema=SPLITS))


def read_splits(data: bytes, symbol: str) -> tuple[Split, ...]:
    """Read a symbol's splits, oldest first; raise ContractError if the file or one of its numbers cannot be used."""
    splits = tuple(Split(**row) for row in decode(data, SPLITS, f"the splits of {symbol}").to_pylist())
    for split in splits:
        factor = split.historical_adjustment_factor
        if split.symbol != symbol or not (np.isfinite(factor) and factor > 0):
            raise ContractError(f"the splits of {symbol} hold one that cannot be: {split}")
    return tuple(sorted(splits, key=lambda split: split.execution_date))


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


@dataclass(frozen=True, slots=True)
class Reference:
    """What is applied to a symbol's bars when silver is computed; it travels in data.parquet's metadata.

    `splits`: (execution date, cumulative factor), oldest first. `handovers`: the first session of each company but the
    first: no bucket and no factor reaches across one.
    """

    splits: tuple[tuple[date, float], ...] = ()
    handovers: tuple[date, ...] = ()

    @classmethod
    def of(cls, splits: Sequence[Split], identities: Sequence[Identity]) -> "Reference":
        """Take what the two files say."""
        factors = tuple((split.execution_date, split.historical_adjustment_factor) for split in splits)
        return cls(factors, tuple(identity.valid_from for identity in identities[1:]))

    def to_json(self) -> str:
        """Give the text that `from_json` reads."""
        splits = [[day.isoformat(), factor] for day, factor in self.splits]
        return json.dumps({"splits": splits, "handovers": [day.isoformat() for day in self.handovers]})

    @classmethod
    def from_json(cls, text: str) -> "Reference":
        """Read what `to_json` gave; raise ValueError, KeyError or TypeError if it is something else."""
        found = json.loads(text)
        splits = tuple((date.fromisoformat(day), float(factor)) for day, factor in found["splits"])
        return cls(splits, tuple(date.fromisoformat(day) for day in found["handovers"]))

    def companies(self, sessions: Days) -> npt.NDArray[np.int64]:
        """Give, for each session, how many handovers it lies on or after: bars of one number are of one company."""
        handovers = np.array(self.handovers, dtype="datetime64[D]")
        return np.searchsorted(handovers, sessions, side="right").astype(np.int64)

    def factors(self, sessions: Days) -> Factors:
        """Give, for each session, what its prices are multiplied (its volume divided) by.

        The factor is that of the first split after the session (vendor's rule). Of a company that has handed the symbol
        over only its own splits count, so its factors are relative to its last session.
        """
        days = np.array([day for day, _ in self.splits], dtype="datetime64[D]")
        cumulative = np.array([*(factor for _, factor in self.splits), 1.0])
        found = cumulative[np.searchsorted(days, sessions, side="right")]
        handovers = np.array(self.handovers, dtype="datetime64[D]")
        # What comes on or after the end of a company's time is not its own: its factor there is divided out.
        ends = np.append(cumulative[np.searchsorted(days, handovers, side="left")], 1.0)
        return np.asarray(found / ends[self.companies(sessions)], dtype=np.float64)

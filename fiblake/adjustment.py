"""What is applied to a symbol's bars when silver is computed: split factors, and where one company ends (pure)."""

import json
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt

from fiblake.calendar import Days
from fiblake.decoding import decoding, read_json
from fiblake.errors import ContractError
from fiblake.rules import positive

Factors = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reference:
    """A symbol's splits and handovers, as they travel in data.parquet's metadata.

    `splits`: (execution date, cumulative factor), oldest first. `handovers`: the first session of each company but the
    first, in order: no bucket and no factor reaches across one.
    """

    splits: tuple[tuple[date, float], ...] = ()
    handovers: tuple[date, ...] = ()

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        splits = [[day.isoformat(), factor] for day, factor in self.splits]
        return json.dumps({"splits": splits, "handovers": [day.isoformat() for day in self.handovers]})

    @classmethod
    def from_json(cls, text: str) -> "Reference":
        """Read what `to_json` gave; raise ContractError if it is something else."""
        record = read_json(text.encode(), "the reference")
        with decoding("the reference cannot be read"):
            splits = tuple((date.fromisoformat(day), float(factor)) for day, factor in record["splits"])
            if not all(positive(factor) for _, factor in splits):
                raise ContractError("a factor is not a positive number")
            return cls(splits, tuple(date.fromisoformat(day) for day in record["handovers"]))

    def as_of(self, session: date) -> "Reference":
        """Leave out the splits after `session`: while that is a symbol's last, its prices are what others relate to."""
        to_come = [factor for day, factor in self.splits if day > session]
        if not to_come:
            return self
        known = self.splits[: len(self.splits) - len(to_come)]
        return Reference(tuple((day, factor / to_come[0]) for day, factor in known), self.handovers)

    def companies(self, sessions: Days) -> npt.NDArray[np.int64]:
        """Return, for each session, how many handovers it lies on or after: bars of one number are of one company."""
        handovers = np.array(self.handovers, dtype="datetime64[D]")
        return np.searchsorted(handovers, sessions, side="right").astype(np.int64)

    def factors(self, sessions: Days) -> Factors:
        """Return, for each session, what its prices are multiplied (its volume divided) by.

        `sessions` are those of all of the symbol's bars, in order. The factor is that of the first split after the
        session (vendor's rule). A company that has handed the symbol over is adjusted to its own last bar: a split
        that none of its bars shows, because it came after the last one, changes nothing of it. (What the present
        company's last bar does not show yet, `as_of` leaves out.)
        """
        days = np.array([day for day, _ in self.splits], dtype="datetime64[D]")
        cumulative = np.array([*(factor for _, factor in self.splits), 1.0])
        found = cumulative[np.searchsorted(days, sessions, side="right")]
        companies = self.companies(sessions)
        # What comes after a company's last bar is divided out; the present company's last factor is 1 by definition.
        ends = np.ones(len(self.handovers) + 1)
        former = companies < len(self.handovers)
        ends[companies[former]] = found[former]  # of several bars of a company the last one stays
        return np.asarray(found / ends[companies], dtype=np.float64)


NO_REFERENCE: Final = Reference()
"""A symbol of one company that never split its shares."""

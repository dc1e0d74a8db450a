"""Adjust a symbol's bars for splits, dividends and handovers (pure).

Silver is adjusted for splits only. Readers compute total return: dividends change no bucket of silver.
"""

import json
import math
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fiblake.calendar import Days
from fiblake.decoding import decoding, read_json
from fiblake.errors import ContractError
from fiblake.rules import positive

Factors = npt.NDArray[np.float64]
Adjustment = Literal["raw", "splits", "total"]
"""The adjustment of prices: none (as traded), for splits, or for splits and dividends (total return)."""
PAYOUT_TOLERANCE: Final = 1e-4
"""The accepted difference between the vendor's factor and that of cash and close: the vendor rounds to 6 digits."""


class Payout(NamedTuple):
    """All dividends of one ex-date together.

    `cash`: USD per share as traded on the ex-date, that is, after a split of that day; 0 if it is unknown in USD.
    `factor`: the vendor's cumulative factor of this and all later dividends; None if the vendor has none.
    """

    ex_date: date
    cash: float
    factor: float | None = None


@dataclass(frozen=True, slots=True)
class PayoutDispute:
    """A dividend whose vendor factor differs from the factor of its cash and the close before.

    `derived` is the factor that is applied: 1.0 if the cash is unknown, or is not less than the close before.
    """

    ex_date: date
    cash: float
    derived: float
    reported: float | None

    @property
    def text(self) -> str:
        """Return a sentence that names both values."""
        reported = "no factor" if self.reported is None else f"{self.reported:.6f}"
        return f"cash {self.cash:g} makes {self.derived:.6f}, the vendor says {reported}"

    def __str__(self) -> str:
        """Return the sentence with its day."""
        return f"{self.ex_date}: {self.text}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A symbol's splits, handovers and dividends, as stored in the metadata of data.parquet.

    `splits`: (execution date, cumulative factor), oldest first. `handovers`: the first session of each company except
    the first, in order; no bucket and no factor crosses one. `dividends`: one entry for each ex-date, oldest first,
    including announced ones.
    """

    splits: tuple[tuple[date, float], ...] = ()
    handovers: tuple[date, ...] = ()
    dividends: tuple[Payout, ...] = ()

    def to_json(self) -> str:
        """Return the text that `from_json` reads; without dividends it is the same text as in older versions."""
        splits = [[day.isoformat(), factor] for day, factor in self.splits]
        record: dict[str, Any] = {"splits": splits, "handovers": [day.isoformat() for day in self.handovers]}
        if self.dividends:
            record["dividends"] = [[day.isoformat(), cash, factor] for day, cash, factor in self.dividends]
        return json.dumps(record)

    @classmethod
    def from_json(cls, text: str) -> "Reference":
        """Read the result of `to_json`; raise ContractError for any other text."""
        record = read_json(text.encode(), "the reference")
        with decoding("the reference cannot be read"):
            splits = tuple((date.fromisoformat(day), float(factor)) for day, factor in record["splits"])
            if not all(positive(factor) for _, factor in splits):
                raise ContractError("a factor is not a positive number")
            handovers = tuple(date.fromisoformat(day) for day in record["handovers"])
            return cls(splits, handovers, tuple(_payout(*entry) for entry in record.get("dividends", [])))

    @property
    def of_silver(self) -> "Reference":
        """The part that silver uses: everything except the dividends."""
        return self.with_dividends(())

    def with_dividends(self, dividends: tuple[Payout, ...]) -> "Reference":
        """Return the same splits and handovers with these dividends."""
        return self if dividends == self.dividends else replace(self, dividends=dividends)

    def as_of(self, session: date) -> "Reference":
        """Leave out the splits after `session`: while it is the last one, other prices are relative to its prices."""
        to_come = [factor for day, factor in self.splits if day > session]
        if not to_come:
            return self
        executed = self.splits[: len(self.splits) - len(to_come)]
        return replace(self, splits=tuple((day, factor / to_come[0]) for day, factor in executed))

    def companies(self, sessions: Days) -> npt.NDArray[np.int64]:
        """Return, for each session, the number of handovers up to it: bars with the same number are of one company."""
        handovers = np.array(self.handovers, dtype="datetime64[D]")
        return np.searchsorted(handovers, sessions, side="right").astype(np.int64)

    def factors(self, sessions: Days) -> Factors:
        """Return, for each session, the factor that multiplies its prices and divides its volume.

        `sessions` are those of all of the symbol's bars, in order. The factor is that of the first split after the
        session (vendor's rule). A company that handed the symbol over is adjusted to its own last bar: a split after
        that bar does not change it. (`as_of` leaves out splits after the present company's last bar.)
        """
        cumulative = self._cumulative(sessions)
        companies = self.companies(sessions)
        # The factors of splits after a company's last bar are divided out; the present company's last factor is 1.
        ends = np.ones(len(self.handovers) + 1)
        former = companies < len(self.handovers)
        ends[companies[former]] = cumulative[former]  # of several bars of a company the last one is used
        return np.asarray(cumulative / ends[companies], dtype=np.float64)

    def total_factors(self, sessions: Days, closes: Factors) -> Factors:
        """Return, for each session, the factor of its prices for total return (volume follows splits only).

        `sessions` and `closes` are those of all of the symbol's bars, in order, as traded. Each dividend is reinvested
        at the close before its ex-date minus the dividend, so earlier prices are multiplied by 1 - cash / close. It
        takes effect with the first bar on or after its ex-date, for that company's bars only. Without such a bar it
        changes nothing.
        """
        if not sessions.size:
            return np.ones(0)
        factors = self.as_of(sessions[-1].item()).factors(sessions)
        if not self.dividends:
            return factors
        fractions, _ = self._fractions(sessions, closes)
        own = np.flatnonzero(np.diff(self.companies(sessions))) + 1
        for first, end in zip([0, *own], [*own, sessions.size], strict=True):
            factors[first : end - 1] *= np.cumprod(fractions[end - 1 : first : -1])[::-1]
        return factors

    def payout_disputes(self, sessions: Days, closes: Factors) -> list[PayoutDispute]:
        """Return the dividends whose vendor factor contradicts cash and close; arguments as `total_factors`.

        The vendor's factors are cumulative, so each is compared by its step to the next one. A dividend without a bar
        or without a vendor factor is not reported; cash that cannot be applied always is.
        """
        if not (sessions.size and self.dividends):
            return []
        fractions, places = self._fractions(sessions, closes)
        disputes = []
        for place in sorted({int(place) for place in places if place >= 0}):
            shown = np.flatnonzero(places == place)
            first, following = self.dividends[shown[0]], self.dividends[shown[-1] + 1 :][:1]
            derived, cash = float(fractions[place]), sum(self.dividends[i].cash for i in shown)
            steps = _steps(first.factor, following, sessions[-1].item())
            if derived == 1.0 or (steps and not any(math.isclose(s, derived, abs_tol=PAYOUT_TOLERANCE) for s in steps)):
                disputes.append(PayoutDispute(first.ex_date, cash, derived, steps[0] if steps else None))
        return disputes

    def _cumulative(self, days: Days) -> Factors:
        """Return the factor of the first split after each day."""
        executed = np.array([day for day, _ in self.splits], dtype="datetime64[D]")
        factors = np.array([*(factor for _, factor in self.splits), 1.0])
        return factors[np.searchsorted(executed, days, side="right")]

    def _fractions(self, sessions: Days, closes: Factors) -> tuple[Factors, npt.NDArray[np.int64]]:
        """Return each session's factor of its dividends, and for each dividend the place of its first session.

        The place of a dividend is -1 if its company has no bar before its ex-date, or none on or after it.
        """
        days = np.array([payout.ex_date for payout in self.dividends], dtype="datetime64[D]")
        cash = np.array([payout.cash for payout in self.dividends])
        companies = self.companies(sessions)
        following = np.searchsorted(sessions, days, side="left").astype(np.int64)
        inside = np.flatnonzero((following > 0) & (following < sessions.size))
        inside = inside[companies[following[inside]] == companies[following[inside] - 1]]
        places = np.full(following.size, -1, np.int64)
        places[inside] = following[inside]
        shown = places >= 0
        before = places[shown] - 1
        # A split between the close and the ex-date changes the shares to which the close refers.
        close = closes[before] * self._cumulative(sessions[before]) / self._cumulative(days[shown])
        with np.errstate(divide="ignore", invalid="ignore"):
            paid = np.bincount(places[shown], weights=cash[shown] / close, minlength=sessions.size)
            fractions = np.where((paid >= 0) & (paid < 1), 1 - paid, 1.0)
        return fractions, places


NO_REFERENCE: Final = Reference()
"""The reference of a symbol of one company without splits and dividends."""


def _payout(day: str, cash: float, factor: float | None) -> Payout:
    payout = Payout(date.fromisoformat(day), float(cash), None if factor is None else float(factor))
    if payout.cash and not positive(payout.cash):
        raise ContractError("the cash of a dividend is not a positive number")
    if payout.factor is not None and not positive(payout.factor):
        raise ContractError("the factor of a dividend is not a positive number")
    return payout


def _steps(factor: float | None, following: tuple[Payout, ...], last: date) -> list[float]:
    """Return the possible factors of one day alone, from the vendor's cumulative factors.

    If the next dividend is only announced (after session `last`), the cumulative factor may or may not include it.
    """
    if factor is None:
        return []
    if not following:
        return [factor]
    later = following[0].factor
    steps = [] if later is None else [factor / later]
    return [*steps, factor] if following[0].ex_date > last else steps

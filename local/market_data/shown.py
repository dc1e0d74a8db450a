"""The part of the replay that the vendor shows now: published facts of past sessions."""

from dataclasses import dataclass
from datetime import date

from fiblake.bars import ReportedBar
from local.market_data.bars import Bars
from local.market_data.query import before_end_of_day, outside_timeframe
from local.market_data.reference import Company, Dividend, Reference, Split


@dataclass(frozen=True, slots=True)
class Shown:
    """The bars, companies, splits and dividends that the vendor has so far."""

    bars: Bars
    reference: Reference
    as_of: date | None = None
    """The last session that is over (None: all are); later ones are refused, companies listed later are unknown."""
    since: date | None = None
    """The first session of the plan's history (None: all of it); earlier ones are refused."""
    hidden: frozenset[str] = frozenset()
    """Symbols that the vendor does not know yet."""
    published: frozenset[str] | None = None
    """Ids of the splits that are known (None: all)."""

    def check(self, session: date) -> None:
        """Raise RefusedError for a session that is not over, or not in the plan's history."""
        if self.as_of is not None and session > self.as_of:
            raise before_end_of_day()
        if self.since is not None and session < self.since:
            raise outside_timeframe()

    def of_session(self, session: date) -> list[ReportedBar]:
        """Return the session's bars, sorted by symbol."""
        return [bar for bar in self.bars.of_session(session) if bar.symbol not in self.hidden]

    def of_symbol(self, symbol: str, first: date, last: date) -> list[ReportedBar]:
        """Return the symbol's bars from `first` to `last`, as far as those sessions are over."""
        end = last if self.as_of is None else min(last, self.as_of)
        return [] if symbol in self.hidden else self.bars.of_symbol(symbol, first, end)

    def companies(self) -> list[Company]:
        """Return the companies that the vendor knows, active or not, sorted by ticker."""
        return [company for company in self.reference.companies if self._knows(company)]

    def trades(self, company: Company, day: date | None = None) -> bool:
        """Return whether the company is listed on that day (None: on the last one that is shown)."""
        return company.trades(day or self.as_of)

    def splits(self) -> list[Split]:
        """Return the splits that the vendor knows."""
        stored = self.reference.splits
        shown = stored if self.published is None else [split for split in stored if split.id in self.published]
        return [split for split in shown if split.ticker not in self.hidden]

    def dividends(self) -> list[Dividend]:
        """Return the dividends that are declared (or else paid) and in the plan's history, which is cut silently."""
        shown = [d for d in self.reference.dividends if self.since is None or d.ex_dividend_date >= self.since]
        over = [d for d in shown if self.as_of is None or (d.declaration_date or d.ex_dividend_date) <= self.as_of]
        return [dividend for dividend in over if dividend.ticker not in self.hidden]

    def _knows(self, company: Company) -> bool:
        listed = self.as_of is None or company.listed is None or company.listed <= self.as_of
        return listed and company.ticker not in self.hidden

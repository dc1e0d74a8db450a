"""The fetcher's database without a server."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from shared.calendar import TradingCalendar
from shared.database import Database, SessionCounts
from shared.errors import UpstreamError
from tests.fakes import Journal


@dataclass
class FakeDatabase(Database):
    """Rows by symbol and session, and the watermark; the next `failures` calls that store rows fail."""

    journal: Journal
    mark: date | None = None
    rows: dict[tuple[str, date], dict[str, Any]] = field(default_factory=dict)
    failures: int = 0

    async def watermark(self) -> date | None:
        return self.mark

    async def store(self, rows: Sequence[dict[str, Any]]) -> None:
        self._keep(rows)
        self.journal.append(("store", ""))

    async def store_session(
        self, rows: Sequence[dict[str, Any]], session: date, counts: SessionCounts, calendar: TradingCalendar
    ) -> date:
        self._keep(rows)
        assert counts.bars == len(rows)
        assert calendar.ordinal(session) >= 0
        self.mark = max(filter(None, [self.mark, session]))
        self.journal.append(("store", str(session)))
        return self.mark

    def _keep(self, rows: Sequence[dict[str, Any]]) -> None:
        if self.failures:
            self.failures -= 1
            raise UpstreamError("the database fails, as arranged")
        places = [(row["symbol"], row["timestamp"]) for row in rows]
        assert len(places) == len(set(places)), "Postgres refuses to upsert one row twice in one statement"
        self.rows |= dict(zip(places, rows, strict=True))

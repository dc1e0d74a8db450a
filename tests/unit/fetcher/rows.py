"""The fetcher's database without a server."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any
from uuid import UUID, uuid4

from fiblake.calendar import TradingCalendar
from fiblake.errors import UpstreamError
from fiblake.reference import Split
from shared.database import Database, SessionCounts, Settled, SymbolRecord, session_scope
from tests.fakes import Journal


@dataclass
class FakeDatabase(Database):
    """Rows by symbol and session, ledger and watermark; the next `failures` writes of bars fail.

    `known` are the symbols of each type that symbol_metadata holds, in every session.
    """

    journal: Journal
    mark: date | None = None
    rows: dict[tuple[str, date], dict[str, Any]] = field(default_factory=dict)
    ledger: dict[date, SessionCounts] = field(default_factory=dict)
    known: dict[str, set[str]] = field(default_factory=dict)
    records: dict[str, SymbolRecord] = field(default_factory=dict)
    gone: list[SymbolRecord] = field(default_factory=list)
    """Companies that had a symbol in the past, oldest first."""
    recorded_splits: list[Split] = field(default_factory=list)
    loaded: dict[str, date] = field(default_factory=dict)
    runs: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    failures: int = 0
    locked: set[str] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)
    """Scopes that another run has locked."""
    notes: dict[str, set[str]] = field(default_factory=dict)

    async def universe(self, types: Collection[str], session: date) -> set[str]:
        assert isinstance(session, date)
        return {symbol for kind in types for symbol in self.known.get(kind, ())}

    async def watermark(self) -> date | None:
        return self.mark

    @asynccontextmanager
    async def session_lock(self, work: date | str, *, wait: bool = True) -> AsyncIterator[bool]:
        scope = session_scope(work) if isinstance(work, date) else work
        assert scope not in self.locked, "waits for itself, for ever"
        assert not (wait and scope in self.busy)
        if scope in self.busy:
            yield False
            return
        self.locked.add(scope)
        try:
            yield True
        finally:
            self.locked.remove(scope)

    async def note(self, scope: str, keys: Sequence[str]) -> None:
        assert scope in self.locked
        if keys:
            self.notes.setdefault(scope, set()).update(keys)
            self.journal.append(("note", scope))

    async def noted(self, scope: str) -> list[str]:
        return sorted(self.notes.get(scope, ()))

    async def noted_scopes(self) -> list[str]:
        return sorted(scope for scope, keys in self.notes.items() if keys)

    def _settle(self, settled: Settled | None) -> None:
        if settled:
            gone = self.notes.get(settled.scope, set()) if settled.keys is None else set(settled.keys)
            self.notes[settled.scope] = self.notes.get(settled.scope, set()) - gone

    async def stored_sessions(self, first: date, last: date) -> set[date]:
        return {session for session in self.ledger if first <= session <= last}

    async def bars(self, session: date) -> dict[str, dict[str, Any]]:
        return {symbol: row for (symbol, day), row in self.rows.items() if day == session}

    async def last_closes(self, first: date, before: date) -> dict[str, tuple[date, float]]:
        places = sorted(place for place in self.rows if first <= place[1] < before)
        return {symbol: (day, self.rows[symbol, day]["close"]) for symbol, day in places}

    async def split_ratios(self, after: date, through: date) -> dict[str, float]:
        ratios: dict[str, float] = {}
        for split in self.recorded_splits:
            if after < split.execution_date <= through:
                ratios[split.symbol] = ratios.get(split.symbol, 1.0) * split.split_from / split.split_to
        return ratios

    async def store(self, rows: Sequence[dict[str, Any]], settled: Settled | None = None) -> None:
        self._write(rows)
        self._settle(settled)
        self.journal.append(("store", ",".join(sorted({row["symbol"] for row in rows}))))

    async def store_session(
        self, rows: Sequence[dict[str, Any]], session: date, counts: SessionCounts, calendar: TradingCalendar
    ) -> date:
        assert calendar.ordinal(session) >= 0
        assert session_scope(session) in self.locked, "files and rows of two fetchers overtake each other"
        self._write(rows)
        self.ledger[session] = counts
        self._settle(Settled(session_scope(session)))
        self.mark = max(filter(None, [self.mark, session]))
        self.journal.append(("store", str(session)))
        return self.mark

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        if self.failures:
            self.failures -= 1
            raise UpstreamError("the database fails, as arranged")
        places = [(row["symbol"], row["timestamp"]) for row in rows]
        assert len(places) == len(set(places)), "Postgres refuses to upsert one row twice in one statement"
        self.rows |= dict(zip(places, rows, strict=True))

    async def companies(self, symbol: str) -> list[SymbolRecord]:
        gone = [record for record in self.gone if record.symbol == symbol]
        return [*gone, *([self.records[symbol]] if symbol in self.records else [])]

    async def splits(self, symbol: str | None = None) -> dict[str, list[Split]]:
        by_symbol: dict[str, list[Split]] = {}
        for split in self.recorded_splits:
            if symbol in {None, split.symbol}:
                by_symbol.setdefault(split.symbol, []).append(split)
        return by_symbol

    async def history_loaded(self, symbol: str, now: datetime, firsts: Mapping[date, date | None]) -> None:
        assert now.tzinfo

        def loaded(record: SymbolRecord) -> SymbolRecord:
            if record.symbol != symbol or record.valid_from not in firsts:
                return record
            return replace(record, history_loaded_at=now, history_from=firsts[record.valid_from])

        self.records = {name: loaded(record) for name, record in self.records.items()}
        self.gone = [loaded(record) for record in self.gone]
        self.loaded[symbol] = min(first for first in firsts.values() if first)

    async def begin_run(self, kind: str, event: Mapping[str, Any], now: datetime) -> UUID:
        run = uuid4()
        self.runs[run] = {"kind": kind, "asked": dict(event), "started_at": now}
        return run

    async def end_run(self, run: UUID, status: str, result: Mapping[str, Any], now: datetime) -> None:
        self.runs[run] |= {"status": status, "result": dict(result), "ended_at": now}

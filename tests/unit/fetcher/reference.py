"""Reference data without a network and without a server: the vendor's lists, the tables, and a run that is cut off."""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any
from uuid import UUID, uuid4

from fiblake.errors import FiblakeError
from fiblake.lake import is_dividends
from fiblake.reference import Dividend, Split
from fiblake.symbols import SymbolRecord
from services.fetcher.tickers import Details, Ticker, TickerChange
from shared.database import DIVIDENDS, Database, Settled
from shared.database.symbols import DETAIL_FIELDS


class KilledError(Exception):
    """The process ends here; our code must not catch this."""


@dataclass
class Fate:
    """Counts the steps of a run, and ends it right before step `end` (0: never): no step follows."""

    end: int = 0
    steps: int = 0

    def ends(self) -> bool:
        """Take a step; return whether the process has ended before it."""
        self.steps += 1
        return 0 < self.end <= self.steps

    def step(self) -> None:
        if self.ends():
            raise KilledError


def ticker(symbol: str, figi: str | None = None, **more: Any) -> Ticker:  # noqa: ANN401 (a ticker's fields)
    plain = Ticker(symbol, f"{symbol} Inc.", "CS", "XNAS", "USD", True, figi, None, None)  # noqa: FBT003
    return replace(plain, **more)


@dataclass
class ReferenceVendor:
    """The vendor's answers, as a test arranges them; `asked` has every request about a single symbol."""

    listed: list[Ticker] = field(default_factory=list)
    gone: dict[str, Ticker] = field(default_factory=dict)
    changes: dict[str, list[TickerChange]] = field(default_factory=dict)
    known: dict[str, Details | FiblakeError] = field(default_factory=dict)
    reported: list[Split] = field(default_factory=list)
    paid: list[Dividend] = field(default_factory=list)
    error: dict[str, FiblakeError] = field(default_factory=dict)
    """By method: what it fails with."""
    left_out: Counter[str] = field(default_factory=Counter)
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def tickers(self) -> list[Ticker]:
        self._fail("tickers")
        return list(self.listed)

    async def find_delisted(self, symbol: str) -> Ticker | None:
        self._ask("delisted", symbol)
        return self.gone.get(symbol)

    async def ticker_changes(self, symbol: str) -> list[TickerChange]:
        self._ask("ticker_changes", symbol)
        return self.changes.get(symbol, [])

    async def details(self, symbol: str) -> Details | None:
        self._ask("details", symbol)
        result = self.known.get(symbol)
        if isinstance(result, FiblakeError):
            raise result
        return result

    async def splits(self) -> list[Split]:
        self._fail("splits")
        return list(self.reported)

    async def dividends(self, symbols: Collection[str] = (), since: date | None = None) -> list[Dividend]:
        self._ask("dividends", f"{','.join(symbols)} since {since}")
        first = since or date.min
        return [d for d in self.paid if (not symbols or d.symbol in symbols) and d.ex_dividend_date >= first]

    def questions(self, kind: str) -> list[str]:
        return [symbol for question_kind, symbol in self.asked if question_kind == kind]

    def _ask(self, kind: str, symbol: str) -> None:
        self.asked.append((kind, symbol))
        self._fail(kind)

    def _fail(self, kind: str) -> None:
        if kind in self.error:
            raise self.error[kind]


@dataclass
class ReferenceDatabase(Database):
    """The tables symbol_metadata, splits, dividends, runs, with their constraints; every write is a step of the run."""

    fate: Fate = field(default_factory=Fate)
    records: dict[tuple[str, date], SymbolRecord] = field(default_factory=dict)
    stored: dict[str, list[Split]] = field(default_factory=dict)
    dividend_rows: dict[str, list[Dividend]] = field(default_factory=dict)
    dividend_checks: dict[str, datetime] = field(default_factory=dict)
    runs: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)
    locked: set[str] = field(default_factory=set)

    async def metadata(self) -> list[SymbolRecord]:
        return [self.records[key] for key in sorted(self.records)]

    async def save_metadata(
        self, records: Sequence[SymbolRecord], moved: Mapping[tuple[str, date], date] | None = None
    ) -> None:
        self.fate.step()
        for (symbol, old), new in (moved or {}).items():
            assert (symbol, new) not in self.records
            self.records[symbol, new] = replace(self.records.pop((symbol, old)), valid_from=new)
        saved = self.records | {(r.symbol, r.valid_from): self._with_history(r) for r in records}
        current = [r.symbol for r in saved.values() if r.valid_to is None]
        assert len(current) == len(set(current)), "Postgres takes one current record a symbol"
        self.records = saved
        self.fate.step()

    async def save_details(self, records: Sequence[SymbolRecord]) -> None:
        self.fate.step()
        current = {(r.symbol, r.composite_figi): key for key, r in self.records.items() if r.valid_to is None}
        for record in records:
            if key := current.get((record.symbol, record.composite_figi)):
                details = {name: getattr(record, name) for name in DETAIL_FIELDS}
                self.records[key] = replace(self.records[key], **details)
        self.fate.step()

    async def history_due(self, types: Collection[str], asked_before: datetime) -> list[str]:
        due = [
            r.symbol for r in await self.metadata() if (r.type is None or r.type in types) and not r.history_loaded_at
            and (r.history_requested_at is None or (r.active and r.history_requested_at < asked_before))
        ]  # fmt: skip
        return list(dict.fromkeys(due))

    async def history_requested(self, symbols: Sequence[str], now: datetime) -> None:
        self.fate.step()
        for key, record in self.records.items():
            if record.symbol in symbols and record.history_loaded_at is None:
                self.records[key] = replace(record, history_requested_at=now)
        self.fate.step()

    async def splits(self, symbol: str | None = None) -> dict[str, list[Split]]:
        return {name: splits for name, splits in self.stored.items() if symbol in {None, name} and splits}

    async def replace_splits(self, splits: Mapping[str, Sequence[Split]], settled: Settled | None = None) -> None:
        self.fate.step()
        self.stored = self.stored | {symbol: list(of) for symbol, of in splits.items()}
        if settled:
            assert settled.scope in self.locked
            self.notes -= set(settled.keys or self.notes)
        self.fate.step()

    async def dividends(self, symbols: Sequence[str]) -> dict[str, list[Dividend]]:
        return {symbol: rows for symbol, rows in self.dividend_rows.items() if symbol in symbols and rows}

    async def dividends_since(self, first: date) -> dict[str, list[Dividend]]:
        recent = {s: [d for d in rows if d.ex_dividend_date >= first] for s, rows in self.dividend_rows.items()}
        return {symbol: rows for symbol, rows in recent.items() if rows}

    async def dividends_checked(self) -> dict[str, datetime]:
        return dict(self.dividend_checks)

    async def replace_dividends(
        self, dividends: Mapping[str, Sequence[Dividend]], checked: Sequence[str], now: datetime, settled: Settled
    ) -> None:
        assert settled.scope in self.locked
        self.fate.step()
        self.dividend_rows |= {symbol: list(rows) for symbol, rows in dividends.items()}
        self.dividend_checks |= dict.fromkeys(checked, now)
        self.notes -= set(settled.keys or ())
        self.fate.step()

    async def note(self, scope: str, keys: Sequence[str]) -> None:
        assert scope in self.locked
        self.fate.step()
        self.notes |= set(keys)
        self.fate.step()

    async def noted(self, scope: str) -> list[str]:
        assert scope in self.locked
        return sorted(key for key in self.notes if is_dividends(key) == (scope == DIVIDENDS))

    @asynccontextmanager
    async def session_lock(self, work: date | str, *, wait: bool = True) -> AsyncIterator[bool]:
        assert wait
        self.locked.add(str(work))
        try:
            yield True
        finally:
            self.locked.remove(str(work))

    async def begin_run(self, kind: str, event: Mapping[str, Any], now: datetime) -> UUID:
        run = uuid4()
        self.runs[run] = {"kind": kind, "asked": event, "started_at": now, "status": "running"}
        return run

    async def end_run(self, run: UUID, status: str, result: Mapping[str, Any], now: datetime) -> None:
        self.runs[run] |= {"status": status, "result": dict(result), "ended_at": now}

    def _with_history(self, record: SymbolRecord) -> SymbolRecord:
        stored = self.records.get((record.symbol, record.valid_from))
        if stored is None:
            return record
        back = stored.valid_to is not None and record.valid_to is None
        history = (None, None, None) if back else (
            stored.history_requested_at, stored.history_loaded_at, stored.history_from
        )  # fmt: skip
        return replace(record, history_requested_at=history[0], history_loaded_at=history[1], history_from=history[2])

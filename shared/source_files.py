"""Read a date or range file: bars that can be merged, and rows that break a rule, each with its reason (pure)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fiblake.bars import ReportedBar, is_released, read_bars
from fiblake.calendar import TradingCalendar
from fiblake.columns import NO_SESSION, check_years
from fiblake.errors import ContractError
from fiblake.lake import SourceFile
from fiblake.rules import NUMBER_COLUMNS, broken_rules, unbroken, unusable_numbers

CLOCK_SKEW: Final = timedelta(days=1)
"""The accepted lead of a writer's clock over S3's: no later write could win over an instant in the far future."""
MAX_BROKEN: Final = 20_000
"""A file with more broken rows is refused: no symbol has this many sessions."""
MAX_RIVALS: Final = 20
_FIRST_INSTANT: Final = np.datetime64("0001-01-01", "us")

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BrokenBar:
    """A row of a file that cannot be merged, with the reason."""

    bar: ReportedBar
    ingested_at: datetime
    reason: str
    """It names the row (from 1), the field, its value, and the broken rule."""


@dataclass(frozen=True, slots=True)
class SourceBars:
    """The content of a file: bars that can be merged (schema BRONZE, in the order of the file), and broken rows."""

    bars: pa.Table
    broken: Sequence[BrokenBar] = ()
    rivals: Sequence[str] = ()
    """A sentence for each session that the file reports twice, at one instant and with different values."""

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return the bars that can be merged as rows."""
        rows: list[dict[str, Any]] = self.bars.to_pylist()
        return rows


def bars_of_source(
    data: bytes, source: SourceFile, last_modified: datetime, calendar: TradingCalendar, today: date
) -> SourceBars:
    """Read a source file; a row that breaks a rule does not affect the other rows.

    Raises PermanentError with the reason if the file holds no bars of the symbol at all (see `read_bars`), or if the
    trading calendar ends before one of its sessions.
    """
    bars = read_bars(data, source.symbol, last_modified)
    rules = _Rules(source.first, source.last, today, last_modified + CLOCK_SKEW, calendar)
    judge = rules.judge(bars)
    return replace(rules, released=True).judge(bars) if judge.broken and is_released(data) else judge


def bars_of_adopted(bars: pa.Table, last_modified: datetime, calendar: TradingCalendar, today: date) -> SourceBars:
    """Check the bars of a data.parquet that another program wrote, by the same rules; its name says no session."""
    return _Rules(date.min, date.max, today, last_modified + CLOCK_SKEW, calendar).judge(bars)


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules that a row must keep to be merged."""

    first: date
    last: date
    """The sessions in the file's name."""
    today: date
    newest: datetime
    """No row may be ingested after that."""
    calendar: TradingCalendar
    released: bool = False
    """A person released the bars: they may break the rules of prices."""

    def judge(self, bars: pa.Table) -> SourceBars:
        """Separate the rows that can be merged from those that break a rule; raise ContractError if too many do."""
        columns = {name: bars[name].to_numpy() for name in ("timestamp", "ingested_at", *NUMBER_COLUMNS)}
        broken = self._broken(columns)
        if not broken.any():
            return SourceBars(bars, (), _find_conflicts(bars, columns["timestamp"]))
        check_years(bars)
        positions = np.flatnonzero(broken)
        rows = bars.take(pa.array(positions[:MAX_BROKEN])).to_pylist()
        refused = [self._refused(int(position) + 1, row) for position, row in zip(positions, rows, strict=False)]
        if len(positions) > MAX_BROKEN:
            raise ContractError(
                f"{len(positions):,} of {bars.num_rows:,} rows break a rule, more than the {MAX_BROKEN:,} that "
                f"quarantine takes of a file: write it again; {refused[0].reason}"
            )
        good = bars.filter(pa.array(~broken))
        return SourceBars(good, refused, _find_conflicts(good, good["timestamp"].to_numpy()))

    def _broken(self, columns: Mapping[str, Any]) -> Flags:
        """Return which rows break a rule; raise CalendarRangeError if the calendar ends before a past session.

        A day or an instant outside Python's range breaks one, too: `check_years` then names it.
        """
        sessions, instants = columns["timestamp"].astype("datetime64[D]", copy=False), columns["ingested_at"]
        named = (sessions >= np.datetime64(self.first, "D")) & (sessions <= np.datetime64(self._last, "D"))
        newest = np.datetime64(self.newest.astimezone(UTC).replace(tzinfo=None), "us")
        good = named & (instants <= newest) & (instants >= _FIRST_INSTANT) & self.calendar.are_sessions(sessions)
        if not good.all():
            self.calendar.check_end(sessions[named])
        if self.released:
            return np.asarray(~(good & np.all([np.isfinite(columns[name]) for name in NUMBER_COLUMNS], axis=0)))
        return np.asarray(~(good & unbroken(columns)))

    @property
    def _last(self) -> date:
        return min(self.last, self.today)

    def _refused(self, number: int, row: dict[str, Any]) -> BrokenBar:
        return BrokenBar(ReportedBar.of_row(row), row["ingested_at"], f"row {number}: {'; '.join(self._reasons(row))}")

    def _reasons(self, row: dict[str, Any]) -> list[str]:
        session: date = row["timestamp"]
        reasons = []
        if session == NO_SESSION:
            reasons.append("it names no session (timestamp is null)")
        elif not self.first <= session <= self.last:
            reasons.append(f"holds session {session}, which its name does not say")
        elif session > self.today:
            reasons.append(f"holds session {session}, which is yet to come")
        else:
            reasons += self.calendar.faults(session)
        if row["ingested_at"] > self.newest:
            reasons.append(f"ingested_at {row['ingested_at']} of session {session} is after the file was stored")
        return reasons + (unusable_numbers(row) if self.released else broken_rules(row))


def _find_conflicts(bars: pa.Table, sessions: npt.NDArray[np.datetime64]) -> list[str]:
    """Describe the sessions that a file reports twice, at one instant and with different values."""
    if (sessions[1:] > sessions[:-1]).all():
        return []
    order = np.lexsort((bars["ingested_at"].to_numpy(), sessions))
    rows = bars.take(pa.array(order))
    keys = [rows[name].to_numpy() for name in ("timestamp", "ingested_at")]
    twice = np.flatnonzero(np.all([key[1:] == key[:-1] for key in keys], axis=0))
    pairs = zip(rows.take(pa.array(twice)).to_pylist(), rows.take(pa.array(twice + 1)).to_pylist(), strict=True)
    return [_describe_conflict(first, other) for first, other in pairs if first != other][:MAX_RIVALS]


def _describe_conflict(first: dict[str, Any], second: dict[str, Any]) -> str:
    values = [f"{name} {first[name]} and {second[name]}" for name in first if first[name] != second[name]]
    twice = f"session {first['timestamp']} is there twice, ingested at one instant"
    return f"{twice}, with {', '.join(values)}: the greater row is taken"

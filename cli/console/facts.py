"""The values of the pages, as plain dictionaries: the facts of the commands, and problems for an operator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from cli import options
from fiblake.errors import NotFoundError
from fiblake.lake import INTERVALS, Bronze
from fiblake.rules import NUMBER_COLUMNS
from fiblake.wording import pluralize

if TYPE_CHECKING:
    from cli.target import Target
    from fiblake.adjustment import Adjustment
    from fiblake.aggregate import Bars

DAILY: Final = "1d"
INTERVAL_NAMES: Final = (DAILY, *(f"{n}d" for n in INTERVALS))
ADJUSTMENTS: Final = ("splits", "raw")
STUCK_SECONDS: Final = 900
"""A message that has waited for this time is stuck."""
FETCH_TIME: Final = timedelta(hours=12)
"""The bars of a session must be stored within this time after its close."""
SYMBOLS_NAMED: Final = 8
SESSIONS_SHOWN: Final = 60
STAGES: Final = ("fetched", "consolidated", *(f"silver_{n}d" for n in INTERVALS))


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that a person should check, and the command that helps."""

    what: str
    remedy: str
    page: str = ""
    """The console's page that shows more, if there is one."""


def expected_session(stack: "Target", now: datetime) -> date | None:
    """Return the session up to which a stack must be fetched by now; None: a local stack replays sessions of the past.

    Twelve hours after a close, both scheduled runs of the fetcher are over.
    """
    from fiblake.calendar import lake_calendar

    return None if stack.log_folder is not None else lake_calendar().last_closed(now - FETCH_TIME)


def newest_session(state: Mapping[str, Any]) -> str:
    """Return the newest session of any stage; empty: the lake has no session yet."""
    intervals = [point["last_processed_date"] for point in (state["intervals"] or {}).values() if point]
    stages = [state["fetched"], (state["consolidated"] or {}).get("last_session"), *intervals]
    return max((str(day) for day in stages if day), default="")


def problems(state: Mapping[str, Any], expected: date | None = None, now: datetime | None = None) -> list[Problem]:
    """Return the problems of a stack, the worst first; `state` is the result of `cli.status.look`.

    `expected` is the session up to which the stack must be fetched by now (None: none is expected).
    """
    problems_seen = [
        Problem(
            f"{pluralize(count, 'dead letter')} in {name}", f"fiblake dlq show --queue {name}", f"/letters?queue={name}"
        )
        for name, count in (state["dead_letters"] or {}).items()
        if count
    ]
    for name, queue in (state["queues"] or {}).items():
        oldest = queue.get("oldest_seconds")
        if oldest and oldest > STUCK_SECONDS:
            waited = pluralize(oldest // 60, "minute")
            problems_seen.append(Problem(f"the oldest message in {name} has waited {waited}", "fiblake status"))
    if state["lagging"]:
        named = ", ".join(state["lagging"][:SYMBOLS_NAMED])
        problems_seen.append(
            Problem(
                f"{pluralize(len(state['lagging']), 'symbol')} with files that are not merged: {named}",
                "fiblake reconcile --fix",
            )
        )
    if expected and state["fetched"] and state["fetched"] < expected:
        problems_seen.append(
            Problem(
                f"fetched only up to {state['fetched']}: session {expected} closed more than 12 hours ago",
                "fiblake fetch",
                "/sessions",
            )
        )
    problems_seen += _tables_left_behind(state, now or datetime.now(UTC))
    if state.get("refused"):
        keys = ", ".join(file["key"] for file in state["refused"][:SYMBOLS_NAMED])
        problems_seen.append(
            Problem(f"{pluralize(len(state['refused']), 'refused file')}: {keys}", "fiblake reconcile")
        )
    problems_seen += [
        Problem(f"{what} cannot be seen: {fault}", "fiblake status") for what, fault in state["faults"].items()
    ]
    return problems_seen


def _tables_left_behind(state: Mapping[str, Any], now: datetime) -> list[Problem]:
    """Return the tables that lack the last consolidated session although nothing waits for them: an event was lost."""
    consolidated, queues = state.get("consolidated") or {}, state["queues"] or {}
    session, updated = consolidated.get("last_session"), consolidated.get("last_updated")
    if not session or not updated or (now - updated).total_seconds() < STUCK_SECONDS:
        return []  # counts of a queue may be a minute old
    behind = [
        name
        for name, point in (state.get("intervals") or {}).items()
        if (_last_processed(point) or date.min) < session and _is_idle(queues.get(f"resample-{name}"))
    ]
    if not behind:
        return []
    tables = ", ".join(f"silver_{name}" for name in behind)
    return [Problem(f"without session {session}, and nothing waits for it: {tables}", "fiblake reconcile --fix")]


def _is_idle(queue: Mapping[str, Any] | None) -> bool:
    return queue is not None and not (queue["visible"] or queue["in_flight"])


def bars_of(stack: "Target", symbol: str, interval: str, adjustment: str) -> dict[str, Any]:
    """Return a symbol's bars in one interval, oldest first, cut from its data.parquet by the services' own code.

    `adjustment` is `splits` or `raw`. Keys: `bars` (time, open, high, low, close, volume, complete), `splits` (days),
    `last`, `sources` (files in the symbol's folder: name, size, merged or not). Raises NotFoundError if the lake has no
    such symbol, ContractError if its data.parquet cannot be read.
    """
    from fiblake.aggregate import Bars
    from fiblake.bars import Consolidated
    from fiblake.calendar import lake_calendar

    data_file = stack.store.find(Bronze().data_key(symbol))
    if data_file is None:
        options.check_in_lake(stack.store, [symbol])
        raise NotFoundError(f"{symbol} has files, and no bars that are consolidated yet")
    stored = Consolidated.decode(data_file.data, symbol, data_file.last_modified)
    if stored.bars.num_rows == 0:
        raise NotFoundError(f"data.parquet of {symbol} holds no bars")
    adjust: Adjustment = "splits" if adjustment == "splits" else "raw"
    bars = Bars.of(symbol, stored.bars, lake_calendar(), stored.reference, adjust=adjust)  # like the resampler
    reference = stored.reference.as_of(stored.last_session)
    return {
        "symbol": symbol,
        "interval": interval,
        "adjustment": adjustment,
        "bars": _daily(bars) if interval == DAILY else _buckets(bars, int(interval.removesuffix("d"))),
        "splits": [str(day) for day, _ in reference.splits],
        "last": {"session": str(stored.last_session), "close": stored.bars["close"][-1].as_py()},
        "version": stored.last_updated.isoformat(),
    }


def sources_of(stack: "Target", symbol: str) -> list[dict[str, Any]]:
    """Return the files in a symbol's folder, newest first: name, size, when it was put, and whether it is merged."""
    from fiblake.bars import Consolidated

    bronze = Bronze()
    data_file = stack.store.find(bronze.data_key(symbol))
    log = Consolidated.decode(data_file.data, symbol, data_file.last_modified).log if data_file else {}
    listing = [info for info in stack.store.list_objects(bronze.symbol_prefix(symbol)) if bronze.is_source(info.key)]
    newest_first = sorted(listing, key=lambda info: info.last_modified, reverse=True)
    return [
        {
            "name": info.key.rsplit("/", 1)[-1], "bytes": info.size, "put_at": info.last_modified,
            "merged": info.key in log,
        }
        for info in newest_first
    ]  # fmt: skip


def stages_of(stack: "Target", count: int = SESSIONS_SHOWN) -> dict[str, Any]:
    """Return the last sessions, newest first, with how many symbols reached each stage.

    `fetched` is the ledger's number of bars (None: the session is not stored whole), `consolidated` the number of
    symbols whose data.parquet reaches the session, a table's stage whether its checkpoint does.
    """
    from cli.status import checkpoints, manifest_rows
    from fiblake.calendar import lake_calendar

    calendar = lake_calendar()
    reached = sorted((row["last_consolidated_date"] for row in manifest_rows(stack)), reverse=True)
    tables = {name: _last_processed(point) for name, point in checkpoints(stack).items()}
    closed = calendar.last_closed(datetime.now(UTC))
    if stack.log_folder is not None and reached:  # a local stack replays sessions of the past
        closed = min(closed, max(reached[0], *(day for day in tables.values() if day), date.min))
    last = calendar.ordinal_on_or_after(closed)
    sessions = [calendar.session(last - back) for back in range(min(count, last + 1))]
    fetched = _ledger(stack, sessions[-1], sessions[0])
    return {
        "symbols": len(reached),
        "sessions": [
            {
                "session": session,
                "fetched": fetched.get(session),
                "consolidated": sum(day >= session for day in reached),
                **{f"silver_{name}": last_day is not None and last_day >= session for name, last_day in tables.items()},
            }
            for session in sessions
        ],
    }


def symbols_behind(stack: "Target", session: date) -> list[str]:
    """Return the symbols whose data.parquet ends before `session`."""
    from cli.status import manifest_rows

    return sorted(row["symbol"] for row in manifest_rows(stack) if row["last_consolidated_date"] < session)


def symbols_like(stack: "Target", text: str, most: int = 20) -> list[str]:
    """Return symbols of the manifest that begin with `text` (any case), in order; then those that contain it."""
    from cli.status import manifest_rows

    wanted = text.upper()
    names = sorted(row["symbol"] for row in manifest_rows(stack))
    first = [name for name in names if name.upper().startswith(wanted)]
    return (first + [name for name in names if wanted in name.upper() and name not in first])[:most]


def _ledger(stack: "Target", first: date, last: date) -> dict[date, int]:
    import asyncio

    from shared.database import connected

    async def read() -> dict[date, int]:
        async with connected(*stack.database()) as database:
            return await database.ledger_counts(first, last)

    return asyncio.run(read())


def _last_processed(checkpoint: Mapping[str, Any] | None) -> date | None:
    return date.fromisoformat(checkpoint["last_processed_date"]) if checkpoint else None


def _daily(bars: "Bars") -> list[dict[str, Any]]:
    from fiblake.calendar import lake_calendar

    sessions = lake_calendar().sessions[bars.ordinals]
    numbers = zip(*(getattr(bars, name).tolist() for name in NUMBER_COLUMNS), strict=True)
    return [_row(day, values, complete=True) for day, values in zip(sessions, numbers, strict=True)]


def _buckets(bars: "Bars", interval: int) -> list[dict[str, Any]]:
    from fiblake.aggregate import aggregate
    from fiblake.calendar import lake_calendar

    rows = aggregate([bars], interval, lake_calendar(), adjusted=True).to_pylist()
    return [_row(row["ts"], [row[name] for name in NUMBER_COLUMNS], complete=row["is_complete"]) for row in rows]


def _row(day: object, numbers: Sequence[float], *, complete: bool) -> dict[str, Any]:
    return {"time": str(day), **dict(zip(NUMBER_COLUMNS, numbers, strict=True)), "complete": complete}


def quarantine_of(stack: "Target", symbol: str | None = None) -> list[dict[str, Any]]:
    """Return the bars in quarantine, as `fiblake quarantine list` shows them."""
    from cli.quarantine import facts_of

    return facts_of(stack.store, symbol)


def letter_groups(letters: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return letters (as `fiblake dlq show --json` prints them) by queue and reason, the most frequent first."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for letter in letters:
        groups.setdefault((letter["queue"], letter["error"], letter["reason"]), []).append(letter)
    ordered = sorted(groups.items(), key=lambda pair: -len(pair[1]))
    return [
        {
            "queue": queue, "error": error, "reason": reason, "count": len(group),
            "symbols": sorted({symbol for letter in group for symbol in letter["symbols"]}),
            "oldest": min((letter["died_at"] for letter in group if letter["died_at"]), default=None),
            "body": group[0]["body"],
        }
        for (queue, error, reason), group in ordered
    ]  # fmt: skip

"""`fiblake status`: the state of the chain, its progress, and what lags."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.output import answer, draw_in_window, table
from cli.target import Target, target
from fiblake.wording import instant, pluralize, shorten_ids

if TYPE_CHECKING:
    from datetime import date

    from rich.console import Console

SYMBOLS_SHOWN = 20
WATCH_SECONDS: Final = 5
NOT_LOOKED: Final[Mapping[str, Any]] = {"lagging": None, "refused": None}
EXAMPLE = "Example: fiblake status --watch\n\nExample: fiblake status --json"


def status(
    context: typer.Context,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until Ctrl-C.")] = False,
    every: Annotated[
        float | None, typer.Option(min=0.5, help="With --watch: seconds between two readings (5).", show_default=False)
    ] = None,
    lag: Annotated[bool, typer.Option(help="Also show waiting symbols and refused files (lists bronze).")] = True,
    jobs: Annotated[int, typer.Option(min=0, help="The number of last jobs to show.")] = 5,
) -> None:
    """Show queues, dead letters, the last session fetched, consolidated and resampled, what lags, and the last jobs."""
    if every is not None and not watch:
        raise typer.BadParameter("it says how often --watch looks: say --watch as well", param_hint="--every")
    stack = target(context)
    if not watch:
        state = look(stack, jobs=jobs, lag=lag)
        answer(context, state, lambda console: _draw(console, stack, state))
        return
    while True:
        _show_in_window(context, stack, look(stack, jobs=jobs, lag=lag))
        time.sleep(every or WATCH_SECONDS)


def _show_in_window(context: typer.Context, stack: Target, state: Mapping[str, Any]) -> None:
    answer(context, state, lambda console: draw_in_window(console, lambda window: _draw(window, stack, state)))


def look(stack: Target, *, jobs: int, lag: bool) -> dict[str, Any]:
    """Return the state of a stack at one moment; a part that cannot be read is null, with the fault beside it."""
    from fiblake.errors import FiblakeError
    from shared.jobs import DRAINS
    from shared.outcomes import catch_errors

    faults: dict[str, str] = {}

    def seen(what: str, outcome: Any) -> Any:  # noqa: ANN401
        if isinstance(outcome, FiblakeError):
            faults[what] = str(outcome)
            return None
        return outcome

    ages = seen("oldest", catch_errors(stack.queue_ages)) or {}
    queues = seen("queues", catch_errors(_queues, stack, ages))
    return {
        "stack": stack.name,
        "bucket": stack.bucket,
        "queues": queues,
        "dead_letters": seen("dead_letters", catch_errors(_dead_letters, stack)),
        "fetched": seen("fetched", catch_errors(watermark, stack)),
        "consolidated": seen("consolidated", catch_errors(_consolidated, stack)),
        "intervals": seen("intervals", catch_errors(checkpoints, stack)),
        **(seen("lagging", catch_errors(_lagging, stack)) or NOT_LOOKED if lag else NOT_LOOKED),
        "jobs": seen("jobs", catch_errors(lambda: [asdict(run) for run in stack.jobs(DRAINS).recent(jobs)])),
        "faults": faults,
    }


def _queues(stack: Target, ages: Mapping[str, int]) -> dict[str, dict[str, int | None]]:
    depths = {name: stack.queue(url).depth() for name, url in stack.queue_urls.items()}
    return {name: {**asdict(depth), "oldest_seconds": ages.get(name)} for name, depth in depths.items()}


def _dead_letters(stack: Target) -> dict[str, int]:
    queues = {name: stack.queue(url).dead_letters for name, url in stack.queue_urls.items()}
    queues |= {name.removesuffix("-dlq"): stack.queue(url) for name, url in stack.lone_dead_letter_urls.items()}
    return {name: queue.depth().visible for name, queue in queues.items()}


def watermark(stack: Target) -> "date | None":
    """Return the watermark in Postgres; raise the errors of Database."""
    from shared.database import connected

    async def read_watermark() -> "date | None":
        async with connected(*stack.database()) as database:
            return await database.watermark()

    return asyncio.run(read_watermark())


def manifest_rows(stack: Target) -> list[dict[str, Any]]:
    """Return the manifest's rows (empty: no manifest yet); raise ContractError if it is damaged."""
    from fiblake.bars import decode_manifest
    from fiblake.lake import MANIFEST_KEY

    stored = stack.store.find(MANIFEST_KEY)
    return decode_manifest(stored.data).to_pylist() if stored else []


def _consolidated(stack: Target) -> dict[str, Any]:
    rows = manifest_rows(stack)
    newest = max((row["last_consolidated_date"] for row in rows), default=None)
    return {
        "symbols": len(rows),
        "last_session": newest,
        "symbols_of_last_session": sum(row["last_consolidated_date"] == newest for row in rows),
        "last_updated": max((row["last_updated"] for row in rows), default=None),
    }


def checkpoints(stack: Target) -> dict[str, dict[str, Any] | None]:
    """Return each table's checkpoint by the interval's name; None: there is none yet."""
    from fiblake.lake import INTERVALS, checkpoint_key
    from shared.checkpoints import read_checkpoint

    files = stack.store.get_many([checkpoint_key(n) for n in INTERVALS])
    return {
        f"{n}d": read_checkpoint(file.data, file.key).fields if file else None
        for n, file in zip(INTERVALS, files, strict=True)
    }


def _lagging(stack: Target) -> dict[str, Any]:
    from fiblake.lake import Bronze
    from services.reconcile.arrived import find_left_out, find_waiting

    bronze = Bronze()
    listing = stack.store.list_objects(f"{bronze.prefix}/")
    refused = [(bronze.parse_source(info.key), info) for info in find_left_out(stack.store, bronze, listing)]
    return {
        "lagging": find_waiting(bronze, listing),
        "refused": [
            {
                "symbol": file.symbol,
                "first": file.first,
                "last": file.last,
                "put_at": i.last_modified,
                "key": i.key,
            }
            for file, i in refused
        ],
    }


def _draw(console: "Console", stack: Target, state: Mapping[str, Any]) -> None:
    for what, fault in state["faults"].items():
        console.print(f"not seen: {what}: {fault}")
    dead = state["dead_letters"] or {}
    queues = state["queues"] or {}
    rows = [{"queue": name, **counts, "dead_letters": dead.get(name)} for name, counts in queues.items()]
    rows += [{"queue": name, "dead_letters": count} for name, count in dead.items() if name not in queues]
    columns = ["queue", "visible", "in_flight", "delayed", "oldest_seconds", "dead_letters"]
    console.print(table(f"Stack {stack.name}, bucket {stack.bucket}", rows, columns))
    console.print(table("How far it is", _progress(state), ["what", "last_session", "when", "symbols"]))
    if state["jobs"]:
        jobs = [{**job, "name": shorten_ids(job["name"])} for job in state["jobs"]]
        console.print(table("Last jobs", jobs, ["name", "status", "size", "created_at", "stopped_at"]))
    if state["lagging"] is not None:
        console.print(_lag(state["lagging"]))
        _draw_refused(console, state["refused"])


def _draw_refused(console: "Console", refused: list[dict[str, Any]]) -> None:
    if not refused:
        return
    title = f"Files that a consolidation has refused: {len(refused)} (`fiblake reconcile` says why)"
    console.print(table(title, refused[:SYMBOLS_SHOWN], ["symbol", "first", "last", "put_at", "key"]))
    if len(refused) > SYMBOLS_SHOWN:
        console.print(f"... and {len(refused) - SYMBOLS_SHOWN} more: --json lists all")


def _progress(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    consolidated = state["consolidated"] or {}
    rows = [
        {"what": "fetched (watermark)", "last_session": state["fetched"]},
        {
            "what": "consolidated",
            "last_session": consolidated.get("last_session"),
            "when": consolidated.get("last_updated"),
            "symbols": consolidated.get("symbols"),
        },
    ]
    for name, checkpoint in (state["intervals"] or {}).items():
        fields = checkpoint or {}
        last, when = fields.get("last_processed_date"), fields.get("last_run_timestamp")
        rows.append({"what": f"silver_{name}", "last_session": last, "when": instant(str(when)) if when else None})
    return rows


def _lag(symbols: list[str]) -> str:
    if not symbols:
        return "no symbol waits to be consolidated"
    more = f" and {len(symbols) - SYMBOLS_SHOWN} more" if len(symbols) > SYMBOLS_SHOWN else ""
    verb = "waits" if len(symbols) == 1 else "wait"
    head = f"{pluralize(len(symbols), 'symbol')} {verb} to be consolidated"
    return f"{head}: {', '.join(symbols[:SYMBOLS_SHOWN])}{more}"

"""`fiblake trace ID`: the path of a put from S3 to silver, from the services' logs."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import options
from cli.output import answer, table
from cli.target import Target, target
from fiblake.errors import NotFoundError
from fiblake.wording import instant

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLE: Final = (
    "Example: fiblake trace AAPL --local\n\nExample: fiblake trace 4eb48770-7109-4105-a18c-771790ce9118 --since 7d"
)
SINCE: Final = "24h"
_ID: Final = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_STAGES: Final = {
    "arrivals routed": "routed", "consolidation requested": "requested", "consolidated": "consolidated",
    "consolidated without a change of bars": "consolidated", "resampled": "resampled", "joined": "joined",
}  # fmt: skip
_HIDDEN: Final = {
    "level", "location", "message", "timestamp", "service", "correlation_id", "symbol", "interval", "put_at",
    "cold_start", "function_name", "function_memory_size", "function_arn", "function_request_id", "xray_trace_id",
    "run",
}  # fmt: skip
_MOST_IDS: Final = 10
"""The maximum of correlation ids in a trace: messages are merged one after the other, and each merge adds an id."""


def trace(
    context: typer.Context,
    wanted: Annotated[str, typer.Argument(metavar="ID", help="A correlation id, or a symbol (its last put).")],
    *,
    since: Annotated[str, typer.Option(help="The age up to which the logs are searched.", metavar="2h")] = SINCE,
) -> None:
    """Show the path of a put from S3 to silver as a timeline: put, requested, consolidated, resampled in each interval.

    The logs are CloudWatch's (the credentials need logs:FilterLogEvents), or those of the local stack.
    """
    age = options.age(since, "--since") or timedelta()
    if not is_id(wanted):
        raise typer.BadParameter(f"{wanted!r} is neither a correlation id nor a symbol", param_hint="ID")
    steps = look(target(context), wanted, datetime.now(UTC) - age)
    answer(context, steps, lambda console: _show(console, steps))


def is_id(text: str) -> bool:
    """Return whether a text can be a correlation id or a symbol."""
    return bool(_ID.fullmatch(text))


def look(stack: Target, wanted: str, since: datetime) -> list[dict[str, Any]]:
    """Return the steps of a put, oldest first; raise NotFoundError if no log line has this id or symbol."""
    records = _records(stack, {"correlation_id": wanted, "into": wanted}, since)
    if not records:
        of_symbol = [record for record in _records(stack, {"symbol": wanted}, since) if record.get("correlation_id")]
        if not of_symbol:
            raise NotFoundError(f"no log line since {instant(since)} has the correlation id or symbol {wanted}")
        wanted = str(max(of_symbol, key=lambda record: str(record.get("timestamp")))["correlation_id"])
        records = _records(stack, {"correlation_id": wanted, "into": wanted}, since)
    seen = {wanted}
    while into := {str(record["into"]) for record in records if record.get("into")} - seen:
        if len(seen) >= _MOST_IDS:
            break
        for other in sorted(into):
            records += _records(stack, {"correlation_id": other}, since)
        seen |= into
    return steps_of(records)


def steps_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return log records as steps, oldest first, each once; the first put comes before them."""
    steps = {
        (record.get("timestamp"), record["message"], record.get("symbol"), record.get("interval")): _step(record)
        for record in records
    }
    puts = [moment for record in records if (moment := _moment(record.get("put_at")))]
    ordered = sorted(steps.values(), key=lambda step: step["at"])
    if puts:
        first = min(puts)
        ordered = [{**_step({"message": "put in S3"}), "at": first, "stage": "put"}, *ordered]
    return [{**step, "seconds": round((step["at"] - ordered[0]["at"]).total_seconds(), 1)} for step in ordered]


def _step(record: Mapping[str, Any]) -> dict[str, Any]:
    detail = {name: value for name, value in record.items() if name not in _HIDDEN}
    return {
        "at": _moment(record.get("timestamp")) or datetime.min.replace(tzinfo=UTC),
        "stage": _STAGES.get(record["message"], record["message"]), "service": record.get("service"),
        "symbol": record.get("symbol"), "interval": f"{record['interval']}d" if record.get("interval") else None,
        "correlation_id": record.get("correlation_id"),
        "detail": ", ".join(f"{name} {value}" for name, value in detail.items()),
    }  # fmt: skip


def _moment(text: object) -> datetime | None:
    """Return an instant from a log line: 2026-11-26 18:17:21,424+0000, or ISO."""
    try:
        moment = datetime.fromisoformat(str(text).replace(",", "."))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _records(stack: Target, fields: Mapping[str, str], since: datetime) -> list[dict[str, Any]]:
    from shared.logs import records_with

    if stack.log_folder is None:
        return records_with(stack.log_groups, fields, since)
    return [
        record
        for record in _local_records(stack.log_folder)
        if any(record.get(name) == value for name, value in fields.items())
        and (_moment(record.get("timestamp")) or since) >= since
    ]


def _local_records(folder: Path) -> Iterator[dict[str, Any]]:
    from shared.logs import record_of

    for file in [folder / "aws/emulator.log", *sorted((folder / "jobs").glob("*.log"))]:
        if not file.exists():
            continue
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if "correlation_id" in line and (record := record_of(line)):
                    yield record


def _show(console: "Console", steps: list[dict[str, Any]]) -> None:
    columns = ["at", "seconds", "stage", "symbol", "interval", "detail"]
    console.print(table("The way of a put", steps, columns))
    buckets = {step["interval"] for step in steps if step["stage"] == "resampled"}
    if steps[0]["stage"] == "put" and buckets:
        console.print(f"{steps[-1]['seconds']:g} s from the put to the last of {len(buckets)} tables")


def default_since() -> datetime:
    """Return the instant from which the console searches."""
    return datetime.now(UTC) - timedelta(hours=24)

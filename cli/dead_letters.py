"""`fiblake dlq list|show|replay|discard`: what died, of what, and what becomes of it."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.output import answer, confirmed, table
from cli.target import Target, target

if TYPE_CHECKING:
    from rich.console import Console

    from shared.dead_letters import DeadLetter, DeadLetters, Filter, Outcome

app = typer.Typer(help="Dead letters: messages that could not be worked on, with the reason.", no_args_is_help=True)

Queues = Annotated[list[str] | None, typer.Option("--queue", help="Only of this queue (say it again for more).")]
Reason = Annotated[str, typer.Option(help="Only those whose reason, or kind of error, contains this.")]
OlderThan = Annotated[str | None, typer.Option(help="Only those that died so long ago.", metavar="2h")]
NewerThan = Annotated[str | None, typer.Option(help="Only those that died since.", metavar="2h")]


@app.command("list", epilog="Example: fiblake dlq list --json")
def list_(
    context: typer.Context,
    *,
    queues: Queues = None,
    most: Annotated[int, typer.Option(min=1, help="Letters read for the reasons, per queue.")] = 1_000,
) -> None:
    """List all dead-letter queues: how many letters, how old the oldest is, and what they died of."""
    from shared.dead_letters import Filter

    now = datetime.now(UTC)
    rows = []
    for place in _places(target(context), queues):
        depth = place.queue.depth()
        letters = place.find(Filter(), now, most) if depth.visible else []
        rows.append({"queue": place.name, "letters": depth.visible + depth.in_flight, **_summary(letters, now)})
    answer(context, rows, lambda console: _draw(console, rows))


@app.command(epilog="Example: fiblake dlq show --queue consolidation --symbols AAPL --reason 'no bars'")
def show(
    context: typer.Context,
    *,
    queues: Queues = None,
    symbols: options.Symbols = None,
    reason: Reason = "",
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Letters read per queue.")] = 100,
) -> None:
    """Print dead letters, readable: what they died of, after how many receives, and what they say."""
    wanted, now = _filter(symbols, reason, older_than, newer_than), datetime.now(UTC)
    found = _found(_places(target(context), queues), wanted, now, most)
    letters = [letter.facts() for _, some in found for letter in some]

    def draw(console: "Console") -> None:
        for letter in letters:
            console.print(f"[bold]{letter['queue']}[/]  {letter['id']}", highlight=False)
            console.print(_told(letter), highlight=False, markup=False, soft_wrap=True)
        console.print(f"{len(letters)} letters")

    answer(context, letters, draw)


@app.command(epilog="Example: fiblake dlq replay --queue resample-5d --reason UpstreamError --rate 50")
def replay(
    context: typer.Context,
    *,
    queues: Queues = None,
    symbols: options.Symbols = None,
    reason: Reason = "",
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Messages a second at the most.")] = None,
    most_replays: Annotated[int, typer.Option(min=1, help="A letter that died again after so many replays stays.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be replayed.")] = False,
) -> None:
    """Send dead letters back to where they came from, with their attributes and a replay count.

    A letter is sent before it is taken out: cut off at any moment, none is lost. Every message may safely come twice.
    """
    wanted, now = _filter(symbols, reason, older_than, newer_than), datetime.now(UTC)
    stack = target(context)
    outcomes: dict[str, Outcome] = {}
    for place in _places(stack, queues):
        if dry_run:
            outcomes[place.name] = _would_be_replayed(place, wanted, now, most_replays)
            continue
        outcomes[place.name] = place.replay(wanted, now, most_replays, rate)
        if place.name == "consolidation":
            _start_workers(stack, outcomes[place.name].done)
    _report(context, outcomes, "would be replayed" if dry_run else "replayed")


@app.command(epilog="Example: fiblake dlq discard --queue bronze-arrivals --reason 'neither date=' --to dropped.jsonl")
def discard(
    context: typer.Context,
    *,
    queues: Queues = None,
    symbols: options.Symbols = None,
    reason: Reason = "",
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    to: Annotated[Path | None, typer.Option(help="File that is to keep them (JSON lines; appended to).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be discarded.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Discard without asking.")] = False,
) -> None:
    """Take dead letters out for good, after writing them to a file."""
    wanted, now = _filter(symbols, reason, older_than, newer_than), datetime.now(UTC)
    found = _found(_places(target(context), queues), wanted, now)
    count = sum(len(letters) for _, letters in found)
    file = to or Path(f"dead-letters-{now:%Y%m%dT%H%M%SZ}.jsonl")
    if dry_run or not count or not (yes or confirmed(f"discard {count} dead letters, after writing them to {file}?")):
        answer(
            context, {"meant": count, "discarded": 0}, lambda c: c.print(f"{count} letters meant; none is discarded")
        )
        return
    discarded = _discarded([place for place, letters in found if letters], wanted, now, file)
    facts = {"meant": count, "discarded": discarded, "file": str(file)}
    answer(context, facts, lambda console: console.print(f"{discarded} letters discarded; they are in {file}"))


def _start_workers(stack: Target, replayed: int) -> None:
    """Start a job for what waits in the queue: also for what a run that was cut off sent back, and started none for."""
    waiting = stack.queue(stack.queue_urls["consolidation"]).depth().visible
    if waiting or replayed:
        stack.start_workers(max(waiting, replayed))


def _found(
    places: "Sequence[DeadLetters]", wanted: "Filter", now: datetime, most: int | None = None
) -> "list[tuple[DeadLetters, list[DeadLetter]]]":
    """Give the letters that are meant, with their queues; all are read at once, for most are empty and let one wait."""
    with ThreadPoolExecutor(max(1, len(places))) as pool:
        return list(zip(places, pool.map(lambda place: place.find(wanted, now, most), places), strict=True))


def _discarded(places: "Sequence[DeadLetters]", wanted: "Filter", now: datetime, file: Path) -> int:
    # Only for the owner: a body may say more than everybody on this machine should know.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as out:
        return sum(place.discard(wanted, now, out).done for place in places)


def _places(stack: Target, chosen: Sequence[str] | None) -> "list[DeadLetters]":
    """Give the dead-letter queues of the stack, or those of the chosen queues."""
    from shared.dead_letters import DeadLetters, back_to, back_to_function
    from shared.functions import call_later, connect

    sources = [(name, stack.queue(url)) for name, url in stack.queue_urls.items()]
    places = [
        DeadLetters(name, source.dead_letters, back_to(source)) for name, source in sources if _meant(name, chosen)
    ]
    for name, url in stack.lone_dead_letter_urls.items():
        if _meant(name, chosen):
            client = connect()
            send = back_to_function(lambda function, event, client=client: call_later(client, function, event))  # type: ignore[misc]
            places.append(DeadLetters(name.removesuffix("-dlq"), stack.queue(url), send))
    known = [*stack.queue_urls, *(name.removesuffix("-dlq") for name in stack.lone_dead_letter_urls)]
    unknown = sorted({_bare(name) for name in chosen or ()} - set(known))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: the queues are {', '.join(known)}", param_hint="--queue")
    return places


def _meant(name: str, chosen: Sequence[str] | None) -> bool:
    return not chosen or _bare(name) in {_bare(one) for one in chosen}


def _bare(name: str) -> str:
    return name.removesuffix("-dlq")


def _filter(symbols: str | None, reason: str, older_than: str | None, newer_than: str | None) -> "Filter":
    from shared.dead_letters import Filter

    older, newer = options.age(older_than, "--older-than"), options.age(newer_than, "--newer-than")
    return Filter(options.named(symbols), reason, older, newer)


def _would_be_replayed(place: "DeadLetters", wanted: "Filter", now: datetime, most_replays: int) -> "Outcome":
    from shared.dead_letters import Outcome

    letters = place.find(wanted, now)
    done = sum(letter.replays < most_replays for letter in letters)
    return Outcome(done, exhausted=len(letters) - done)


def _report(context: typer.Context, outcomes: "dict[str, Outcome]", verb: str) -> None:
    rows = [{"queue": name, **asdict(outcome)} for name, outcome in outcomes.items()]

    def draw(console: "Console") -> None:
        drawn = [{**row, verb: row["done"]} for row in rows if any(row[key] for key in ("done", "exhausted", "unsent"))]
        if drawn:
            console.print(table("Dead letters", drawn, ["queue", verb, "exhausted", "unsent"]))
        console.print(f"{sum(row['done'] for row in rows)} letters {verb}")

    answer(context, rows, draw)
    if any(outcome.exhausted or outcome.unsent for outcome in outcomes.values()):
        raise typer.Exit(3)


def _summary(letters: "Sequence[DeadLetter]", now: datetime) -> dict[str, Any]:
    died = [letter.message.sent_at for letter in letters if letter.message.sent_at]
    reasons = Counter(f"{letter.error}: {letter.reason}" for letter in letters)
    return {
        "oldest_seconds": int((now - min(died)).total_seconds()) if died else None,
        "reasons": dict(reasons.most_common()),
    }


def _draw(console: "Console", rows: Sequence[dict[str, Any]]) -> None:
    from datetime import timedelta

    shown = [
        {
            **row,
            "oldest": None if row["oldest_seconds"] is None else str(timedelta(seconds=row["oldest_seconds"])),
            "reasons": "\n".join(f"{count} of {reason[:200]}" for reason, count in list(row["reasons"].items())[:5]),
        }
        for row in rows
    ]
    console.print(table("Dead letters", shown, ["queue", "letters", "oldest", "reasons"]))


def _told(letter: dict[str, Any]) -> str:
    symbols = f" ({', '.join(letter['symbols'])})" if letter["symbols"] else ""
    return (
        f"  died {letter['died_at']} after {letter['receive_count'] or '?'} receives, "
        f"replayed {letter['replays']} times{symbols}\n  {letter['error']}: {letter['reason']}\n  {letter['body']}\n"
    )

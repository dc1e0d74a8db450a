"""`fiblake dlq list|show|replay|discard`: show dead letters with their reasons, replay or discard them."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli import options
from cli.output import answer, confirm, table
from cli.target import Target, target
from fiblake.wording import instant, pluralize

if TYPE_CHECKING:
    from rich.console import Console

    from shared.dead_letters import DeadLetter, DeadLetters, Filter, Outcome

app = typer.Typer(help="Dead letters: messages that failed, with the reason.", no_args_is_help=True)

Queues = Annotated[list[str] | None, typer.Option("--queue", help="Only of this queue; may be given several times.")]
Reason = Annotated[str, typer.Option(help="Only those whose reason, or kind of error, contains this.")]
OlderThan = Annotated[str | None, typer.Option(help="Only those that are older than this.", metavar="2h")]
NewerThan = Annotated[str | None, typer.Option(help="Only those that are newer than this.", metavar="2h")]
Mended = Annotated[
    bool | None,
    typer.Option("--mended/--standing", help="Only those whose cause is mended, or is not."),
]
REASONS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Chosen:
    """The letters that the options select."""

    queues: list[str] | None
    symbols: tuple[str, ...]
    reason: str
    older_than: timedelta | None
    newer_than: timedelta | None
    mended: bool | None


def _chosen(  # noqa: PLR0917 (options)
    queues: Queues = None, symbols: options.Symbols = None, reason: Reason = "", older_than: OlderThan = None,
    newer_than: NewerThan = None, mended: Mended = None,
) -> Chosen:  # fmt: skip
    older, newer = options.age(older_than, "--older-than"), options.age(newer_than, "--newer-than")
    if older and newer and older >= newer:
        raise typer.BadParameter(
            f"no letter died more than {older_than} ago and less than {newer_than} ago", param_hint="--older-than"
        )
    return Chosen(queues, options.parse_symbols(symbols), reason, older, newer, mended)


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select letters to a command; it gets their values as its second argument."""
    own = list(signature(command).parameters.values())
    choosing = list(signature(_chosen).parameters.values())

    @wraps(command)
    def with_options(context: typer.Context, **values: Any) -> None:  # noqa: ANN401 (whatever the options are)
        chosen = _chosen(**{option.name: values.pop(option.name) for option in choosing})
        command(context, chosen, **values)

    options_ = [option.replace(kind=Parameter.KEYWORD_ONLY) for option in [*choosing, *own[2:]]]
    with_options.__signature__ = Signature([own[0], *options_])  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in [own[0], *options_]}
    return with_options


@app.command("list", epilog="Example: fiblake dlq list --json")
def list_(
    context: typer.Context,
    *,
    queues: Queues = None,
    most: Annotated[int, typer.Option(min=1, help="Letters read for the reasons, per queue.")] = 1_000,
) -> None:
    """List all dead-letter queues: how many letters, how old the oldest is, and the reasons."""
    from shared.dead_letters import Filter

    now = datetime.now(UTC)
    rows = []
    for dlq in dlqs_of(target(context), queues):
        depth = dlq.queue.depth()
        letters = dlq.find(Filter(), now, most) if depth.visible else []
        rows.append({"queue": dlq.name, "letters": depth.visible + depth.in_flight, **_summary(letters, now)})
    answer(context, rows, lambda console: _draw(console, rows))


@app.command(epilog="Example: fiblake dlq show --queue consolidation --symbols AAPL --reason 'no bars'")
@filtered
def show(
    context: typer.Context,
    chosen: Chosen,
    *,
    most: Annotated[int, typer.Option("--most", min=1, help="Letters read per queue.")] = 100,
) -> None:
    """Print dead letters in readable form: reason, receives, and content."""
    now = datetime.now(UTC)
    stack = target(context)
    dlqs = dlqs_of(stack, chosen.queues)
    letters_by_queue = letters_in(dlqs, _filter(stack, dlqs, chosen, now), now, most)
    letters = [letter.facts() for _, some in letters_by_queue for letter in some]

    def draw(console: "Console") -> None:
        for letter in letters:
            console.print(f"{letter['queue']}  {letter['id']}", style="bold")
            console.print(_letter_text(letter), soft_wrap=True)
        console.print(pluralize(len(letters), "letter"))

    answer(context, letters, draw)


@app.command(epilog="Example: fiblake dlq replay --queue resample-5d --reason UpstreamError --rate 50")
@filtered
def replay(
    context: typer.Context,
    chosen: Chosen,
    *,
    rate: Annotated[float | None, typer.Option(min=0.1, help="The maximum of messages per second.")] = None,
    most_replays: Annotated[
        int, typer.Option(min=1, help="A letter that failed again after this many replays stays.")
    ] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be replayed.")] = False,
) -> None:
    """Send dead letters back to their queue or function, with their attributes and a replay count.

    A letter is sent before it is deleted, so an interruption loses none. Every message may safely come twice.
    """
    now = datetime.now(UTC)
    stack = target(context)
    dlqs = dlqs_of(stack, chosen.queues)
    filter_ = _filter(stack, dlqs, chosen, now)
    outcomes: dict[str, Outcome] = {}
    for dlq in dlqs:
        if dry_run:
            outcomes[dlq.name] = _count_replayable(dlq, filter_, now, most_replays)
            continue
        outcomes[dlq.name] = dlq.replay(filter_, now, most_replays, rate)
        if dlq.name == "consolidation":
            _start_workers(stack, outcomes[dlq.name].done)
    _report(context, outcomes, "would be replayed" if dry_run else "replayed")


@app.command(epilog="Example: fiblake dlq discard --queue bronze-arrivals --reason 'neither date=' --to dropped.jsonl")
@filtered
def discard(
    context: typer.Context,
    chosen: Chosen,
    *,
    to: Annotated[Path | None, typer.Option(help="File to which they are appended, as JSON lines.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be discarded.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Discard without asking.")] = False,
) -> None:
    """Delete dead letters, after writing them to a file."""
    now = datetime.now(UTC)
    file = to or Path(f"dead-letters-{now:%Y%m%dT%H%M%SZ}.jsonl")
    options.check_writable(file, "--to")
    stack = target(context)
    dlqs = dlqs_of(stack, chosen.queues)
    filter_ = _filter(stack, dlqs, chosen, now)
    letters_by_queue = letters_in(dlqs, filter_, now)
    count = sum(len(letters) for _, letters in letters_by_queue)
    question = f"discard {pluralize(count, 'dead letter')}, after writing a copy to {file}?"
    if dry_run or not count or not (yes or confirm(question)):
        text = f"{pluralize(count, 'letter')} meant; none is discarded"
        answer(context, {"meant": count, "discarded": 0}, lambda console: console.print(text))
        return
    discarded = discard_letters([dlq for dlq, letters in letters_by_queue if letters], filter_, now, file)
    facts = {"meant": count, "discarded": discarded, "file": str(file)}
    answer(
        context,
        facts,
        lambda console: console.print(f"{pluralize(discarded, 'letter')} discarded, with a copy in {file}"),
    )


def _start_workers(stack: Target, replayed: int) -> None:
    """Start a job for the messages in the queue, also for those that an interrupted run sent back."""
    waiting = stack.queue(stack.queue_urls["consolidation"]).depth().visible
    if waiting or replayed:
        stack.start_workers(max(waiting, replayed))


def letters_in(
    dlqs: "Sequence[DeadLetters]", filter_: "Filter", now: datetime, most: int | None = None
) -> "list[tuple[DeadLetters, list[DeadLetter]]]":
    """Return the selected letters, by queue; all queues are read at once, because reading one takes long."""
    with ThreadPoolExecutor(max(1, len(dlqs))) as pool:
        return list(zip(dlqs, pool.map(lambda dlq: dlq.find(filter_, now, most), dlqs), strict=True))


def discard_letters(dlqs: "Sequence[DeadLetters]", filter_: "Filter", now: datetime, file: Path) -> int:
    """Delete the letters, after appending them to `file`; return how many."""
    # Readable by the owner only: a body may hold confidential text.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as out:
        return sum(dlq.discard(filter_, now, out).done for dlq in dlqs)


def dlqs_of(stack: Target, chosen: Sequence[str] | None) -> "list[DeadLetters]":
    """Return the dead-letter queues of the stack, or those of the chosen queues."""
    from shared.dead_letters import DeadLetters, redrive_to_function, redrive_to_queue
    from shared.functions import call_later, connect

    sources = [(name, stack.queue(url)) for name, url in stack.queue_urls.items()]
    dlqs = [
        DeadLetters(name, source.dead_letters, redrive_to_queue(source))
        for name, source in sources
        if _is_chosen(name, chosen)
    ]
    for name, url in stack.lone_dead_letter_urls.items():
        if _is_chosen(name, chosen):
            client = connect()
            send = redrive_to_function(lambda function, event, client=client: call_later(client, function, event))  # type: ignore[misc]
            dlqs.append(DeadLetters(name.removesuffix("-dlq"), stack.queue(url), send))
    names_known = [*stack.queue_urls, *(name.removesuffix("-dlq") for name in stack.lone_dead_letter_urls)]
    unknown = sorted({_bare(name) for name in chosen or ()} - set(names_known))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: the queues are {', '.join(names_known)}", param_hint="--queue")
    return dlqs


def _is_chosen(name: str, chosen: Sequence[str] | None) -> bool:
    return not chosen or _bare(name) in {_bare(name_chosen) for name_chosen in chosen}


def _bare(name: str) -> str:
    return name.removesuffix("-dlq")


def _filter(stack: Target, dlqs: "Sequence[DeadLetters]", chosen: Chosen, now: datetime) -> "Filter":
    """Return the filter of the options; --mended runs the audit here, once for all letters.

    Raises NotFoundError if a symbol is neither in the lake nor in a letter.
    """
    from shared.dead_letters import Filter

    _check_symbols(stack, dlqs, chosen.symbols, now)
    filter_ = Filter(chosen.symbols, chosen.reason, chosen.older_than, chosen.newer_than)
    if chosen.mended is None:
        return filter_
    from cli.reconcile import auditor
    from services.reconcile.mended import find_mended

    letters = [letter for _, some in letters_in(dlqs, filter_, now) for letter in some]
    ids = find_mended(letters, auditor(stack))
    if not chosen.mended:
        ids = {letter.message.id for letter in letters} - ids
    return replace(filter_, ids=frozenset(ids))


def _check_symbols(stack: Target, dlqs: "Sequence[DeadLetters]", symbols: Sequence[str], now: datetime) -> None:
    # A letter may name a symbol without a folder: its only file was removed, or was never put.
    from fiblake.lake import Bronze, check_known
    from shared.dead_letters import Filter

    if not symbols:
        return
    bronze = Bronze()
    in_lake = set(bronze.symbols_in(stack.store.folders(f"{bronze.prefix}/")))
    if set(symbols) <= in_lake:
        return
    in_letters = {symbol for _, some in letters_in(dlqs, Filter(), now) for letter in some for symbol in letter.symbols}
    check_known(symbols, in_lake | in_letters)


def _count_replayable(dlq: "DeadLetters", filter_: "Filter", now: datetime, most_replays: int) -> "Outcome":
    from shared.dead_letters import Outcome

    letters = dlq.find(filter_, now)
    replayable = sum(letter.replays < most_replays for letter in letters)
    return Outcome(replayable, exhausted=len(letters) - replayable)


def _report(context: typer.Context, outcomes: "dict[str, Outcome]", verb: str) -> None:
    rows = [{"queue": name, **asdict(outcome)} for name, outcome in outcomes.items()]

    def draw(console: "Console") -> None:
        drawn = [{**row, verb: row["done"]} for row in rows if any(row[key] for key in ("done", "exhausted", "unsent"))]
        if drawn:
            console.print(table("Dead letters", drawn, ["queue", verb, "exhausted", "unsent"]))
        console.print(f"{pluralize(sum(row['done'] for row in rows), 'letter')} {verb}")

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
            "reasons": _reasons_text(row["reasons"]),
        }
        for row in rows
    ]
    console.print(table("Dead letters", shown, ["queue", "letters", "oldest", "reasons"]))


def _reasons_text(reasons: Mapping[str, int]) -> str:
    lines = [f"{count} of {reason[:200]}" for reason, count in list(reasons.items())[:REASONS_SHOWN]]
    more = sum(list(reasons.values())[REASONS_SHOWN:])
    return "\n".join([*lines, *([f"and {more} more, of other reasons: --json lists all"] if more else [])])


def _letter_text(letter: dict[str, Any]) -> str:
    symbols = f" ({', '.join(letter['symbols'])})" if letter["symbols"] else ""
    died = instant(letter["died_at"]) if letter["died_at"] else "at an unknown instant"
    receives = (
        pluralize(letter["receive_count"], "receive") if letter["receive_count"] else "an unknown number of receives"
    )
    return (
        f"  died {died} after {receives}, replayed {pluralize(letter['replays'], 'time')}{symbols}\n"
        f"  {letter['error']}: {letter['reason']}\n  {letter['body']}\n"
    )

"""`fiblake events send FILE --queue NAME`: put a sample event, or your own, into a queue of the stack."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cli.output import answer
from cli.target import target
from fiblake.errors import UpstreamError
from fiblake.wording import pluralize

app = typer.Typer(help="Send events by hand.", no_args_is_help=True)
SAMPLES_BUCKET: Final = "dev-condvest-datalake"
SEND_EXAMPLE: Final = (
    "Example: fiblake events send events/consolidation-request.json --queue consolidation --local\n\n"
    "Example: fiblake events send events/s3-put-via-eventbridge.json --queue bronze-arrivals --own-bucket --local"
)


@app.command(epilog=SEND_EXAMPLE)
def send(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="A JSON file; - is standard input.")],
    *,
    queue: Annotated[str, typer.Option(help="The queue's name without the environment, such as consolidation.")],
    own_bucket: Annotated[
        bool, typer.Option("--own-bucket", help=f"Replace the sample's bucket, {SAMPLES_BUCKET}, by the stack's.")
    ] = False,
) -> None:
    """Send an event: its messages, if it has the format of Lambda's input from a queue; else the whole file."""
    text = _read(file)
    stack = target(context)
    url = stack.queue_urls.get(queue)
    if url is None:
        raise typer.BadParameter(f"{queue!r}: the queues are {', '.join(stack.queue_urls)}", param_hint="--queue")
    bodies, attributes = messages(text.replace(SAMPLES_BUCKET, stack.bucket) if own_bucket else text)
    unsent = stack.queue(url).send(bodies, attributes)
    if unsent:
        raise UpstreamError(f"SQS did not take {len(unsent)} of {pluralize(len(bodies), 'message')}")
    if queue == "consolidation":
        stack.start_workers(len(bodies))
    text = f"{pluralize(len(bodies), 'message')} sent to {queue}"
    answer(context, {"queue": queue, "sent": len(bodies)}, lambda console: console.print(text))


def messages(text: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the bodies and attributes to send: those of Lambda's records from SQS, or the text itself."""
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        return [text], [{}]
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list) or not all(_of_a_queue(record) for record in records):
        return [text], [{}]
    return [record["body"] for record in records], [_attributes(record) for record in records]


def _of_a_queue(record: object) -> bool:
    return isinstance(record, dict) and record.get("eventSource") == "aws:sqs" and isinstance(record.get("body"), str)


def _attributes(record: dict[str, Any]) -> dict[str, Any]:
    # Lambda writes the names of their parts in lower case, SQS in upper case.
    attributes = record.get("messageAttributes")
    return {
        name: {"DataType": value["dataType"], "StringValue": value["stringValue"]}
        for name, value in (attributes.items() if isinstance(attributes, dict) else ())
        if isinstance(value, dict)
        and isinstance(value.get("stringValue"), str)
        and isinstance(value.get("dataType"), str)
    }


def _read(file: str) -> str:
    from fiblake.decoding import limit

    try:
        if file == "-":
            text = sys.stdin.read(limit() + 1)
        else:
            with Path(file).open(encoding="utf-8") as opened:
                text = opened.read(limit() + 1)  # a device may have no end
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}", param_hint="FILE") from error
    if len(text) > limit():
        fault = f"it has more than {limit():,} characters; a message has at most 1 MB"
        raise typer.BadParameter(f"{file} cannot be sent: {fault}", param_hint="FILE")
    return text

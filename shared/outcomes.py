"""How a message ends: the one place where an outcome becomes a deletion, a retry, or a dead letter."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, ParamSpec, TypeVar

from fiblake.errors import FiblakeError, PermanentError, TransientError, UpstreamError
from shared.queues import Queue, ReceivedMessage, queue_of_arn
from shared.telemetry import emit_metrics, logger

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")
SUSPECT_RECEIVES: Final = 3
"""From this receive on a message is worked on alone."""


class UnexpectedError(TransientError):
    """A fault in our own code or a library: retried, and a dead letter with its trace in the logs if it persists."""


class ExhaustedError(PermanentError):
    """A transient failure that outlived the retries."""


def catch_errors(
    work: Callable[ParamsT, ResultT], *args: ParamsT.args, **kwargs: ParamsT.kwargs
) -> ResultT | FiblakeError:
    """Call `work` and return its result, or the error it ended with.

    One message's failure must not take its batch mates along, so an error that is not ours becomes an UnexpectedError
    of this one message: it is retried and then dead-lettered with its reason, never dropped.
    """
    try:
        return work(*args, **kwargs)
    except FiblakeError as error:
        return error
    except Exception as error:  # noqa: BLE001 (kept as the message's outcome, see above)
        logger.exception("unexpected error")
        unexpected = UnexpectedError(f"{type(error).__name__}: {error}")
        unexpected.__cause__ = error
        return unexpected


def finish_messages(
    queue: Queue, messages: Sequence[ReceivedMessage], errors: Mapping[str, FiblakeError], most_receives: int
) -> list[ReceivedMessage]:
    """Put an end to each message but those done: dead-letter what can never succeed, give back what may.

    `errors` maps a message's id to what it failed with; the others are done. Returns the messages that may be deleted:
    done ones and dead-lettered ones. The rest become visible again after a growing pause.
    """
    ended = [m for m in messages if m.id not in errors or _dead_lettered(queue, m, errors[m.id], most_receives)]
    if errors:
        dead = sum(message.id in errors for message in ended)
        emit_metrics(MessagesDeadLettered=dead, MessagesRetried=len(messages) - len(ended))
    return ended


def separate_suspects(messages: Sequence[ReceivedMessage]) -> list[list[ReceivedMessage]]:
    """Return the messages in the groups that are to be worked on one after the other.

    What came often before stands alone and comes last, the greatest body at the end: it may be what killed the process
    each time, and what is settled before it is safe from that.
    """
    suspects = sorted((m for m in messages if m.receive_count >= SUSPECT_RECEIVES), key=lambda m: len(m.body))
    others = [m for m in messages if m.receive_count < SUSPECT_RECEIVES]
    return [*([others] if others else []), *([m] for m in suspects)]


def process_messages(
    source_arn: str, messages: Sequence[ReceivedMessage],
    work: Callable[[Sequence[ReceivedMessage]], Mapping[str, FiblakeError]], most_receives: int,
) -> dict[str, Any]:  # fmt: skip
    """Work on the messages a function got from the queue `source_arn`; return Lambda's partial batch response.

    `work` returns the errors of the messages it was given, by message id. The messages of a group (see
    `separate_suspects`) that have ended are deleted before the next group begins: if the process is killed, what is
    done stays done.
    """
    groups, again = separate_suspects(messages), list[ReceivedMessage]()
    for number, group in enumerate(groups, start=1):
        response = batch_response(source_arn, group, work(group), most_receives)
        kept = {failure["itemIdentifier"] for failure in response["batchItemFailures"]}
        again += [message for message in group if message.id in kept]
        ended = [message for message in group if message.id not in kept]
        if number < len(groups) and isinstance(queue := _queue(source_arn), Queue):
            queue.delete(ended)
    return _response(again)


def batch_response(
    source_arn: str, messages: Sequence[ReceivedMessage], errors: Mapping[str, FiblakeError], most_receives: int
) -> dict[str, Any]:
    """Finish the messages a function got from the queue `source_arn`; return Lambda's partial batch response.

    If the queue cannot be found, the messages that failed come again, and those that are done end all the same.
    """
    failed = [message for message in messages if message.id in errors]
    queue = _queue(source_arn) if failed else None
    ended = finish_messages(queue, failed, errors, most_receives) if isinstance(queue, Queue) else []
    return _response([message for message in failed if message not in ended])


def _queue(source_arn: str) -> Queue | FiblakeError:
    queue = catch_errors(queue_of_arn, source_arn)
    if isinstance(queue, FiblakeError):
        logger.warning("the queue of these messages is not found", extra={"fault": str(queue)})
    return queue


def _response(again: Sequence[ReceivedMessage]) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": message.id} for message in again]}


def _dead_lettered(queue: Queue, message: ReceivedMessage, error: FiblakeError, most_receives: int) -> bool:
    """Dead-letter a message if it must be; else, or if that fails, return it back and answer False."""
    last = _last_word(message, error, most_receives)
    fields = {
        **_names(message.body),
        "message_id": message.id,
        "error": type(error).__name__,
        "reason": str(error),
        "receives": message.receive_count,
    }
    if isinstance(last, PermanentError):
        try:
            queue.dead_letter(message, last)
        except UpstreamError as fault:
            logger.warning("dead letter refused", extra={**fields, "fault": str(fault)})
        else:
            logger.error("dead letter", extra=fields)
            return True
    logger.warning("retry", extra=fields)
    queue.retry_later(message)
    return False


def _names(body: str) -> dict[str, str]:
    """Return what a message of ours is about, for the log, if it can be read at all."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    names = ("symbol", "correlation_id")
    fields = fields if isinstance(fields, dict) else {}
    return {name: fields[name] for name in names if isinstance(fields.get(name), str)}


def _last_word(message: ReceivedMessage, error: FiblakeError, most_receives: int) -> FiblakeError:
    if isinstance(error, PermanentError) or message.receive_count < most_receives:
        return error
    return ExhaustedError(f"gave up after {message.receive_count} receives: {error}")

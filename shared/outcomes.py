"""Finish messages: the one place where an outcome becomes a deletion, a retry, or a dead letter."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, ParamSpec, TypeVar

from fiblake.errors import FiblakeError, PermanentError, TransientError, UpstreamError
from shared.queues import Queue, ReceivedMessage, queue_of_arn
from shared.telemetry import emit_metrics, logger

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")
SUSPECT_RECEIVES: Final = 3
"""From this receive on a message is processed alone."""


class UnexpectedError(TransientError):
    """A fault in our own code or a library: retried; if it persists, a dead letter, with the traceback in the logs."""


class ExhaustedError(PermanentError):
    """A temporary failure that lasted longer than the retries."""


def catch_errors(
    work: Callable[ParamsT, ResultT], *args: ParamsT.args, **kwargs: ParamsT.kwargs
) -> ResultT | FiblakeError:
    """Call `work` and return its result, or the error it ended with.

    The failure of one message must not fail the others of its batch. So an error that is not ours becomes an
    UnexpectedError of this one message: it is retried, then dead-lettered with its reason, never dropped.
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
    """Finish the messages that failed: dead-letter those that can never succeed, return the others to the queue.

    `errors` maps a message's id to its error; messages without one are done. Return the messages that may be deleted:
    done ones and dead-lettered ones. The others become visible again after a growing delay.
    """
    ended = [m for m in messages if m.id not in errors or _dead_lettered(queue, m, errors[m.id], most_receives)]
    if errors:
        dead = sum(message.id in errors for message in ended)
        emit_metrics(MessagesDeadLettered=dead, MessagesRetried=len(messages) - len(ended))
    return ended


def separate_suspects(messages: Sequence[ReceivedMessage]) -> list[list[ReceivedMessage]]:
    """Return the messages in groups that are processed one after the other.

    A message that was received often is a group of its own, and comes last, the largest body at the end: it may be the
    one that kills the process, and the messages finished before it are safe.
    """
    suspects = sorted((m for m in messages if m.receive_count >= SUSPECT_RECEIVES), key=lambda m: len(m.body))
    others = [m for m in messages if m.receive_count < SUSPECT_RECEIVES]
    return [*([others] if others else []), *([m] for m in suspects)]


def process_messages(
    source_arn: str, messages: Sequence[ReceivedMessage],
    work: Callable[[Sequence[ReceivedMessage]], Mapping[str, FiblakeError]], most_receives: int,
) -> dict[str, Any]:  # fmt: skip
    """Process the messages a function got from the queue `source_arn`; return Lambda's partial batch response.

    `work` returns the errors of the messages it was given, by message id. Finished messages of a group (see
    `separate_suspects`) are deleted before the next group begins, so they stay finished if the process is killed.
    """
    groups, again = separate_suspects(messages), list[ReceivedMessage]()
    for number, group in enumerate(groups, start=1):
        response = batch_response(source_arn, group, work(group), most_receives)
        failed_ids = {failure["itemIdentifier"] for failure in response["batchItemFailures"]}
        again += [message for message in group if message.id in failed_ids]
        ended = [message for message in group if message.id not in failed_ids]
        if number < len(groups) and isinstance(queue := _queue(source_arn), Queue):
            queue.delete(ended)
    return _response(again)


def batch_response(
    source_arn: str, messages: Sequence[ReceivedMessage], errors: Mapping[str, FiblakeError], most_receives: int
) -> dict[str, Any]:
    """Finish the messages a function got from the queue `source_arn`; return Lambda's partial batch response.

    If the queue cannot be found, the failed messages come again, and the others are finished all the same.
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
    """Dead-letter a message if it must be. Otherwise, or if that fails, return it to the queue and return False."""
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
    """Return symbol and correlation id of one of our messages, for the log, if it can be read."""
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

"""How a message ends: the one place where an outcome becomes a deletion, a retry, or a dead letter."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from shared.errors import FiblakeError, PermanentError, TransientError, UpstreamError
from shared.queues import Queue, Received, queue_of_arn
from shared.telemetry import count, logger

ResultT = TypeVar("ResultT")


class UnexpectedError(TransientError):
    """A fault in our own code or a library: retried, and a dead letter with its trace in the logs if it persists."""


class ExhaustedError(PermanentError):
    """A transient failure that outlived the retries."""


def attempt(work: Callable[[], ResultT]) -> ResultT | FiblakeError:
    """Do `work` and give its result, or the error it ended with.

    One message's failure must not take its batch mates along, so an error that is not ours becomes an UnexpectedError
    of this one message: it is retried and then dead-lettered with its reason, never dropped.
    """
    try:
        return work()
    except FiblakeError as error:
        return error
    except Exception as error:  # noqa: BLE001 (kept as the message's outcome, see above)
        logger.exception("unexpected error")
        unexpected = UnexpectedError(f"{type(error).__name__}: {error}")
        unexpected.__cause__ = error
        return unexpected


def settle(
    queue: Queue, messages: Sequence[Received], errors: Mapping[str, FiblakeError], most_receives: int
) -> list[Received]:
    """Put an end to each message but those done: dead-letter what can never succeed, give back what may.

    `errors` maps a message's id to what it failed with; the others are done. Gives the messages that may be deleted:
    done ones and dead-lettered ones. The rest become visible again after a growing pause.
    """
    ended = [m for m in messages if m.id not in errors or _dead_lettered(queue, m, errors[m.id], most_receives)]
    if errors:
        dead = sum(message.id in errors for message in ended)
        count(MessagesDeadLettered=dead, MessagesRetried=len(messages) - len(ended))
    return ended


def batch_response(
    source_arn: str, messages: Sequence[Received], errors: Mapping[str, FiblakeError], most_receives: int
) -> dict[str, Any]:
    """Settle the messages a function got from the queue `source_arn`; give Lambda's partial batch response."""
    ended = settle(queue_of_arn(source_arn), messages, errors, most_receives) if errors else messages
    over = {message.id for message in ended}
    return {"batchItemFailures": [{"itemIdentifier": m.id} for m in messages if m.id not in over]}


def _dead_lettered(queue: Queue, message: Received, error: FiblakeError, most_receives: int) -> bool:
    """Dead-letter a message if it must be; else, or if that fails, give it back and answer False."""
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
    """Give what a message of ours is about, for the log, if it can be read at all."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    names = ("symbol", "correlation_id")
    return {name: found[name] for name in names if isinstance(found.get(name), str)} if isinstance(found, dict) else {}


def _last_word(message: Received, error: FiblakeError, most_receives: int) -> FiblakeError:
    if isinstance(error, PermanentError) or message.receive_count < most_receives:
        return error
    return ExhaustedError(f"gave up after {message.receive_count} receives: {error}")

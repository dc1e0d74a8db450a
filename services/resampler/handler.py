"""Entry point of the resampler function: messages in, partial batch response out."""

import re
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from aws_lambda_powertools.utilities.data_classes import SQSEvent
from aws_lambda_powertools.utilities.typing import LambdaContext

from fiblake.calendar import lake_calendar
from fiblake.errors import ConfigurationError
from fiblake.lake import INTERVALS, Bronze
from services.resampler.resample import Resampler, resample_batch
from services.resampler.settings import ResamplerSettings
from shared.objects import ObjectStore
from shared.outcomes import process_messages
from shared.queues import Topic, from_lambda, name_of
from shared.settings import load
from shared.telemetry import logger

_QUEUE: Final = re.compile(r".*resample-(\d+)d")


def interval_of(queue: str) -> int:
    """Return the interval a queue is for, by its name; raise ConfigurationError if it is none of ours."""
    match = _QUEUE.fullmatch(queue)
    if match is None or int(match[1]) not in INTERVALS:
        raise ConfigurationError(
            f"queue {queue!r} is not named like ENV-resample-3d, for one of the intervals {INTERVALS}"
        )
    return int(match[1])


@cache
def _settings() -> ResamplerSettings:
    return load(ResamplerSettings)


@cache
def _resampler(interval: int) -> Resampler:
    settings = _settings()
    store, topic = ObjectStore.connect(settings.s3_bucket), Topic.connect(settings.silver_updated_topic_arn)
    years, adjusted = settings.resampling_retention_years, settings.resampling_adjusted
    return Resampler(store, Bronze(settings.s3_prefix), lake_calendar(), topic, interval, years, adjusted)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Resample the symbols of one batch; the interval is the queue's."""
    arn = event["Records"][0]["eventSourceARN"]
    messages = [from_lambda(record) for record in SQSEvent(event).records]
    resampler = _resampler(interval_of(name_of(arn)))
    most_receives = _settings().max_receive_count
    return process_messages(
        arn, messages, lambda group: resample_batch(resampler, group, datetime.now(UTC)), most_receives
    )

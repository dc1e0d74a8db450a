"""Workers with one symbol at once, workers that die, and month files with many writers."""

import json
import signal
import threading
import uuid
from datetime import UTC, date, datetime

import pytest

from fiblake.calendar import nyse
from fiblake.errors import FiblakeError
from fiblake.lake import INTERVALS, Bronze
from services.resampler.resample import Change, Resampler
from shared.events import ConsolidationRequest
from shared.objects import ObjectStore
from shared.queues import Topic
from tests.integration.conftest import Chain, bar, parquet

SESSIONS = nyse().between(date(2010, 1, 4), date(2010, 12, 31))

KILLED_BEFORE_THE_EVENT = """
import os, runpy, signal
from shared.queues import Topic
Topic.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
runpy.run_module("services.consolidator", run_name="__main__")
"""


def test_two_workers_on_one_symbol_at_once_lose_nothing(chain: Chain) -> None:
    bars = [bar("PAIR", session, 50 + i) for i, session in enumerate(SESSIONS[:40])]
    for single in bars:
        chain.put([single])

    workers = [chain.worker("--symbols", "PAIR") for _ in range(2)]

    assert [worker.wait(60) for worker in workers] == [0, 0]
    chain.wait_for_silver(bars)


def test_a_worker_killed_between_data_and_event_leaves_a_message_that_heals_silver(chain: Chain) -> None:
    bars = [bar("KILL", session, 50 + i) for i, session in enumerate(SESSIONS[:30])]
    queue = chain.new_queue(f"killed-{uuid.uuid4().hex}", visibility_seconds=2)
    # Put without an event: the stack's own rule does not match another prefix.
    prefix = f"other/{uuid.uuid4().hex}"
    bronze = Bronze(prefix)
    key = bronze.range_key("KILL", bars[0].session, bars[-1].session)
    chain.s3.put_object(Bucket=chain.stack.bucket, Key=key, Body=parquet(bars))
    request = ConsolidationRequest(symbol="KILL", changed_from=bars[0].session)
    chain.sqs.send_message(QueueUrl=queue, MessageBody=request.model_dump_json())
    topic = _Collected(chain)
    settings = {
        "CONSOLIDATION_QUEUE_URL": queue,
        "S3_PREFIX": prefix,
        "CONSOLIDATION_COMPLETE_TOPIC_ARN": topic.arn,
    }

    killed = chain.worker(program=KILLED_BEFORE_THE_EVENT, **settings)
    assert killed.wait(60) == -signal.SIGKILL
    assert chain.objects(bronze.data_key("KILL")), "it died before data.parquet was written"
    assert topic.symbols() == []

    assert chain.worker(**settings).wait(90) == 0
    assert topic.symbols() == ["KILL"]
    assert _resampled(_resamplers(chain, prefix), "KILL", topic.changed_from("KILL")) == {}
    chain.wait_for_silver(bars)


def test_a_worker_that_gets_a_signal_to_stop_returns_its_messages_and_reports_it(chain: Chain) -> None:
    queue = chain.new_queue(f"stopped-{uuid.uuid4().hex}", visibility_seconds=600)
    worker = chain.worker(CONSOLIDATION_QUEUE_URL=queue, program=_WAITING_WORKER)
    chain.sqs.send_message(QueueUrl=queue, MessageBody=ConsolidationRequest(symbol="STOP").model_dump_json())

    assert worker.wait(60) == 128 + signal.SIGTERM

    messages = chain.sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=2).get("Messages", [])
    assert [ConsolidationRequest.model_validate_json(m["Body"]).symbol for m in messages] == ["STOP"]


def test_a_storm_of_writers_on_one_month_file_leaves_every_row_in_it(chain: Chain) -> None:
    symbols = [f"STORM{i}" for i in range(8)]
    bars = {symbol: [bar(symbol, s, 20 + i) for i, s in enumerate(SESSIONS[:15])] for symbol in symbols}
    prefix = f"other/{uuid.uuid4().hex}"
    for symbol in symbols:
        key = Bronze(prefix).range_key(symbol, SESSIONS[0], SESSIONS[14])
        chain.s3.put_object(Bucket=chain.stack.bucket, Key=key, Body=parquet(bars[symbol]))
    topic = _Collected(chain)
    worker = chain.worker("--symbols", ",".join(symbols), S3_PREFIX=prefix, CONSOLIDATION_COMPLETE_TOPIC_ARN=topic.arn)
    assert worker.wait(60) == 0
    resamplers = _resamplers(chain, prefix)
    results: list[object] = []

    threads = [
        threading.Thread(target=lambda s=symbol: results.append(_resampled(resamplers, s, SESSIONS[0])))
        for symbol in symbols
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [{}] * len(symbols)
    for symbol in symbols:
        chain.wait_for_silver(bars[symbol], seconds=30)


_WAITING_WORKER = """
import os, runpy, signal
from services.consolidator import worker
take = worker._take
def stopped_while_taking(*arguments):
    messages = take(*arguments)
    if messages:
        os.kill(os.getpid(), signal.SIGTERM)
    return messages
worker._take = stopped_while_taking
runpy.run_module("services.consolidator", run_name="__main__")
"""


class _Collected:
    """A topic of a test's own, and a queue that is subscribed to it: the stack's resamplers are not."""

    def __init__(self, chain: Chain) -> None:
        name = f"heard-{uuid.uuid4().hex}"
        self._sqs = chain.sqs
        self._url = chain.new_queue(name, visibility_seconds=0)
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])["Attributes"]
        sns = chain.stack.client("sns")
        self.arn: str = sns.create_topic(Name=name)["TopicArn"]
        raw = {"RawMessageDelivery": "true"}
        sns.subscribe(TopicArn=self.arn, Protocol="sqs", Endpoint=attributes["QueueArn"], Attributes=raw)

    def symbols(self) -> list[str]:
        return sorted({event["symbol"] for event in self._receive()})

    def changed_from(self, symbol: str) -> date:
        return min(date.fromisoformat(event["changed_from"]) for event in self._receive() if event["symbol"] == symbol)

    def _receive(self) -> list[dict[str, str]]:
        answer = self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        return [json.loads(message["Body"]) for message in answer.get("Messages", [])]


def _resamplers(chain: Chain, prefix: str) -> list[Resampler]:
    """Return the resampler's own code for all intervals, reading bronze below another prefix."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in chain.stack.environment().items():
            patch.setenv(name, value)
        store = ObjectStore.connect(chain.stack.bucket)
        topic = Topic.connect(chain.stack.outputs["SilverUpdatedTopicArn"])
    return [Resampler(store, Bronze(prefix), nyse(), topic, interval, 0) for interval in INTERVALS]


def _resampled(resamplers: list[Resampler], symbol: str, changed_from: date) -> dict[str, FiblakeError]:
    """Resample one symbol into all intervals; return the errors."""
    errors: dict[str, FiblakeError] = {}
    for resampler in resamplers:
        errors |= resampler.resample([Change(symbol, changed_from)], datetime.now(UTC))
    return errors

"""A message that any hop loses is repaired by the next daily run: here each hop drops its message, as if it had never
been sent.

The audit (05:00, each day) heals the lake; a history whose request failed is requested by the next metadata run.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from fiblake.bars import ReportedBar
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS, Bronze
from shared.database import DatabaseAddress
from tests.integration.conftest import Chain, bar, wait_until
from tests.integration.databases import ask

Hop = Callable[[Chain, list[ReportedBar]], AbstractContextManager[None]]
SESSION = nyse().last_closed(datetime.now(UTC))
"""The daily audit compares the last 400 days of silver."""


@contextmanager
def event_lost_between_s3_and_the_queue(chain: Chain, bars: list[ReportedBar]) -> Iterator[None]:
    events = chain.stack.client("events")
    [rule] = [
        listed_rule["Name"]
        for listed_rule in events.list_rules()["Rules"]
        if "BronzeArrivalsRule" in listed_rule["Name"]
    ]
    events.disable_rule(Name=rule)
    try:
        chain.put(bars)
        yield
    finally:
        events.enable_rule(Name=rule)


@contextmanager
def notification_lost_before_the_router(chain: Chain, bars: list[ReportedBar]) -> Iterator[None]:
    with purged(chain, "bronze-arrivals"):
        chain.put(bars)
    yield


@contextmanager
def request_lost_before_the_worker(chain: Chain, bars: list[ReportedBar]) -> Iterator[None]:
    with redirected(chain, "RouterFunctionName", "CONSOLIDATION_QUEUE_URL") as swallowed:
        chain.put(bars)
        wait_until(lambda: bars[0].symbol in swallowed(), "the router has sent the request")
        chain.drained()  # the router has ended: a new configuration kills invocations with the old one
    yield


@contextmanager
def completion_lost_before_the_queues(chain: Chain, bars: list[ReportedBar]) -> Iterator[None]:
    with nobody_subscribes(chain):
        chain.put(bars)
        wait_until(lambda: is_consolidated(chain, bars[0].symbol), "the worker has told of it")
        chain.drained()
    yield


@contextmanager
def completion_lost_before_the_resampler(chain: Chain, bars: list[ReportedBar]) -> Iterator[None]:
    with purged(chain, "resample-8d"):
        chain.put(bars)
    yield


HOPS: dict[str, Hop] = {
    "LOSTA": event_lost_between_s3_and_the_queue,
    "LOSTB": notification_lost_before_the_router,
    "LOSTC": request_lost_before_the_worker,
    "LOSTD": completion_lost_before_the_queues,
    "LOSTE": completion_lost_before_the_resampler,
}


@pytest.mark.parametrize(("symbol", "hop"), HOPS.items(), ids=[hop.__name__ for hop in HOPS.values()])
def test_the_next_audit_repairs_what_a_hop_loses(chain: Chain, symbol: str, hop: Hop) -> None:
    chain.drained()
    bars = [bar(symbol, SESSION, 50)]
    with hop(chain, bars):
        chain.drained()
        missing = [n for n in INTERVALS if chain.silver_of(symbol, n).empty]
        assert missing == ([8] if symbol == "LOSTE" else list(INTERVALS)), "it is lost"

    audit = invoked(chain, "ReconcileFunctionName", {"fix": True})

    assert symbol in {lag["symbol"] for lag in audit["lags"]}
    chain.wait_for_silver(bars)


def test_a_history_whose_request_failed_is_requested_by_the_next_metadata_run(chain: Chain) -> None:
    address = DatabaseAddress.of_secret(chain.stack.database_secret)
    with redirected(chain, "MetadataFetcherFunctionName", "HISTORY_QUEUE_URL", UNIVERSE="IBM") as swallowed:
        invoked(chain, "MetadataFetcherFunctionName", {})
        wait_until(lambda: "IBM" in swallowed(), "its history was asked for")
    chain.drained()
    assert not [key for key in chain.objects("bronze/raw_ohlcv/symbol=IBM/") if "range=" in key]
    # For the fetcher, a day passes.
    sql = "UPDATE symbol_metadata SET history_requested_at = history_requested_at - interval '23 hours'"
    asyncio.run(ask(address, sql))

    with variables(chain, "MetadataFetcherFunctionName", UNIVERSE="IBM"):
        invoked(chain, "MetadataFetcherFunctionName", {})

    wait_until(lambda: "range=" in " ".join(chain.objects("bronze/raw_ohlcv/symbol=IBM/")), "its history is there")
    chain.drained()


def invoked(chain: Chain, output: str, event: dict[str, Any]) -> dict[str, Any]:
    answer = chain.stack.client("lambda").invoke(FunctionName=chain.stack.outputs[output], Payload=json.dumps(event))
    payload: dict[str, Any] = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, payload
    return payload


def is_consolidated(chain: Chain, symbol: str) -> bool:
    return Bronze().data_key(symbol) in chain.objects(Bronze().symbol_prefix(symbol))


def waiting(chain: Chain, url: str) -> list[str]:
    """Return the bodies of the messages in a queue, and leave them in it."""
    answer = chain.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
    return [message["Body"] for message in answer.get("Messages", [])]


@contextmanager
def purged(chain: Chain, queue: str) -> Iterator[None]:
    """Let no function receive a queue's messages, and delete those that arrive while the block runs."""
    client, url = chain.stack.client("lambda"), chain.stack.queue_urls[queue]
    [mapping] = [
        source["UUID"]
        for source in client.list_event_source_mappings()["EventSourceMappings"]
        if source["EventSourceArn"].endswith(url.rsplit("/", 1)[-1])
    ]
    client.update_event_source_mapping(UUID=mapping, Enabled=False)
    try:
        yield
        wait_until(lambda: bool(waiting(chain, url)), f"{queue} has the message")
        chain.sqs.purge_queue(QueueUrl=url)
    finally:
        client.update_event_source_mapping(UUID=mapping, Enabled=True)


@contextmanager
def redirected(chain: Chain, output: str, variable: str, **others: str) -> Iterator[Callable[[], str]]:
    """Let a function send into a queue without a consumer; yield a function that returns the messages in it."""
    url = chain.new_queue(f"nowhere-{variable.lower().replace('_', '-')}", 30)
    with variables(chain, output, **{variable: url}, **others):
        yield lambda: " ".join(waiting(chain, url))
    chain.sqs.delete_queue(QueueUrl=url)


@contextmanager
def variables(chain: Chain, output: str, **changed: str) -> Iterator[None]:
    """Change variables of a function's environment for the block."""
    client, name = chain.stack.client("lambda"), chain.stack.outputs[output]
    before = client.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    client.update_function_configuration(FunctionName=name, Environment={"Variables": before | changed})
    try:
        yield
    finally:
        client.update_function_configuration(FunctionName=name, Environment={"Variables": before})


@contextmanager
def nobody_subscribes(chain: Chain) -> Iterator[None]:
    """Let the topic of completions deliver to no queue: no subscription's filter matches an event."""
    sns = chain.stack.client("sns")
    topic = chain.stack.outputs["ConsolidationCompleteTopicArn"]
    arns = [
        subscription["SubscriptionArn"]
        for subscription in sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    ]
    assert len(arns) == len(INTERVALS)
    before = {arn: sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"]["FilterPolicy"] for arn in arns}
    try:
        for arn in arns:
            filtered(sns, arn, json.dumps({"intervals": [{"numeric": ["=", 999]}]}))
        yield
    finally:
        for arn, policy in before.items():
            filtered(sns, arn, policy)


def filtered(sns: Any, arn: str, policy: str) -> None:  # noqa: ANN401 (boto's clients share no type)
    sns.set_subscription_attributes(SubscriptionArn=arn, AttributeName="FilterPolicy", AttributeValue=policy)

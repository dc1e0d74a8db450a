"""Silver on the embedded stack: last week's letters are replayed, and a lake of an older version is continued."""

import uuid
from collections.abc import Sequence
from datetime import date

import pandas as pd

from fiblake.aggregate import decode_silver
from fiblake.bars import Consolidated, ReportedBar, encode
from fiblake.calendar import nyse
from fiblake.lake import INTERVALS, Bronze, Month, silver_key, silver_prefix
from local.recompute import expected_silver
from services.consolidator.tail import tail_of
from shared.dead_letters import DeadLetters, Filter, redrive_to_queue
from shared.events import ConsolidationComplete
from shared.queues import Queue
from tests.integration.conftest import Chain, bar

SESSIONS = nyse().between(date(2009, 1, 5), date(2009, 12, 31))


def completion(chain: Chain, symbol: str, since: date, *, tail: bool) -> str:
    """The event that a worker sends now for a change from `since` on."""
    key = Bronze().data_key(symbol)
    answer = chain.s3.get_object(Bucket=chain.stack.bucket, Key=key)
    stored = Consolidated.decode(answer["Body"].read(), symbol, answer["LastModified"])
    return ConsolidationComplete(
        symbol=symbol, changed_from=since, last_session=stored.last_session, version=stored.last_updated,
        tail=tail_of(stored, since, nyse()) if tail else None,
    ).model_dump_json()  # fmt: skip


def tables(chain: Chain, symbol: str) -> dict[int, pd.DataFrame]:
    return {n: chain.silver_of(symbol, n) for n in INTERVALS}


def replay(chain: Chain, interval: int, symbol: str, letters: int) -> None:
    queue = Queue(chain.sqs, chain.stack.queue_urls[f"resample-{interval}d"])
    dead = DeadLetters(f"resample-{interval}d", queue.dead_letters, redrive_to_queue(queue))
    outcome = dead.replay(Filter(symbols=(symbol,)), pd.Timestamp.now("UTC").to_pydatetime(), most_replays=3)
    assert outcome.done == letters


def test_letters_of_last_week_change_nothing_that_is_newer(chain: Chain) -> None:
    symbol = "OLDLETTER"
    bars = [bar(symbol, session, 30 + n) for n, session in enumerate(SESSIONS[:40])]
    chain.put(bars)
    chain.wait_for_silver(bars)
    letters = [
        completion(chain, symbol, bars[0].session, tail=False),
        completion(chain, symbol, bars[39].session, tail=True),
    ]
    newer = [*bars[:39], bar(symbol, bars[39].session, 99), bar(symbol, SESSIONS[40], 98)]
    for newer_bar in newer[39:]:
        chain.put([newer_bar])
        chain.wait_for_silver([*newer[:39], *(b for b in newer[39:] if b.session <= newer_bar.session)])
    chain.drained()
    before = tables(chain, symbol)
    for interval in INTERVALS:
        url = chain.sqs.get_queue_url(QueueName=_dead(chain, interval))["QueueUrl"]
        for body in letters:
            chain.sqs.send_message(QueueUrl=url, MessageBody=body)
        replay(chain, interval, symbol, len(letters))
    chain.drained()
    for interval, table in tables(chain, symbol).items():
        pd.testing.assert_frame_equal(table.drop(columns="version"), before[interval].drop(columns="version"))
        # The letter without a tail was processed with today's bars: its rows have the version of these bars.
        assert (table["version"] >= before[interval]["version"]).all()


def _dead(chain: Chain, interval: int) -> str:
    return chain.stack.queue_urls[f"resample-{interval}d"].rsplit("/", 1)[-1] + "-dlq"


def test_silver_without_versions_and_events_of_schema_1_0_go_on_and_nothing_else_is_rewritten(chain: Chain) -> None:
    symbol, other = "UPGRADE", "UPGRADE-B"
    bars = {
        name: [bar(name, session, 60 + n) for n, session in enumerate(SESSIONS[60:160])] for name in (symbol, other)
    }
    for own in bars.values():
        chain.put(own)
        chain.wait_for_silver(own)
    chain.drained()
    _make_old(chain)
    before = chain.objects("silver/")
    newest = bar(symbol, SESSIONS[160], 77)
    queue_of_before = ConsolidationComplete(
        symbol=symbol, changed_from=bars[symbol][-1].session, last_session=bars[symbol][-1].session,
        schema_version="1.0", correlation_id=uuid.uuid4().hex,
    )  # fmt: skip
    for interval in INTERVALS:
        chain.send(f"resample-{interval}d", queue_of_before.model_dump_json(exclude={"version", "tail"}))
    chain.put([newest])
    chain.wait_for_silver([*bars[symbol], newest])
    chain.wait_for_silver(bars[other])
    chain.drained()
    after = chain.objects("silver/")
    touched = {key for key in before if after[key] != before[key]}
    months = {silver_key(n, Month.of(day)) for n in INTERVALS for day in _buckets([*bars[symbol], newest], n)[-3:]}
    assert touched <= months, "only what the events concern is written"


def _buckets(bars: Sequence[ReportedBar], interval: int) -> list[date]:
    days: list[date] = expected_silver(bars, interval)["ts"].dt.date.tolist()
    return days


def _make_old(chain: Chain) -> None:
    """Write all month files as they were before rows had versions."""
    for interval in INTERVALS:
        for key in chain.objects(silver_prefix(interval)):
            rows = decode_silver(chain.watcher.read(key) or b"", key).drop_columns(["version"])
            body = encode(rows.replace_schema_metadata(None))
            chain.s3.put_object(Bucket=chain.stack.bucket, Key=key, Body=body)

"""The commands of an operator, on the whole embedded stack."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fiblake.bars import BRONZE, ReportedBar, decode, encode
from fiblake.calendar import nyse
from fiblake.lake import Bronze, archive_key, quarantine_key
from local.deploy import STACK
from local.emulator import REPOSITORY
from local.environment import isolated_environment
from shared import dead_letters
from shared.database import DatabaseAddress
from shared.events import ConsolidationComplete
from tests.integration.cli.forked import run_fiblake
from tests.integration.conftest import Chain, bar, parquet, wait_until
from tests.integration.databases import know, opened

SESSIONS = nyse().between(datetime(2011, 1, 3, tzinfo=UTC).date(), datetime(2011, 12, 30, tzinfo=UTC).date())
Result = subprocess.CompletedProcess[str]
Fiblake = Callable[..., Result]


@pytest.fixture
def fiblake(chain: Chain, tmp_path: Path) -> Fiblake:
    inherited = isolated_environment(os.environ)
    of_stack = {**chain.stack.environment(), "FIBLAKE_STACK": STACK, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def ran(*arguments: str) -> Result:
        return run_fiblake(arguments, {**inherited, **of_stack, "COLUMNS": "200"}, tmp_path)

    return ran


def json_of(result: Result) -> Any:  # noqa: ANN401 (JSON)
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


def test_status_shows_queues_letters_and_how_far_everything_is(chain: Chain, fiblake: Fiblake) -> None:
    asyncio.run(know(DatabaseAddress.of_secret(chain.stack.database_secret), "AAPL", "FB", "GOOG", "IBM", "MSFT"))
    bars = [bar("STAT", session, 50 + i) for i, session in enumerate(SESSIONS[:40])]
    chain.put(bars)
    chain.wait_for_silver(bars)
    chain.invoke_fetcher(as_of="2013-02-27")
    chain.drained()

    state = json_of(fiblake("status", "--json"))

    assert state["queues"].keys() >= {"bronze-arrivals", "consolidation", "resample-3d", "resample-34d"}
    assert state["dead_letters"].keys() >= {"consolidation", "ohlcv-fetcher"}
    assert state["fetched"] >= "2013-02-27"
    assert state["consolidated"]["symbols"] >= 1
    assert all(interval["last_processed_date"] for interval in state["intervals"].values())
    assert "STAT" not in state["lagging"]
    assert {job["status"] for job in state["jobs"]} <= {"SUCCEEDED", "RUNNING", "FAILED"}
    assert "silver_34d" in fiblake("status").stdout


def test_vacuum_shows_then_deletes_what_is_merged(chain: Chain, fiblake: Fiblake) -> None:
    session = nyse().last_closed(datetime.now(UTC) - timedelta(days=2))
    bars = [bar("VACU", session, 50)]
    key = chain.put(bars)
    chain.wait_for_silver(bars)
    chain.drained()
    arguments = ("vacuum", "--symbols", "VACU", "--retention-days", "0")

    refused = fiblake(*arguments, "--yes")
    shown = fiblake(*arguments, "--force-retention")
    assert (refused.returncode, shown.returncode) == (2, 0)
    assert "below the floor of 7" in refused.stderr
    assert "nothing is deleted" in shown.stdout
    assert key in chain.objects(Bronze().symbol_prefix("VACU"))

    report = json_of(fiblake(*arguments, "--force-retention", "--yes", "--json"))
    assert report["deleted"]["symbols"]["VACU"]["files"] == 1
    assert chain.objects(Bronze().symbol_prefix("VACU")).keys() == {Bronze().data_key("VACU")}
    record = json.loads(chain.watcher.read("processing_metadata/cleanup_manifest.json") or b"{}")
    assert record["runs"][-1]["symbols"] == report["deleted"]["symbols"]


def test_a_dead_letter_is_listed_shown_replayed_and_discarded(chain: Chain, fiblake: Fiblake, tmp_path: Path) -> None:
    day = SESSIONS[70]
    chain.send(
        "resample-8d", ConsolidationComplete(symbol="LETTER", changed_from=day, last_session=day).model_dump_json()
    )

    def letters() -> list[dict[str, Any]]:
        shown_letters: list[dict[str, Any]] = json_of(
            fiblake("dlq", "show", "--queue", "resample-8d", "--reason", "LETTER has no data.parquet", "--json")
        )
        return shown_letters

    wait_until(lambda: len(letters()) == 1, "the message is a dead letter")
    (row,) = json_of(fiblake("dlq", "list", "--queue", "resample-8d", "--json"))
    assert row["letters"] >= 1
    assert any("LETTER has no data.parquet" in reason for reason in row["reasons"])

    replayed = fiblake("dlq", "replay", "--queue", "resample-8d", "--symbols", "LETTER")
    assert "1 letter replayed" in replayed.stdout
    wait_until(lambda: [shown["replays"] for shown in letters()] == [1], "it died again, and its replay was counted")

    file = tmp_path / "dropped.jsonl"
    gone = json_of(fiblake("dlq", "discard", "--symbols", "LETTER", "--to", str(file), "--yes", "--json"))
    assert gone["discarded"] == 1
    assert json.loads(file.read_text())["symbols"] == ["LETTER"]
    assert letters() == []


REPLAY = """
import sys
from datetime import UTC, datetime
from shared import dead_letters
from shared.queues import Queue
dead_letters.HIDDEN_SECONDS = int(sys.argv[2])
source = Queue.connect(sys.argv[1])
letters = dead_letters.DeadLetters("q", source.dead_letters, dead_letters.redrive_to_queue(source))
print(letters.replay(dead_letters.Filter(reason="second kind"), datetime.now(UTC), 3).done)
"""


def test_a_replay_of_one_kind_among_a_thousand_that_is_killed_half_way_loses_none(chain: Chain) -> None:
    source = chain.new_queue(f"kill-{uuid.uuid4().hex}", visibility_seconds=1)
    dead = f"{source}-dlq"
    kinds = ("first kind", "second kind", "third kind")
    bodies = {str(n): kinds[n % 3] for n in range(1_000)}
    names = list(bodies)
    for start in range(0, 1_000, 10):
        entries = [
            {
                "Id": name, "MessageBody": name,
                "MessageAttributes": {"reason": {"DataType": "String", "StringValue": bodies[name]}},
            }
            for name in names[start : start + 10]
        ]  # fmt: skip
        chain.sqs.send_message_batch(QueueUrl=dead, Entries=entries)
    wanted = {name for name, kind in bodies.items() if kind == "second kind"}

    with _replay(chain, source, hidden_seconds=5) as killed:
        wait_until(lambda: _depth(chain, source) >= 100, "a part of them is replayed")
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert 100 <= _depth(chain, source) < len(wanted), "it was killed half-way"
    wait_until(lambda: _visible(chain, dead) == _depth(chain, dead), "what it held is visible again")

    with _replay(chain, source, hidden_seconds=dead_letters.HIDDEN_SECONDS) as second:
        assert second.wait(120) == 0

    moved, remaining = _taken(chain, source), _taken(chain, dead)
    assert set(moved) == wanted
    assert len(moved) - len(wanted) <= 10, "a batch that was sent and not yet deleted may come twice"
    assert set(remaining) == bodies.keys() - wanted
    assert len(remaining) == len(bodies) - len(wanted)


def _replay(chain: Chain, source: str, hidden_seconds: int) -> "subprocess.Popen[bytes]":
    """Replay in a separate process; the letters that it received are visible again this long after it was killed."""
    inherited = isolated_environment(os.environ)
    environment = {**inherited, **chain.stack.environment()}
    return subprocess.Popen(
        [sys.executable, "-c", REPLAY, source, str(hidden_seconds)], cwd=REPOSITORY, env=environment
    )


def _visible(chain: Chain, url: str) -> int:
    return _attributes(chain, url)[0]


def _depth(chain: Chain, url: str) -> int:
    return sum(_attributes(chain, url))


def _attributes(chain: Chain, url: str) -> tuple[int, int]:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    values = chain.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return int(values[names[0]]), int(values[names[1]])


def _taken(chain: Chain, url: str) -> list[str]:
    bodies: list[str] = []
    while messages := chain.sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=300, WaitTimeSeconds=1
    ).get("Messages", []):
        bodies += [message["Body"] for message in messages]
    return bodies


def test_consolidate_asks_the_workers_or_works_here(chain: Chain, fiblake: Fiblake) -> None:
    bars = [bar("CONS", session, 50 + i) for i, session in enumerate(SESSIONS[:10])]
    with _deaf(chain):
        chain.put(bars[:5])

    assert json_of(fiblake("consolidate", "--symbols", "CONS", "--json")) == {"enqueued": 1}
    chain.wait_for_silver(bars[:5])

    with _deaf(chain):
        chain.put(bars[5:])
    assert fiblake("consolidate", "--symbols", "CONS", "--full").returncode == 0
    chain.wait_for_silver(bars)


def test_an_event_sent_by_hand_is_worked_on(chain: Chain, fiblake: Fiblake, tmp_path: Path) -> None:
    bars = [bar("HAND", session, 50 + i) for i, session in enumerate(SESSIONS[:10])]
    with _deaf(chain):
        chain.put(bars)
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"schema_version": "1.0", "symbol": "HAND"}))

    assert json_of(fiblake("events", "send", str(request), "--queue", "consolidation", "--json"))["sent"] == 1

    chain.wait_for_silver(bars)


def test_old_rows_leave_the_database_for_the_bucket(chain: Chain, fiblake: Fiblake) -> None:
    session = date(1990, 1, 2)
    rows = [ReportedBar("OLDROW", session, 9, 10, 8, 9, 1).row(datetime.now(UTC))]

    async def stored() -> int:
        async with opened(DatabaseAddress.of_secret(chain.stack.database_secret)) as database:
            await database.store(rows)
            return len(await database.bars(session))

    assert asyncio.run(stored()) == 1
    arguments = ("vacuum", "rds", "--days", "12000", "--json")  # nobody else's rows are so old

    shown = json_of(fiblake(*arguments, "--dry-run"))
    report = json_of(fiblake(*arguments, "--yes"))

    assert (shown["due"]["rows"], shown["retired"]) == (1, None)
    assert report["retired"] == {"sessions": 1, "rows": 1, "kept": 0, "faults": {}}
    archived = decode(chain.watcher.read(archive_key(session)) or b"", BRONZE, "the archive").to_pylist()
    assert archived == rows
    assert json_of(fiblake(*arguments, "--dry-run"))["due"]["rows"] == 0
    assert fiblake("vacuum", "rds", "--days", "30").returncode == 2


def test_metadata_reads_the_vendors_lists_and_requests_the_histories_of_new_symbols(
    chain: Chain, fiblake: Fiblake
) -> None:
    first = json_of(fiblake("metadata", "--json"))
    again = json_of(fiblake("metadata", "--json"))

    assert (first["listed"], first["details"] + first["details_left"]) == (5, 5)
    assert (again["new"], again["splits_changed"], again["histories_requested"]) == (0, 0, 0)
    assert json_of(fiblake("metadata", "--splits-only", "--json"))["listed"] == 0
    wait_until(lambda: {"AAPL", "IBM"} <= chain.watcher.consolidated().keys(), "the histories are consolidated")


def test_migrate_may_be_done_again(chain: Chain, fiblake: Fiblake) -> None:
    result = fiblake("migrate")  # the stack's own secrets
    owner = fiblake("migrate", "--secret", chain.stack.outputs["RdsSecretArn"], "--no-tls")
    refused = fiblake("migrate", "--secret", "arn:aws:secretsmanager:us-east-1:000000000000:secret:nobody", "--no-tls")

    assert (result.returncode, [line.partition("@")[0] for line in result.stdout.splitlines()]) == (
        0,
        ["postgres", "fiblake_fetcher"],
    )
    assert (owner.returncode, owner.stdout.count("is up to date")) == (0, 1)
    assert refused.returncode != 0
    assert "check its name and the role's policy" in refused.stderr


def test_a_bar_in_quarantine_is_listed_and_let_into_the_lake_once(chain: Chain, fiblake: Fiblake) -> None:
    session = SESSIONS[40]
    held = {
        "symbol": "HELD", "session": session, "open": 10.0, "high": 9.0, "low": 8.0, "close": 9.5, "volume": 100.0,
        "vwap": None, "trades": None, "reason": "high 9.0 is below another price", "ingested_at": datetime.now(UTC),
    }  # fmt: skip
    body = encode(pa.Table.from_pylist([held]))
    chain.s3.put_object(Bucket=chain.stack.bucket, Key=quarantine_key("HELD", session), Body=body)

    (row,) = json_of(fiblake("quarantine", "list", "--symbol", "HELD", "--json"))
    released = fiblake("quarantine", "release", "HELD", session.isoformat(), "--by", "jane", "--json")
    again = fiblake("quarantine", "release", "HELD", session.isoformat())

    assert (row["reason"], row["high"]) == ("high 9.0 is below another price", 9.0)
    assert json_of(released) == {"key": Bronze().date_key("HELD", session), "by": "jane"}
    assert (again.returncode, "no such bar of HELD" in again.stderr) == (2, True)
    wait_until(lambda: "HELD" in chain.watcher.consolidated(), "the released bar is consolidated")
    assert json_of(fiblake("quarantine", "list", "--symbol", "HELD", "--json")) == []


def test_a_withdrawn_bar_leaves_silver_and_postgres_and_its_file_does_not_bring_it_back(
    chain: Chain, fiblake: Fiblake
) -> None:
    bars = [bar("WDRAW", session, 50 + i) for i, session in enumerate(SESSIONS[:8])]
    gone, rest = bars[4], [*bars[:4], *bars[5:]]
    at = datetime.now(UTC)
    row = ReportedBar("WDRAW", gone.session, 54, 56, 53, 55, 1).row(at)

    async def rows() -> int:
        async with opened(DatabaseAddress.of_secret(chain.stack.database_secret)) as database:
            return sum(symbol == "WDRAW" for symbol in await database.bars(gone.session))

    async def store() -> None:
        async with opened(DatabaseAddress.of_secret(chain.stack.database_secret)) as database:
            await database.store([row])

    asyncio.run(store())
    key = Bronze().range_key("WDRAW", bars[0].session, bars[-1].session)
    chain.s3.put_object(Bucket=chain.stack.bucket, Key=key, Body=parquet(bars, at))
    chain.wait_for_silver(bars)
    chain.drained()

    arguments = ("withdraw", "WDRAW", gone.session.isoformat(), "--reason", "a test", "--by", "jane", "--json")
    report = json_of(fiblake(*arguments))

    assert (report["by"], report["rows"], asyncio.run(rows())) == ("jane", 1, 0)
    chain.wait_for_silver(rest)
    assert fiblake("consolidate", "--symbols", "WDRAW", "--full").returncode == 0
    chain.drained()
    chain.wait_for_silver(rest)
    assert json_of(fiblake("reconcile", "--symbols", "WDRAW", "--json"))["lags"] == []
    assert (json_of(fiblake(*arguments))["rows"], fiblake("withdraw", "WDRAW", "2011-12-30").returncode) == (0, 2)


def test_all_of_silver_is_computed_again_where_it_is_wrong(chain: Chain, fiblake: Fiblake) -> None:
    bars = [bar("FULL", session, 50 + i) for i, session in enumerate(SESSIONS[:60])]
    chain.put(bars)
    chain.wait_for_silver(bars)
    chain.drained()
    for key in chain.objects("silver/silver_13d/year=2011/"):
        chain.s3.delete_object(Bucket=chain.stack.bucket, Key=key)

    refused = fiblake("resample")
    report = json_of(fiblake("resample", "--full", "--json"))

    assert (refused.returncode, "say --full" in refused.stderr) == (2, True)
    assert report["month_files_written"] > 0
    assert report["failed"] == {}
    chain.wait_for_silver(bars)
    assert json_of(fiblake("resample", "--full", "--json"))["month_files_written"] == 0


def test_a_data_parquet_of_another_make_is_adopted_and_reaches_silver(chain: Chain, fiblake: Fiblake) -> None:
    bars = [bar("ADOP", session, 50 + i) for i, session in enumerate(SESSIONS[:40])]
    key = Bronze().data_key("ADOP")
    chain.s3.put_object(Bucket=chain.stack.bucket, Key=key, Body=parquet(bars))

    shown = json_of(fiblake("adopt", "--json"))
    report = json_of(fiblake("adopt", "--yes", "--json"))

    assert "ADOP" in {adopted["symbol"] for adopted in shown["symbols"]}
    assert (shown["enqueued"], report["enqueued"] >= 1) == (0, True)
    chain.wait_for_silver(bars)

    def foreign() -> set[str]:
        return {adopted["symbol"] for adopted in json_of(fiblake("adopt", "--json"))["symbols"]}

    wait_until(lambda: "ADOP" not in foreign(), "its data.parquet is ours")


def test_query_and_chart_read_the_lake(chain: Chain, fiblake: Fiblake, tmp_path: Path) -> None:
    bars = [bar("QUER", session, 50 + i) for i, session in enumerate(SESSIONS[:60])]
    chain.put(bars)
    chain.wait_for_silver(bars)

    sql = "SELECT count(*) AS n, max(close) AS close FROM {} WHERE symbol = 'QUER'"
    assert json_of(fiblake("query", sql.format("bronze"), "--symbols", "QUER", "--json")) == [{"n": 60, "close": 110}]
    assert json_of(fiblake("query", sql.format("silver_21d"), "--json"))[0]["close"] == 110
    assert json_of(fiblake("query", "SELECT row_count FROM manifest WHERE symbol = 'QUER'", "--json")) == [
        {"row_count": 60}
    ]

    picture = tmp_path / "quer.png"
    assert json_of(fiblake("chart", "QUER", "3d", "-o", str(picture), "--json"))["bars"] >= 20
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_reconcile_heals_what_a_fifth_of_lost_events_left_behind(chain: Chain, fiblake: Fiblake) -> None:
    symbols = [f"HEAL{n}" for n in range(5)]
    bars = {symbol: [bar(symbol, session, 50 + i) for i, session in enumerate(SESSIONS[:20])] for symbol in symbols}
    chance = random.Random(5)  # noqa: S311 (no secret)
    files = [single for own in bars.values() for single in own]
    lost = set(chance.sample(range(len(files)), len(files) // 5))
    for i, single in enumerate(files):
        if i not in lost and single.symbol != "HEAL4":
            chain.put([single])
    chain.drained()
    # Last, because a file without a notification is merged with the next arrival of its symbol.
    with _deaf(chain):
        for i in lost:
            chain.put([files[i]])
    # The completion of one symbol was lost: it is consolidated by hand, with a topic without subscribers.
    topic = chain.stack.client("sns").create_topic(Name=f"deaf-{uuid.uuid4().hex}")["TopicArn"]
    with _deaf(chain):
        for single in bars["HEAL4"]:
            chain.put([single])
    assert chain.worker("--symbols", "HEAL4", CONSOLIDATION_COMPLETE_TOPIC_ARN=topic).wait(60) == 0

    report = fiblake("reconcile", "--symbols", ",".join(symbols), "--json")
    assert report.returncode == 3
    causes = {(lag["symbol"], lag["cause"]) for lag in json_of(report)["lags"]}
    assert ("HEAL4", "silver") in causes
    assert any(cause in {"unmerged", "never_consolidated"} for _, cause in causes)

    fixed = fiblake("reconcile", "--symbols", ",".join(symbols), "--fix", "--json")
    assert fixed.returncode == 0, fixed.stderr
    for own in bars.values():
        chain.wait_for_silver(own)
    chain.drained()
    assert json_of(fiblake("reconcile", "--symbols", ",".join(symbols), "--json"))["lags"] == []


@contextmanager
def _deaf(chain: Chain) -> Iterator[None]:
    """Let the puts of the block have no notification."""
    rules = chain.stack.client("events")
    (rule,) = [
        listed_rule["Name"]
        for listed_rule in rules.list_rules()["Rules"]
        if "object" in listed_rule.get("EventPattern", "")
    ]
    rules.disable_rule(Name=rule)
    try:
        yield
    finally:
        rules.enable_rule(Name=rule)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["status", "--stack", "nowhere"], 2, "there is no stack nowhere"),
        (["status", "--endpoint-url", "http://127.0.0.1:9"], 1, "cannot describe stack"),
        (["vacuum", "--symbols", "GHOST"], 2, "the lake has no bars of GHOST"),
        (["chart", "GHOST", "3d", "-o", "x.png"], 2, "no bars of GHOST"),
        (["reconcile", "--since", "2011-13-01"], 2, "--since"),
        (["dlq", "list", "--queue", "nowhere"], 2, "the queues are"),
        (["query", "DROP TABLE bronze"], 2, "one SELECT"),
        (["status", "--profile", "nobody"], 2, "nobody"),
    ],
)
def test_what_cannot_be_is_a_sentence_and_an_exit_code(
    fiblake: Fiblake, arguments: list[str], code: int, sentence: str
) -> None:
    result = fiblake(*arguments)
    assert (result.returncode, "Traceback" in result.stderr) == (code, False), result.stderr
    assert sentence in " ".join(result.stderr.replace("│", " ").split())

"""Every path on which a function or a job calls AWS, run once: the first time, the next time, and the failures.

A path that does not reach its purpose raises PathError, so a recording without it is not taken for a complete one.
"""

import asyncio
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import asyncpg
import pyarrow as pa
import pyarrow.parquet as pq

from fiblake.aggregate import SILVER_CALENDAR
from fiblake.bars import BRONZE, ReportedBar, encode
from fiblake.calendar import nyse
from fiblake.lake import (
    CLEANUP_RECORD_KEY,
    INTERVALS,
    MANIFEST_KEY,
    UNCLAIMED_PREFIX,
    Bronze,
    checkpoint_key,
    dividends_key,
    identities_key,
    revisions_key,
    silver_prefix,
    splits_key,
)
from fiblake.symbols import BEGINNING
from services.fetcher.flat_files.ledger import LEDGER_KEY
from services.fetcher.flat_files.sources import PREFIX as FLAT_FILES
from shared.events import ConsolidationComplete, ConsolidationRequest, HistoryRequest
from tests.integration.permissions.calls import Call
from tests.integration.permissions.lake import PathError, RecordedLake

BRONZE_KEYS = Bronze()
TODAY = datetime.now(UTC).date()
LAST = nyse().last_closed(datetime.now(UTC))
SESSIONS = tuple(day for day in nyse().sessions.tolist() if LAST - timedelta(days=90) <= day <= LAST)
OLD, NEW = SESSIONS[0], SESSIONS[-1]
SYMBOLS = ("AAA", "BBB", "CCC")
POISON = '{"no": "message of ours"}'


def vendor_folder(folder: Path) -> Path:
    """Write three symbols' bars as the vendor will serve them: with a split, a dividend, and invalid bars."""
    folder.mkdir()
    lines = ["symbol,session,open,high,low,close,volume"]
    for symbol in SYMBOLS:
        for day in SESSIONS:
            low = 99 if day in {SESSIONS[-3], SESSIONS[-20]} else 9  # above the high: it goes to quarantine
            lines.append(f"{symbol},{day},10,11,{low},10.5,1000")
    (folder / "bars.csv").write_text("\n".join(lines))
    (folder / "splits.csv").write_text(f"ticker,execution_date,split_from,split_to\nAAA,{SESSIONS[-5]},1,2\n")
    (folder / "dividends.csv").write_text(f"ticker,ex_dividend_date,cash_amount\nAAA,{SESSIONS[-5]},0.1\n")
    return folder


def walk(lake: RecordedLake) -> None:
    """Run all paths, in an order in which each finds the objects that it needs."""
    for path in (_migration, _reference_data, _sessions, _histories, _arrivals, _first_consolidation):
        path(lake)
    with ThreadPoolExecutor() as pool:  # a worker waits for a retry: no need to watch it
        for walked in [pool.submit(path, lake) for path in (_next_consolidation, _resampling)]:
            walked.result()
    for path in (
        _flat_files,
        _another_calendar,
        _consolidation_of_everything,
        _resampling_of_everything,
        _audit,
        _vacuum,
        _freshness,
    ):
        path(lake)
    if lake.recording.unknown:
        raise PathError(f"requests of which nothing is known: {lake.recording.unknown}")


def _migration(lake: RecordedLake) -> None:
    lake.run("MigrateJobDefinition")


def _reference_data(lake: RecordedLake) -> None:
    lake.put(identities_key("AAA"), b"no Parquet")  # so it is written again
    before = lake.etag(identities_key("AAA"))
    lake.invoke("MetadataFetcherFunction", {}, {"splits_only": True})
    _expect(splits_key("AAA") in lake.keys("bronze/splits/"), "splits are stored")
    _expect(dividends_key("AAA") in lake.keys("bronze/dividends/"), "dividends are stored")
    _expect(lake.etag(identities_key("AAA")) != before, "identities are stored")
    _expect(lake.count("HistoryQueue") == len(SYMBOLS), "histories are asked for")


def _sessions(lake: RecordedLake) -> None:
    days = [SESSIONS[-3], SESSIONS[-2]]
    event = {"from": days[0].isoformat(), "to": days[-1].isoformat()}
    lake.recording.refuse(
        _that(action="s3:PutObject", who="OhlcvFetcherRole", place="raw_ohlcv/symbol=BBB"), times=1_000
    )
    (failed,) = lake.answers("OhlcvFetcherFunction", event)
    _expect("failed" in failed, "a run that cannot write fails, and leaves files in doubt")
    lake.recording.stop_refusing()
    lake.invoke("OhlcvFetcherFunction", event, {"date": days[-1].isoformat()}, {})
    _expect(bool(lake.keys("bronze/quarantine/")), "a bar is in quarantine")
    lake.invoke("OhlcvFetcherFunction", {"symbols": ["AAA"], "from": OLD.isoformat(), "to": NEW.isoformat()})


def _histories(lake: RecordedLake) -> None:
    lake.recording.refuse(_that(action="s3:PutObject", who="HistoryFetcherRole", place="symbol=CCC"), times=1_000)
    event = lake.batch_event("HistoryQueue")
    poison = lake.poison_event("HistoryQueue", POISON, HistoryRequest(symbol="NOBODY").model_dump_json())
    answer, dead = lake.invoke("HistoryFetcherFunction", event, poison)
    _expect(len(answer["batchItemFailures"]) == 1, "a history that cannot be written is retried")
    _expect(not dead["batchItemFailures"] and lake.count("HistoryDeadLetters") == 2, "what is poison is a dead letter")
    lake.recording.stop_refusing()
    lake.invoke("OhlcvFetcherFunction", {})  # reads the files that the history left in doubt
    again = lake.poison_event("HistoryQueue", HistoryRequest(symbol="CCC").model_dump_json())
    (answer,) = lake.invoke("HistoryFetcherFunction", again)
    _expect(not answer["batchItemFailures"], "a history that was in doubt is loaded")


def _arrivals(lake: RecordedLake) -> None:
    put = [_arrival(lake, key) for key in lake.keys("bronze/") if "/symbol=" in key and "quarantine" not in key]
    first = lake.poison_event("BronzeArrivalsQueue", *put)
    lake.invoke("RouterFunction", first, SYMBOLS_PER_CHILD="1")
    _expect(lake.waiting_jobs() > 0, "an array job is submitted")
    again = lake.poison_event("BronzeArrivalsQueue", *put[:2])
    poison = lake.poison_event("BronzeArrivalsQueue", POISON)
    lake.invoke("RouterFunction", again, poison)
    _expect(lake.count("BronzeArrivalsDeadLetters") == 1, "what is poison is a dead letter")
    lake.recording.refuse(_that(action="batch:ListJobs", who="RouterRole"))
    (answer,) = lake.invoke("RouterFunction", lake.poison_event("BronzeArrivalsQueue", put[0]))
    _expect(len(answer["batchItemFailures"]) == 1, "arrivals are retried while Batch fails")
    _expect(lake.count("ConsolidationQueue") >= len(SYMBOLS), "consolidations are requested")


def _first_consolidation(lake: RecordedLake) -> None:
    """Consolidate for the first time, with splits and identities, without them, and with old files to delete."""
    for day in (OLD, NEW):
        lake.put(BRONZE_KEYS.date_key("DDD", day), _bars("DDD", [day]))
    lake.put(BRONZE_KEYS.range_key("DDD", *SESSIONS[1:3]), _bars("DDD", SESSIONS[1:3]))
    lake.send("ConsolidationQueue", _request("DDD", OLD))
    lake.run("WorkerJobDefinition")
    _expect(MANIFEST_KEY in lake.keys("processing_metadata/"), "the manifest is written")
    _expect(CLEANUP_RECORD_KEY in lake.keys("processing_metadata/"), "old files are deleted, and that is recorded")
    _expect(lake.count("ConsolidationQueue") == 0, "the queue is drained")


def _next_consolidation(lake: RecordedLake) -> None:
    """Consolidate again: a new file, a restated bar, broken bars, no Parquet, poison, no bars, an upload that fails."""
    lake.put(BRONZE_KEYS.date_key("BBB", SESSIONS[-4]), _bars("BBB", [SESSIONS[-4]]))
    lake.put(BRONZE_KEYS.date_key("DDD", SESSIONS[-2]), b"no Parquet")
    lake.put(BRONZE_KEYS.date_key("DDD", NEW), _bars("DDD", [NEW], low=9.5))
    lake.put(BRONZE_KEYS.data_key("EEE"), _bars("EEE", list(SESSIONS[-9:])))  # it is another program's, and is adopted
    lake.put(BRONZE_KEYS.date_key("CCC", SESSIONS[-4]), _bars("CCC", [SESSIONS[-4]]))
    lake.put(BRONZE_KEYS.range_key("EEE", *SESSIONS[-20:-18]), _bars("EEE", SESSIONS[-20:-18], low=99.0))
    bodies = [_request("BBB", SESSIONS[-4]), _request("DDD", SESSIONS[-2]), _request("EEE", None), POISON]
    lake.send("ConsolidationQueue", *bodies, _request("NOBODY", None), _request("CCC", SESSIONS[-4]))
    lake.recording.refuse(_that(action="s3:PutObject", who="WorkerRole", place="symbol=CCC/data.parquet"))
    lake.run("WorkerJobDefinition", code=3)
    _expect(lake.count("ConsolidationDeadLetters") >= 3, "what cannot succeed is a dead letter")
    _expect(bool(lake.keys("bronze/quarantine/symbol=EEE/")), "a broken bar is in quarantine")
    _expect(revisions_key("DDD") in lake.keys("bronze/revisions/"), "what a restated bar replaces is kept")


def _consolidation_of_everything(lake: RecordedLake) -> None:
    lake.put(BRONZE_KEYS.date_key("CCC", OLD), _bars("CCC", [OLD]))
    lake.put(BRONZE_KEYS.range_key("CCC", *SESSIONS[1:3]), _bars("CCC", SESSIONS[1:3]))
    lake.run("WorkerJobDefinition", "--skip-cleanup", code=3, MODE="full")
    _expect(BRONZE_KEYS.date_key("CCC", OLD) in lake.keys("bronze/raw_ohlcv/"), "nothing is deleted")


def _resampling(lake: RecordedLake) -> None:
    lake.recording.refuse(_that(action="s3:GetObject", who="ResamplerRole", place="symbol=BBB"), times=1_000)
    events = []
    for interval in INTERVALS:
        queue = f"Resample{interval}dQueue"
        events.append(lake.poison_event(queue, _completion("AAA"), POISON))
        events.append(lake.poison_event(queue, _completion("BBB")))
        events.append(lake.poison_event(queue, _completion("AAA")))
    answers = lake.invoke("ResamplerFunction", *events)
    for number, interval in enumerate(INTERVALS):
        good, retried, again = answers[3 * number : 3 * number + 3]
        _expect(not good["batchItemFailures"] and not again["batchItemFailures"], "a symbol is resampled")
        _expect(len(retried["batchItemFailures"]) == 1, "a symbol that cannot be read is retried")
        _expect(lake.count(f"Resample{interval}dDeadLetters") == 1, "what is poison is a dead letter")
        _expect(bool(lake.keys(silver_prefix(interval))), "silver is written")


def _flat_files(lake: RecordedLake) -> None:
    """Load day files with a broken bar, a bar of an unknown company, and bars before a company's recorded first day."""
    asyncio.run(_list_later(lake.database, "BBB", SESSIONS[2]))
    lake.client("s3").create_bucket(Bucket="flatfiles")
    for day in SESSIONS[:4]:
        lows = dict.fromkeys((*SYMBOLS, "ZZZ"), 9) | {"CCC": 99}
        lines = [f"{ticker},1000,10,10.5,11,{low},0,5" for ticker, low in lows.items()]
        text = "\n".join(["ticker,volume,open,close,high,low,window_start,transactions", *lines])
        lake.client("s3").put_object(
            Bucket="flatfiles", Key=f"{FLAT_FILES}/{day:%Y/%m}/{day}.csv.gz", Body=gzip.compress(text.encode())
        )
    sessions = {"FLAT_FILES_FROM": str(SESSIONS[0]), "FLAT_FILES_TO": str(SESSIONS[3])}
    for again in ("false", "true"):
        lake.run(
            "FlatFilesJobDefinition", FLAT_FILES_ENDPOINT=lake.emulator_url, FLAT_FILES_AGAIN=again, **sessions
        )  # fmt: skip
    _expect(LEDGER_KEY in lake.keys("processing_metadata/"), "the ledger of flat files is written")
    _expect(lake.keys(f"{UNCLAIMED_PREFIX}/") != [], "bars of nobody wait")
    range_key = BRONZE_KEYS.range_key("BBB", SESSIONS[0], SESSIONS[1])
    _expect(range_key in lake.keys("bronze/raw_ohlcv/symbol=BBB/"), "bars from before the listing are the company's")


async def _list_later(database: Mapping[str, str], symbol: str, day: date) -> None:
    """Let a company begin on a later day, as the vendor may report; another company had the symbol long ago."""
    names = {"host": "host", "port": "port", "user": "username", "password": "password", "database": "dbname"}
    connection = await asyncpg.connect(**{argument: database[name] for argument, name in names.items()}, ssl=False)
    try:
        await connection.execute("UPDATE symbol_metadata SET valid_from = $2 WHERE symbol = $1", symbol, day)
        await connection.execute(
            "INSERT INTO symbol_metadata (symbol, valid_from, valid_to, active, first_seen, last_seen) "
            "SELECT symbol, $2, $3, false, first_seen, last_seen FROM symbol_metadata WHERE symbol = $1",
            symbol, BEGINNING, date(1990, 1, 2),
        )  # fmt: skip
    finally:
        await connection.close()


def _another_calendar(lake: RecordedLake) -> None:
    """Resample a symbol whose month files were cut by another calendar: all symbols are computed again."""
    lake.recording.stop_refusing()
    for key in lake.keys(silver_prefix(3)):
        table = pq.read_table(pa.BufferReader(lake.get(key)))
        lake.put(key, encode(table.replace_schema_metadata({SILVER_CALENDAR: b"another one"})))
    (answer,) = lake.invoke("ResamplerFunction", lake.poison_event("Resample3dQueue", _completion("AAA")))
    _expect(not answer["batchItemFailures"], "what another calendar cut is cut anew")


def _resampling_of_everything(lake: RecordedLake) -> None:
    lake.delete(checkpoint_key(3))
    lake.run("FullResampleJobDefinition")
    _expect(checkpoint_key(3) in lake.keys("processing_metadata/"), "the checkpoint is written")
    lake.run("FullResampleJobDefinition", AWS_BATCH_JOB_ARRAY_INDEX="1", AWS_BATCH_JOB_ARRAY_SIZE="2")


def _audit(lake: RecordedLake) -> None:
    """Audit a lake in which arrivals, silver and checkpoints lag, with a job that waits and without one."""
    for symbol in ("AAA", "BBB"):
        lake.put(BRONZE_KEYS.date_key(symbol, SESSIONS[-6]), _bars(symbol, [SESSIONS[-6]]))
    lake.delete(lake.keys(silver_prefix(3))[0])
    lake.delete(checkpoint_key(5))
    lake.end_jobs()
    lake.invoke("ReconcileFunction", {"fix": True}, {"fix": True}, {}, SYMBOLS_PER_CHILD="1")
    _expect(lake.waiting_jobs() > 0, "an array job is submitted")
    _expect(lake.count("ConsolidationQueue") >= 2, "consolidations are requested")


def _vacuum(lake: RecordedLake) -> None:
    before = len(lake.keys("bronze/raw_ohlcv/"))
    lake.invoke("VacuumFunction", {"dry_run": True}, {})
    _expect(len(lake.keys("bronze/raw_ohlcv/")) < before, "an old file is deleted")


def _freshness(lake: RecordedLake) -> None:
    lake.invoke("FreshnessFunction", {})


def _that(*, action: str, who: str, place: str = "") -> Callable[[Call], bool]:
    return lambda call: (call.action, call.who) == (action, who) and place in call.resource


def _bars(symbol: str, days: Sequence[date], low: float = 9.0) -> bytes:
    now = datetime.now(UTC)
    rows = [ReportedBar(symbol, day, 10.0, 11.0, low, 10.5, 1000.0).row(now) for day in days]
    return encode(pa.Table.from_pylist(rows, schema=BRONZE))


def _arrival(lake: RecordedLake, key: str) -> str:
    detail = {"bucket": {"name": lake.bucket}, "object": {"key": key, "size": 1, "etag": "e", "sequencer": "0"}}
    more = {"version": "0", "request-id": "r", "requester": "123456789012", "reason": "PutObject"}
    return json.dumps({
        "version": "0", "id": "7c0b8f1e-5f0d-4c1b-9a53-2b6a7f6f3c11", "detail-type": "Object Created",
        "source": "aws.s3", "account": "123456789012", "time": "2025-11-19T21:05:04Z", "region": "us-east-1",
        "resources": [f"arn:aws:s3:::{lake.bucket}"], "detail": {**detail, **more, "source-ip-address": "203.0.113.7"},
    })  # fmt: skip


def _request(symbol: str, changed_from: date | None) -> str:
    return ConsolidationRequest(symbol=symbol, changed_from=changed_from).model_dump_json()


def _completion(symbol: str) -> str:
    return ConsolidationComplete(symbol=symbol, changed_from=SESSIONS[-4], last_session=NEW).model_dump_json()


def _expect(holds: bool, what: str) -> None:  # noqa: FBT001 (a sentence and whether it holds)
    if not holds:
        raise PathError(f"it does not hold that {what}")

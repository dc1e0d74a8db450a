"""From a put in S3 to all silver tables, through every part of the embedded stack."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from fiblake.calendar import nyse
from fiblake.lake import MANIFEST_KEY, Bronze, splits_key
from local.recompute import SampleSplit
from shared.database import DatabaseAddress
from shared.events import ConsolidationComplete
from tests.integration.conftest import Chain, bar, wait_until
from tests.integration.databases import ask, know

SESSIONS = nyse().between(datetime(2011, 1, 3, tzinfo=UTC).date(), datetime(2011, 12, 30, tzinfo=UTC).date())


def test_one_date_file_put_by_any_client_leads_to_buckets_in_all_intervals(chain: Chain) -> None:
    bars = [bar("ONE", SESSIONS[100], 50)]

    chain.put(bars)

    chain.wait_for_silver(bars)


def test_a_late_file_older_than_everything_is_merged_and_resampled(chain: Chain) -> None:
    recent = [bar("LATE", session, 50 + i) for i, session in enumerate(SESSIONS[60:80])]
    late = [bar("LATE", SESSIONS[0], 10)]
    chain.put(recent)
    chain.wait_for_silver(recent)

    chain.put(late)

    chain.wait_for_silver(late + recent)


def test_a_restated_file_under_the_same_key_replaces_the_bar(chain: Chain) -> None:
    bars = [bar("REST", session, 50 + i) for i, session in enumerate(SESSIONS[60:80])]
    chain.put(bars)
    first_key = chain.put(bars[10:11])
    chain.wait_for_silver(bars)
    restated = [bar("REST", bars[10].session, 500)]

    assert chain.put(restated) == first_key

    chain.wait_for_silver(bars[:10] + restated + bars[11:])


def test_an_older_version_that_arrives_later_does_not_win(chain: Chain) -> None:
    now = datetime.now(UTC)
    newer = [bar("OLDV", session, 50 + i) for i, session in enumerate(SESSIONS[60:70])]
    chain.put(newer, now)
    chain.wait_for_silver(newer)

    chain.put([bar("OLDV", newer[3].session, 9)], now - timedelta(days=1))
    chain.drained()

    chain.wait_for_silver(newer)


def test_the_same_event_three_times_changes_nothing_the_second_and_third_time(chain: Chain) -> None:
    bars = [bar("TRI", session, 50 + i) for i, session in enumerate(SESSIONS[60:80])]
    key = chain.put(bars)
    chain.wait_for_silver(bars)
    chain.drained()
    before = chain.objects("silver/") | chain.objects(Bronze().symbol_prefix("TRI"))
    notice = {
        "detail-type": "Object Created",
        "id": "again",
        "source": "aws.s3",
        "detail": {"bucket": {"name": chain.stack.bucket}, "object": {"key": key}},
    }

    chain.send("bronze-arrivals", *[json.dumps(notice)] * 3)
    chain.drained()

    assert chain.objects("silver/") | chain.objects(Bronze().symbol_prefix("TRI")) == before
    chain.wait_for_silver(bars)


def test_a_splits_file_put_by_any_client_adjusts_its_symbols_silver_and_no_others(chain: Chain) -> None:
    bars = {symbol: [bar(symbol, s, 50 + i) for i, s in enumerate(SESSIONS[60:80])] for symbol in ("HALF", "WHOLE")}
    for some in bars.values():
        chain.put(some)
    for some in bars.values():
        chain.wait_for_silver(some)
    chain.drained()
    consolidated = {symbol: chain.objects(Bronze().data_key(symbol)) for symbol in bars}
    split = SampleSplit("HALF", SESSIONS[70], 1, 2)

    chain.put_splits(split)

    chain.wait_for_silver(bars["HALF"], splits=[split])
    chain.wait_for_silver(bars["WHOLE"])
    chain.drained()
    assert chain.objects(Bronze().data_key("HALF")) != consolidated["HALF"]
    assert chain.objects(Bronze().data_key("WHOLE")) == consolidated["WHOLE"]


def test_splits_that_cannot_be_read_are_dead_lettered_and_silver_stays(chain: Chain) -> None:
    bars = [bar("TORN", session, 50 + i) for i, session in enumerate(SESSIONS[60:80])]
    chain.put(bars)
    chain.wait_for_silver(bars)
    key = splits_key("TORN")

    chain.s3.put_object(Bucket=chain.stack.bucket, Key=key, Body=b"no Parquet")

    letter = chain.dead_letter_about("consolidation", "TORN")
    assert letter["reason"].startswith(f"{key}: the splits of TORN cannot be read")
    chain.put(more := [bar("TORN", SESSIONS[80], 99)])
    chain.wait_for_silver(bars + more)


def test_the_manifest_is_parquet_that_anyone_can_read(chain: Chain, tmp_path: Path) -> None:
    bars = [bar("MANI", session, 50 + i) for i, session in enumerate(SESSIONS[60:80])]
    chain.put(bars)
    chain.wait_for_silver(bars)
    file = tmp_path / "manifest.parquet"
    file.write_bytes(chain.watcher.read(MANIFEST_KEY) or b"")
    query = "SELECT symbol, last_consolidated_date, row_count FROM read_parquet(?) WHERE symbol = 'MANI'"

    with duckdb.connect() as connection:
        rows = connection.execute(query, [str(file)]).fetchall()

    assert rows == [("MANI", SESSIONS[79], 20)]


def test_merged_files_beyond_the_retention_are_deleted_and_recorded(chain: Chain) -> None:
    bars = [bar("GONE", session, 50 + i) for i, session in enumerate(SESSIONS[60:80])]
    key = chain.put(bars)
    chain.wait_for_silver(bars)

    wait_until(lambda: key not in chain.objects(Bronze().symbol_prefix("GONE")), "the merged range file is deleted")

    def recorded() -> bool:
        record = json.loads(chain.watcher.read("processing_metadata/cleanup_manifest.json") or b'{"runs": []}')
        return any(run["symbols"].get("GONE", {}).get("files") == 1 for run in record["runs"])

    wait_until(recorded, "the clean-up of GONE is recorded")


def test_a_poison_message_is_dead_lettered_with_its_reason_while_the_others_succeed(chain: Chain) -> None:
    mates = {symbol: [bar(symbol, SESSIONS[70], 50)] for symbol in ("MATEA", "MATEB")}
    poison = json.dumps({"schema_version": "1.0", "symbol": "../escape"})
    chain.send("consolidation", poison)
    for bars in mates.values():
        chain.put(bars)

    attributes = chain.dead_letter("consolidation", poison)

    assert "symbol" in attributes["reason"]
    assert attributes["error"] == "ContractError"
    for bars in mates.values():
        chain.wait_for_silver(bars)


def test_a_poison_event_of_an_interval_queue_is_dead_lettered_with_its_reason(chain: Chain) -> None:
    day = SESSIONS[70]
    unknown = ConsolidationComplete(symbol="NOBODY", changed_from=day, last_session=day).model_dump_json()

    chain.send("resample-5d", unknown, '{"schema_version": "9.0"}')

    assert "NOBODY has no data.parquet" in chain.dead_letter("resample-5d", unknown)["reason"]
    assert "schema version 9.0" in chain.dead_letter("resample-5d", '{"schema_version": "9.0"}')["reason"]


def test_a_key_that_is_not_ours_is_dead_lettered_with_its_reason_while_the_rest_travels_on(chain: Chain) -> None:
    good = [bar("GOOD", SESSIONS[70], 50)]
    key = "bronze/raw_ohlcv/symbol=A/B/date=2011-01-03.parquet"
    place = {"bucket": {"name": chain.stack.bucket}, "object": {"key": key}}
    stray = json.dumps({"detail-type": "Object Created", "id": "x", "source": "aws.s3", "detail": place})

    chain.send("bronze-arrivals", stray)
    chain.put(good)

    assert "neither date=" in chain.dead_letter("bronze-arrivals", stray)["reason"]
    chain.wait_for_silver(good)


def test_the_fetcher_stores_the_missing_sessions_oldest_first_and_moves_the_watermark(chain: Chain) -> None:
    symbols = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
    address = DatabaseAddress.of_secret(chain.stack.database_secret)
    asyncio.run(know(address, *symbols))
    asyncio.run(ask(address, "TRUNCATE raw_ohlcv, ingested_sessions, data_ingestion_watermark"))  # of other tests

    first = chain.invoke_fetcher(as_of="2013-02-28")
    again = chain.invoke_fetcher(as_of="2013-02-28")
    next_day = chain.invoke_fetcher(as_of="2013-03-01T21:00:00Z")

    assert [(session["what"], session["stored"]) for session in first["done"]] == [("2013-02-27", 5), ("2013-02-28", 5)]
    assert (again["done"], again["pending"], again["watermark"]) == ([], [], "2013-02-28")
    assert [(session["stored"], session["unchanged"]) for session in again["looked_at_again"]] == [(0, 5), (0, 5)]
    assert next_day["watermark"] == "2013-03-01"
    wait_until(lambda: str(chain.watcher.consolidated().get("IBM")) == "2013-03-01", "IBM is consolidated")

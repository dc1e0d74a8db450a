import json

import pytest
from typer.testing import CliRunner

from cli import target
from cli.app import app
from shared.objects import ObjectStore
from shared.queues import Topic
from shared.settings import load
from tests.fakes import LAKE, FakeTopic, MemoryObjectStore
from tests.unit.resampler.daily import SESSIONS, numbered
from tests.unit.resampler.silver_lake import lay, silver, whole_silver

DAYS = numbered(SESSIONS[-400:-340])


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = MemoryObjectStore()
    lay(store, "AAPL", DAYS)
    monkeypatch.setattr(ObjectStore, "connect", lambda _bucket: store)
    monkeypatch.setattr(Topic, "connect", lambda _arn: FakeTopic())
    monkeypatch.setattr(target, "settings_of", lambda _context, _function, settings: load(settings))
    monkeypatch.setenv("S3_BUCKET", "b")
    monkeypatch.setenv("SILVER_UPDATED_TOPIC_ARN", "arn:aws:sns:us-east-1:0:t")
    return store


def test_full_writes_all_tables_and_says_what_it_did(lake: MemoryObjectStore) -> None:
    result = CliRunner().invoke(app, ["resample", "--full"])
    assert result.exit_code == 0
    assert silver(lake, 5) == whole_silver({"AAPL": DAYS}, 5)
    assert "1 symbol up to" in result.stdout
    assert "silver_34d" in result.stdout


def test_a_program_reads_json(lake: MemoryObjectStore) -> None:
    result = CliRunner().invoke(app, ["resample", "--full", "--memory-mb", "512", "--json"])
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts["symbols"] == 1
    assert facts["buckets"]["34d"] == len(silver(lake, 34))


def test_without_full_it_says_what_to_say(lake: MemoryObjectStore) -> None:
    result = CliRunner().invoke(app, ["resample"])
    assert result.exit_code == 2
    assert "--full" in result.output
    assert lake.keys("silver/") == []


def test_a_symbol_that_cannot_be_read_is_named_when_the_others_are_done(lake: MemoryObjectStore) -> None:
    lake.lay(LAKE.data_key("BAD"), b"no Parquet")
    result = CliRunner().invoke(app, ["resample", "--full"])
    assert result.exit_code == 3
    assert "BAD could not be read" in result.stdout
    assert silver(lake, 5) == whole_silver({"AAPL": DAYS}, 5)

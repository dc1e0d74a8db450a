import pytest
from typer.testing import CliRunner

from cli.app import app
from shared.errors import UpstreamError
from shared.objects import ObjectStore
from shared.queues import Topic
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
    monkeypatch.setenv("S3_BUCKET", "b")
    monkeypatch.setenv("SILVER_UPDATED_TOPIC_ARN", "arn:aws:sns:us-east-1:0:t")
    return store


def test_full_writes_all_tables_and_says_what_it_did(lake: MemoryObjectStore) -> None:
    result = CliRunner().invoke(app, ["resample", "--full"])
    assert result.exit_code == 0
    assert silver(lake, 5) == whole_silver({"AAPL": DAYS}, 5)
    assert "1 symbols up to" in result.stdout
    assert f"{len(whole_silver({'AAPL': DAYS}, 3))}" in result.stdout


def test_without_full_it_says_what_to_say(lake: MemoryObjectStore) -> None:
    result = CliRunner().invoke(app, ["resample"])
    assert result.exit_code == 2
    assert "--full" in result.output
    assert lake.keys("silver/") == []


def test_a_symbol_that_cannot_be_read_is_named_when_the_others_are_done(lake: MemoryObjectStore) -> None:
    lake.lay(LAKE.data_key("BAD"), b"no Parquet")
    result = CliRunner().invoke(app, ["resample", "--full"])
    assert isinstance(result.exception, UpstreamError)
    assert "BAD" in str(result.exception)
    assert silver(lake, 5) == whole_silver({"AAPL": DAYS}, 5)

import json
import threading
from datetime import date, datetime
from typing import Any

import pytest

from fiblake.errors import UpstreamError
from fiblake.lake import INTERVALS
from services.resampler import __main__ as entry
from services.resampler.settings import FullResamplerSettings
from shared import traces
from shared.objects import ObjectStore
from shared.queues import Topic
from tests.fakes import LAKE, FakeTopic, MemoryObjectStore
from tests.unit.resampler.daily import SESSIONS, numbered
from tests.unit.resampler.silver_lake import lay, silver, whole_silver

DAYS = numbered(SESSIONS[-400:-340])


@pytest.fixture
def topic() -> FakeTopic:
    return FakeTopic()


@pytest.fixture(autouse=True)
def lake(monkeypatch: pytest.MonkeyPatch, topic: FakeTopic) -> MemoryObjectStore:
    store = MemoryObjectStore()
    lay(store, "AAPL", DAYS)
    monkeypatch.setattr(ObjectStore, "connect", lambda _bucket: store)
    monkeypatch.setattr(Topic, "connect", lambda _arn: topic)
    for name in FullResamplerSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("S3_BUCKET", "b")
    monkeypatch.setenv("SILVER_UPDATED_TOPIC_ARN", "arn:aws:sns:us-east-1:0:t")
    return store


def test_all_tables_and_exit_code_0(lake: MemoryObjectStore, topic: FakeTopic) -> None:
    assert entry.main([]) == 0
    assert silver(lake, 34) == whole_silver({"AAPL": DAYS}, 34)
    assert [event.symbols for event in topic.published] == [("AAPL",)] * len(INTERVALS)


def test_a_symbol_that_cannot_be_read_is_exit_code_3(lake: MemoryObjectStore) -> None:
    lake.lay(LAKE.data_key("BAD"), b"no Parquet")
    assert entry.main([]) == 3


def test_a_failing_service_is_exit_code_1_and_a_sentence(
    lake: MemoryObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    lake.fail("get", UpstreamError("S3 is down"))
    lake.fail("list", UpstreamError("S3 is down"))
    assert entry.main([]) == 1
    assert "S3 is down" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "option", "sentence"),
    [("S3_BUCKET", [], "S3_BUCKET"), ("", ["--memory-mb", "100"], "MEMORY_MB")],
)
def test_wrong_settings_are_exit_code_2_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str, option: list[str], sentence: str
) -> None:
    if missing:
        monkeypatch.delenv(missing)
    assert entry.main(option) == 2
    assert sentence in capsys.readouterr().err


def test_a_child_of_an_array_job_does_its_share(lake: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_SIZE", "2")
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", "0")
    assert entry.main([]) == 0
    first = lake.keys("silver/")
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", "1")
    assert entry.main([]) == 0
    assert 0 < len(first) < len(lake.keys("silver/"))
    assert silver(lake, 3) == whole_silver({"AAPL": DAYS}, 3)


def test_the_settings_reach_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Spy(entry.FullResampler):
        def run(self, now: datetime, index: int = 0, of: int = 1) -> entry.Summary:
            assert now.tzinfo
            seen.update(bytes=self.most_bytes, years=self.retention_years, adjusted=self.adjusted, share=(index, of))
            seen.update(rebuild=self.rebuild)
            return entry.Summary(last_session=date(2026, 1, 2))

    monkeypatch.setattr(entry, "FullResampler", Spy)
    options = ["--memory-mb", "1000", "--resampling-retention-years", "5", "--no-resampling-adjusted", "--rebuild"]
    assert entry.main(options) == 0
    assert seen == {
        "bytes": (1000 - entry.RESERVED_MB) << 20,
        "years": 5,
        "adjusted": False,
        "share": (0, 1),
        "rebuild": True,
    }


def test_a_traced_run_is_one_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(traces, "_put", sent.extend)
    monkeypatch.setenv("TRACE_NAME", "dev-full-resampler")
    assert entry.main([]) == 0
    while not sent:
        threading.Event().wait(0.01)
    [segment] = map(json.loads, sent)
    assert segment["name"] == "dev-full-resampler"
    assert segment["annotations"]["symbols"] == 1
    assert segment["annotations"]["written"] > 6

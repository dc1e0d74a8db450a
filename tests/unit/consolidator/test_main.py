import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date

import pytest

from services.consolidator import __main__ as entry
from services.consolidator.consolidate import Consolidator
from services.consolidator.settings import WorkerSettings
from services.consolidator.worker import Worker
from shared.calendar import nyse
from shared.events import ConsolidationRequest
from shared.queues import Queue
from tests.fakes import LAKE, REPOSITORY, Clock, FakeQueue, FakeTopic, MemoryObjectStore, bar, parquet

QUEUE_URL = "https://sqs.us-east-1.amazonaws.com/000000000000/test-consolidation"


class Account:
    """What `_built` and `Queue.connect` would find in AWS."""

    def __init__(self) -> None:
        self.store, self.queue, self.complete = MemoryObjectStore(), FakeQueue(), FakeTopic()
        self.settings: WorkerSettings | None = None
        self.stop_at_once = False

    def built(self, settings: WorkerSettings) -> Worker:
        self.settings = settings
        consolidator = Consolidator(self.store, LAKE, nyse())
        days = None if settings.skip_cleanup else settings.retention_days
        worker = Worker(consolidator, self.complete, "run-1", Clock(), settings.max_workers, days)
        if self.stop_at_once:
            worker.stop.set()
        return worker

    def put(self, *symbols: str) -> None:
        for symbol in symbols:
            key = LAKE.date_key(symbol, date(2025, 11, 19))
            self.store.lay(key, parquet(bar("2025-11-19", symbol=symbol)))

    @property
    def told(self) -> list[str]:
        return sorted(event.symbol for event in self.complete.published)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    account = Account()
    monkeypatch.setattr(entry, "_built", account.built)
    monkeypatch.setattr(Queue, "connect", lambda _url: account.queue)
    for name, value in {
        "S3_BUCKET": "b",
        "CONSOLIDATION_COMPLETE_TOPIC_ARN": "arn:aws:sns:us-east-1:0:t",
        "CONSOLIDATION_QUEUE_URL": QUEUE_URL,
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("MODE", "SYMBOLS", "MAX_WORKERS", "RETENTION_DAYS", "SKIP_CLEANUP", "S3_PREFIX", "ROUND_SIZE"):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield account
    signal.signal(signal.SIGTERM, before)


def test_a_drained_queue_is_exit_code_0(account: Account) -> None:
    account.put("AAPL")
    account.queue.put(ConsolidationRequest(symbol="AAPL").model_dump_json())
    assert entry.main([]) == 0
    assert account.told == ["AAPL"]


def test_dead_letters_are_exit_code_3(account: Account) -> None:
    account.queue.put("poison")
    assert entry.main([]) == 3
    assert [letter.body for letter in account.queue.dead] == ["poison"]


def test_a_symbol_that_failed_is_exit_code_3(account: Account) -> None:
    account.put("AAPL")
    assert entry.main(["--symbols", "AAPL,GHOST"]) == 3
    assert account.told == ["AAPL"]


def test_sigterm_is_exit_code_143(account: Account) -> None:
    account.queue.put(ConsolidationRequest(symbol="AAPL").model_dump_json())
    account.stop_at_once = True
    assert entry.main([]) == 143
    assert account.queue.depth().visible == 1


def test_sigterm_while_it_works_stops_it_after_the_symbols_in_work(account: Account) -> None:
    account.put("AAPL", "MSFT")
    for symbol in ("AAPL", "MSFT"):
        account.queue.put(ConsolidationRequest(symbol=symbol).model_dump_json())
    account.store.interfere(lambda: os.kill(os.getpid(), signal.SIGTERM), of=lambda key: "AAPL" in key)
    assert entry.main(["--max-workers", "1", "--round-size", "1"]) == 143
    assert account.told == ["AAPL"]
    assert account.queue.depth().visible == 1


@pytest.mark.parametrize(
    "arguments", [["--symbols", "MSFT,AAPL"], ["--symbols", " MSFT , AAPL "], ["--symbols=MSFT,AAPL"]]
)
def test_only_the_named_symbols_are_done(account: Account, arguments: list[str]) -> None:
    account.put("AAPL", "MSFT", "GOOG")
    assert entry.main(arguments) == 0
    assert account.told == ["AAPL", "MSFT"]


def test_full_mode_does_every_symbol_of_the_lake_and_nothing_else(account: Account) -> None:
    account.put("AAPL", "brk.B")
    account.store.lay("bronze/raw_ohlcv/notes/readme.txt", b"not ours")
    account.store.lay("bronze/raw_ohlcv/symbol=not a symbol/date=2025-11-19.parquet", b"not ours")
    assert entry.main(["--mode", "full"]) == 0
    assert account.told == ["AAPL", "brk.B"]


def test_the_children_of_a_full_array_job_share_the_symbols(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = [f"S{n}" for n in range(7)]
    account.put(*symbols)
    monkeypatch.setenv("MODE", "full")
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_SIZE", "3")
    for index, share in enumerate((3, 2, 2)):
        account.complete.published.clear()
        monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", str(index))
        assert entry.main([]) == 0
        assert len(account.told) == share
        symbols = [symbol for symbol in symbols if symbol not in account.told]
    assert symbols == []


def test_options_and_environment_variables_have_the_same_names_and_options_win(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_WORKERS", "3")
    monkeypatch.setenv("RETENTION_DAYS", "7")
    monkeypatch.setenv("SKIP_CLEANUP", "true")
    monkeypatch.setenv("S3_PREFIX", "")
    assert entry.main(["--max-workers", "5"]) == 0
    found = account.settings
    assert found
    assert (found.max_workers, found.retention_days, found.skip_cleanup) == (5, 7, True)
    assert found.s3_prefix == "bronze/raw_ohlcv"


def test_skip_cleanup_is_a_flag(account: Account) -> None:
    assert entry.main(["--skip-cleanup", "--retention-days", "1"]) == 0
    assert account.settings
    assert account.settings.skip_cleanup


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--symbols", "../x"], "'../x' is not a symbol"),
        (["--symbols", "AAPL,"], "'' is not a symbol"),
        (["--max-workers", "0"], "MAX_WORKERS"),
        (["--retention-days", "-1"], "RETENTION_DAYS"),
        (["--mode", "sideways"], "MODE"),
    ],
)
def test_a_wrong_setting_is_exit_code_2_and_named(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("name", ["S3_BUCKET", "CONSOLIDATION_COMPLETE_TOPIC_ARN"])
@pytest.mark.parametrize("value", ["", None])
def test_a_missing_or_empty_setting_is_exit_code_2_and_named(
    name: str, value: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(name)
    if value is not None:
        monkeypatch.setenv(name, value)
    assert entry.main([]) == 2
    assert f"{name}: Field required" in capsys.readouterr().err


@pytest.mark.usefixtures("account")
def test_without_a_queue_and_without_symbols_it_says_what_to_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CONSOLIDATION_QUEUE_URL")
    assert entry.main([]) == 2
    assert "set CONSOLIDATION_QUEUE_URL, or name --symbols" in capsys.readouterr().err


def test_it_explains_itself_as_a_command() -> None:
    command = [sys.executable, "-m", "services.consolidator", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    for option in ("--mode", "--symbols", "--max-workers", "--retention-days", "--skip-cleanup", "--s3-bucket"):
        assert option in said

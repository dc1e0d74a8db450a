import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date

import pytest

from fiblake.calendar import nyse
from fiblake.errors import UpstreamError
from services.consolidator import __main__ as entry
from services.consolidator.consolidate import Consolidator
from services.consolidator.settings import WorkerSettings
from services.consolidator.worker import Worker
from shared.events import ConsolidationRequest
from shared.queues import Queue
from tests.fakes import LAKE, REPOSITORY, Clock, FakeQueue, FakeTopic, MemoryObjectStore, bar, parquet

QUEUE_URL = "https://sqs.us-east-1.amazonaws.com/000000000000/test-consolidation"


class Account:
    """The resources that `_build_worker` and `Queue.connect` would find in AWS."""

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
    def published_symbols(self) -> list[str]:
        return sorted(event.symbol for event in self.complete.published)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    account = Account()
    monkeypatch.setattr(entry, "_build_worker", account.built)
    monkeypatch.setattr(Queue, "connect", lambda _url: account.queue)
    for name, value in {
        "S3_BUCKET": "b",
        "CONSOLIDATION_COMPLETE_TOPIC_ARN": "arn:aws:sns:us-east-1:0:t",
        "CONSOLIDATION_QUEUE_URL": QUEUE_URL,
    }.items():
        monkeypatch.setenv(name, value)
    for name in (
        "MODE",
        "SYMBOLS",
        "MAX_WORKERS",
        "RETENTION_DAYS",
        "SKIP_CLEANUP",
        "S3_PREFIX",
        "ROUND_SIZE",
        "IDLE_SECONDS",
    ):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield account
    signal.signal(signal.SIGTERM, before)


def test_a_drained_queue_is_exit_code_0(account: Account) -> None:
    account.put("AAPL")
    account.queue.put(ConsolidationRequest(symbol="AAPL").model_dump_json())
    assert entry.main([]) == 0
    assert account.published_symbols == ["AAPL"]


def test_dead_letters_are_exit_code_3(account: Account) -> None:
    account.queue.put("poison")
    assert entry.main([]) == 3
    assert [letter.body for letter in account.queue.dead] == ["poison"]


def test_a_symbol_that_failed_is_exit_code_3(account: Account) -> None:
    account.put("AAPL")
    assert entry.main(["--symbols", "AAPL,GHOST"]) == 3
    assert account.published_symbols == ["AAPL"]


def test_a_queue_that_fails_is_exit_code_1_and_a_sentence(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    account.queue.refuse_receives = lambda _nth: True
    assert entry.main([]) == 1
    assert capsys.readouterr().err == "the queue gives no messages, as arranged\n"


def test_a_bucket_that_cannot_be_listed_is_exit_code_1_and_a_sentence(
    account: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_prefix: str) -> list[str]:
        raise UpstreamError("S3 is away")

    monkeypatch.setattr(account.store, "folders", fails)
    assert entry.main(["--mode", "full"]) == 1
    assert capsys.readouterr().err == "S3 is away\n"


def test_what_was_done_before_the_queue_failed_stays_done(account: Account) -> None:
    account.put("AAPL")
    account.queue.put(ConsolidationRequest(symbol="AAPL").model_dump_json())
    account.queue.refuse_receives = lambda nth: nth > 1
    assert entry.main([]) == 1
    assert (account.published_symbols, account.queue.bodies()) == (["AAPL"], [])


@pytest.mark.parametrize(
    ("arguments", "variable", "seconds"),
    [([], None, 60), ([], "8", 8), (["--idle-seconds", "6"], "8", 6), ([], "", 60)],
)
def test_a_run_ends_after_the_idle_seconds_that_were_set(
    account: Account, monkeypatch: pytest.MonkeyPatch, arguments: list[str], variable: str | None, seconds: int
) -> None:
    if variable is not None:
        monkeypatch.setenv("IDLE_SECONDS", variable)
    assert entry.main(arguments) == 0
    assert account.queue.now == seconds


@pytest.mark.parametrize(("index", "seconds"), [("0", 60), ("1", 4), ("53", 4)])
def test_only_the_first_child_of_an_array_waits_for_late_counts(
    account: Account, monkeypatch: pytest.MonkeyPatch, index: str, seconds: int
) -> None:
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", index)
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_SIZE", "54")
    assert entry.main([]) == 0
    assert account.queue.now == seconds


def test_a_child_does_not_wait_for_what_others_hold_and_the_first_one_does(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.put("AAPL")
    account.queue.put(ConsolidationRequest(symbol="AAPL").model_dump_json())
    account.queue.receive(1)  # by a worker that dies
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_SIZE", "2")
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", "1")
    assert entry.main([]) == 0
    assert (account.published_symbols, account.queue.now) == ([], 4)
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", "0")
    assert entry.main([]) == 0
    assert (account.published_symbols, account.queue.bodies()) == (["AAPL"], [])


@pytest.mark.parametrize(("job", "run"), [("parent-id:7", "parent-id"), ("plain-id", "plain-id")])
def test_the_run_is_the_parent_jobs(monkeypatch: pytest.MonkeyPatch, job: str, run: str) -> None:
    monkeypatch.setenv("AWS_BATCH_JOB_ID", job)
    settings = WorkerSettings(s3_bucket="b", consolidation_complete_topic_arn="arn:aws:sns:us-east-1:0:t")
    assert entry._build_worker(settings).run == run  # noqa: SLF001 (what main builds)


def test_a_run_outside_of_batch_has_an_id_of_its_own() -> None:
    settings = WorkerSettings(s3_bucket="b", consolidation_complete_topic_arn="arn:aws:sns:us-east-1:0:t")
    first, second = (entry._build_worker(settings).run for _ in range(2))  # noqa: SLF001
    assert len(first) == len(second) == 32
    assert first != second


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
    assert account.published_symbols == ["AAPL"]
    assert account.queue.depth().visible == 1


@pytest.mark.parametrize(
    "arguments",
    [["--symbols", "MSFT,AAPL"], ["--symbols", " MSFT , AAPL "], ["--symbols=MSFT,AAPL"], ["--symbols", "MSFT,,AAPL,"]],
)
def test_only_the_named_symbols_are_done(account: Account, arguments: list[str]) -> None:
    account.put("AAPL", "MSFT", "GOOG")
    assert entry.main(arguments) == 0
    assert account.published_symbols == ["AAPL", "MSFT"]


def test_full_mode_does_every_symbol_of_the_lake_and_nothing_else(account: Account) -> None:
    account.put("AAPL", "brk.B")
    account.store.lay("bronze/raw_ohlcv/notes/readme.txt", b"not ours")
    account.store.lay("bronze/raw_ohlcv/symbol=not a symbol/date=2025-11-19.parquet", b"not ours")
    assert entry.main(["--mode", "full"]) == 0
    assert account.published_symbols == ["AAPL", "brk.B"]


def test_the_children_of_a_full_array_job_share_the_symbols(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = [f"S{n}" for n in range(7)]
    account.put(*symbols)
    monkeypatch.setenv("MODE", "full")
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_SIZE", "3")
    for index, share in enumerate((3, 2, 2)):
        account.complete.published.clear()
        monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", str(index))
        assert entry.main([]) == 0
        assert len(account.published_symbols) == share
        symbols = [symbol for symbol in symbols if symbol not in account.published_symbols]
    assert symbols == []


def test_options_and_environment_variables_have_the_same_names_and_options_win(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_WORKERS", "3")
    monkeypatch.setenv("RETENTION_DAYS", "7")
    monkeypatch.setenv("SKIP_CLEANUP", "true")
    monkeypatch.setenv("S3_PREFIX", "")
    assert entry.main(["--max-workers", "5"]) == 0
    settings = account.settings
    assert settings
    assert (settings.max_workers, settings.retention_days, settings.skip_cleanup) == (5, 7, True)
    assert settings.s3_prefix == "bronze/raw_ohlcv"


def test_skip_cleanup_is_a_flag(account: Account) -> None:
    assert entry.main(["--skip-cleanup", "--retention-days", "1"]) == 0
    assert account.settings
    assert account.settings.skip_cleanup


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--symbols", "../x"], "'../x' is not a symbol"),
        (["--symbols", "AAPL,A B"], "'A B' is not a symbol"),
        (["--idle-seconds", "-1"], "IDLE_SECONDS"),
        (["--symbols", ","], "no symbol is named"),
        (["--max-workers", "0"], "MAX_WORKERS"),
        (["--retention-days", "-1"], "RETENTION_DAYS"),
        (["--mode", "sideways"], "MODE"),
    ],
)
def test_a_wrong_setting_is_exit_code_2_and_named(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(arguments) == 2
    assert sentence in capsys.readouterr().err


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
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    for option in (
        "--mode",
        "--symbols",
        "--max-workers",
        "--retention-days",
        "--skip-cleanup",
        "--s3-bucket",
        "--idle-seconds",
    ):
        assert option in output

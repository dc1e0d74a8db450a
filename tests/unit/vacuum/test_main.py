import subprocess
import sys
from datetime import date

import pytest

from fiblake.errors import UpstreamError
from services.vacuum import __main__ as entry
from shared.objects import ObjectStore
from tests.fakes import LAKE, REPOSITORY, MemoryObjectStore, bar, consolidated, parquet

OLD = date(2025, 6, 2)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = MemoryObjectStore()
    for symbol in ("AAPL", "MSFT"):
        key = LAKE.date_key(symbol, OLD)
        etag = store.lay(key, parquet(bar(OLD, symbol=symbol)))
        store.lay(LAKE.data_key(symbol), consolidated(bar(OLD, symbol=symbol), log={key: etag}))
    monkeypatch.setattr(ObjectStore, "connect", lambda _bucket: store)
    monkeypatch.setenv("S3_BUCKET", "b")
    for name in ("SYMBOLS", "MAX_WORKERS", "RETENTION_DAYS", "FORCE_RETENTION", "YES", "S3_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return store


def test_without_yes_it_shows_what_would_go_and_deletes_nothing(
    store: MemoryObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main([]) == 0
    output = capsys.readouterr().out
    assert "2 merged files of 2 of " in output
    assert "AAPL: 1 file," in output
    assert "nothing is deleted: say --yes" in output
    assert store.done("delete") == []


@pytest.mark.parametrize(("typed", "deleted"), [("y", 2), ("n", 0), ("", 0)])
def test_a_person_is_asked(typed: str, deleted: int, store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _question: typed)
    assert entry.main([]) == 0
    assert len(store.done("delete")) == deleted


def test_with_yes_it_deletes(store: MemoryObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--yes", "--symbols", "MSFT", "--max-workers", "2"]) == 0
    assert store.done("delete") == [LAKE.date_key("MSFT", OLD)]
    assert "1 file deleted" in capsys.readouterr().out


def test_a_symbol_that_cannot_be_looked_at_is_exit_code_3(
    store: MemoryObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.lay(LAKE.data_key("MSFT"), b"no Parquet")
    assert entry.main(["--yes"]) == 3
    assert store.done("delete") == [LAKE.date_key("AAPL", OLD)]
    assert "MSFT cannot be looked at" in capsys.readouterr().out


def test_s3_that_fails_is_exit_code_1_and_a_sentence(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_prefix: str) -> list[str]:
        raise UpstreamError("S3 is away")

    monkeypatch.setattr(store, "folders", fails)
    assert entry.main(["--yes"]) == 1
    assert capsys.readouterr().err == "S3 is away\n"


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--symbols", "../x"], "'../x' is not a symbol"),
        (["--symbols", "GHOST"], "the lake has no bars of GHOST"),
        (["--retention-days", "6"], "below the floor of 7"),
        (["--retention-days", "-1"], "RETENTION_DAYS"),
        (["--max-workers", "0"], "MAX_WORKERS"),
    ],
)
def test_a_wrong_setting_is_exit_code_2_and_named(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main([*arguments, "--yes"]) == 2
    assert sentence in capsys.readouterr().err


def test_less_than_the_floor_may_be_forced(store: MemoryObjectStore) -> None:
    assert entry.main(["--yes", "--retention-days", "0", "--force-retention"]) == 0
    assert len(store.done("delete")) == 2


def test_it_explains_itself_as_a_command() -> None:
    command = [sys.executable, "-m", "services.vacuum", "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    for option in ("--symbols", "--max-workers", "--retention-days", "--force-retention", "--yes", "--s3-bucket"):
        assert option in output

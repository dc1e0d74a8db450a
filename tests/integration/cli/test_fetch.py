"""`fiblake fetch` on the embedded stack; with a wrong environment it ends with one clear sentence, and the next good
run recovers.
"""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from typing import Any

import pytest

from local.deploy import STACK
from local.emulator import REPOSITORY
from local.environment import isolated_environment
from shared.database import DatabaseAddress
from tests.integration.cli.forked import run_fiblake
from tests.integration.conftest import Chain
from tests.integration.databases import know

SHORT_CALENDAR = """
import sys
from cli.app import main
from services.fetcher import assembly
from fiblake.calendar import TradingCalendar
whole = assembly.lake_calendar()
assembly.lake_calendar = lambda: TradingCalendar(whole.sessions[:13_000])
sys.argv = ["fiblake", *sys.argv[1:]]
main()
"""
NO_DATABASE = {"host": "127.0.0.1", "port": 1, "username": "u", "password": "hush-hush", "dbname": "d"}


@pytest.fixture(scope="module")
def lake(chain: Chain) -> Chain:
    symbols = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
    asyncio.run(know(DatabaseAddress.of_secret(chain.stack.database_secret), *symbols))
    return chain


def fiblake(
    chain: Chain, *arguments: str, program: str | None = None, **changes: str
) -> "subprocess.CompletedProcess[str]":
    inherited = isolated_environment(os.environ)
    environment = {**inherited, **chain.stack.environment(), "FIBLAKE_STACK": STACK, **changes}
    if program is None:
        return run_fiblake(arguments, environment, REPOSITORY)
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def json_of(result: "subprocess.CompletedProcess[str]") -> Any:  # noqa: ANN401 (JSON)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def sentence(failed: "subprocess.CompletedProcess[str]") -> str:
    """Return the only line on stderr that is no log line."""
    assert failed.stdout == ""
    (line,) = (line for line in failed.stderr.splitlines() if not line.startswith("{"))
    assert line.startswith("fiblake: ")
    return line


def secret(chain: Chain, value: object) -> str:
    client = chain.stack.client("secretsmanager")
    arn: str = client.create_secret(Name=uuid.uuid4().hex, SecretString=json.dumps(value))["ARN"]
    return arn


def test_one_session_is_fetched_with_the_settings_of_the_stacks_function(lake: Chain) -> None:
    result = json_of(fiblake(lake, "fetch", "--date", "2013-02-20", "--json"))
    (session,) = [*result["done"], *result["looked_at_again"]]
    assert (session["what"], session["stored"] + session["unchanged"], session["quarantined"]) == ("2013-02-20", 5, 0)
    again = json_of(fiblake(lake, "fetch", "--date", "2013-02-20", "--json"))
    (session,) = again["looked_at_again"]
    assert (session["stored"], session["unchanged"]) == (0, 5)


def test_a_person_gets_a_table(lake: Chain) -> None:
    result = fiblake(lake, "fetch", "--symbols", "IBM", "--from", "2013-02-01", "--to", "2013-02-08")
    assert result.returncode == 0, result.stderr
    assert "IBM" in result.stdout
    assert "stored whole up to" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence_part"),
    [
        (("--from", "2013-03-01", "--to", "2013-02-01"), "from 2013-03-01 lies after to 2013-02-01"),
        (("--symbols", "../AAPL"), "is not a symbol"),
    ],
)
def test_an_impossible_request_is_a_wrong_command_line(
    lake: Chain, arguments: tuple[str, ...], sentence_part: str
) -> None:
    failed = fiblake(lake, "fetch", *arguments, COLUMNS="300")
    assert failed.returncode == 2
    assert sentence_part in failed.stderr
    assert "Traceback" not in failed.stderr


def test_what_cannot_be_fetched_is_said_in_one_sentence(lake: Chain) -> None:
    failed = fiblake(lake, "fetch", "--symbols", "NOBODY")
    assert failed.returncode != 0
    assert "symbol_metadata does not know NOBODY" in sentence(failed)


def test_a_day_that_is_none_is_a_wrong_command_line(lake: Chain) -> None:
    failed = fiblake(lake, "fetch", "--date", "2013-02-30")
    assert failed.returncode == 2
    assert "2013-02-30" in failed.stderr


def test_a_stack_that_is_not_there_is_said_in_one_sentence(lake: Chain) -> None:
    failed = fiblake(lake, "fetch", "--stack", "nowhere")
    assert failed.returncode == 2
    assert "there is no stack nowhere in this account and region: name one with --stack" in sentence(failed)


ABSENT = {"MASSIVE_API_KEY": "", "POLYGON_API_KEY": "", "POLYGON_API_KEY_SECRET_ARN": ""}


@pytest.mark.parametrize(
    ("surroundings", "sentence_part"),
    [
        (ABSENT, "set POLYGON_API_KEY_SECRET_ARN, or MASSIVE_API_KEY for a local run"),
        ({"MASSIVE_API_KEY": "wr0ng-k3y"}, "the vendor refuses the API key: set MASSIVE_API_KEY, or the secret"),
        ({"S3_BUCKET": "no-such-bucket-anywhere"}, "there is no bucket 'no-such-bucket-anywhere': set S3_BUCKET right"),
    ],
    ids=["no key", "a wrong key", "no bucket"],
)
def test_bad_surroundings_are_one_sentence_and_the_next_good_run_recovers(
    lake: Chain, surroundings: dict[str, str], sentence_part: str
) -> None:
    lake.s3.delete_object(Bucket=lake.stack.bucket, Key="bronze/raw_ohlcv/symbol=IBM/date=2013-02-21.parquet")
    failed = fiblake(lake, "fetch", "--symbols", "IBM", "--from", "2013-02-21", "--to", "2013-02-21", **surroundings)
    assert failed.returncode != 0
    assert sentence_part in sentence(failed)
    assert "wr0ng-k3y" not in failed.stderr
    good = json_of(fiblake(lake, "fetch", "--symbols", "IBM", "--from", "2013-02-21", "--to", "2013-02-21", "--json"))
    assert [session["stored"] for session in good["done"]] == [1]


def test_a_database_that_is_down_is_one_sentence_without_its_password(lake: Chain) -> None:
    failed = fiblake(lake, "fetch", "--date", "2013-02-22", RDS_SECRET_ARN=secret(lake, NO_DATABASE))
    assert failed.returncode == 1
    assert "there is no answer at u@127.0.0.1:1/d" in sentence(failed)
    assert "hush-hush" not in failed.stderr
    assert json_of(fiblake(lake, "fetch", "--date", "2013-02-22", "--json"))["looked_at_again"] == []


def test_a_calendar_that_is_too_short_is_one_sentence_that_names_the_command(lake: Chain) -> None:
    failed = fiblake(lake, "fetch", "--date", "2013-02-25", program=SHORT_CALENDAR)
    assert failed.returncode == 2
    assert "is outside the trading calendar (1962-01-02 to " in sentence(failed)
    assert "run `make calendar`" in sentence(failed)
    sessions = json_of(fiblake(lake, "fetch", "--date", "2013-02-25", "--json"))["done"]
    assert [session["what"] for session in sessions] == ["2013-02-25"]

import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import httpx
import pytest

from local.processes import Child, start_server
from local.sample_bars import read_sample_bars

HEADERS = {"Authorization": "Bearer local-replay"}
GROUPED = "/v2/aggs/grouped/locale/us/market/stocks"
# The row of AAPL on 2000-03-01 in the sample file.
FIRST_BAR = {"o": 118.56, "h": 132.06, "l": 118.5, "c": 130.31, "v": 9616100.0, "n": 96161, "vw": 126.9567}


def start(folder: Path, *options: str) -> tuple[Child, int]:
    argv = [sys.executable, "-m", "local.market_data_server", "--port-file", str(folder / "port"), *options]
    return start_server(argv, port_file=folder / "port", log=folder / "log")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    server, port = start(tmp_path_factory.mktemp("market"), "--as-of", "2013-02-27")
    with server, httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=HEADERS, timeout=30) as client:
        yield client


def milliseconds(year: int, month: int, day: int, hour: int) -> int:
    return int(datetime(year, month, day, hour, tzinfo=ZoneInfo("America/New_York")).timestamp() * 1000)


def get(client: httpx.Client, path: str, **parameters: str | int) -> dict[str, Any]:
    answer = client.get(path, params=parameters or None)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def pages(client: httpx.Client, path: str, **parameters: str | int) -> Iterator[list[dict[str, Any]]]:
    body = get(client, path, **parameters)
    yield body["results"]
    while "next_url" in body:
        url = urlsplit(body["next_url"])
        body = get(client, f"{url.path}?{url.query}")
        yield body["results"]


def days(rows: list[dict[str, Any]]) -> list[str]:
    return [datetime.fromtimestamp(row["t"] / 1000, ZoneInfo("America/New_York")).date().isoformat() for row in rows]


def test_grouped_daily_holds_every_symbol_of_the_session_stamped_with_its_close(client: httpx.Client) -> None:
    body = get(client, f"{GROUPED}/2000-03-01", adjusted="false")
    assert (body["status"], body["adjusted"], body["queryCount"], body["resultsCount"]) == ("OK", False, 3, 3)
    assert body["request_id"]
    assert [row["T"] for row in body["results"]] == ["AAPL", "IBM", "MSFT"]
    assert body["results"][0] == {"T": "AAPL", "t": milliseconds(2000, 3, 1, 16)} | FIRST_BAR


def test_the_close_follows_daylight_saving_time(client: httpx.Client) -> None:
    stamp = get(client, f"{GROUPED}/2000-07-05")["results"][0]["t"]
    assert datetime.fromtimestamp(stamp / 1000, UTC) == datetime(2000, 7, 5, 20, tzinfo=UTC)


def test_adjusted_is_true_unless_asked_otherwise(client: httpx.Client) -> None:
    assert get(client, f"{GROUPED}/2000-03-01")["adjusted"] is True


def test_a_day_that_is_no_session_has_no_results(client: httpx.Client) -> None:
    body = get(client, f"{GROUPED}/2000-03-04")
    assert "results" not in body
    assert body["resultsCount"] == body["queryCount"] == 0


def test_a_range_is_stamped_with_midnight_in_new_york_and_has_no_symbol_in_its_rows(client: httpx.Client) -> None:
    body = get(client, "/v2/aggs/ticker/AAPL/range/1/day/2000-03-01/2000-03-03")
    assert (body["ticker"], body["resultsCount"]) == ("AAPL", 3)
    assert body["results"][0] == {"t": milliseconds(2000, 3, 1, 0)} | FIRST_BAR
    assert "next_url" not in body


@pytest.mark.parametrize("sort", ["asc", "desc"])
def test_pages_joined_are_the_whole_range(client: httpx.Client, sort: str) -> None:
    path = "/v2/aggs/ticker/IBM/range/1/day/2012-10-20/2012-11-10"
    whole = get(client, path, sort=sort)["results"]
    parts = list(pages(client, path, sort=sort, limit=4))
    assert [row for part in parts for row in part] == whole
    assert [len(part) for part in parts] == [4, 4, 4, 1]
    assert days(whole) == sorted(days(whole), reverse=sort == "desc")


def test_a_full_last_page_has_no_next_page(client: httpx.Client) -> None:
    assert "next_url" not in get(client, "/v2/aggs/ticker/IBM/range/1/day/2000-03-01/2000-03-03", limit=3)


def test_an_unknown_symbol_has_no_results(client: httpx.Client) -> None:
    body = get(client, "/v2/aggs/ticker/aapl/range/1/day/2000-03-01/2000-03-03")
    assert body["resultsCount"] == 0
    assert "results" not in body


@pytest.mark.parametrize(
    "path",
    [
        f"{GROUPED}/2013-02-28",
        "/v2/aggs/ticker/AAPL/range/1/day/2013-02-28/2013-03-01",
    ],
)
def test_a_date_after_as_of_is_not_authorized_yet(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 403
    assert answer.json()["status"] == "NOT_AUTHORIZED"
    assert answer.json()["message"].startswith("Attempted to request today's data before end of day")


def test_a_range_ends_with_as_of(client: httpx.Client) -> None:
    body = get(client, "/v2/aggs/ticker/AAPL/range/1/day/2013-02-26/2013-03-01")
    assert days(body["results"]) == ["2013-02-26", "2013-02-27"]


@pytest.mark.parametrize("headers", [{"Authorization": ""}, {"Authorization": "Bearer wrong"}])
def test_a_request_without_the_key_is_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.get(f"{GROUPED}/2000-03-01", headers=headers)
    assert answer.status_code == 401
    assert (answer.json()["status"], answer.json()["error"]) == ("ERROR", "Unknown API Key")


def test_an_unknown_path_is_not_found(client: httpx.Client) -> None:
    answer = client.get("/v9/nothing")
    assert (answer.status_code, answer.json()["status"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "path",
    [
        f"{GROUPED}/2000-02-30",
        f"{GROUPED}/yesterday",
        f"{GROUPED}/20000301",
        f"{GROUPED}/2000-03-01?adjusted=maybe",
        "/v2/aggs/ticker/IBM/range/1/day/2000-03-03/2000-03-01",
        "/v2/aggs/ticker/IBM/range/5/minute/2000-03-01/2000-03-03",
        "/v2/aggs/ticker/IBM/range/1/day/2000-03-01/2000-03-03?limit=0",
        "/v2/aggs/ticker/IBM/range/1/day/2000-03-01/2000-03-03?sort=up",
        "/v2/aggs/ticker/IBM/range/1/day/2000-03-01/2000-03-03?cursor=x",
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_a_reason(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_the_server_takes_a_key_of_ones_own_and_ends_with_0_on_sigterm(tmp_path: Path) -> None:
    server, port = start(tmp_path, "--api-key", "mine")
    with server:
        url = f"http://127.0.0.1:{port}{GROUPED}/2013-03-01"
        assert httpx.get(url, headers={"Authorization": "Bearer mine"}, timeout=30).json()["resultsCount"] == 5
        assert server.stop(grace=60) == 0
    assert not (tmp_path / "port").exists()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_sample_bars_are_sorted_and_each_session_is_there_once() -> None:
    bars = read_sample_bars()
    assert list(bars) == ["AAPL", "FB", "GOOG", "IBM", "MSFT"]
    assert len(bars["AAPL"]) == 3270
    assert (bars["AAPL"][0].session, bars["AAPL"][-1].session) == (date(2000, 3, 1), date(2013, 3, 1))
    for series in bars.values():
        sessions = [bar.session for bar in series]
        assert sessions == sorted(set(sessions))

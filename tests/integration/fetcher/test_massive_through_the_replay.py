import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date
from typing import Any

import pytest
from pydantic import SecretStr

from fiblake.errors import EntitlementError, FiblakeError, TransientError, UpstreamError
from local.sample_bars import read_sample_bars
from services.fetcher import massive as module
from services.fetcher.massive import (
    ATTEMPTS,
    LONGEST_PAUSE_SECONDS,
    RATE_PAUSE_SECONDS,
    MassiveClient,
    RateLimitedError,
    massive,
)
from services.fetcher.tickers import Details, Ticker, TickerChange
from services.fetcher.vendor import BadRequestError, OutOfPlanError, PendingError
from tests.integration.market import KEY, Market

pytestmark = pytest.mark.usefixtures("waits")
SESSION = date(2013, 2, 27)
FIRST, LAST = date(2000, 3, 1), date(2013, 3, 1)
GROUPED = "/v2/aggs/grouped/*"
Call = Callable[[MassiveClient], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "grouped": lambda client: client.grouped_daily(SESSION),
    "range": lambda client: client.daily_range("IBM", FIRST, LAST),
    "tickers": lambda client: client.tickers(),
    "delisted": lambda client: client.find_delisted("IBM"),
    "details": lambda client: client.details("IBM"),
    "changes": lambda client: client.ticker_changes("FB"),
    "splits": lambda client: client.splits(),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
PAGED = pytest.mark.parametrize("call", [CALLS[name] for name in ("range", "tickers", "splits")])
REFUSALS: dict[str, tuple[type[FiblakeError], str]] = {
    "400": (BadRequestError, "status 400, scripted"),
    "401": (EntitlementError, "status 401, Unknown API Key"),
    "403 not entitled": (EntitlementError, "status 403, You are not entitled to this data"),
    "403 timeframe": (OutOfPlanError, "raise the first requested session"),
    "403 before end of day": (PendingError, "Attempted to request today's data before end of day"),
}


@pytest.fixture
async def client(market: Market) -> AsyncIterator[MassiveClient]:
    async with massive(market.url, SecretStr(KEY)) as opened:
        yield opened


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every list come in many pages."""
    monkeypatch.setattr(module, "BARS_A_PAGE", 700)
    monkeypatch.setattr(module, "TICKERS_A_PAGE", 2)
    monkeypatch.setattr(module, "SPLITS_A_PAGE", 1)


# ------------------------------------------------------------------------------------------------------ what is read


async def test_a_session_is_read_as_it_is_in_the_sample(client: MassiveClient) -> None:
    expected = [bar for series in read_sample_bars().values() for bar in series if bar.session == SESSION]
    bars = await client.grouped_daily(SESSION)
    assert [(b.symbol, b.session, b.open, b.high, b.low, b.close, b.volume) for b in bars] == [
        (b.symbol, b.session, b.open, b.high, b.low, b.close, b.volume) for b in expected
    ]


@pytest.mark.usefixtures("small_pages")
async def test_a_history_is_read_whole_whatever_the_pages(client: MassiveClient) -> None:
    expected = read_sample_bars()["IBM"]
    bars = await client.daily_range("IBM", FIRST, LAST)
    assert [(b.session, b.close, b.volume) for b in bars] == [(b.session, b.close, b.volume) for b in expected]


@pytest.mark.usefixtures("small_pages")
async def test_the_list_of_tickers_is_read_whole(client: MassiveClient) -> None:
    tickers = await client.tickers()
    assert [ticker.symbol for ticker in tickers] == ["AAPL", "FB", "GOOG", "IBM", "MSFT"]
    assert tickers[3] == Ticker(
        "IBM", "International Business Machines Corporation", "CS", "XNYS", "USD", active=True,
        composite_figi="BBG000BLNNH6", share_class_figi="BBG001S5S399", delisted=None,
    )  # fmt: skip


async def test_details_changes_and_what_is_unknown(client: MassiveClient) -> None:
    assert await client.details("FB") == Details(
        "FB", date(2012, 5, 18), "7370", "SERVICES-COMPUTER PROGRAMMING, DATA PROCESSING, ETC."
    )
    assert await client.ticker_changes("FB") == [TickerChange(date(2012, 5, 18), "FB")]
    assert await client.details("NONE") is None
    assert await client.ticker_changes("NONE") == []
    assert await client.find_delisted("FB") is None


@pytest.mark.usefixtures("small_pages")
async def test_all_splits_are_read_with_their_cumulative_factors(client: MassiveClient) -> None:
    values = [(row.id, row.split_from, row.split_to, row.historical_adjustment_factor) for row in await client.splits()]
    assert values == [
        ("AAPL-2000-06-21", 1.0, 2.0, 0.25), ("MSFT-2003-02-18", 1.0, 2.0, 0.5), ("AAPL-2005-02-28", 1.0, 2.0, 0.5),
    ]  # fmt: skip


async def test_no_split_published_is_no_error(market: Market, client: MassiveClient) -> None:
    market.control.splits([])
    assert await client.splits() == []


# -------------------------------------------------------------------------------------------- what goes wrong for good


@EVERY_CALL
@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_refusal_is_reported_with_status_request_and_path_and_not_repeated(
    market: Market, client: MassiveClient, waits: list[float], call: Call, kind: str
) -> None:
    error, sentence = REFUSALS[kind]
    market.control.faults({"kind": kind})
    with pytest.raises(error, match=sentence) as raised:
        await call(client)
    text = str(raised.value)
    assert re.search(r"(^|\(|: )/(v2|v3|vX|stocks)/", text)
    assert "(request " in text
    assert KEY not in text
    assert waits == []


async def test_a_wrong_key_is_refused(market: Market) -> None:
    async with massive(market.url, SecretStr("wrong")) as client:
        with pytest.raises(EntitlementError, match="status 401, Unknown API Key"):
            await client.tickers()


async def test_a_session_that_is_not_over_is_pending_and_neither_a_failure_nor_an_empty_day(
    market: Market, client: MassiveClient
) -> None:
    market.control.as_of(date(2013, 2, 26))
    with pytest.raises(PendingError, match="before end of day"):
        await client.grouped_daily(SESSION)
    market.control.as_of(SESSION)
    assert len(await client.grouped_daily(SESSION)) == 5


async def test_a_session_before_the_plans_history_says_which_setting_to_raise(
    market: Market, client: MassiveClient
) -> None:
    market.control.since(date(2013, 2, 28))
    for call in (CALLS["grouped"], CALLS["range"]):
        with pytest.raises(OutOfPlanError, match=r"\(FIRST_SESSION, HISTORY_FROM\) to where the plan begins"):
            await call(client)


async def test_a_day_that_is_no_session_has_no_results_and_is_an_error(client: MassiveClient) -> None:
    with pytest.raises(UpstreamError, match="no results for a session"):
        await client.grouped_daily(date(2013, 3, 2))


async def test_the_status_may_be_delayed(market: Market, client: MassiveClient) -> None:
    market.control.faults({"kind": "DELAYED"})
    assert len(await client.grouped_daily(SESSION)) == 5
    assert len(await client.tickers()) == 5


# ------------------------------------------------------------------------------------------------ what may yet go well


@EVERY_CALL
@pytest.mark.parametrize("kind", ["drop", "cut", "truncated", "429", "500", "502", "503", "504"])
async def test_a_request_that_fails_once_is_repeated_and_succeeds(
    market: Market, client: MassiveClient, waits: list[float], call: Call, kind: str
) -> None:
    expected = await call(client)
    market.control.faults({"kind": kind, "times": 1})
    assert await call(client) == expected
    assert len(waits) == 1


@EVERY_CALL
@pytest.mark.parametrize("kind", ["drop", "cut", "truncated", "500"])
async def test_what_goes_wrong_again_and_again_is_a_transient_error_that_names_the_path(
    market: Market, client: MassiveClient, waits: list[float], call: Call, kind: str
) -> None:
    market.control.faults({"kind": kind})
    with pytest.raises(UpstreamError, match=r"^/(v2|v3|vX|stocks)/"):
        await call(client)
    assert len(waits) == ATTEMPTS - 1


@pytest.mark.parametrize("call", [CALLS[name] for name in ("grouped", "range", "tickers")])
async def test_fewer_rows_than_counted_are_requested_again(market: Market, client: MassiveClient, call: Call) -> None:
    expected = await call(client)
    market.control.faults({"kind": "short", "times": 1})
    assert await call(client) == expected
    market.control.faults({"kind": "short"})
    with pytest.raises(UpstreamError, match="results announced"):
        await call(client)


@pytest.mark.usefixtures("small_pages")
@PAGED
@pytest.mark.parametrize("kind", ["drop", "cut", "truncated", "500", "empty", "circle"])
async def test_a_further_page_that_does_not_come_fails_the_whole_and_once_it_comes_all_is_there(
    market: Market, client: MassiveClient, call: Call, kind: str
) -> None:
    expected = await call(client)
    market.control.faults({"kind": kind, "path": "*cursor=*"})
    with pytest.raises(UpstreamError):
        await call(client)
    market.control.faults({"kind": kind, "path": "*cursor=*", "times": 0 if kind == "circle" else 1})
    assert await call(client) == expected


@pytest.mark.parametrize("call", [CALLS[name] for name in ("grouped", "tickers", "splits")])
async def test_an_answer_that_is_suddenly_empty_is_an_error(market: Market, client: MassiveClient, call: Call) -> None:
    market.control.faults({"kind": "empty"})
    with pytest.raises(UpstreamError):
        await call(client)


async def test_a_rate_limit_is_waited_for_as_long_as_it_says_or_a_pause(
    market: Market, client: MassiveClient, waits: list[float]
) -> None:
    market.control.faults(
        {"kind": "429", "times": 1, "retry_after": 7}, {"kind": "429", "times": 1},
        {"kind": "429", "times": 1, "retry_after": 3600},
    )  # fmt: skip
    assert len(await client.grouped_daily(SESSION)) == 5
    assert waits == [7, RATE_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]


async def test_a_rate_limit_that_stays_is_an_error(market: Market, client: MassiveClient) -> None:
    market.control.faults({"kind": "429", "retry_after": 1})
    with pytest.raises(RateLimitedError, match="status 429, You've exceeded the maximum requests per minute"):
        await client.grouped_daily(SESSION)


async def test_a_vendor_that_is_not_there_is_a_transient_error() -> None:
    async with massive("http://127.0.0.1:1", SecretStr(KEY)) as client:
        with pytest.raises(UpstreamError, match="/v3/reference/tickers: ConnectError"):
            await client.tickers()


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("seed", range(5))
async def test_under_random_faults_an_answer_is_the_whole_one_or_a_transient_error(
    market: Market, client: MassiveClient, seed: int
) -> None:
    kinds = ["drop", "cut", "truncated", "short", "delay", "429", "500", "502", "503", "504"]
    lists = {"kind": "empty", "path": "*cursor=*", "rate": 0.1, "seed": seed}
    expected = {name: await call(client) for name, call in CALLS.items()}
    market.control.faults(lists, {"kind": kinds, "rate": 0.3, "seed": seed, "seconds": 0})
    answers: dict[str, Any] = {}
    while answers.keys() != expected.keys():
        for name in expected.keys() - answers.keys():
            try:
                answers[name] = await CALLS[name](client)
            except TransientError:
                continue
    assert answers == expected

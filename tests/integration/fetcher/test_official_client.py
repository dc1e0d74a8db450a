"""The vendor's own Python client reads the same from the replay as our client: the stand-in is right."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from massive import RESTClient
from massive.exceptions import BadResponse
from pydantic import SecretStr

from fiblake.calendar import NEW_YORK
from services.fetcher.massive import MassiveClient, massive
from services.fetcher.validation import VendorBar
from tests.integration.market import KEY, Market

SESSION = date(2013, 2, 27)
FIRST, LAST = date(2000, 3, 1), date(2013, 3, 1)


@pytest.fixture
def official(market: Market) -> Iterator[RESTClient]:
    client = RESTClient(api_key=KEY, base=market.url)
    yield client
    client.client.clear()
    client.vx.client.clear()


@pytest.fixture
async def ours(market: Market) -> AsyncIterator[MassiveClient]:
    async with massive(market.url, SecretStr(KEY)) as client:
        yield client


def bar(symbol: str, session: date, theirs: Any) -> VendorBar:  # noqa: ANN401 (the vendor's models have no types)
    prices = (theirs.open, theirs.high, theirs.low, theirs.close, theirs.volume)
    return VendorBar(symbol, session, *prices, theirs.vwap, theirs.transactions)


def new_york(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone(NEW_YORK)


async def test_grouped_daily_is_the_same_and_stamped_with_the_close(official: RESTClient, ours: MassiveClient) -> None:
    theirs = official.get_grouped_daily_aggs(SESSION, adjusted=False)
    assert [bar(row.ticker, SESSION, row) for row in theirs] == await ours.grouped_daily(SESSION)
    assert {new_york(row.timestamp).isoformat() for row in theirs} == {"2013-02-27T16:00:00-05:00"}


@pytest.mark.parametrize("limit", [50_000, 700])
async def test_a_range_is_the_same_in_one_page_or_in_many(
    official: RESTClient, ours: MassiveClient, limit: int
) -> None:
    rows = official.list_aggs("IBM", 1, "day", FIRST, LAST, adjusted=False, sort="asc", limit=limit)
    theirs = [bar("IBM", new_york(row.timestamp).date(), row) for row in rows]
    assert len(theirs) == 3270
    assert theirs == await ours.daily_range("IBM", FIRST, LAST)


@pytest.mark.parametrize("limit", [1000, 2])
async def test_the_list_of_tickers_is_the_same(official: RESTClient, ours: MassiveClient, limit: int) -> None:
    theirs = list(official.list_tickers(market="stocks", active=True, limit=limit))
    assert [
        (
            t.ticker,
            t.name,
            t.type,
            t.primary_exchange,
            t.currency_name.upper(),
            t.active,
            t.composite_figi,
            t.share_class_figi,
        )
        for t in theirs
    ] == [
        (t.symbol, t.name, t.type, t.exchange, t.currency, t.active, t.composite_figi, t.share_class_figi)
        for t in await ours.tickers()
    ]


async def test_details_and_ticker_changes_are_the_same(official: RESTClient, ours: MassiveClient) -> None:
    theirs, details = official.get_ticker_details("GOOG"), await ours.details("GOOG")
    assert details is not None
    assert (theirs.list_date, theirs.sic_code) == (str(details.list_date), details.sic_code)
    assert theirs.sic_description == details.sic_description
    events = official.get_ticker_events("FB", types="ticker_change").events
    changes = [(event["date"], event["ticker_change"]["ticker"]) for event in events]
    assert changes == [(str(change.date), change.symbol) for change in await ours.ticker_changes("FB")]


@pytest.mark.parametrize("limit", [5000, 1])
async def test_splits_are_the_same(official: RESTClient, ours: MassiveClient, limit: int) -> None:
    theirs = list(official.list_stocks_splits(limit=limit, sort="execution_date.asc"))
    assert [
        (s.ticker, s.execution_date, s.split_from, s.split_to, s.adjustment_type, s.historical_adjustment_factor, s.id)
        for s in theirs
    ] == [
        (
            s.symbol, str(s.execution_date), s.split_from, s.split_to, s.adjustment_type,
            s.historical_adjustment_factor, s.id,
        )
        for s in await ours.splits()
    ]  # fmt: skip
    [filtered] = official.list_stocks_splits(ticker_any_of="MSFT,IBM", execution_date_gte="2003-02-18")
    assert filtered.id == "MSFT-2003-02-18"


def test_a_refusal_reaches_the_official_client_as_one(official: RESTClient, market: Market) -> None:
    market.control.faults({"kind": "403 not entitled"})
    with pytest.raises(BadResponse, match="NOT_AUTHORIZED"):
        official.get_grouped_daily_aggs(SESSION)


async def test_where_the_official_client_loses_rows_without_a_word_ours_asks_again(
    official: RESTClient, ours: MassiveClient, market: Market
) -> None:
    market.control.faults({"kind": "truncated", "times": 1})
    assert official.get_grouped_daily_aggs(SESSION) == []
    market.control.faults({"kind": "truncated", "times": 1})
    assert len(await ours.grouped_daily(SESSION)) == 5

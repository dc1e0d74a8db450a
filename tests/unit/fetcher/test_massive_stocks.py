import logging
from datetime import date
from typing import Any

import httpx
import pytest

from fiblake.errors import UpstreamError
from fiblake.reference import Dividend, Split, dividend_fault
from services.fetcher.massive import ATTEMPTS
from services.fetcher.split_changes import split_changes
from services.fetcher.tickers import Details, Ticker, TickerChange
from services.fetcher.vendor import BadRequestError
from tests.unit.fetcher.vendor import BASE, Vendor, client_of, refusal

NOT_FOUND = httpx.Response(404, json={"status": "NOT_FOUND", "request_id": "r-4", "message": "Ticker not found."})
APPLE = {
    "ticker": "AAPL", "name": "Apple Inc.", "market": "stocks", "locale": "us", "primary_exchange": "XNAS",
    "type": "CS", "active": True, "currency_name": "usd", "cik": "0000320193", "composite_figi": "BBG000B9XRY4",
    "share_class_figi": "BBG001S5N8V8", "last_updated_utc": "2026-08-06T06:11:44.672677862Z",
}  # fmt: skip
FIRST_SPLIT = {
    "id": "E1", "ticker": "AAPL", "execution_date": "2000-06-21", "split_from": 1, "split_to": 2,
    "adjustment_type": "forward_split", "historical_adjustment_factor": 0.25,
}  # fmt: skip
SECOND_SPLIT = FIRST_SPLIT | {"id": "E2", "execution_date": "2005-02-28", "historical_adjustment_factor": 0.5}


def listing(rows: list[dict[str, Any]] | None, **more: object) -> httpx.Response:
    body = {"status": "OK", "request_id": "r-1", **({} if rows is None else {"results": rows}), **more}
    return httpx.Response(200, json=body)


async def tickers(vendor: Vendor) -> list[Ticker]:
    async with client_of(vendor) as client:
        return await client.tickers()


async def delisted(vendor: Vendor) -> Ticker | None:
    async with client_of(vendor) as client:
        return await client.find_delisted("OLD")


async def details(vendor: Vendor, symbol: str = "AAPL") -> Details | None:
    async with client_of(vendor) as client:
        return await client.details(symbol)


async def ticker_changes(vendor: Vendor, symbol: str = "META") -> list[TickerChange]:
    async with client_of(vendor) as client:
        return await client.ticker_changes(symbol)


async def splits(vendor: Vendor) -> list[Split]:
    async with client_of(vendor) as client:
        return await client.splits()


# -------------------------------------------------------------------------------------------------------------- tickers


async def test_all_active_stocks_are_requested_sorted_in_the_largest_pages(vendor: Vendor) -> None:
    vendor.answers = [listing([APPLE], count=1)]
    assert await tickers(vendor) == [
        Ticker(
            "AAPL",
            "Apple Inc.",
            "CS",
            "XNAS",
            "USD",
            active=True,
            composite_figi="BBG000B9XRY4",
            share_class_figi="BBG001S5N8V8",
            delisted=None,
        )
    ]
    [request] = vendor.requests
    query = "market=stocks&active=true&sort=ticker&order=asc&limit=1000"
    assert request.url == f"{BASE}/v3/reference/tickers?{query}"


async def test_what_the_vendor_does_not_know_of_a_ticker_is_none(vendor: Vendor) -> None:
    garbled = {"ticker": "X", "name": 7, "type": "", "active": "yes", "composite_figi": None, "delisted_utc": "soon"}
    vendor.answers = [listing([garbled, {"name": "Nameless"}], count=2)]
    assert await tickers(vendor) == [
        Ticker(symbol, name, None, None, None, active=True, composite_figi=None, share_class_figi=None, delisted=None)
        for symbol, name in (("X", None), ("", "Nameless"))
    ]


async def test_a_text_that_no_column_takes_is_none_and_a_symbol_with_it_no_symbol(vendor: Vendor) -> None:
    vendor.answers = [listing([{"ticker": "AAPL", "name": "App\0le"}, {"ticker": "A\0B", "name": "A B"}])]
    assert [(ticker.symbol, ticker.name) for ticker in await tickers(vendor)] == [("AAPL", None), ("", "A B")]


async def test_half_an_emoji_and_bytes_of_another_encoding_cost_one_text_and_not_the_page(vendor: Vendor) -> None:
    rows = b'{"ticker": "AAA", "name": "Caf\xe9"}, {"ticker": "BBB", "name": "Bright \\ud83d"}, null'
    vendor.answers = [httpx.Response(200, content=b'{"results": [%s], "count": 3, "request_id": null}' % rows)]
    async with client_of(vendor) as client:
        listed = await client.tickers()
        assert client.left_out == {"tickers": 1}
    assert [(t.symbol, t.name) for t in listed] == [("AAA", "Caf\ufffd"), ("BBB", "Bright \ufffd"), ("", None)]


async def test_a_ticker_that_is_not_active_or_no_stock_was_not_requested_and_is_left_out(vendor: Vendor) -> None:
    vendor.answers = [listing([APPLE, {"ticker": "OLD", "active": False}, {"ticker": "BTC", "market": "crypto"}])]
    async with client_of(vendor) as client:
        assert [ticker.symbol for ticker in await client.tickers()] == ["AAPL"]
        assert client.left_out == {"tickers": 2}


async def test_every_page_of_the_list_comes_and_a_symbol_that_two_pages_repeat_comes_once(vendor: Vendor) -> None:
    pages: list[list[dict[str, Any]]] = [
        [APPLE, {"ticker": "FB"}],
        [{"ticker": "FB"}, {"ticker": "GOOG"}],
        [{"ticker": "IBM"}],
    ]
    further = "https://api.polygon.io/v3/reference/tickers?cursor="
    vendor.answers = [
        listing(pages[0], count=2, next_url=f"{further}a"),
        listing(pages[1], count=2, next_url=f"{further}b"),
        listing(pages[2], count=1),
    ]
    assert [ticker.symbol for ticker in await tickers(vendor)] == ["AAPL", "FB", "GOOG", "IBM"]
    assert [request.url.params.get("cursor") for request in vendor.requests] == [None, "a", "b"]


@pytest.mark.parametrize("rest", [listing(None), listing(None, count=0), listing([], count=1), refusal(500, "oops")])
async def test_a_list_of_which_a_page_is_missing_is_an_error_and_never_a_shorter_list(
    vendor: Vendor, rest: httpx.Response
) -> None:
    vendor.answers = [listing([APPLE], count=1, next_url="https://x/v3/reference/tickers?cursor=a"), rest]
    with pytest.raises(UpstreamError):
        await tickers(vendor)
    assert len(vendor.requests) == 1 + ATTEMPTS


@pytest.mark.parametrize("announced", [0, 2, 1000])
async def test_fewer_or_more_tickers_than_counted_are_an_error(vendor: Vendor, announced: int) -> None:
    vendor.answers = [listing([APPLE], count=announced)]
    with pytest.raises(UpstreamError, match=f"{announced} results announced, 1 came"):
        await tickers(vendor)


@pytest.mark.parametrize("answer", [listing([]), listing(None), listing([], count=0)])
async def test_no_active_ticker_at_all_is_an_error_and_not_the_end_of_the_market(
    vendor: Vendor, answer: httpx.Response
) -> None:
    vendor.answers = [answer]
    with pytest.raises(UpstreamError, match="not one active ticker"):
        await tickers(vendor)


async def test_pages_that_lead_back_to_the_first_are_an_error(vendor: Vendor) -> None:
    query = "market=stocks&active=true&sort=ticker&order=asc&limit=1000"
    vendor.answers = [listing([APPLE], count=1, next_url=f"https://x/v3/reference/tickers?{query}")]
    with pytest.raises(UpstreamError, match="the pages go round in a circle"):
        await tickers(vendor)


# ------------------------------------------------------------------------------------------------------------- delisted


async def test_of_several_inactive_stocks_of_a_symbol_the_latest_is_given(vendor: Vendor) -> None:
    def row(name: str, day: str | None, ticker: str = "OLD") -> dict[str, Any]:
        return {"ticker": ticker, "name": name, "active": False, "delisted_utc": day}

    vendor.answers = [
        listing([
            row("first", "2001-11-28T00:00:00Z"), row("last", "2008-09-17T04:00:00Z"), row("undated", None),
            row("other", "2020-01-02T00:00:00Z", "OLDER"),
        ]),
    ]  # fmt: skip
    stock = await delisted(vendor)
    assert stock is not None
    assert (stock.name, stock.active, stock.delisted) == ("last", False, date(2008, 9, 17))
    params = vendor.requests[0].url.params
    assert (params["ticker"], params["active"], params["market"]) == ("OLD", "false", "stocks")


@pytest.mark.parametrize(
    ("instant", "day"),
    [
        ("2025-12-24T00:00:00Z", "2025-12-24"),
        ("2008-02-11T05:00:00Z", "2008-02-11"),
        ("2008-09-17T04:00:00Z", "2008-09-17"),
        ("2008-09-17T02:00:00Z", "2008-09-16"),
        ("2019-05-01", "2019-05-01"),
    ],
)
async def test_a_delisting_is_on_the_day_whose_midnight_it_names(vendor: Vendor, instant: str, day: str) -> None:
    vendor.answers = [listing([{"ticker": "OLD", "delisted_utc": instant}])]
    stock = await delisted(vendor)
    assert stock is not None
    assert (stock.delisted, stock.active) == (date.fromisoformat(day), False)


@pytest.mark.parametrize("instant", ["soon", "", 20251224, "0001-01-01T00:00:00+14:00", "9999-12-31T23:30:00-05:00"])
async def test_a_delisting_on_an_impossible_day_is_on_an_unknown_day(vendor: Vendor, instant: object) -> None:
    vendor.answers = [listing([{"ticker": "OLD", "active": False, "delisted_utc": instant}])]
    stock = await delisted(vendor)
    assert stock is not None
    assert stock.delisted is None


@pytest.mark.parametrize("answer", [listing([]), listing(None), listing(None, count=0), listing([APPLE], count=1)])
async def test_a_symbol_that_was_never_delisted_has_none(vendor: Vendor, answer: httpx.Response) -> None:
    vendor.answers = [answer]
    assert await delisted(vendor) is None


# -------------------------------------------------------------------------------------------------------------- details


async def test_details_are_read_as_the_vendor_shapes_them(vendor: Vendor) -> None:
    more = {"list_date": "1980-12-12", "sic_code": "3571", "sic_description": "ELECTRONIC COMPUTERS", "market_cap": 1}
    vendor.answers = [httpx.Response(200, json={"status": "OK", "request_id": "r-1", "results": APPLE | more})]
    assert await details(vendor) == Details("AAPL", date(1980, 12, 12), "3571", "ELECTRONIC COMPUTERS")
    assert vendor.requests[0].url == f"{BASE}/v3/reference/tickers/AAPL"


async def test_details_that_are_missing_or_garbled_are_none(vendor: Vendor) -> None:
    vendor.answers = [httpx.Response(200, json={"results": {"list_date": "long ago", "sic_code": 3571}})]
    assert await details(vendor, "a/b") == Details("a/b", None, None, None)
    assert vendor.paths == ["/v3/reference/tickers/a%2Fb"]


async def test_details_of_another_ticker_are_an_error(vendor: Vendor) -> None:
    vendor.answers = [httpx.Response(200, json={"results": {"ticker": "AAPB", "list_date": "1980-12-12"}})]
    with pytest.raises(UpstreamError, match="requested the details of AAPL, and those of AAPB came"):
        await details(vendor)


async def test_a_ticker_that_the_vendor_does_not_know_has_no_details_and_no_changes(vendor: Vendor) -> None:
    vendor.answers = [NOT_FOUND]
    assert await details(vendor) is None
    assert await ticker_changes(vendor) == []
    assert len(vendor.requests) == 2


@pytest.mark.parametrize("answer", [httpx.Response(404, content=b"404 page not found"), refusal(404, "no route")])
async def test_a_404_that_does_not_speak_of_a_ticker_is_an_error(vendor: Vendor, answer: httpx.Response) -> None:
    vendor.answers = [answer]
    with pytest.raises(BadRequestError, match="/v3/reference/tickers/AAPL: status 404"):
        await details(vendor)


@pytest.mark.parametrize("body", [{}, {"results": None}, {"results": []}, {"results": "AAPL"}])
async def test_details_and_changes_without_a_result_are_an_error_and_tried_again(
    vendor: Vendor, body: dict[str, Any]
) -> None:
    vendor.answers = [httpx.Response(200, json=body)]
    with pytest.raises(UpstreamError, match="status 200, the answer is not the vendor's shape"):
        await details(vendor)
    with pytest.raises(UpstreamError, match="/vX/reference/tickers/META/events"):
        await ticker_changes(vendor)
    assert len(vendor.requests) == 2 * ATTEMPTS


# ------------------------------------------------------------------------------------------------------- ticker changes


async def test_ticker_changes_come_oldest_first(vendor: Vendor) -> None:
    events = [
        {"type": "ticker_change", "date": "2022-06-09", "ticker_change": {"ticker": "META"}},
        {"type": "ticker_change", "date": "2012-05-18", "ticker_change": {"ticker": "FB"}},
    ]
    results = {"name": "Meta Platforms", "composite_figi": "BBG000MM2P62", "events": events}
    vendor.answers = [httpx.Response(200, json={"status": "OK", "request_id": "r-1", "results": results})]
    assert await ticker_changes(vendor) == [
        TickerChange(date(2012, 5, 18), "FB"), TickerChange(date(2022, 6, 9), "META"),
    ]  # fmt: skip
    assert vendor.requests[0].url == f"{BASE}/vX/reference/tickers/META/events?types=ticker_change"


async def test_an_event_that_is_no_change_or_does_not_say_when_or_to_what_is_none(vendor: Vendor) -> None:
    events = [
        {"type": "ticker_change", "date": "2022-06-09", "ticker_change": {"ticker": ""}},
        {"type": "ticker_change", "date": None, "ticker_change": {"ticker": "META"}},
        {"type": "ipo", "date": "2012-05-18"},
    ]
    vendor.answers = [httpx.Response(200, json={"results": {"name": "x", "events": events}})]
    assert await ticker_changes(vendor) == []


@pytest.mark.parametrize("odd", [None, 7, {}, {"date": "2022-06-09", "ticker_change": "META"}, {"ticker_change": []}])
async def test_an_event_of_another_shape_costs_that_event_and_is_counted(vendor: Vendor, odd: object) -> None:
    good = {"type": "ticker_change", "date": "2012-05-18", "ticker_change": {"ticker": "FB"}}
    vendor.answers = [httpx.Response(200, json={"results": {"events": [odd, good]}})]
    async with client_of(vendor) as client:
        assert await client.ticker_changes("META") == [TickerChange(date(2012, 5, 18), "FB")]
        assert client.left_out == {"events": 1}
    vendor.answers = [httpx.Response(200, json={"results": {"events": odd}})]
    assert await ticker_changes(vendor) == []


# --------------------------------------------------------------------------------------------------------------- splits


async def test_all_splits_are_requested_oldest_first_in_the_largest_pages(vendor: Vendor) -> None:
    vendor.answers = [
        listing([FIRST_SPLIT], next_url="https://x/stocks/v1/splits?cursor=a"), listing([FIRST_SPLIT, SECOND_SPLIT]),
    ]  # fmt: skip
    assert await splits(vendor) == [
        Split("AAPL", date(2000, 6, 21), 1.0, 2.0, "forward_split", 0.25, "E1"),
        Split("AAPL", date(2005, 2, 28), 1.0, 2.0, "forward_split", 0.5, "E2"),
    ]
    assert vendor.requests[0].url == f"{BASE}/stocks/v1/splits?limit=5000&sort=execution_date.asc"


async def test_two_symbols_whose_splits_bear_one_id_keep_both(vendor: Vendor) -> None:
    vendor.answers = [listing([FIRST_SPLIT, FIRST_SPLIT | {"ticker": "AAPB"}])]
    assert [split.symbol for split in await splits(vendor)] == ["AAPB", "AAPL"]


@pytest.mark.parametrize("answer", [listing(None), listing([FIRST_SPLIT], next_url="https://x/stocks/v1/splits?c=a")])
async def test_a_page_of_splits_that_has_lost_its_results_is_an_error(vendor: Vendor, answer: httpx.Response) -> None:
    vendor.answers = [answer, listing(None)]
    with pytest.raises(UpstreamError, match="no results, nor a word that there are none"):
        await splits(vendor)


async def test_a_split_without_a_ticker_is_left_out_logged_and_counted(
    vendor: Vendor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    vendor.answers = [listing([FIRST_SPLIT | {"ticker": None}, None, SECOND_SPLIT])]  # type: ignore[list-item]
    async with client_of(vendor) as client:
        assert [split.id for split in await client.splits()] == ["E2"]
        assert client.left_out == {"splits": 2}
    assert [record.message for record in caplog.records] == ["row left out"] * 2


@pytest.mark.parametrize("fault", [{"execution_date": "soon"}, {"split_from": 0}, {"split_to": None}])
async def test_a_split_that_cannot_be_is_refused_and_its_ticker_keeps_what_is_known(
    vendor: Vendor, fault: dict[str, Any]
) -> None:
    """Without it, the other split's cumulative factor would seem wrong."""
    vendor.answers = [listing([FIRST_SPLIT, SECOND_SPLIT | fault])]
    reported = await splits(vendor)
    apple = [Split("AAPL", date(2000, 6, 21), 1.0, 2.0, "forward_split", 0.25, "E1")]
    changes = split_changes({"AAPL": apple}, reported, {"AAPL"}, date(2026, 1, 2))
    assert (changes.changed, [split.id for split in changes.refused], changes.repaired) == ({}, ["E2"], [])


# ----------------------------------------------------------------------------------------------------------- dividends

FIRST_DIVIDEND = {
    "id": "E1", "ticker": "AAPL", "ex_dividend_date": "2025-08-11", "cash_amount": 0.26, "currency": "USD",
    "declaration_date": "2025-07-31", "record_date": "2025-08-11", "pay_date": "2025-08-14", "frequency": 4,
    "distribution_type": "recurring", "split_adjusted_cash_amount": 0.26, "historical_adjustment_factor": 0.997899,
}  # fmt: skip
SECOND_DIVIDEND = FIRST_DIVIDEND | {"id": "E2", "ex_dividend_date": "2025-11-10"}


async def dividends(vendor: Vendor, *arguments: Any) -> list[Dividend]:  # noqa: ANN401 (what the client takes)
    async with client_of(vendor) as client:
        return await client.dividends(*arguments)


async def test_dividends_of_all_symbols_are_requested_oldest_first_in_the_largest_pages(vendor: Vendor) -> None:
    vendor.answers = [
        listing([FIRST_DIVIDEND], next_url="https://x/stocks/v1/dividends?cursor=a"), listing([SECOND_DIVIDEND]),
    ]  # fmt: skip
    first, second = await dividends(vendor)
    assert first == Dividend(
        "AAPL", date(2025, 8, 11), 0.26, "USD", date(2025, 7, 31), date(2025, 8, 11), date(2025, 8, 14), 4,
        "recurring", 0.26, 0.997899, "E1",
    )  # fmt: skip
    assert (second.id, second.ex_dividend_date) == ("E2", date(2025, 11, 10))
    assert vendor.requests[0].url == f"{BASE}/stocks/v1/dividends?limit=5000&sort=ex_dividend_date.asc"


async def test_dividends_of_some_symbols_since_a_day_are_requested_in_one_request(vendor: Vendor) -> None:
    vendor.answers = [listing([])]
    assert await dividends(vendor, ["AAPL", "BRK.B"], date(2025, 8, 1)) == []
    [request] = vendor.requests
    assert dict(request.url.params) == {
        "limit": "5000", "sort": "ex_dividend_date.asc", "ticker.any_of": "AAPL,BRK.B",
        "ex_dividend_date.gte": "2025-08-01",
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [(["MSFT"],), ([], date(2025, 8, 12)), (["AAP"], date(2025, 1, 1))])
async def test_dividends_of_another_symbol_or_another_time_than_requested_are_an_error(
    vendor: Vendor, arguments: tuple[Any, ...]
) -> None:
    vendor.answers = [listing([FIRST_DIVIDEND])]
    with pytest.raises(UpstreamError, match=r"and 1 of the 1 that came are others \(AAPL on 2025-08-11\)"):
        await dividends(vendor, *arguments)


async def test_one_bad_row_costs_one_dividend(vendor: Vendor) -> None:
    bad = [FIRST_DIVIDEND | {"ticker": None}, None, FIRST_DIVIDEND | {"ex_dividend_date": "2025-13-01"}]
    odd = FIRST_DIVIDEND | {"frequency": "quarterly", "pay_date": 7, "cash_amount": "1", "currency": None}
    vendor.answers = [listing([*bad, odd, SECOND_DIVIDEND])]  # type: ignore[list-item]
    async with client_of(vendor) as client:
        first, second = await client.dividends()
        assert client.left_out == {"dividends": 3}
    assert second.id == "E2"
    assert (first.frequency, first.pay_date, first.currency) == (None, None, None)
    assert dividend_fault(first) == "cash_amount nan is not a positive number"


async def test_a_page_of_dividends_that_has_lost_its_results_is_an_error(vendor: Vendor) -> None:
    vendor.answers = [listing(None)]
    with pytest.raises(UpstreamError, match="no results, nor a word that there are none"):
        await dividends(vendor)

import gzip
import json
import logging
import math
import traceback
from collections.abc import Awaitable, Callable, Iterator
from datetime import date

import httpx
import pytest
from pydantic import SecretStr

from fiblake.calendar import nyse
from fiblake.decoding import limit
from fiblake.errors import EntitlementError, FiblakeError, PermanentError, TransientError, UpstreamError
from services.fetcher.massive import (
    ATTEMPTS,
    LONGEST_PAUSE_SECONDS,
    RATE_PAUSE_SECONDS,
    MassiveClient,
    RateLimitedError,
    massive,
)
from services.fetcher.validation import VendorBar, faults
from services.fetcher.vendor import BadRequestError, OutOfPlanError, PendingError
from tests.unit.fetcher.vendor import BASE, KEY, Vendor, client_of, coded, grouped_row, page, range_row, refusal

DAY = date(2025, 11, 19)
NEXT = date(2025, 11, 20)
GROUPED = "/v2/aggs/grouped/locale/us/market/stocks/2025-11-19"
TOO_EARLY = "Attempted to request today's data before end of day. Please upgrade your plan"
TOO_OLD = "Your plan doesn't include this data timeframe. Please upgrade your plan"
NOT_ENTITLED = "You are not entitled to this data. Please upgrade your plan"


async def grouped(vendor: Vendor) -> list[VendorBar]:
    async with client_of(vendor) as client:
        return await client.grouped_daily(DAY)


async def daily_range(
    vendor: Vendor, symbol: str = "AAPL", first: date = DAY, last: date = NEXT
) -> list[VendorBar]:  # fmt: skip
    async with client_of(vendor) as client:
        return await client.daily_range(symbol, first, last)


# ------------------------------------------------------------------------------------------------ size and compression


@pytest.fixture
def _one_megabyte(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("READ_LIMIT_MB", "1")
    limit.cache_clear()
    yield
    monkeypatch.undo()
    limit.cache_clear()


async def test_a_compressed_answer_is_requested_and_read(vendor: Vendor) -> None:
    vendor.answers = [coded(gzip.compress(page([grouped_row("AAPL", DAY)]).content))]
    assert [bar.symbol for bar in await grouped(vendor)] == ["AAPL"]
    assert vendor.requests[0].headers["Accept-Encoding"] == "gzip"


@pytest.mark.usefixtures("waits", "_one_megabyte")
@pytest.mark.parametrize("size", [250_000, 250_001])
async def test_an_answer_may_be_a_quarter_of_what_one_object_may_be_and_no_more(vendor: Vendor, size: int) -> None:
    content = page([grouped_row("AAPL", DAY)]).content.ljust(size)
    for answer in (httpx.Response(200, content=content), coded(gzip.compress(content))):
        vendor.answers = [answer]
        if size == 250_000:
            assert len(await grouped(vendor)) == 1
            continue
        wanted = (
            rf"{GROUPED}: the answer is 250,001 bytes or more, more than the 250,000 that are allowed: .*READ_LIMIT"
        )
        with pytest.raises(UpstreamError, match=wanted):
            await grouped(vendor)


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize(
    ("content", "coding", "reason"),
    [
        (gzip.compress(b"{}", mtime=0)[:-9], "gzip", "it ends in the middle"),
        (b"plain", "gzip", "incorrect header check"),
        (b"{}", "br", "its Content-Encoding is 'br', not gzip"),
        (gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "gzip, gzip", "is 'gzip, gzip', not gzip"),
    ],
)
async def test_an_answer_that_cannot_be_decompressed_is_requested_again(
    vendor: Vendor, content: bytes, coding: str, reason: str
) -> None:
    vendor.answers = [coded(content, coding)] * ATTEMPTS
    with pytest.raises(UpstreamError, match=f"the answer cannot be decompressed: .*{reason}"):
        await grouped(vendor)
    assert len(vendor.requests) == ATTEMPTS


# ------------------------------------------------------------------------------------------------------ grouped daily


async def test_one_request_covers_every_ticker_of_a_session_unadjusted_and_without_otc(vendor: Vendor) -> None:
    vendor.answers = [page([grouped_row("AAPL", DAY)])]
    await grouped(vendor)
    [request] = vendor.requests
    assert request.method == "GET"
    assert request.url == f"{BASE}{GROUPED}?adjusted=false&include_otc=false"


async def test_a_row_is_read_as_the_vendor_shapes_it(vendor: Vendor) -> None:
    vendor.answers = [page([{
        "T": "KIMpL", "v": 4369.5, "vw": 26.0407, "o": 26.07, "c": 25.9102, "h": 26.25, "l": 25.91,
        "t": 1763586000000, "n": 74,
    }])]  # fmt: skip
    assert await grouped(vendor) == [VendorBar("KIMpL", DAY, 26.07, 26.25, 25.91, 25.9102, 4369.5, 26.0407, 74)]


async def test_average_price_and_number_of_trades_may_be_absent(vendor: Vendor) -> None:
    row = grouped_row("BRK.B", DAY)
    del row["vw"], row["n"]
    vendor.answers = [page([row])]
    [bar] = await grouped(vendor)
    assert (bar.symbol, bar.vwap, bar.trades) == ("BRK.B", None, None)


@pytest.mark.parametrize("huge", [2**63, 10**30, 10**400])
async def test_a_number_that_fits_into_no_column_costs_neither_the_page_nor_the_bar_next_to_it(
    vendor: Vendor, huge: int
) -> None:
    vendor.answers = [page([grouped_row("AAPL", DAY, n=huge), grouped_row("HUGE", DAY, v=huge, t=huge)])]
    first, second = await grouped(vendor)
    assert (first.symbol, first.trades) == ("AAPL", None)
    assert second.symbol == "HUGE"
    assert math.isnan(second.volume) or second.volume == float(huge)


async def test_a_grouped_bar_whose_instant_is_of_another_day_is_kept_for_quarantine_and_named(vendor: Vendor) -> None:
    rows = [grouped_row("AAPL", DAY), grouped_row("MSFT", NEXT), grouped_row("IBM", DAY, t=None)]
    vendor.answers = [page(rows)]
    bars = await grouped(vendor)
    assert [(bar.symbol, bar.session, bar.dated) for bar in bars] == [
        ("AAPL", DAY, None), ("MSFT", DAY, NEXT), ("IBM", DAY, None),
    ]  # fmt: skip
    assert [faults(bar, nyse()) for bar in bars] == [
        [], ["its instant is of 2025-11-20, and bars of 2025-11-19 were asked for"], [],
    ]  # fmt: skip


@pytest.mark.parametrize("symbols", [("AAPL",), ("AAPL", "MSFT", "IBM")])
async def test_grouped_bars_of_another_day_are_an_error_that_says_what_was_asked_and_what_came(
    vendor: Vendor, symbols: tuple[str, ...]
) -> None:
    vendor.answers = [page([grouped_row(symbol, NEXT) for symbol in symbols])]
    n = len(symbols)
    with pytest.raises(
        UpstreamError,
        match=rf"requested bars of 2025-11-19, and {n} of the {n} that came are of another day \(2025-11-20\)",
    ):
        await grouped(vendor)


@pytest.mark.parametrize("ask", [grouped, daily_range])
async def test_adjusted_bars_are_an_error_because_bars_as_traded_were_requested(
    vendor: Vendor, ask: Callable[[Vendor], Awaitable[list[VendorBar]]]
) -> None:
    row = grouped_row("AAPL", DAY) if ask is grouped else range_row(DAY)
    vendor.answers = [page([row], adjusted=True)]
    with pytest.raises(UpstreamError, match="requested bars as traded, and adjusted ones came"):
        await ask(vendor)
    assert len(vendor.requests) == ATTEMPTS


async def test_a_range_of_another_ticker_is_an_error_on_whichever_page(vendor: Vendor) -> None:
    further = "https://x/v2/next?cursor=x"
    vendor.answers = [page([range_row(DAY)], ticker="AAPL", next_url=further), page([range_row(NEXT)], ticker="AAPB")]
    with pytest.raises(UpstreamError, match="/v2/next: requested AAPL, and AAPB came"):
        await daily_range(vendor)


@pytest.mark.parametrize("outside", [date(2025, 11, 18), date(2025, 11, 21)])
async def test_a_range_with_sessions_that_were_not_requested_is_an_error(vendor: Vendor, outside: date) -> None:
    vendor.answers = [page([range_row(DAY), range_row(outside)])]
    with pytest.raises(
        UpstreamError, match=rf"from 2025-11-19 to 2025-11-20, and 1 of the 2 that came are not .* \({outside}\)"
    ):
        await daily_range(vendor)


async def test_fields_the_vendor_adds_later_are_ignored(vendor: Vendor) -> None:
    vendor.answers = [page([grouped_row("AAPL", DAY, otc=True, x="new")], next_thing={"a": 1}, status="DELAYED")]
    assert [bar.symbol for bar in await grouped(vendor)] == ["AAPL"]


async def test_a_row_without_a_ticker_is_kept_for_quarantine_and_not_dropped(vendor: Vendor) -> None:
    nameless = grouped_row("AAPL", DAY)
    del nameless["T"]
    vendor.answers = [page([nameless, grouped_row("", DAY), grouped_row("MSFT", DAY)])]
    assert [bar.symbol for bar in await grouped(vendor)] == ["", "", "MSFT"]


@pytest.mark.parametrize("answer", [page(None), page([]), page(None, resultsCount=0)])
async def test_a_session_without_results_is_requested_again_later_and_never_an_empty_day(
    vendor: Vendor, answer: httpx.Response
) -> None:
    vendor.answers = [answer]
    with pytest.raises(UpstreamError, match="no results for a session"):
        await grouped(vendor)


@pytest.mark.parametrize("announced", [0, 2, 11_000])
async def test_fewer_or_more_results_than_announced_are_an_error(vendor: Vendor, announced: int) -> None:
    vendor.answers = [page([grouped_row("AAPL", DAY)], resultsCount=announced)]
    with pytest.raises(UpstreamError, match=rf"{announced} results announced, 1 came \(request r-1\)"):
        await grouped(vendor)
    assert len(vendor.requests) == ATTEMPTS


@pytest.mark.parametrize("count", ["many", 1.5, None, 10**400])
async def test_a_count_that_is_not_needed_costs_no_page(vendor: Vendor, count: object) -> None:
    vendor.answers = [page([grouped_row("AAPL", DAY)], queryCount=count)]
    assert len(await grouped(vendor)) == 1


async def test_an_answer_cut_short_is_requested_again(vendor: Vendor) -> None:
    vendor.answers = [page([], resultsCount=1), page([grouped_row("AAPL", DAY)])]
    assert len(await grouped(vendor)) == 1


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b'{"results": [', b"[]", b'{"results": 7}', b'{"results": ["A"]}', b"\xff\xfe"]
)
async def test_an_answer_that_is_not_the_vendors_shape_is_an_error(vendor: Vendor, content: bytes) -> None:
    vendor.answers = [httpx.Response(200, content=content)]
    with pytest.raises(UpstreamError, match="answer is not the vendor's shape"):
        await grouped(vendor)
    assert len(vendor.requests) == ATTEMPTS


async def test_a_range_that_has_lost_its_results_is_an_error_and_tried_again(vendor: Vendor) -> None:
    vendor.answers = [httpx.Response(200, json={"status": "OK", "request_id": "r-2"})]
    with pytest.raises(UpstreamError, match=r"no results, nor a word that there are none \(request r-2\)"):
        await daily_range(vendor)
    assert len(vendor.requests) == ATTEMPTS


async def test_a_further_page_without_results_is_an_error_whatever_it_counts(vendor: Vendor) -> None:
    vendor.answers = [page([range_row(DAY)], next_url="https://x/v2/next?cursor=x"), page(None, resultsCount=0)]
    with pytest.raises(UpstreamError, match="/v2/next: no results, nor a word"):
        await daily_range(vendor)


async def test_an_answer_that_cannot_be_decompressed_is_an_error_and_tried_again(vendor: Vendor) -> None:
    def broken(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))

    vendor.answers = [broken, page([grouped_row("AAPL", DAY)])]
    assert len(await grouped(vendor)) == 1


# ---------------------------------------------------------------------------------------------------------- one ticker


async def test_a_range_requests_daily_bars_oldest_first_unadjusted_in_the_largest_pages(vendor: Vendor) -> None:
    vendor.answers = [page([range_row(DAY), range_row(NEXT)], ticker="AAPL")]
    bars = await daily_range(vendor)
    assert [(bar.symbol, bar.session) for bar in bars] == [("AAPL", DAY), ("AAPL", NEXT)]
    [request] = vendor.requests
    path = "/v2/aggs/ticker/AAPL/range/1/day/2025-11-19/2025-11-20"
    assert request.url == f"{BASE}{path}?adjusted=false&sort=asc&limit=50000"


@pytest.mark.parametrize(
    ("instant", "session"),
    [
        (1741323600000, "2025-03-07"),  # midnight EST, the last session before clocks went forward
        (1741579200000, "2025-03-10"),  # midnight EDT, the first one after
        (1761883200000, "2025-10-31"),  # midnight EDT, the last session before clocks went back
        (1762146000000, "2025-11-03"),  # midnight EST, the first one after
        (-252356400000, "1962-01-02"),  # midnight EST, before the epoch
        (-126212400000, "1966-01-01"),
        (1763600400000, "2025-11-19"),  # an evening in New York is the next day in UTC
    ],
)
async def test_a_range_bar_belongs_to_its_day_in_new_york(vendor: Vendor, instant: int, session: str) -> None:
    vendor.answers = [page([range_row(DAY, t=instant)])]
    day = date.fromisoformat(session)
    assert [bar.session for bar in await daily_range(vendor, first=day, last=day)] == [day]


@pytest.mark.parametrize("answer", [page(None), page([]), page(None, resultsCount=0)])
async def test_a_range_without_bars_is_a_valid_answer(vendor: Vendor, answer: httpx.Response) -> None:
    vendor.answers = [answer]
    assert await daily_range(vendor) == []


@pytest.mark.parametrize(("symbol", "part"), [("BRK.B", "BRK.B"), ("KIMpL", "KIMpL"), ("a/../b?c", "a%2F..%2Fb%3Fc")])
async def test_a_ticker_keeps_its_case_and_its_dots_and_leaves_its_place_in_the_path_never(
    vendor: Vendor, symbol: str, part: str
) -> None:
    vendor.answers = [page([range_row(DAY)])]
    [bar] = await daily_range(vendor, symbol)
    assert bar.symbol == symbol
    assert vendor.paths == [f"/v2/aggs/ticker/{part}/range/1/day/2025-11-19/2025-11-20"]


async def test_pages_are_followed_to_the_end_on_our_own_base_with_the_key(vendor: Vendor) -> None:
    elsewhere = "https://evil.test:8443/v2/aggs/ticker/AAPL/range/1/day/2/3?cursor=bGltaXQ9MQ%3D%3D&sort=asc"
    second = "http://api.polygon.io/v2/next?cursor=x"
    vendor.answers = [
        page([range_row(DAY)], next_url=elsewhere), page([], next_url=second), page([range_row(NEXT)]),
    ]  # fmt: skip
    assert [bar.session for bar in await daily_range(vendor)] == [DAY, NEXT]
    assert [request.url.host for request in vendor.requests] == ["api.massive.test"] * 3
    assert {request.headers["Authorization"] for request in vendor.requests} == {f"Bearer {KEY}"}
    assert dict(vendor.requests[1].url.params) == {"cursor": "bGltaXQ9MQ==", "sort": "asc"}
    assert vendor.requests[2].url == f"{BASE}/v2/next?cursor=x"


async def test_a_base_url_with_a_path_keeps_it_on_every_page(vendor: Vendor) -> None:
    vendor.answers = [page([range_row(DAY)], next_url="https://api.massive.com/v2/next?cursor=x"), page([])]
    async with client_of(vendor, "https://proxy.test/market") as client:
        await client.daily_range("AAPL", DAY, NEXT)
    assert vendor.paths[1] == "/market/v2/next"


async def test_a_page_that_fails_in_the_middle_fails_the_whole(vendor: Vendor) -> None:
    vendor.answers = [page([range_row(DAY)], next_url="https://x/v2/next?cursor=x"), refusal(500, "oops")]
    with pytest.raises(UpstreamError, match="/v2/next: status 500, oops"):
        await daily_range(vendor)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (401, "Unknown API Key", EntitlementError),
        (403, NOT_ENTITLED, EntitlementError),
        (403, TOO_EARLY, PendingError),
        (400, "Could not parse the date", BadRequestError),
        (404, "Not found", BadRequestError),
    ],
)
async def test_an_answer_that_trying_again_now_would_not_change_is_not_tried_again(
    vendor: Vendor, waits: list[float], status: int, message: str, kind: type[FiblakeError]
) -> None:
    vendor.answers = [refusal(status, message)]
    with pytest.raises(kind) as raised:
        await grouped(vendor)
    assert f"{GROUPED}: status {status}, {message} (request r-9)" in str(raised.value)
    assert (len(vendor.requests), waits) == (1, [])


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "the vendor refuses the API key: set MASSIVE_API_KEY, or the secret"),
        (403, "the API key is not entitled to"),
    ],
)
async def test_a_key_that_is_refused_is_said_to_be(vendor: Vendor, status: int, advice: str) -> None:
    vendor.answers = [refusal(status, NOT_ENTITLED)]
    with pytest.raises(EntitlementError, match=advice):
        await grouped(vendor)


async def test_sessions_before_the_plans_history_are_refused_for_good_with_what_to_do(
    vendor: Vendor, waits: list[float]
) -> None:
    vendor.answers = [refusal(403, TOO_OLD)]
    with pytest.raises(OutOfPlanError) as raised:
        await grouped(vendor)
    refusal_text = f"{GROUPED}: status 403, {TOO_OLD} (request r-9)"
    advice = "raise the first requested session (FIRST_SESSION, HISTORY_FROM) to where the plan begins"
    assert str(raised.value) == f"{refusal_text}: {advice}"
    assert issubclass(OutOfPlanError, EntitlementError)
    assert (len(vendor.requests), waits) == (1, [])


def test_data_that_is_not_there_yet_is_transient_and_a_refused_key_is_permanent() -> None:
    assert issubclass(PendingError, TransientError)
    assert issubclass(BadRequestError, PermanentError)
    assert issubclass(RateLimitedError, UpstreamError)


async def test_the_vendors_other_word_for_its_message_is_read_too(vendor: Vendor) -> None:
    vendor.answers = [httpx.Response(401, json={"status": "ERROR", "error": "Unknown API Key", "request_id": "q"})]
    with pytest.raises(EntitlementError, match="status 401, Unknown API Key"):
        await grouped(vendor)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'"no"', b"\xff"])
async def test_a_refusal_without_a_message_says_so(vendor: Vendor, content: bytes) -> None:
    vendor.answers = [httpx.Response(401, content=content)]
    with pytest.raises(EntitlementError, match=r"status 401, no message \(request unknown\)"):
        await grouped(vendor)


@pytest.mark.parametrize(
    "fault",
    [
        refusal(500, "oops"), refusal(502, "oops"), refusal(503, "oops"), refusal(504, "oops"),
        refusal(408, "late"), refusal(425, "early"), refusal(499, "gone"), refusal(302, "log in"),
        refusal(307, "moved", headers={"Location": "https://elsewhere.test/"}),
        httpx.ConnectError("refused"), httpx.ReadTimeout("too late"), httpx.RemoteProtocolError("cut"),
        httpx.ReadError("reset"),
    ],
)  # fmt: skip
async def test_a_fault_that_may_pass_is_tried_again_with_a_growing_pause(
    vendor: Vendor, waits: list[float], fault: httpx.Response | Exception
) -> None:
    vendor.answers = [fault, fault, fault, page([grouped_row("AAPL", DAY)])]
    assert len(await grouped(vendor)) == 1
    assert len(waits) == 3
    assert 0.5 <= waits[0] <= 1.5
    assert 1.0 <= waits[1] <= 2.0
    assert 2.0 <= waits[2] <= 3.0


async def test_a_fault_that_stays_is_an_error_after_five_attempts(vendor: Vendor, waits: list[float]) -> None:
    vendor.answers = [httpx.ConnectError("refused")]
    with pytest.raises(UpstreamError, match=f"{GROUPED}: ConnectError"):
        await grouped(vendor)
    assert (len(vendor.requests), len(waits)) == (ATTEMPTS, ATTEMPTS - 1)


async def test_a_vendor_that_asks_us_to_wait_is_waited_for_as_long_as_it_says(
    vendor: Vendor, waits: list[float]
) -> None:
    slow = refusal(429, "slow down", headers={"Retry-After": "12"})
    vendor.answers = [slow, page([grouped_row("AAPL", DAY)])]
    await grouped(vendor)
    assert waits == [12]


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}, {"Retry-After": "000"}])
async def test_a_rate_limit_without_a_wait_or_with_none_is_waited_out_all_the_same(
    vendor: Vendor, waits: list[float], headers: dict[str, str]
) -> None:
    vendor.answers = [refusal(429, "slow down", headers=headers), page([grouped_row("AAPL", DAY)])]
    await grouped(vendor)
    assert waits == [RATE_PAUSE_SECONDS]


async def test_no_answer_is_waited_for_longer_than_a_run_can_afford(vendor: Vendor, waits: list[float]) -> None:
    vendor.answers = [refusal(429, "slow", headers={"Retry-After": "86400"}), page([grouped_row("AAPL", DAY)])]
    await grouped(vendor)
    assert waits == [LONGEST_PAUSE_SECONDS]


@pytest.mark.parametrize("end", [None, ""])
async def test_an_empty_link_to_the_next_page_is_the_end(vendor: Vendor, end: str | None) -> None:
    vendor.answers = [page([range_row(DAY)], next_url=end)]
    assert len(await daily_range(vendor)) == 1
    assert len(vendor.requests) == 1


@pytest.mark.parametrize("link", ["http://[", "http://x/\ud83d", "//"])
async def test_a_link_that_leads_nowhere_is_an_error_of_ours(vendor: Vendor, link: str) -> None:
    answer = json.dumps({"adjusted": False, "resultsCount": 1, "results": [range_row(DAY)], "next_url": link})
    vendor.answers = [httpx.Response(200, content=answer.encode()), refusal(500, "no such page")]
    with pytest.raises(UpstreamError):
        await daily_range(vendor)


async def test_pages_that_go_round_in_a_circle_are_an_error(vendor: Vendor) -> None:
    vendor.answers = [page([range_row(DAY)], next_url="https://api.example.com/v2/again?cursor=x")]
    with pytest.raises(UpstreamError, match="the pages go round in a circle"):
        await daily_range(vendor)


@pytest.mark.parametrize("t", [None, "1763586000000", 9 * 10**18, -(10**17), 10**40])
async def test_a_range_row_without_its_time_costs_that_row_and_is_counted(vendor: Vendor, t: object) -> None:
    vendor.answers = [page([range_row(DAY), {**range_row(NEXT), "t": t}])]
    async with client_of(vendor) as client:
        assert [bar.session for bar in await client.daily_range("AAPL", DAY, NEXT)] == [DAY]
        assert client.left_out == {"bars": 1}
    vendor.answers = [page([{**range_row(DAY), "t": t}])]
    with pytest.raises(UpstreamError, match="no row says which session it is of"):
        await daily_range(vendor)


@pytest.mark.parametrize(
    "garbled",
    [b"null", b"{}", b"7", b'{"T": "\\ud83d"}', b'{"T": "B\xe9B"}', b'{"T": "BBB", "c": ' + b"9" * 5_000 + b"}"],
)
async def test_one_garbled_row_costs_one_row_and_not_the_page(vendor: Vendor, garbled: bytes) -> None:
    good = json.dumps(grouped_row("AAPL", DAY)).encode()
    body = b'{"resultsCount": 3, "request_id": null, "results": [%s, %s, %s]}' % (good, garbled, good)
    vendor.answers = [httpx.Response(200, content=body)]
    bars = await grouped(vendor)
    assert [bar.symbol for bar in bars[::2]] == ["AAPL", "AAPL"]
    assert faults(bars[1], nyse())
    str(bars[1]).encode()  # the text has no half of a pair, which a file or a log would refuse


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"results": ' * 50_000])
async def test_an_answer_that_is_nested_without_end_is_an_error_of_ours(vendor: Vendor, content: bytes) -> None:
    vendor.answers = [httpx.Response(200, content=content)]
    with pytest.raises(UpstreamError, match="the answer is not the vendor's shape: it is not JSON"):
        await grouped(vendor)
    vendor.answers = [httpx.Response(401, content=content)]
    with pytest.raises(EntitlementError, match="no message"):
        await grouped(vendor)


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "", "soon", "-3", "1.5", "\u00b2"])
async def test_a_wait_in_another_form_than_seconds_counts_as_none(
    vendor: Vendor, waits: list[float], value: str
) -> None:
    headers = httpx.Headers([(b"Retry-After", value.encode("latin-1"))])
    vendor.answers = [refusal(429, "slow down", headers=headers), page([grouped_row("AAPL", DAY)])]
    await grouped(vendor)
    assert waits == [RATE_PAUSE_SECONDS]


async def test_too_many_requests_in_a_row_are_an_error_that_says_so(vendor: Vendor) -> None:
    vendor.answers = [refusal(429, "You've exceeded the maximum requests per minute")]
    with pytest.raises(RateLimitedError, match="status 429, You've exceeded") as raised:
        await grouped(vendor)
    assert raised.value.retry_after is None


# -------------------------------------------------------------------------------------------------------------- the key


@pytest.mark.parametrize(
    "fault",
    [
        refusal(401, "Unknown API Key"), refusal(403, TOO_OLD), refusal(403, TOO_EARLY), refusal(429, "slow"),
        refusal(500, "oops"), refusal(400, "what"), httpx.ConnectError("refused"), page([]),
        page([], resultsCount=3), httpx.Response(200, content=b"<html>"),
    ],
)  # fmt: skip
async def test_the_key_is_in_no_error_no_url_and_no_log(
    vendor: Vendor,
    fault: httpx.Response | Exception,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    vendor.answers = [fault]
    with pytest.raises(FiblakeError) as raised:
        await grouped(vendor)
    texts = (
        "".join(traceback.format_exception(raised.value))
        + repr(raised.value)
        + caplog.text
        + "".join(capfd.readouterr())
    )
    assert KEY not in texts
    for request in vendor.requests:
        assert KEY not in str(request.url)
        assert request.headers["Authorization"] == f"Bearer {KEY}"


async def test_a_key_that_the_vendor_repeats_is_blotted_out(vendor: Vendor) -> None:
    vendor.answers = [refusal(401, f"Unknown API Key {KEY}")]
    with pytest.raises(EntitlementError, match=r"status 401, Unknown API Key \*\*\* \(request r-9\)"):
        await grouped(vendor)


async def test_the_key_is_in_no_repr_of_the_client(vendor: Vendor) -> None:
    async with client_of(vendor) as client:
        assert isinstance(client, MassiveClient)
        assert KEY not in repr(client)
        assert KEY not in repr(client.http.headers)


async def test_the_client_is_closed_when_the_block_ends() -> None:
    async with massive(BASE, SecretStr(KEY)) as client:
        assert not client.http.is_closed
    assert client.http.is_closed

from datetime import date

import pytest

from fiblake.errors import ContractError
from tests.integration.market import Market

TICKERS = "/v3/reference/tickers"
SPLITS = "/stocks/v1/splits"
DIVIDENDS = "/stocks/v1/dividends"
NAMES = ["AAPL", "FB", "GOOG", "IBM", "MSFT"]


def names(market: Market, /, **parameters: str | int) -> list[str]:
    return [row["ticker"] for row in market.get(TICKERS, **parameters)["results"]]


# -------------------------------------------------------------------------------------------------------------- tickers


def test_the_samples_companies_are_the_real_ones(market: Market) -> None:
    body = market.get(TICKERS, market="stocks")
    assert (body["status"], body["count"], [row["ticker"] for row in body["results"]]) == ("OK", 5, NAMES)
    assert body["request_id"]
    assert body["results"][0] == {
        "ticker": "AAPL", "name": "Apple Inc.", "market": "stocks", "locale": "us", "primary_exchange": "XNAS",
        "type": "CS", "active": True, "currency_name": "usd", "cik": "0000320193", "composite_figi": "BBG000B9XRY4",
        "share_class_figi": "BBG001S5N8V8", "last_updated_utc": "2026-01-02T00:00:00Z",
    }  # fmt: skip


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_joined_are_the_whole_list(market: Market, order: str) -> None:
    parts = list(market.pages(TICKERS, limit=2, sort="ticker", order=order))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert [row["ticker"] for part in parts for row in part] == (NAMES if order == "asc" else NAMES[::-1])


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"ticker": "IBM"}, ["IBM"]), ({"ticker": "ibm"}, []), ({"type": "CS"}, NAMES), ({"type": "ETF"}, []),
        ({"exchange": "XNYS"}, ["IBM"]), ({"market": "crypto"}, []), ({"active": "false"}, []),
    ],
)  # fmt: skip
def test_a_filter_leaves_what_fits(market: Market, filters: dict[str, str], expected: list[str]) -> None:
    assert names(market, **filters) == expected


def test_a_company_is_unknown_until_the_day_it_is_listed(market: Market) -> None:
    market.control.as_of(date(2012, 5, 17))
    assert names(market) == ["AAPL", "GOOG", "IBM", "MSFT"]
    assert market.http.get(f"{TICKERS}/FB").status_code == 404
    market.control.as_of(date(2012, 5, 18))
    assert names(market) == NAMES
    assert market.get(f"{TICKERS}/FB")["results"]["list_date"] == "2012-05-18"


def test_details_add_what_the_list_does_not_have(market: Market) -> None:
    details = market.get(f"{TICKERS}/GOOG")["results"]
    listed = market.get(TICKERS, ticker="GOOG")["results"][0]
    added = {"list_date": "2004-08-19", "sic_code": "7370"}
    assert details.items() >= (listed | added).items()
    assert details["sic_description"].startswith("SERVICES-COMPUTER PROGRAMMING")


def test_a_ticker_is_requested_as_of_a_day(market: Market) -> None:
    assert market.get(f"{TICKERS}/FB", date="2012-05-18")["results"]["ticker"] == "FB"
    assert market.http.get(f"{TICKERS}/FB", params={"date": "2012-05-17"}).status_code == 404


def test_an_unknown_ticker_is_not_found_in_the_vendors_words(market: Market) -> None:
    for path in (f"{TICKERS}/NONE", "/vX/reference/tickers/NONE/events"):
        answer = market.http.get(path)
        body = answer.json()
        assert (answer.status_code, body["status"], body["message"]) == (404, "NOT_FOUND", "Ticker not found.")


@pytest.mark.parametrize("name", ["FB", "BBG000MM2P62"])
def test_a_company_that_never_changed_its_ticker_has_had_it_since_it_was_listed(market: Market, name: str) -> None:
    results = market.get(f"/vX/reference/tickers/{name}/events", types="ticker_change")["results"]
    assert results == {
        "name": "Facebook, Inc. Class A Common Stock",
        "composite_figi": "BBG000MM2P62",
        "cik": "0001326801",
        "events": [{"type": "ticker_change", "date": "2012-05-18", "ticker_change": {"ticker": "FB"}}],
    }


# --------------------------------------------------------------------------------------------------------------- splits


def splits(market: Market, /, **parameters: str | int) -> list[str]:
    return [row["id"] for row in market.get(SPLITS, **parameters)["results"]]


def test_the_samples_splits_have_cumulative_factors(market: Market) -> None:
    body = market.get(SPLITS, sort="execution_date.asc")
    assert body["status"] == "OK"
    assert body["results"][0] == {
        "id": "AAPL-2000-06-21", "ticker": "AAPL", "execution_date": "2000-06-21", "split_from": 1.0, "split_to": 2.0,
        "adjustment_type": "forward_split", "historical_adjustment_factor": 0.25,
    }  # fmt: skip
    factors = {row["id"]: row["historical_adjustment_factor"] for row in body["results"]}
    assert factors == {"AAPL-2000-06-21": 0.25, "MSFT-2003-02-18": 0.5, "AAPL-2005-02-28": 0.5}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"ticker": "MSFT"}, ["MSFT-2003-02-18"]),
        ({"ticker.any_of": "MSFT,IBM"}, ["MSFT-2003-02-18"]),
        ({"execution_date": "2003-02-18"}, ["MSFT-2003-02-18"]),
        ({"execution_date.gt": "2003-02-18"}, ["AAPL-2005-02-28"]),
        ({"execution_date.gte": "2003-02-18"}, ["AAPL-2005-02-28", "MSFT-2003-02-18"]),
        ({"execution_date.lt": "2003-02-18"}, ["AAPL-2000-06-21"]),
        ({"execution_date.lte": "2003-02-18"}, ["MSFT-2003-02-18", "AAPL-2000-06-21"]),
        ({"execution_date.gt": "2000-06-21", "execution_date.lt": "2005-02-28"}, ["MSFT-2003-02-18"]),
        ({"adjustment_type": "forward_split", "ticker": "MSFT"}, ["MSFT-2003-02-18"]),
        ({"adjustment_type": "reverse_split"}, []),
        ({"sort": "ticker.asc,execution_date.desc"}, ["AAPL-2005-02-28", "AAPL-2000-06-21", "MSFT-2003-02-18"]),
    ],
)
def test_splits_are_filtered_and_sorted_the_latest_first_by_default(
    market: Market, filters: dict[str, str], expected: list[str]
) -> None:
    assert splits(market, **filters) == expected


def test_pages_of_splits_joined_are_the_whole_list(market: Market) -> None:
    parts = list(market.pages(SPLITS, limit=1, sort="execution_date.asc"))
    assert [row["id"] for part in parts for row in part] == ["AAPL-2000-06-21", "MSFT-2003-02-18", "AAPL-2005-02-28"]
    assert len(parts) == 3


def test_the_factor_of_a_split_counts_those_that_are_published(market: Market) -> None:
    market.control.splits(["AAPL-2000-06-21"])
    [row] = market.get(SPLITS)["results"]
    assert (row["id"], row["historical_adjustment_factor"]) == ("AAPL-2000-06-21", 0.5)
    market.control.splits(None)
    assert len(splits(market)) == 3


# ----------------------------------------------------------------------------------------------------------- dividends


def dividends(market: Market, /, **parameters: str | int) -> list[str]:
    return [row["id"] for row in market.get(DIVIDENDS, **parameters)["results"]]


def test_the_samples_dividends_have_cumulative_factors_of_cash_and_close(market: Market) -> None:
    body = market.get(DIVIDENDS, ticker="AAPL", sort="ex_dividend_date.asc")
    assert body["status"] == "OK"
    assert "count" not in body
    # The closes before are 619.86, 582.8495 and 457.35.
    third = 1 - 2.65 / 457.35
    second = third * (1 - 2.65 / 582.8495)
    assert body["results"][0] == {
        "id": "AAPL-2012-08-09-recurring", "ticker": "AAPL", "ex_dividend_date": "2012-08-09", "cash_amount": 2.65,
        "split_adjusted_cash_amount": 2.65, "currency": "USD", "frequency": 4, "distribution_type": "recurring",
        "historical_adjustment_factor": round(second * (1 - 2.65 / 619.86), 6),
    }  # fmt: skip
    factors = [row["historical_adjustment_factor"] for row in body["results"][1:]]
    assert factors == pytest.approx([second, third], abs=1e-6)


def test_all_dividends_of_a_day_have_one_factor(market: Market) -> None:
    same_day = market.get(DIVIDENDS, ticker="MSFT", ex_dividend_date="2004-11-15")["results"]
    assert [(row["cash_amount"], row["distribution_type"]) for row in same_day] == [
        (0.08, "recurring"),
        (3.0, "special"),
    ]
    assert len({row["historical_adjustment_factor"] for row in same_day}) == 1


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"ticker": "AAPL"}, 3), ({"ticker.any_of": "AAPL,MSFT"}, 41), ({"ticker": "FB"}, 0),
        ({"ticker": "IBM", "ex_dividend_date.gte": "2012-05-08"}, 4),
        ({"ticker": "IBM", "ex_dividend_date.gt": "2012-05-08", "ex_dividend_date.lt": "2013-02-06"}, 2),
        ({"distribution_type": "special"}, 1),
    ],
)  # fmt: skip
def test_dividends_are_filtered(market: Market, filters: dict[str, str], count: int) -> None:
    assert len(dividends(market, **filters)) == count


def test_dividends_are_sorted_by_ticker_and_paged(market: Market) -> None:
    parts = list(market.pages(DIVIDENDS, limit=50, sort="ticker.asc,ex_dividend_date.desc"))
    rows = [(row["ticker"], row["ex_dividend_date"]) for part in parts for row in part]
    assert len(rows) == 93
    assert rows[:4] == [("AAPL", "2013-02-07"), ("AAPL", "2012-11-07"), ("AAPL", "2012-08-09"), ("IBM", "2013-02-06")]
    assert dividends(market, limit=2) == ["AAPL-2012-08-09-recurring", "AAPL-2012-11-07-recurring"]


def test_a_dividend_is_unknown_before_its_ex_date_and_cut_silently_before_the_plans_history(market: Market) -> None:
    market.control.as_of(date(2012, 11, 6))
    [row] = market.get(DIVIDENDS, ticker="AAPL")["results"]
    assert row["historical_adjustment_factor"] == round(1 - 2.65 / 619.86, 6)
    market.control.as_of(None)
    market.control.since(date(2012, 11, 7))
    assert dividends(market, ticker="AAPL") == ["AAPL-2012-11-07-recurring", "AAPL-2013-02-07-recurring"]
    market.control.hide(["AAPL"])
    assert dividends(market, ticker="AAPL") == []


# -------------------------------------------------------------------------------------------------- what can be changed


def test_a_hidden_symbol_is_nowhere_until_it_is_shown(market: Market) -> None:
    market.control.hide(["MSFT"])
    one_range, grouped = (
        "/v2/aggs/ticker/MSFT/range/1/day/2000-03-01/2000-03-03", "/v2/aggs/grouped/locale/us/market/stocks/2000-03-01",
    )  # fmt: skip
    assert names(market) == ["AAPL", "FB", "GOOG", "IBM"]
    assert [row["T"] for row in market.get(grouped)["results"]] == ["AAPL", "IBM"]
    assert market.get(one_range)["resultsCount"] == 0
    assert market.http.get(f"{TICKERS}/MSFT").status_code == 404
    assert splits(market, ticker="MSFT") == []
    market.control.hide([])
    assert names(market) == NAMES
    assert market.get(one_range)["resultsCount"] == 3


def test_what_is_over_moves_on_while_the_replay_runs(market: Market) -> None:
    grouped = "/v2/aggs/grouped/locale/us/market/stocks/2013-02-28"
    market.control.as_of(date(2013, 2, 27))
    assert market.http.get(grouped).status_code == 403
    market.control.as_of(date(2013, 2, 28))
    assert market.get(grouped)["resultsCount"] == 5


@pytest.mark.parametrize(
    "path",
    [
        "/v2/aggs/grouped/locale/us/market/stocks/2011-02-28", "/v2/aggs/ticker/IBM/range/1/day/2011-02-28/2011-03-02",
    ],
)  # fmt: skip
def test_sessions_before_the_plans_history_are_refused(market: Market, path: str) -> None:
    market.control.since(date(2011, 3, 1))
    answer = market.http.get(path)
    assert (answer.status_code, answer.json()["status"]) == (403, "NOT_AUTHORIZED")
    assert "plan doesn't include this data timeframe" in answer.json()["message"]


@pytest.mark.parametrize("headers", [{"Authorization": ""}, {"Authorization": "Bearer wrong"}])
def test_a_client_without_the_key_changes_and_reads_nothing(market: Market, headers: dict[str, str]) -> None:
    assert market.http.put("/replay/hidden", json=["AAPL"], headers=headers).status_code == 401
    assert market.http.get(TICKERS, headers=headers).json()["error"] == "Unknown API Key"
    assert names(market) == NAMES


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("hidden", "AAPL"), ("as-of", "yesterday"), ("since", []), ("splits", ["IBM-2000-01-01"]), ("nothing", []),
        ("faults", [{"kind": "earthquake"}]), ("faults", [{"kind": []}]), ("faults", [{"kind": "drop", "rate": 2}]),
        ("faults", [{"kind": "drop", "often": 2}]), ("faults", {}),
    ],
)  # fmt: skip
def test_a_change_that_makes_no_sense_is_refused_and_changes_nothing(market: Market, name: str, body: object) -> None:
    answer = market.http.put(f"/replay/{name}", json=body)
    assert answer.status_code in {400, 404}
    assert answer.json().get("error") or answer.json().get("message")
    assert names(market) == NAMES


def test_a_change_that_is_refused_has_a_reason(market: Market) -> None:
    with pytest.raises(ContractError, match="no such split: IBM-2000-01-01; there are AAPL-2000-06-21"):
        market.control.splits(["IBM-2000-01-01"])


@pytest.mark.parametrize(
    "path",
    [
        f"{TICKERS}?limit=1001", f"{TICKERS}?limit=0", f"{TICKERS}?active=perhaps", f"{TICKERS}?sort=name",
        f"{TICKERS}?search=apple", f"{TICKERS}?cursor=x", f"{SPLITS}?limit=5001", f"{SPLITS}?sort=split_to.asc",
        f"{SPLITS}?execution_date.lt=soon", f"{SPLITS}?ticker.lt=B", "/vX/reference/tickers/FB/events?types=ipo",
    ],
)  # fmt: skip
def test_a_parameter_that_is_not_replayed_is_refused_and_not_ignored(market: Market, path: str) -> None:
    answer = market.http.get(path)
    assert answer.status_code == 400
    assert answer.json()["error"]

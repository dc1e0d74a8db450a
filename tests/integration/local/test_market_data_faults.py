import httpx
import pytest

from tests.integration.market import Market

GROUPED = "/v2/aggs/grouped/locale/us/market/stocks/2013-02-27"
RANGE = "/v2/aggs/ticker/IBM/range/1/day/2013-02-01/2013-02-28"
TICKERS = "/v3/reference/tickers"
SPLITS = "/stocks/v1/splits"


def outcome(market: Market, path: str) -> str:
    try:
        return str(market.http.get(path).status_code)
    except httpx.RemoteProtocolError:
        return "dropped"


@pytest.mark.parametrize("kind", ["400", "401", "429", "500", "502", "503", "504"])
def test_an_error_is_answered_with_its_status(market: Market, kind: str) -> None:
    market.control.faults({"kind": kind})
    answer = market.http.get(GROUPED)
    assert answer.status_code == int(kind)
    assert answer.json()["status"] == "ERROR"
    assert answer.json()["error"]
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("403 not entitled", "You are not entitled to this data."),
        ("403 timeframe", "Your plan doesn't include this data timeframe."),
        ("403 before end of day", "Attempted to request today's data before end of day."),
    ],
)
def test_the_three_kinds_of_403_differ_in_their_message(market: Market, kind: str, message: str) -> None:
    market.control.faults({"kind": kind})
    answer = market.http.get(RANGE)
    assert (answer.status_code, answer.json()["status"]) == (403, "NOT_AUTHORIZED")
    assert answer.json()["message"].startswith(message)


def test_a_rate_limit_may_say_for_how_long(market: Market) -> None:
    market.control.faults({"kind": "429", "retry_after": 7})
    assert market.http.get(GROUPED).headers["Retry-After"] == "7"


@pytest.mark.parametrize("kind", ["drop", "cut"])
def test_a_connection_is_closed_before_or_in_the_middle_of_an_answer(market: Market, kind: str) -> None:
    market.control.faults({"kind": kind, "times": 1})
    with pytest.raises(httpx.RemoteProtocolError):
        market.http.get(GROUPED)
    assert market.get(GROUPED)["resultsCount"] == 5


def test_text_that_ends_in_the_middle_is_no_json(market: Market) -> None:
    market.control.faults({"kind": "truncated"})
    answer = market.http.get(GROUPED)
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        answer.json()


def test_a_delayed_answer_is_the_same(market: Market) -> None:
    market.control.faults({"kind": "delay", "seconds": 0.01})
    assert market.get(GROUPED)["resultsCount"] == 5


@pytest.mark.parametrize(("path", "count"), [(GROUPED, "resultsCount"), (RANGE, "resultsCount"), (TICKERS, "count")])
def test_a_short_answer_still_counts_the_rows_it_has_lost(market: Market, path: str, count: str) -> None:
    market.control.faults({"kind": "short"})
    body = market.get(path)
    assert body[count] == len(body["results"]) + 1


def test_an_answer_without_a_count_is_never_short_because_there_is_nothing_to_compare(market: Market) -> None:
    market.control.faults({"kind": "short"})
    assert len(market.get(SPLITS)["results"]) == 3


@pytest.mark.parametrize("path", [GROUPED, f"{RANGE}?limit=5", f"{TICKERS}?limit=2", f"{SPLITS}?limit=1"])
def test_an_empty_answer_has_no_results_and_no_next_page(market: Market, path: str) -> None:
    market.control.faults({"kind": "empty"})
    body = market.get(path)
    assert body.keys().isdisjoint({"results", "next_url"})
    assert {body[name] for name in ("resultsCount", "queryCount", "count") if name in body} <= {0}


@pytest.mark.parametrize("path", [GROUPED, RANGE])
def test_nonsense_is_bars_that_close_below_zero_and_are_otherwise_the_same(market: Market, path: str) -> None:
    rows = market.get(path)["results"]
    market.control.faults({"kind": "nonsense"})
    assert market.get(path)["results"] == [row | {"c": -row["c"]} for row in rows]


def test_a_circle_leads_back_to_the_page_itself(market: Market) -> None:
    market.control.faults({"kind": "circle"})
    assert market.get(f"{TICKERS}?limit=2")["next_url"] == f"{market.url}{TICKERS}?limit=2"


def test_the_first_rule_that_fits_decides_and_one_that_is_used_up_does_not_fit(market: Market) -> None:
    market.control.faults(
        {"kind": "500", "path": "/v2/aggs/grouped/*", "times": 2}, {"kind": "503", "path": "*cursor=*"},
        {"kind": "502", "path": TICKERS},
    )  # fmt: skip
    assert [outcome(market, GROUPED) for _ in range(3)] == ["500", "500", "200"]
    assert outcome(market, f"{TICKERS}?limit=2") == "502"
    assert outcome(market, f"{TICKERS}/IBM") == "200"
    assert outcome(market, market.get(f"{RANGE}?limit=5")["next_url"]) == "503"


def test_chance_is_the_same_for_the_same_seed_whatever_comes_in_between(market: Market) -> None:
    def outcomes(seed: int, *, between: bool) -> list[str]:
        market.control.faults({"kind": ["500", "503", "drop"], "rate": 0.3, "seed": seed})
        results = []
        for _ in range(60):
            results.append(outcome(market, GROUPED))
            if between:
                outcome(market, RANGE)
        return results

    first = outcomes(1, between=False)
    assert set(first) == {"200", "500", "503", "dropped"}
    assert 30 <= first.count("200") <= 54
    assert outcomes(1, between=True) == first
    assert outcomes(2, between=False) != first


def test_without_rules_nothing_goes_wrong(market: Market) -> None:
    market.control.faults({"kind": "500"})
    market.control.faults()
    assert outcome(market, GROUPED) == "200"

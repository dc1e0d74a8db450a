import json
from datetime import timedelta
from typing import Any

import pytest

from fiblake.errors import ConfigurationError, EntitlementError, TransientError, UpstreamError
from services.fetcher import assembly, ohlcv_handler
from tests.fakes import LAKE
from tests.unit.conftest import Metrics
from tests.unit.fetcher.deployed import DAY, PASSWORD, Context, Deployed
from tests.unit.fetcher.vendor import KEY, grouped_row, page, range_row, refusal


def invoke(**event: object) -> Any:  # noqa: ANN401 (JSON)
    context: Any = Context()
    return json.loads(json.dumps(ohlcv_handler.handler(event, context)))


def test_an_invocation_says_what_was_stored_and_where_the_watermark_is(deployed: Deployed) -> None:
    deployed.vendor.answers = [page([grouped_row("AAPL", DAY)])]
    answer = invoke(as_of="2025-11-20", look_back=False)
    [session] = answer["done"]
    assert session.pop("written_at")
    assert session.pop("seconds").keys() == {"vendor", "s3", "database"}
    assert session == {
        "what": "2025-11-20", "stored": 1, "unchanged": 0, "quarantined": 0, "outside_universe": 0, "flagged": [],
        "decided": "",
    }  # fmt: skip
    assert (answer["watermark"], answer["pending"], answer["looked_at_again"]) == ("2025-11-20", [], [])
    assert deployed.store.keys() == [LAKE.date_key("AAPL", DAY)]


def test_key_and_password_come_from_secrets_manager_and_are_not_logged(
    deployed: Deployed, capfd: pytest.CaptureFixture[str]
) -> None:
    invoke(as_of="2025-11-20")
    assert deployed.vendor.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    [address] = deployed.addresses
    assert (address.host, address.port, address.arguments()["password"]) == ("db.test", 5433, PASSWORD)
    output = "".join(capfd.readouterr())
    assert KEY not in output
    assert PASSWORD not in output


def test_symbols_that_are_named_get_their_history_and_the_watermark_stays(deployed: Deployed) -> None:
    deployed.vendor.answers = [page([range_row(DAY)])]
    answer = invoke(symbols=["AAPL"], **{"from": "2025-11-17", "to": "2025-11-20"})
    assert [(history["what"], history["stored"]) for history in answer["done"]] == [("AAPL", 1)]
    assert answer["watermark"] == "2025-11-19"
    assert deployed.vendor.paths == ["/v2/aggs/ticker/AAPL/range/1/day/2025-11-17/2025-11-20"]


def test_an_invocation_counts_what_it_stored_refused_and_flagged_as_metrics(
    deployed: Deployed, metrics: Metrics
) -> None:
    deployed.vendor.answers = [page([grouped_row("AAPL", DAY), grouped_row("BAD", DAY, -1.0)])]
    invoke(as_of="2025-11-20", look_back=False)
    counts = {"SessionsStored": 1, "SessionsPending": 0, "BarsStored": 1, "BarsQuarantined": 1, "BarsFlagged": 0}
    assert metrics() == [counts, {"BarsQuarantinedPercent": 50}]


def test_an_invocation_that_fails_counts_what_it_stored_and_refused_until_then(
    deployed: Deployed, metrics: Metrics
) -> None:
    bars = [grouped_row("AAPL", DAY), grouped_row("BAD", DAY, -1.0)]
    deployed.vendor.answers = [page(bars), refusal(401, "Unknown API Key")]
    with pytest.raises(EntitlementError):
        invoke(as_of="2025-11-21", look_back=False)
    counts = {"SessionsStored": 1, "SessionsPending": 0, "BarsStored": 1, "BarsQuarantined": 1, "BarsFlagged": 0}
    assert metrics() == [counts, {"BarsQuarantinedPercent": 50}]


def test_each_run_is_recorded_with_what_it_was_asked_and_how_it_ended(deployed: Deployed) -> None:
    invoke(date="2025-11-20")
    deployed.vendor.answers = [refusal(401, "Unknown API Key")]
    with pytest.raises(EntitlementError):
        invoke(date="2025-11-20")
    good, failed = deployed.database.runs.values()
    fields = {"date": "2025-11-20", "from": "2025-11-20", "to": "2025-11-20", "again": True}
    assert (good["kind"], good["asked"], good["status"]) == ("ohlcv", fields, "done")
    assert good["result"]["done"][0]["what"] == "2025-11-20"
    assert (failed["status"], "Unknown API Key" in failed["result"]["error"]) == ("failed", True)


def test_a_run_that_fails_is_recorded_with_what_it_stored_until_then(deployed: Deployed) -> None:
    deployed.vendor.answers = [page([grouped_row("AAPL", DAY)]), refusal(401, "Unknown API Key")]
    with pytest.raises(EntitlementError):
        invoke(as_of="2025-11-21", look_back=False)
    [run] = deployed.database.runs.values()
    assert (run["status"], [session["what"] for session in run["result"]["done"]]) == ("failed", ["2025-11-20"])


def test_a_function_begins_no_session_that_it_has_no_time_for_and_the_next_run_continues(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRST_SESSION", "2025-11-17")
    context: Any = Context(left=timedelta(minutes=2))
    with pytest.raises(TransientError, match=r"run: 3 from 2025-11-17 on: there was no time for them \(stored in this"):
        ohlcv_handler.handler({"as_of": "2025-11-20"}, context)
    assert (deployed.vendor.requests, deployed.store.keys()) == ([], [])
    assert [session["what"] for session in invoke(as_of="2025-11-20")["done"]] == [
        "2025-11-17",
        "2025-11-18",
        "2025-11-20",
    ]


@pytest.mark.parametrize("name", ["S3_BUCKET", "RDS_SECRET_ARN"])
def test_a_missing_variable_fails_the_invocation_and_is_named(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match=name):
        invoke()
    assert deployed.addresses == []


def test_the_vendor_is_the_one_that_the_setting_names(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKET_DATA_VENDOR", "another")
    with pytest.raises(ConfigurationError, match=r"no vendor 'another': set MARKET_DATA_VENDOR right \(massive\)"):
        invoke(as_of="2025-11-20")
    assert deployed.vendor.requests == []
    monkeypatch.setitem(assembly.VENDORS, "another", assembly.VENDORS["massive"])
    monkeypatch.delitem(assembly.VENDORS, "massive")
    assert [stored["what"] for stored in invoke(as_of="2025-11-20")["done"]] == ["2025-11-20"]


def test_a_secret_that_does_not_exist_fails_the_invocation_and_is_named(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RDS_SECRET_ARN", "arn:aws:secretsmanager:us-east-1:123456789012:secret:nobody")
    with pytest.raises(EntitlementError, match="secret:nobody: ResourceNotFoundException"):
        invoke()
    assert deployed.addresses == []


def test_a_database_that_is_down_fails_the_invocation(deployed: Deployed) -> None:
    deployed.down = UpstreamError("the database failed")
    with pytest.raises(UpstreamError, match="the database failed"):
        invoke()

import json
from collections.abc import Sequence
from datetime import date

import pytest

from fiblake.errors import PermanentError, UpstreamError
from fiblake.lake import identities_key, splits_key
from services.consolidator.router import Router
from shared.events import ConsolidationRequest, parse
from shared.jobs import LARGEST_ARRAY
from shared.queues import ReceivedMessage
from tests.fakes import BUCKET, LAKE, FakeJobs, FakeQueue, sample
from tests.unit.conftest import Metrics


def notice(*keys: str) -> str:
    records = [
        {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": BUCKET}, "object": {"key": k}}} for k in keys
    ]
    return json.dumps({"Records": records})


def arrival(*symbols: str, session: str = "2025-11-19") -> str:
    return notice(*(LAKE.date_key(symbol, date.fromisoformat(session)) for symbol in symbols))


def by_rule(symbol: str, name: str) -> str:
    body: dict[str, object] = json.loads(sample("s3-put-via-eventbridge")["Records"][0]["body"])
    key = LAKE.date_key(symbol, date(2025, 11, 19))
    return json.dumps(body | {"id": name, "detail": {"bucket": {"name": BUCKET}, "object": {"key": key}}})


def received(*bodies: str) -> list[ReceivedMessage]:
    return [ReceivedMessage(f"m{n}", f"r{n}", body, 1) for n, body in enumerate(bodies)]


class Routed:
    """A router, its queue and jobs, and the faults that it found."""

    def __init__(self, per_child: int = 100, largest: int = LARGEST_ARRAY) -> None:
        self.queue, self.jobs = FakeQueue(), FakeJobs()
        self.router = Router(BUCKET, LAKE, self.queue, self.jobs, per_child, largest, lambda: "id")  # type: ignore[arg-type]

    def route(self, *bodies: str) -> dict[str, str]:
        return {i: f"{type(e).__name__}: {e}" for i, e in self.router.route(received(*bodies)).items()}

    @property
    def symbols(self) -> Sequence[str]:
        return [parse(ConsolidationRequest, body).symbol for body in self.queue.sent]


def test_each_symbol_is_requested_once_and_one_job_is_submitted() -> None:
    routed = Routed()
    assert routed.route(arrival("MSFT"), arrival("AAPL"), arrival("AAPL", session="2025-11-18")) == {}
    assert routed.symbols == ["AAPL", "MSFT"]
    assert parse(ConsolidationRequest, routed.queue.sent[0]).changed_from == date(2025, 11, 18)
    assert routed.jobs.submitted == [("id", 1)]


def test_nothing_that_arrived_submits_nothing() -> None:
    routed = Routed()
    assert routed.route(json.dumps({"Event": "s3:TestEvent"}), notice(LAKE.data_key("AAPL"))) == {}
    assert (routed.queue.sent, routed.jobs.submitted) == ([], [])


@pytest.mark.parametrize(
    ("symbols", "per_child", "largest", "size"),
    [(1, 100, LARGEST_ARRAY, 1), (100, 100, LARGEST_ARRAY, 1), (101, 100, LARGEST_ARRAY, 2), (7, 2, LARGEST_ARRAY, 4),
     (50, 1, 8, 8), (10_050, 1, LARGEST_ARRAY, 10_000)],
)  # fmt: skip
def test_the_jobs_size_follows_the_number_of_symbols(symbols: int, per_child: int, largest: int, size: int) -> None:
    routed = Routed(per_child, largest)
    routed.route(arrival(*(f"S{n}" for n in range(symbols))))
    assert routed.jobs.submitted == [("id", size)]


def test_a_job_that_has_yet_to_start_will_see_the_requests_so_none_is_submitted() -> None:
    routed = Routed()
    routed.jobs.waiting = True
    assert routed.route(arrival("AAPL")) == {}
    assert (routed.symbols, routed.jobs.submitted) == (["AAPL"], [])


def test_the_requests_are_sent_before_anyone_looks_for_waiting_jobs() -> None:
    routed = Routed()
    seen = []
    routed.jobs.any_waiting = lambda: bool(seen.append(list(routed.symbols)))  # type: ignore[method-assign]
    routed.route(arrival("AAPL"))
    assert seen == [["AAPL"]]


def test_if_no_job_can_be_submitted_every_message_that_sent_requests_is_retried() -> None:
    routed = Routed()
    routed.jobs.error = UpstreamError("Batch is away")
    errors = routed.route(arrival("AAPL"), notice(LAKE.data_key("MSFT")), arrival("MSFT"))
    assert errors == {"m0": "UpstreamError: Batch is away", "m2": "UpstreamError: Batch is away"}


def test_if_batch_does_not_list_its_jobs_the_messages_are_retried() -> None:
    routed = Routed()

    def fails() -> bool:
        raise RuntimeError("surprise")

    routed.jobs.any_waiting = fails  # type: ignore[method-assign]
    assert routed.route(arrival("AAPL")) == {"m0": "UnexpectedError: RuntimeError: surprise"}


def test_only_the_messages_whose_requests_were_not_sent_are_retried() -> None:
    routed = Routed()
    routed.queue.refuse_sends = lambda body: "MSFT" in body
    errors = routed.route(arrival("AAPL"), arrival("MSFT", "GOOG"))
    assert errors == {"m1": "UpstreamError: SQS did not take the request for MSFT"}
    assert routed.symbols == ["AAPL", "GOOG"]
    assert routed.jobs.submitted == [("id", 1)]


def test_if_no_request_was_sent_no_job_is_submitted() -> None:
    routed = Routed()
    routed.queue.refuse_sends = lambda _body: True
    assert list(routed.route(arrival("AAPL"))) == ["m0"]
    assert routed.jobs.submitted == []


def test_a_foreign_key_fails_for_good_with_its_reason_while_good_ones_travel() -> None:
    routed = Routed()
    errors = routed.router.route(
        received(notice("a.csv", LAKE.date_key("AAPL", date(2025, 11, 19)), "b.csv"), "nonsense")
    )
    assert routed.symbols == ["AAPL"]
    assert all(isinstance(error, PermanentError) for error in errors.values())
    assert "a.csv" in str(errors["m0"])
    assert "b.csv" in str(errors["m0"])
    assert "neither S3's notification nor EventBridge's of S3" in str(errors["m1"])


def test_of_many_foreign_keys_the_first_are_named_and_the_others_counted() -> None:
    error = Routed().route(notice(*(f"{n}.csv" for n in range(14))))["m0"]
    assert all(f"'{n}.csv'" in error for n in range(3))
    assert error.endswith("; and 11 more")


def test_a_record_that_is_none_keeps_no_file_of_its_notification_out() -> None:
    routed = Routed()
    records = [*json.loads(arrival("AAPL"))["Records"], {"eventName": "ObjectCreated:Put"}, 5]
    errors = routed.route(json.dumps({"Records": records}))
    assert routed.symbols == ["AAPL"]
    assert errors["m0"].count("neither S3's notification nor EventBridge's of S3") == 2


def test_a_correlation_id_is_bounded_because_it_travels_in_every_request() -> None:
    routed = Routed()
    assert routed.route(by_rule("AAPL", "x" * 1_000_000)) == {}
    assert len(routed.queue.sent[0]) < 1_000


def test_a_lost_request_outweighs_a_foreign_key_so_that_the_message_is_retried() -> None:
    routed = Routed()
    routed.queue.refuse_sends = lambda _body: True
    errors = routed.router.route(received(notice("a.csv", LAKE.date_key("AAPL", date(2025, 11, 19)))))
    assert isinstance(errors["m0"], UpstreamError)


def test_splits_and_identities_are_requested_like_bars_and_retried_like_them() -> None:
    routed = Routed()
    assert routed.route(notice(splits_key("AAPL")), notice(identities_key("MSFT")), arrival("MSFT")) == {}
    requests = [parse(ConsolidationRequest, body) for body in routed.queue.sent]
    assert [(r.symbol, r.changed_from, r.reference_changed) for r in requests] == [
        ("AAPL", None, True), ("MSFT", None, True),
    ]  # fmt: skip
    assert routed.jobs.submitted == [("id", 1)]
    routed.jobs.error = UpstreamError("Batch is away")
    assert routed.route(notice(splits_key("AAPL"))) == {"m0": "UpstreamError: Batch is away"}
    routed.queue.refuse_sends = lambda _body: True
    errors = routed.route(notice(splits_key("AAPL")))
    assert errors == {"m0": "UpstreamError: SQS did not take the request for AAPL"}


def test_what_was_routed_and_what_failed_are_metrics(metrics: Metrics) -> None:
    Routed().route(arrival("AAPL", "MSFT"), "no notification")
    assert metrics() == [{"SymbolsRequested": 2, "ArrivalsFailed": 1}]


def test_an_arrival_that_joins_anothers_request_logs_the_id_under_which_it_continues(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = by_rule("AAPL", "first"), by_rule("AAPL", "second")
    with caplog.at_level("INFO"):
        Routed().route(first, second)
    joins = [vars(record) for record in caplog.records if record.message == "joined"]
    assert [(j["symbol"], j["correlation_id"], j["into"]) for j in joins] == [("AAPL", "second", "first")]

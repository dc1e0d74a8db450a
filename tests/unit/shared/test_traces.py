"""The segments that X-Ray receives, checked in boto's HTTP request."""

import json
import logging
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import ConnectTimeoutError
from botocore.httpsession import URLLib3Session

from shared import traces
from shared.events import ConsolidationComplete
from shared.queues import Topic
from shared.telemetry import logger
from shared.traces import MOST_WAITING, Traces

DAY = date(2025, 11, 19)
ROOT, PARENT = "1-6924f3a0-0123456789abcdef01234567", "89abcdef01234567"
SENT = f"Root={ROOT};Parent={PARENT};Sampled=1;Lineage=1:5a2f1b3c:0"


class XRay:
    """X-Ray's own end of the line."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self.requests = 0
        self.answers = b'{"UnprocessedTraceSegments": []}'
        self.away = False

    def send(self, request: AWSPreparedRequest) -> AWSResponse:
        self.requests += 1
        assert request.url.endswith("/TraceSegments")
        if self.away:
            raise ConnectTimeoutError(endpoint_url=request.url)
        self.documents += [json.loads(document) for document in json.loads(request.body)["TraceSegmentDocuments"]]
        return Answer(request.url, self.answers)


class Answer(AWSResponse):
    def __init__(self, url: str, content: bytes) -> None:
        super().__init__(url, 200, {}, None)
        self._content = content


class AtOnce(ThreadPoolExecutor):
    """The sender's thread, which sends each segment before the work goes on."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (as in the standard library)
        future = super().submit(fn, *args, **kwargs)
        future.result()
        return future


@pytest.fixture(autouse=True)
def xray(monkeypatch: pytest.MonkeyPatch) -> Iterator[XRay]:
    service = XRay()
    monkeypatch.setattr(URLLib3Session, "send", lambda _self, request: service.send(request))
    monkeypatch.setattr(traces, "ThreadPoolExecutor", AtOnce)
    traces._xray.cache_clear()  # noqa: SLF001 (a client of this test's credentials)
    yield service
    traces._xray.cache_clear()  # noqa: SLF001


def test_a_piece_of_work_is_one_segment_with_its_notes_and_ids(xray: XRay) -> None:
    before = time.time()
    with Traces("dev-worker").segment(correlation_ids=["a", "b", "a"]) as notes:
        notes.update(SymbolsConsolidated=3, run="job-1")
    [segment] = xray.documents
    assert (segment["name"], segment["fault"]) == ("dev-worker", False)
    assert segment["annotations"] == {"SymbolsConsolidated": 3, "run": "job-1"}
    assert segment["metadata"] == {"default": {"correlation_ids": ["a", "b"]}}
    assert before <= segment["start_time"] <= segment["end_time"] <= time.time()
    assert re.fullmatch("[0-9a-f]{16}", segment["id"])
    assert int(re.fullmatch("1-([0-9a-f]{8})-[0-9a-f]{24}", segment["trace_id"])[1], 16) >= int(before)  # type: ignore[index]
    assert "parent_id" not in segment


def test_it_belongs_to_the_trace_of_the_first_sender_that_was_traced(xray: XRay) -> None:
    unsampled = SENT.replace(ROOT, ROOT[::-1]).replace("Sampled=1", "Sampled=0")
    with Traces("dev-worker").segment([None, unsampled, SENT]):
        pass
    [segment] = xray.documents
    assert (segment["trace_id"], segment["parent_id"]) == (ROOT, PARENT)


def test_log_lines_and_events_of_the_block_carry_its_trace_and_later_ones_do_not(
    monkeypatch: pytest.MonkeyPatch, xray: XRay
) -> None:
    headers: list[str | None] = []
    topic = Topic.connect("arn:aws:sns:us-east-1:123456789012:dev-consolidation-complete")

    def publish(request: AWSPreparedRequest) -> AWSResponse:
        trace = request.headers.get("X-Amzn-Trace-Id")
        headers.append(trace.decode() if isinstance(trace, bytes) else trace)
        return Answer(request.url, b"<PublishBatchResponse><PublishBatchResult/></PublishBatchResponse>")

    record = logging.LogRecord("", logging.INFO, "", 0, "consolidated", None, None)
    lines = []
    with Traces("dev-worker").segment([SENT]):
        lines.append(json.loads(logger.registered_formatter.format(record)))
        with monkeypatch.context() as patched:
            patched.setattr(URLLib3Session, "send", lambda _self, request: publish(request))
            topic.publish([ConsolidationComplete(symbol="AAPL", changed_from=DAY, last_session=DAY)])
    lines.append(json.loads(logger.registered_formatter.format(record)))
    [segment] = xray.documents
    assert headers == [f"Root={ROOT};Parent={segment['id']};Sampled=1"]
    assert [line.get("xray_trace_id") for line in lines] == [ROOT, None]


def test_what_the_senders_do_not_record_is_not_recorded_here_either(xray: XRay) -> None:
    with Traces("dev-worker").segment([SENT.replace("Sampled=1", "Sampled=0"), None]) as notes:
        notes["run"] = "job-1"
    assert xray.requests == 0


@pytest.mark.parametrize("header", ["", "Root=1-2-3;Parent=x", "no header at all", f"Root={ROOT}"])
def test_a_header_that_says_nothing_is_no_header(xray: XRay, header: str) -> None:
    with Traces("dev-worker").segment([header]):
        pass
    [segment] = xray.documents
    assert segment["trace_id"] != ROOT
    assert "parent_id" not in segment


def test_without_a_name_nothing_is_sent(xray: XRay) -> None:
    with Traces().segment([SENT], ["a"]) as notes:
        notes["run"] = "job-1"
    assert xray.requests == 0


def test_work_that_breaks_is_a_fault_and_breaks_as_it_would(xray: XRay) -> None:
    with pytest.raises(ZeroDivisionError), Traces("dev-worker").segment():
        _ = 1 / 0
    assert [segment["fault"] for segment in xray.documents] == [True]


def test_an_x_ray_that_is_down_delays_no_work_and_gets_no_more_requests(xray: XRay) -> None:
    xray.away = True
    ours = Traces("dev-worker")
    for _ in range(3):
        with ours.segment():
            pass
    assert xray.requests == 2, "one segment, tried twice"
    assert xray.documents == []


def test_segments_that_are_refused_are_named_in_the_log(xray: XRay, caplog: pytest.LogCaptureFixture) -> None:
    xray.answers = b'{"UnprocessedTraceSegments": [{"Id": "1", "Message": "too old"}]}'
    with Traces("dev-worker").segment():
        pass
    [line] = [vars(record) for record in caplog.records if record.message == "segments refused"]
    assert (line["first"], line["segments"]) == ("too old", 1)


def test_what_waits_goes_in_one_request_and_the_oldest_are_forgotten() -> None:
    class Never(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *_args: Any, **_kwargs: Any) -> Any:  # noqa: ANN401
            self.fn = fn

    sent: list[list[str]] = []
    ours = Traces("dev-worker", lambda documents: sent.append(list(documents)))
    ours._sender = Never(1)  # noqa: SLF001 (a sender that has not come to it yet)
    for number in range(MOST_WAITING + 5):
        with ours.segment() as notes:
            notes["number"] = number
    ours._flush()  # noqa: SLF001
    [batch] = sent
    numbers = [json.loads(document)["annotations"]["number"] for document in batch]
    assert numbers == list(range(5, MOST_WAITING + 5))

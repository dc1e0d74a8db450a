"""The emulator's process: ministack, with additions for things that AWS does and ministack does not.

- It unpacks a function's zip (180 MB) for every process of the function, one after the other: 7 s for eight of them on
  two cores. Here a zip is unpacked once, and the processes get hard links. Only a function that changes its own files
  would notice; on AWS it cannot change them.
- It measures no queue, makes no metrics from the functions' logs, and counts only some invocations. Here each queue
  that has held messages lately is measured, and every line in the embedded metric format and every attempt of every
  invocation counts. An alarm uses the metric of its own dimensions only.
- It accepts no events of AWS itself. Here it does: the Batch stand-in reports its jobs with them.
- A receive or a deletion looks at every message of the queue, several times: with 5,000 messages a batch of ten takes
  10 ms. Here a receive looks at messages until it has enough, and a batch is deleted in one pass.
- Where it checks permissions (AUTH=true), it requires rights that IAM does not have, such as sqs:SendMessageBatch, and
  treats requests on this machine as requests without TLS. Here a batch needs the right of a single message, and every
  request counts as TLS.

It is written for the version of ministack that the Makefile names, and reaches into its modules.
"""

import os
import shutil
import tempfile
import threading
import time
import zipfile
from functools import partial
from itertools import islice
from types import FunctionType
from typing import Any, Final

from ministack import app
from ministack.core import iam_actions
from ministack.services import cloudwatch, eventbridge, lambda_svc, sqs

from local.embedded_metrics import declared_metrics

_LOOK_SECONDS: Final = 2.0
_REPORT_SECONDS: Final = 60.0
"""The interval between reports of an empty queue."""
_EXPIRY_SECONDS: Final = 1.0
"""The interval between looks for messages beyond a queue's retention, which is a minute at least."""
_AFTERWARDS_SECONDS: Final = 600.0
"""How long an empty queue is reported: until no alarm's period has another value."""


def main() -> None:
    """Serve until SIGTERM."""
    _unpack_each_zip_once()
    _count_every_attempt()
    _read_metrics_out_of_logs()
    _evaluate_each_alarm_by_its_own_dimensions()
    eventbridge._put_events = partial(eventbridge._put_events, allow_aws_source=True)
    _ask_for_rights_as_iam_does()
    _look_at_few_messages()
    threading.Thread(target=_measure_queues, name="queue metrics", daemon=True).start()
    app.main()


def _unpack_each_zip_once() -> None:
    unpacked: dict[object, str] = {}
    lock, unpack = threading.Lock(), zipfile.ZipFile.extractall

    def link(archive: zipfile.ZipFile, path: str) -> None:
        content = tuple((member.filename, member.CRC) for member in archive.infolist())
        with lock:
            if content not in unpacked:
                folder = tempfile.mkdtemp(prefix="unpacked-")
                unpack(archive, folder)
                unpacked[content] = folder
        shutil.copytree(unpacked[content], path, copy_function=os.link, dirs_exist_ok=True)

    zipfile.ZipFile.extractall = link  # type: ignore[method-assign,assignment]


def _count_every_attempt() -> None:
    execute = lambda_svc._execute_function

    def counted(function: dict[str, Any], event: Any) -> Any:  # noqa: ANN401 (JSON)
        started = time.monotonic()
        result = execute(function, event)
        record = partial(_record_of_function, _function(function))
        throttled = bool(result.get("throttle"))
        record("Throttles", float(throttled), "Count")
        if not throttled:
            record("Invocations", 1.0, "Count")
            record("Errors", float(bool(result.get("error"))), "Count")
            record("Duration", 1000 * (time.monotonic() - started), "Milliseconds")
        return result

    lambda_svc._execute_function = counted
    lambda_svc._emit_lambda_metrics = lambda *_, **__: None  # it counts some of them a second time


def _record_of_function(function: dict[str, str], name: str, value: float, unit: str) -> None:
    # Lambda has each of these metrics twice: for the function and, without a name, for the whole account.
    for dimensions in (function, {}):
        _record("AWS/Lambda", name, value, unit, dimensions)


def _function(function: dict[str, Any]) -> dict[str, str]:
    return {"FunctionName": (function.get("config") or function)["FunctionName"]}


def _read_metrics_out_of_logs() -> None:
    write = lambda_svc._emit_lambda_logs

    def read(function: dict[str, Any], request_id: str, text: str, *more: object, **named: object) -> None:
        for metric in declared_metrics(text):
            for value in metric.values:
                _record(metric.namespace, metric.name, value, metric.unit, dict(metric.dimensions))
        write(function, request_id, text, *more, **named)

    lambda_svc._emit_lambda_logs = read


def _evaluate_each_alarm_by_its_own_dimensions() -> None:
    # Its own function uses all points of a metric's name: pass it only those with the alarm's dimensions.
    evaluate = cloudwatch._evaluate_alarm

    def own(alarm: dict[str, Any]) -> None:
        dimensions = cloudwatch._dims_from_list(alarm.get("Dimensions") or [])
        key = (alarm.get("Namespace"), alarm.get("MetricName"), cloudwatch._dims_key(dimensions))
        points = {key: cloudwatch._metrics.get(key, [])}
        FunctionType(evaluate.__code__, {**evaluate.__globals__, "_metrics": points})(alarm)

    cloudwatch._evaluate_alarm = own


def _ask_for_rights_as_iam_does() -> None:
    extract, pin = iam_actions.extract_iam_action, app.pin_request_origin

    def of_one(service: str, *request: Any) -> str | None:  # noqa: ANN401 (method, path, headers, body, query)
        action: str | None = extract(service, *request)
        return action.removesuffix("Batch") if action and service in {"sqs", "sns"} else action

    iam_actions.extract_iam_action = of_one
    app.pin_request_origin = lambda source_ip, _secure: pin(source_ip, True)  # noqa: FBT003 (ministack's own)


def _look_at_few_messages() -> None:
    collect, expire = sqs._collect_msgs, sqs._expire_retained
    expired_at: dict[str, float] = {}

    def collect_few(queue: dict[str, Any], most: int, hidden_seconds: int) -> list[dict[str, Any]]:
        now = time.time()
        if not queue["is_fifo"]:
            visible = (message for message in queue["messages"] if message["visible_at"] <= now)
            queue = {**queue, "messages": list(islice(visible, most))}
        collected: list[dict[str, Any]] = collect(queue, most, hidden_seconds)
        return collected

    def expire_now_and_then(queue: dict[str, Any]) -> None:
        now = time.monotonic()
        if now >= expired_at.get(queue["url"], 0.0) + _EXPIRY_SECONDS:
            expired_at[queue["url"]] = now
            expire(queue)

    sqs._collect_msgs, sqs._expire_retained = collect_few, expire_now_and_then
    sqs._HANDLERS["DeleteMessageBatch"] = _delete_batch


def _delete_batch(data: dict[str, Any], queue_url: str) -> dict[str, Any]:
    queue = sqs._get_q(data.get("QueueUrl", queue_url), "sqs:DeleteMessage")
    entries: list[dict[str, str]] = data.get("Entries", [])
    sqs._validate_batch_entries(entries, "DeleteMessageBatchRequestEntry")
    named = {entry.get("ReceiptHandle") for entry in entries} - {None}
    deleted = named & {message["receipt_handle"] for message in queue["messages"]}
    queue["messages"] = [message for message in queue["messages"] if message["receipt_handle"] not in deleted]
    fault = {
        "Code": "ReceiptHandleIsInvalid", "Message": "The input receipt handle is invalid.", "SenderFault": True,
    }  # fmt: skip
    return {
        "Successful": [{"Id": entry["Id"]} for entry in entries if entry.get("ReceiptHandle") in deleted],
        "Failed": [{"Id": entry["Id"], **fault} for entry in entries if entry.get("ReceiptHandle") not in deleted],
    }


def _measure_queues() -> None:
    measured: dict[str, tuple[float, int]] = {}
    """The instant of each queue's last report, and its number of messages."""
    until: dict[str, float] = {}
    while True:
        time.sleep(_LOOK_SECONDS)
        now = time.time()
        queues = {queue["name"]: list(queue["messages"]) for queue in sqs._queues.values()}
        for name, messages in queues.items():
            if messages:
                until[name] = now + _AFTERWARDS_SECONDS
            when, held = measured.get(name, (0.0, 0))
            due = messages or held or now >= when + _REPORT_SECONDS
            if due and now < until.get(name, 0.0):
                measured[name] = (now, len(messages))
                _report(name, messages, now)
        cloudwatch._evaluate_all_alarms()


def _report(name: str, messages: list[dict[str, Any]], now: float) -> None:
    record = partial(_record, "AWS/SQS", dimensions={"QueueName": name})
    oldest = min((message["sent_at"] for message in messages), default=now)
    record("ApproximateNumberOfMessagesVisible", float(sum(m["visible_at"] <= now for m in messages)), "Count")
    record("ApproximateAgeOfOldestMessage", float(int(now - oldest)), "Seconds")


def _record(namespace: str, name: str, value: float, unit: str, dimensions: dict[str, str]) -> None:
    cloudwatch.record_metric(namespace, name, value, unit, dimensions)

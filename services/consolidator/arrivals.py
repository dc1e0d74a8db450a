"""Read S3's notifications as arrivals: source files and reference files of symbols."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

from aws_lambda_powertools.utilities.data_classes import S3EventBridgeNotificationEvent
from aws_lambda_powertools.utilities.data_classes.s3_event import S3EventRecord

from fiblake.errors import ContractError
from fiblake.lake import Bronze, SourceFile, is_dividends, parse_reference
from shared.events import FILES_NAMED, ConsolidationRequest, SourceObject

if TYPE_CHECKING:
    from datetime import date

_CREATED_BY_RULE: Final = "Object Created"
_CREATED_DIRECTLY: Final = "ObjectCreated:"
_TEST: Final = "s3:TestEvent"
_OF_SNS: Final = "Notification"
_MALFORMED: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
LONGEST_ID: Final = 128
"""Characters of a correlation id: one of a megabyte would make the requests of its symbols too large to be sent."""
LONGEST_FAULT: Final = 200


@dataclass(frozen=True, slots=True)
class _Put:
    """One record of a notification."""

    kind: str
    bucket: str
    key: str
    request_id: str
    at: datetime | None
    etag: str


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The content of one notification: the arrived files of the lake, and the faults of all other records."""

    files: list[SourceFile] = field(default_factory=list)
    etags: dict[str, str] = field(default_factory=dict)
    """The ETag of each put file, by key, if the notification has it."""
    references: list[str] = field(default_factory=list)
    """The symbols whose splits or identities arrived."""
    dividends: list[str] = field(default_factory=list)
    """The symbols whose dividends arrived."""
    faults: list[ContractError] = field(default_factory=list)
    correlation_id: str = ""
    put_at: datetime | None = None
    """In S3's time; None if the notification does not have it."""

    @property
    def symbols(self) -> set[str]:
        """The symbols with any arrival."""
        return {file.symbol for file in self.files} | set(self.references) | set(self.dividends)


def read_notification(body: str, bucket: str, bronze: Bronze) -> Arrivals:
    """Read the body of a `bronze-arrivals` message: S3 through EventBridge, or S3 straight into SQS.

    Keys are percent-encoded in the direct shape only. S3's test event and a data.parquet are no arrivals and no fault.
    Raises ContractError if the body is no S3 notification at all; an invalid record is a fault of its own.
    """
    try:
        event = json.loads(body)
        if event.get("Event") == _TEST:
            return Arrivals()
        if event.get("Type") == _OF_SNS and "TopicArn" in event:
            raise ContractError(
                "it is in the envelope of SNS: set RawMessageDelivery on the subscription of this queue, and put the "
                "file again"
            )
        records = list(event["Records"]) if "Records" in event else [event]
    except _MALFORMED as error:
        raise _no_notification(error) from error
    outcomes = [_read_record(record) for record in records]
    puts = [outcome for outcome in outcomes if isinstance(outcome, _Put)]
    faults = [outcome for outcome in outcomes if isinstance(outcome, ContractError)]
    if faults and not puts:
        raise faults[0]
    correlation_id = next((put.request_id for put in puts if put.request_id), "")
    times = [put.at for put in puts if put.at]
    arrivals = Arrivals(faults=faults, correlation_id=correlation_id, put_at=min(times, default=None))
    for put in puts:
        _sort_in(arrivals, put.kind, put.bucket, put.key, bucket=bucket, bronze=bronze)
        arrivals.etags[put.key] = put.etag
    return arrivals


def requests(arrivals: Sequence[Arrivals]) -> list[ConsolidationRequest]:
    """Return a request for each symbol: its files, their earliest session, and the first one's correlation id.

    Splits and identities affect all of the history, so such a request names no session; dividends affect none. A
    request with very many files names none of them: the worker lists the symbol's folder.
    """
    references = {symbol for arrival in arrivals for symbol in arrival.references}
    dividends = {symbol for arrival in arrivals for symbol in arrival.dividends}
    earliest: dict[str, date] = {}
    files: dict[str, dict[str, SourceObject]] = {}
    correlation: dict[str, str] = {}
    put_at: dict[str, datetime] = {}
    for arrival in arrivals:
        for file in arrival.files:
            earliest[file.symbol] = min(file.first, earliest.get(file.symbol, file.first))
            name = file.key.rpartition("/")[2]
            files.setdefault(file.symbol, {})[name] = SourceObject(name=name, etag=arrival.etags.get(file.key, ""))
        for symbol in arrival.symbols:
            correlation.setdefault(symbol, arrival.correlation_id)
            if arrival.put_at:
                put_at[symbol] = min(arrival.put_at, put_at.get(symbol, arrival.put_at))
    return [
        ConsolidationRequest(
            symbol=symbol,
            changed_from=None if symbol in references else earliest.get(symbol),
            files=tuple(named.values()) if len(named := files.get(symbol, {})) <= FILES_NAMED else (),
            reference_changed=symbol in references,
            dividends_changed=symbol in dividends,
            correlation_id=correlation[symbol],
            put_at=put_at.get(symbol),
        )
        for symbol in sorted(correlation)
    ]


def _read_record(record: dict[str, Any]) -> _Put | ContractError:
    """Read one record of the direct shape, or an event of EventBridge's."""
    try:
        put = _put_of_rule(record) if "detail-type" in record else _put_of_direct(record)
        _check_texts(put.kind, put.bucket, put.key)
    except _MALFORMED as error:
        return _no_notification(error)
    return put


def _put_of_direct(record: dict[str, Any]) -> _Put:
    put = S3EventRecord(record)
    answer = record.get("responseElements")
    request_id = _optional_text(answer.get("x-amz-request-id") if isinstance(answer, dict) else None)
    key = unquote_plus(put.s3.get_object.key)
    etag = _optional_text(put.s3.get_object.get("eTag"))
    return _Put(put.event_name, put.s3.bucket.name, key, request_id, _instant(record.get("eventTime")), etag)


def _put_of_rule(event: dict[str, Any]) -> _Put:
    notice = S3EventBridgeNotificationEvent(event)
    # Not `.object.key`: Powertools decodes it, but through EventBridge S3 sends keys without encoding.
    stored = notice.detail.object
    bucket, etag = notice.detail.bucket.name, _optional_text(stored.get("etag"))
    request_id = _optional_text(event.get("id"))
    return _Put(notice.detail_type, bucket, stored["key"], request_id, _instant(event.get("time")), etag)


def _no_notification(error: Exception) -> ContractError:
    return ContractError(
        f"neither S3's notification nor EventBridge's of S3: {type(error).__name__} {str(error)[:LONGEST_FAULT]}"
    )


def _instant(text: object) -> datetime | None:
    """Read S3's instant; None rather than an error, because only a metric needs it."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return at if at and at.tzinfo else None


def _optional_text(value: object) -> str:
    """Return a text that no work depends on (an ETag, an id for the logs); empty if it is invalid."""
    return value[:LONGEST_ID] if isinstance(value, str) else ""


def _check_texts(*values: object) -> None:
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is no text")


def _sort_in(arrivals: Arrivals, kind: str, bucket_named: str, key: str, *, bucket: str, bronze: Bronze) -> None:
    if kind != _CREATED_BY_RULE and not kind.startswith(_CREATED_DIRECTLY):
        arrivals.faults.append(ContractError(f"{kind!r} of {key!r} is not an arrival"))
    elif bucket_named != bucket:
        arrivals.faults.append(ContractError(f"bucket {bucket_named!r} is not ours ({bucket!r})"))
    elif not bronze.is_consolidated(key):
        try:
            symbol = parse_reference(key)
            if symbol is None:
                arrivals.files.append(bronze.parse_source(key))
            else:
                (arrivals.dividends if is_dividends(key) else arrivals.references).append(symbol)
        except ContractError as error:
            arrivals.faults.append(error)

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiblake.errors import ContractError
from fiblake.lake import SourceFile, identities_key, splits_key
from services.consolidator.arrivals import Arrivals, read_notification, requests
from shared.events import FILES_NAMED
from tests.fakes import LAKE, sample

BUCKET = "dev-condvest-datalake"
AAPL = LAKE.date_key("AAPL", date(2025, 11, 19))


def body_of(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(sample(name)["Records"][0]["body"])
    return body


def read(body: object) -> Arrivals:
    return read_notification(body if isinstance(body, str) else json.dumps(body), BUCKET, LAKE)


def by_rule(key: str, kind: str = "Object Created", bucket: str = BUCKET) -> dict[str, Any]:
    body = body_of("s3-put-via-eventbridge")
    body["detail-type"] = kind
    body["detail"]["bucket"]["name"] = bucket
    body["detail"]["object"]["key"] = key
    return body


def direct(*keys: str, kind: str = "ObjectCreated:Put", bucket: str = BUCKET) -> dict[str, Any]:
    (record,) = body_of("s3-put-direct-to-sqs")["Records"]
    return {
        "Records": [
            {**record, "eventName": kind, "s3": {**record["s3"], "bucket": {"name": bucket}, "object": {"key": key}}}
            for key in keys
        ]
    }


def test_a_put_through_eventbridge_is_an_arrival_under_the_events_id() -> None:
    arrivals = read(body_of("s3-put-via-eventbridge"))
    assert arrivals.files == [SourceFile(AAPL, "AAPL", date(2025, 11, 19), date(2025, 11, 19))]
    assert (arrivals.faults, arrivals.correlation_id) == ([], "2d4eba74-fd51-3966-4bfa-b013c9da8ff1")


def test_a_put_straight_into_sqs_is_an_arrival_and_its_key_is_decoded() -> None:
    arrivals = read(body_of("s3-put-direct-to-sqs"))
    first, last = date(2025, 11, 3), date(2025, 11, 19)
    assert arrivals.files == [SourceFile(LAKE.range_key("BRK.B", first, last), "BRK.B", first, last)]
    assert (arrivals.faults, arrivals.correlation_id) == ([], "C3D13FE58DE4C810")


def test_a_key_through_eventbridge_is_taken_as_it_is() -> None:
    (fault,) = read(by_rule(AAPL.replace("=", "%3D"))).faults
    assert "symbol%3DAAPL" in str(fault)


def test_s3s_test_event_is_no_arrival_and_no_fault() -> None:
    assert read(body_of("s3-test-event")) == Arrivals()


@pytest.mark.parametrize("shape", [by_rule, direct])
def test_a_data_parquet_is_no_arrival_and_no_fault(shape: Callable[[str], dict[str, Any]]) -> None:
    arrivals = read(shape(LAKE.data_key("AAPL")))
    assert (arrivals.files, arrivals.faults) == ([], [])


def test_the_sample_of_splits_is_an_arrival_under_the_events_id() -> None:
    arrivals = read(body_of("s3-put-splits"))
    assert (arrivals.references, arrivals.files, arrivals.faults) == (["AAPL"], [], [])
    assert arrivals.correlation_id == "7c0b8f1e-5f0d-4c1b-9a53-2b6a7f6f3c11"


@pytest.mark.parametrize("shape", [by_rule, direct])
@pytest.mark.parametrize("key", [splits_key("BRK.B"), identities_key("BRK.B")])
def test_splits_and_identities_are_arrivals_of_their_symbol(shape: Callable[[str], dict[str, Any]], key: str) -> None:
    arrivals = read(shape(key))
    assert (arrivals.references, arrivals.symbols) == (["BRK.B"], {"BRK.B"})
    assert (arrivals.files, arrivals.faults) == ([], [])


@pytest.mark.parametrize("shape", [by_rule, direct])
@pytest.mark.parametrize(
    "key",
    [
        "bronze/splits/symbol=../../x.parquet",
        "bronze/splits/symbol=.parquet",
        "bronze/identities/symbol=ABCDEFGHIJKLMNOPQ.parquet",
        "bronze/identities/AAPL.parquet",
        "bronze/raw_ohlcv/symbol=../../date=2025-11-19.parquet",
        "bronze/raw_ohlcv/symbol=/date=2025-11-19.parquet",
        "bronze/raw_ohlcv/symbol=ABCDEFGHIJKLMNOPQ/date=2025-11-19.parquet",
        "bronze/raw_ohlcv/symbol=../data.parquet",
        "bronze/raw_ohlcv/symbol=AAPL/date=2025-02-30.parquet",
        "bronze/raw_ohlcv/symbol=AAPL/range=2025-11-19_2025-11-03.parquet",
        "bronze/raw_ohlcv/symbol=AAPL/deeper/date=2025-11-19.parquet",
        "silver/silver_3d/year=2025/month=11/data_3d_202511.parquet",
    ],
)
def test_a_key_that_is_not_ours_is_a_fault_that_names_it(shape: Callable[[str], dict[str, Any]], key: str) -> None:
    arrivals = read(shape(key))
    assert arrivals.symbols == set()
    (fault,) = arrivals.faults
    assert key in str(fault) or "is not a symbol" in str(fault)


def test_the_sample_of_a_foreign_key_is_a_fault() -> None:
    (fault,) = read(body_of("not-our-key")).faults
    assert "symbol=../../date=2025-11-19.parquet" in str(fault)


def test_files_of_ours_travel_on_beside_keys_that_are_not() -> None:
    arrivals = read(direct("somebody/elses.csv", AAPL))
    assert [file.symbol for file in arrivals.files] == ["AAPL"]
    assert len(arrivals.faults) == 1


@pytest.mark.parametrize("shape", [by_rule, direct])
def test_another_bucket_is_a_fault(shape: Callable[..., dict[str, Any]]) -> None:
    arrivals = read(shape(AAPL, bucket="elsewhere"))
    assert arrivals.files == []
    assert str(arrivals.faults[0]) == f"bucket 'elsewhere' is not ours ('{BUCKET}')"


@pytest.mark.parametrize("body", [by_rule(AAPL, "Object Deleted"), direct(AAPL, kind="ObjectRemoved:Delete")])
def test_a_removal_is_a_fault(body: dict[str, Any]) -> None:
    arrivals = read(body)
    assert arrivals.files == []
    assert "is not an arrival" in str(arrivals.faults[0])


def test_a_notification_with_something_else_in_a_names_place_is_a_contract_error() -> None:
    body = by_rule(AAPL)
    for broken in (body | {"detail-type": None}, by_rule(AAPL, bucket=None)):  # type: ignore[arg-type]
        with pytest.raises(ContractError, match="is no text"):
            read(broken)


@pytest.mark.parametrize("value", [None, 5, [], "", {"x-amz-request-id": 5}])
def test_a_field_that_no_work_depends_on_costs_no_arrival(value: object) -> None:
    for body in (by_rule(AAPL) | {"id": value}, by_rule(AAPL) | {"time": value}):
        assert [file.symbol for file in read(body).files] == ["AAPL"]
    body = direct(AAPL)
    body["Records"][0]["responseElements"] = value
    arrivals = read(body)
    assert ([file.symbol for file in arrivals.files], arrivals.correlation_id) == (["AAPL"], "")


def test_a_notification_in_the_envelope_of_sns_says_what_to_set() -> None:
    envelope = {"Type": "Notification", "TopicArn": "arn:aws:sns:us-east-1:1:t", "Message": json.dumps(direct(AAPL))}
    with pytest.raises(ContractError, match="set RawMessageDelivery"):
        read(envelope)


def test_every_way_to_create_an_object_is_an_arrival() -> None:
    for way in ("Put", "Post", "Copy", "CompleteMultipartUpload"):
        assert read(direct(AAPL, kind=f"ObjectCreated:{way}")).files


@pytest.mark.parametrize(
    "body", ["", "no JSON", "null", "[]", "5", "{}", '{"detail-type": null}', '{"Records": 5}', '{"Records": [{}]}']
)
def test_what_is_no_notification_is_a_contract_error(body: str) -> None:
    with pytest.raises(ContractError, match="neither S3's notification nor EventBridge's of S3"):
        read(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)


@given(st.data())
def test_any_text_as_a_notification_gives_arrivals_or_a_contract_error(data: st.DataObject) -> None:
    body = data.draw(st.sampled_from([by_rule(AAPL), direct(AAPL)]))
    body = json.loads(json.dumps(body))
    node: Any = body
    while True:
        name = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else list(range(len(node)))))
        if not isinstance(node[name], dict | list) or not node[name] or data.draw(st.booleans()):
            break
        node = node[name]
    node[name] = data.draw(json_values)
    try:
        assert len(requests([read(body)])) <= 1
    except ContractError as error:
        assert "neither S3's notification nor EventBridge's of S3" in str(error)  # noqa: PT017 (either outcome is right)


def file(symbol: str, session: str) -> SourceFile:
    day = date.fromisoformat(session)
    return SourceFile(LAKE.date_key(symbol, day), symbol, day, day)


def test_there_is_one_request_a_symbol_from_its_earliest_session_under_its_first_id() -> None:
    arrivals = [
        Arrivals([file("MSFT", "2025-11-19")], correlation_id="one"),
        Arrivals([file("AAPL", "2025-11-19"), file("AAPL", "2025-11-17")], correlation_id="two"),
        Arrivals([file("MSFT", "2025-11-18"), file("AAPL", "2025-11-18")], correlation_id="three"),
    ]
    requested = [(r.symbol, str(r.changed_from), r.correlation_id) for r in requests(arrivals)]
    assert requested == [("AAPL", "2025-11-17", "two"), ("MSFT", "2025-11-18", "one")]


def test_with_splits_or_identities_among_its_arrivals_a_symbols_request_is_of_all_of_the_history() -> None:
    arrivals = [
        Arrivals([file("AAPL", "2025-11-19"), file("MSFT", "2025-11-19")], correlation_id="one"),
        Arrivals(references=["IBM", "AAPL"], correlation_id="two"),
        Arrivals([file("IBM", "2025-11-18")], references=["IBM"], correlation_id="three"),
    ]
    requested = [(r.symbol, str(r.changed_from), r.reference_changed, r.correlation_id) for r in requests(arrivals)]
    assert requested == [
        ("AAPL", "None", True, "one"), ("IBM", "None", True, "two"), ("MSFT", "2025-11-19", False, "one"),
    ]  # fmt: skip


def test_dividends_among_its_arrivals_leave_a_symbols_session_as_it_is_and_alone_they_name_none() -> None:
    arrivals = [
        Arrivals([file("AAPL", "2025-11-19")], dividends=["AAPL"]),
        Arrivals(dividends=["IBM", "MSFT"], correlation_id="two"),
        Arrivals(references=["MSFT"]),
    ]
    made = {r.symbol: (str(r.changed_from), r.dividends_changed, r.reference_changed) for r in requests(arrivals)}
    assert made == {
        "AAPL": ("2025-11-19", True, False), "IBM": ("None", True, False), "MSFT": ("None", True, True),
    }  # fmt: skip
    assert [r.is_of_dividends_only for r in requests(arrivals)] == [False, True, False]


def test_a_file_of_dividends_is_an_arrival_of_its_own_kind() -> None:
    arrivals = read(by_rule("bronze/dividends/symbol=AAPL.parquet"))
    assert (arrivals.dividends, arrivals.references, arrivals.files, arrivals.faults) == (["AAPL"], [], [], [])
    assert arrivals.symbols == {"AAPL"}


PUT_AT = datetime(2025, 11, 19, 21, 5, 4, tzinfo=UTC)


def test_an_arrival_says_when_it_was_put() -> None:
    assert read(body_of("s3-put-via-eventbridge")).put_at == PUT_AT
    assert read(body_of("s3-put-direct-to-sqs")).put_at == PUT_AT + timedelta(seconds=0.5)


@pytest.mark.parametrize("time", [None, "", "yesterday", "2025-11-19T21:05:04", 1763586304])
def test_a_time_that_cannot_be_read_is_no_fault_because_only_a_metric_needs_it(time: object) -> None:
    arrivals = read(by_rule(AAPL) | {"time": time})
    assert ([file.symbol for file in arrivals.files], arrivals.faults, arrivals.put_at) == (["AAPL"], [], None)


def test_a_request_carries_the_oldest_put_of_its_symbol() -> None:
    puts = [PUT_AT + timedelta(minutes=2), PUT_AT, PUT_AT + timedelta(minutes=1)]
    arrivals = [read(by_rule(AAPL) | {"time": at.isoformat()}) for at in puts]
    [request] = requests([*arrivals, read(by_rule(AAPL) | {"time": None})])
    assert request.put_at == PUT_AT


def test_a_request_names_its_files_with_their_etags() -> None:
    arrivals = [read(body_of("s3-put-via-eventbridge")), read(body_of("s3-put-via-eventbridge"))]
    [request] = requests(arrivals)
    assert [(file.name, file.etag) for file in request.files] == [
        ("date=2025-11-19.parquet", "b1946ac92492d2347c6235b4d2611184"),
    ]  # fmt: skip
    [request] = requests([read(body_of("s3-put-direct-to-sqs"))])
    [file] = request.files
    assert file.name == "range=2025-11-03_2025-11-19.parquet"
    assert file.etag


@pytest.mark.parametrize("shape", [by_rule, direct])
@pytest.mark.parametrize("etag", [None, 5, ["e"]])
def test_an_etag_that_is_none_is_no_fault_because_the_file_is_read_as_it_is(
    shape: Callable[[str], dict[str, Any]], etag: object
) -> None:
    body = shape(AAPL)
    stored = body["detail"]["object"] if "detail" in body else body["Records"][0]["s3"]["object"]
    stored |= {"etag": etag, "eTag": etag}
    arrivals = read(body)
    assert arrivals.faults == []
    [request] = requests([arrivals])
    assert [(file.name, file.etag) for file in request.files] == [("date=2025-11-19.parquet", "")]


def test_files_beside_splits_are_named_too_and_splits_alone_name_none() -> None:
    together = requests([Arrivals([file("AAPL", "2025-11-19")], references=["AAPL", "IBM"])])
    assert [(r.symbol, len(r.files), r.changed_from) for r in together] == [("AAPL", 1, None), ("IBM", 0, None)]


@pytest.mark.parametrize(("count", "named"), [(FILES_NAMED, FILES_NAMED), (FILES_NAMED + 1, 0)])
def test_very_many_files_are_not_named_but_listed(count: int, named: int) -> None:
    days = [str(date(2024, 1, 1) + timedelta(days=n)) for n in range(count)]
    [request] = requests([Arrivals([file("AAPL", session) for session in days])])
    assert (len(request.files), str(request.changed_from)) == (named, days[0])
    assert len(request.model_dump_json()) < 20_000, "ten of them fit into a batch"

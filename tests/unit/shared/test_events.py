"""Our messages and their schemas.

To write the schema files again: `UPDATE_SCHEMAS=1 .venv/bin/python -m pytest tests/unit/shared/test_events.py`.
"""

import json
import os
from datetime import date

import pytest

from fiblake.errors import ContractError
from shared.events import (
    SCHEMA_VERSION,
    ConsolidationComplete,
    ConsolidationRequest,
    HistoryRequest,
    Message,
    SilverUpdated,
    SourceObject,
    Tail,
    parse,
)
from tests.fakes import NOON, REPOSITORY, sample

SCHEMAS = REPOSITORY / "events" / "schemas"
DAY = date(2025, 11, 19)
REQUEST = sample("consolidation-request")
TAIL = Tail(tail_from=DAY, timestamp=(DAY,), open=(0.1,), high=(0.3,), low=(0.1,), close=(1 / 3,), volume=(25933.6,))


def test_the_sample_request_is_read() -> None:
    request = parse(ConsolidationRequest, json.dumps(REQUEST))
    assert (request.symbol, request.changed_from) == ("AAPL", DAY)


def test_the_sample_completion_is_read() -> None:
    event = parse(ConsolidationComplete, sample("consolidation-complete-3d")["Records"][0]["body"])
    assert (event.symbol, event.changed_from, event.last_session, event.intervals) == (
        "AAPL",
        DAY,
        DAY,
        (3, 5, 8, 13, 21, 34),
    )


@pytest.mark.parametrize(
    "message",
    [
        ConsolidationRequest(symbol="AAPL"),
        ConsolidationRequest(symbol="brk.B", changed_from=DAY, correlation_id="c"),
        ConsolidationRequest(symbol="AAPL", version_floor=NOON),
        ConsolidationRequest(symbol="AAPL", files=(SourceObject(name=f"date={DAY}.parquet", etag='"e"'),)),
        ConsolidationComplete(symbol="AAPL", changed_from=DAY, last_session=DAY),
        ConsolidationComplete(symbol="AAPL", changed_from=DAY, last_session=DAY, version=NOON, tail=TAIL),
        HistoryRequest(symbol="META", first=DAY),
        SilverUpdated(interval=3, changed_from=DAY, symbols=("AAPL", "MSFT")),
    ],
)
def test_a_message_survives_its_way(message: Message) -> None:
    assert parse(type(message), message.model_dump_json()) == message


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"open": [0.1, 0.2]}, "different lengths"),
        ({"timestamp": ["2025-11-18"]}, "not ascending"),
        ({"close": ["NaN"]}, "finite"),
    ],
)
def test_a_tail_that_cannot_be_is_refused(change: dict[str, object], fault: str) -> None:
    event = ConsolidationComplete(symbol="AAPL", changed_from=DAY, last_session=DAY, version=NOON, tail=TAIL)
    body = json.loads(event.model_dump_json())
    body["tail"] |= change
    with pytest.raises(ContractError, match=fault):
        parse(ConsolidationComplete, json.dumps(body))


def test_unknown_fields_are_ignored() -> None:
    body = json.dumps(REQUEST | {"invented_later": [1, 2]})
    assert parse(ConsolidationRequest, body) == parse(ConsolidationRequest, json.dumps(REQUEST))


def test_a_message_without_a_version_is_of_our_major() -> None:
    assert parse(ConsolidationRequest, '{"symbol": "AAPL"}').schema_version == SCHEMA_VERSION


def test_a_newer_minor_version_is_accepted() -> None:
    assert parse(ConsolidationRequest, json.dumps(REQUEST | {"schema_version": "1.17"})).symbol == "AAPL"


def test_an_unknown_major_version_is_refused_with_both_versions_in_the_reason() -> None:
    body = json.dumps(sample("consolidation-request-unknown-version"))
    with pytest.raises(ContractError, match=r"schema version 2\.0 is not understood here \(this is 1\.2\)"):
        parse(ConsolidationRequest, body)


def test_another_major_version_is_reported_first_whatever_its_fields_are() -> None:
    with pytest.raises(
        ContractError, match=r": schema_version: Value error, schema version 2\.0 is not understood here [^;]*$"
    ):
        parse(ConsolidationRequest, '{"schema_version": "2.0", "tickers": ["AAPL"]}')


@pytest.mark.parametrize("version", ["", "1", "one", "1.0.0", "1.x", 1.0, None])
def test_what_is_no_version_is_refused(version: object) -> None:
    with pytest.raises(ContractError, match=r"schema[_ ]version"):
        parse(ConsolidationRequest, json.dumps(REQUEST | {"schema_version": version}))


@pytest.mark.parametrize("symbol", ["", "..", "../x", "A/B", "A" * 17, None, 5])
def test_a_bad_symbol_is_refused(symbol: object) -> None:
    with pytest.raises(ContractError, match="symbol"):
        parse(ConsolidationRequest, json.dumps({"symbol": symbol}))
    with pytest.raises(ContractError, match="symbols"):
        parse(SilverUpdated, json.dumps({"interval": 3, "changed_from": "2025-11-19", "symbols": [symbol]}))


@pytest.mark.parametrize("body", ["", "no JSON", "[]", "null", "{}", '{"symbol": "AAPL", "changed_from": "yesterday"}'])
def test_what_is_no_message_is_refused_with_the_models_name(body: str) -> None:
    with pytest.raises(ContractError, match="not a ConsolidationRequest: "):
        parse(ConsolidationRequest, body)


def test_a_floor_that_no_version_can_follow_is_refused() -> None:
    with pytest.raises(ContractError, match="version_floor"):
        parse(ConsolidationRequest, '{"symbol": "AAPL", "version_floor": "9999-12-31T23:59:59.999999Z"}')


def test_messages_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ConsolidationRequest(symbol="AAPL").symbol = "MSFT"  # type: ignore[misc]


@pytest.mark.parametrize("model", [ConsolidationRequest, ConsolidationComplete, HistoryRequest, SilverUpdated])
def test_the_schema_file_is_the_models(model: type[Message]) -> None:
    file = SCHEMAS / f"{model.__name__}.json"
    text = json.dumps(model.model_json_schema(), indent=2) + "\n"
    if os.environ.get("UPDATE_SCHEMAS"):
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text, "see the head of this file for how to write it anew"


def test_there_is_a_schema_for_each_message_and_for_nothing_else() -> None:
    assert {file.stem for file in SCHEMAS.iterdir()} == {model.__name__ for model in Message.__subclasses__()}

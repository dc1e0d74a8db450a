import boto3
import pytest
from botocore.stub import Stubber

from fiblake.errors import UpstreamError
from shared.functions import call_later


def test_an_event_is_handed_over_without_waiting_for_the_answer() -> None:
    client = boto3.client("lambda")
    with Stubber(client) as stub:
        expected = {"FunctionName": "f", "InvocationType": "Event", "Payload": "{}"}
        stub.add_response("invoke", {"StatusCode": 202}, expected)
        call_later(client, "f", "{}")
        stub.assert_no_pending_responses()


def test_a_function_that_takes_no_event_is_a_fault_that_names_it() -> None:
    client = boto3.client("lambda")
    with Stubber(client) as stub:
        stub.add_client_error("invoke", "TooManyRequestsException")
        with pytest.raises(UpstreamError, match="Lambda does not take an event for f"):
            call_later(client, "f", "{}")

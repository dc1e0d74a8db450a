from collections.abc import Iterator

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError
from botocore.stub import Stubber

from fiblake.errors import ConfigurationError, EntitlementError, NotFoundError, UpstreamError
from fiblake.stacks import connect, outputs_of


@pytest.fixture
def stub() -> Iterator[Stubber]:
    with Stubber(boto3.client("cloudformation")) as stubber:
        yield stubber


def test_a_stacks_outputs_are_given_by_their_names(stub: Stubber) -> None:
    outputs = [{"OutputKey": "BucketName", "OutputValue": "lake"}, {"OutputKey": "X", "OutputValue": "y"}]
    stack = {"StackName": "s", "CreationTime": 0, "StackStatus": "CREATE_COMPLETE", "Outputs": outputs}
    stub.add_response("describe_stacks", {"Stacks": [stack]}, {"StackName": "s"})
    assert outputs_of(stub.client, "s") == {"BucketName": "lake", "X": "y"}


@pytest.mark.parametrize(
    ("code", "message", "kind", "sentence"),
    [
        ("ValidationError", "Stack with id s does not exist", NotFoundError, "there is no stack s .* --stack"),
        ("AccessDenied", "User is not authorized", EntitlementError, "may not read stack s: AccessDenied"),
        ("ExpiredToken", "", EntitlementError, "may not read stack s: ExpiredToken"),
        ("Throttling", "Rate exceeded", UpstreamError, "CloudFormation fails on stack s: Throttling"),
    ],
)
def test_what_cloudformation_refuses_is_a_sentence(
    stub: Stubber, code: str, message: str, kind: type[Exception], sentence: str
) -> None:
    stub.add_client_error("describe_stacks", code, message)
    with pytest.raises(kind, match=sentence):
        outputs_of(stub.client, "s")


class _Client:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def describe_stacks(self, **_: str) -> None:
        raise self._error


def test_missing_credentials_and_a_dead_endpoint_are_distinguished() -> None:
    with pytest.raises(EntitlementError, match="no AWS credentials are found"):
        outputs_of(_Client(NoCredentialsError()), "s")  # type: ignore[arg-type]
    with pytest.raises(UpstreamError, match="cannot describe stack s"):
        outputs_of(_Client(EndpointConnectionError(endpoint_url="http://x")), "s")  # type: ignore[arg-type]


def test_an_unknown_profile_is_a_setting_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(ConfigurationError, match=r"nobody.*--profile"):
        connect()

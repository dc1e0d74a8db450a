from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber

from fiblake.errors import EntitlementError, FiblakeError, UpstreamError
from shared.secrets import read_secret

ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:key"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stubber:
    client = boto3.client("secretsmanager")
    monkeypatch.setattr(boto3, "client", lambda _service: client)
    stub = Stubber(client)
    stub.activate()
    return stub


def test_a_secrets_string_is_given(stub: Stubber) -> None:
    stub.add_response("get_secret_value", {"SecretString": "sesame"}, {"SecretId": ARN})
    assert read_secret(ARN) == "sesame"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ResourceNotFoundException", EntitlementError),
        ("AccessDeniedException", EntitlementError),
        ("DecryptionFailure", EntitlementError),
        ("InternalServiceError", UpstreamError),
        ("ThrottlingException", UpstreamError),
    ],
)
def test_what_is_refused_is_for_good_and_what_fails_is_not(stub: Stubber, code: str, kind: type[FiblakeError]) -> None:
    stub.add_client_error("get_secret_value", code)
    with pytest.raises(kind, match=code):
        read_secret(ARN)


def test_an_unreachable_service_is_an_upstream_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away:
        def get_secret_value(self, **_: Any) -> None:  # noqa: ANN401
            raise EndpointConnectionError(endpoint_url="x")

    monkeypatch.setattr(boto3, "client", lambda _service: Away())
    with pytest.raises(UpstreamError, match="EndpointConnectionError"):
        read_secret(ARN)

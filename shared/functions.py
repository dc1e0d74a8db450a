"""Invoke functions of AWS Lambda, and read their settings: the one place that talks to it."""

from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from fiblake.errors import EntitlementError, UpstreamError
from fiblake.stacks import REFUSED

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient


def connect() -> "LambdaClient":
    """Open Lambda with the credentials, region and endpoint of the environment."""
    return boto3.client("lambda")


def call_later(client: "LambdaClient", name: str, payload: str) -> None:
    """Invoke the function `name` (or its ARN) with an event, asynchronously.

    Raises UpstreamError if Lambda refuses it.
    """
    try:
        client.invoke(FunctionName=name, InvocationType="Event", Payload=payload)
    except (ClientError, BotoCoreError) as error:
        raise UpstreamError(f"Lambda does not take an event for {name}: {error}") from error


def variables_of(function: str) -> dict[str, str]:
    """Return the environment variables of a deployed function, by its name; raises as `fiblake.stacks.outputs_of`."""
    try:
        configuration = boto3.client("lambda").get_function_configuration(FunctionName=function)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in REFUSED:
            raise EntitlementError(f"the credentials may not read function {function}: {code}") from error
        raise UpstreamError(f"Lambda does not say how function {function} is set: {code}") from error
    except BotoCoreError as error:
        raise UpstreamError(f"Lambda cannot describe function {function}: {error}") from error
    return configuration.get("Environment", {}).get("Variables", {})

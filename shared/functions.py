"""Invoke functions of AWS Lambda: the one place that talks to it."""

from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from fiblake.errors import UpstreamError

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient


def connect() -> "LambdaClient":
    """Open Lambda with the credentials, region and endpoint of the environment."""
    return boto3.client("lambda")


def call_later(client: "LambdaClient", name: str, payload: str) -> None:
    """Invoke the function `name` (or its ARN) with an event, asynchronously.

    Raises UpstreamError if Lambda does not take it.
    """
    try:
        client.invoke(FunctionName=name, InvocationType="Event", Payload=payload)
    except (ClientError, BotoCoreError) as error:
        raise UpstreamError(f"Lambda does not take an event for {name}: {error}") from error

"""Read secrets from AWS Secrets Manager: the one place that talks to it."""

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from fiblake.errors import EntitlementError, UpstreamError

_REFUSED = {"AccessDeniedException", "ResourceNotFoundException", "DecryptionFailure"}


def read_secret(arn: str) -> str:
    """Return a secret's string; raise EntitlementError if it is refused or missing, UpstreamError if AWS fails."""
    try:
        return boto3.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _REFUSED:
            raise EntitlementError(f"secret {arn}: {code}; check its name and the role's policy") from error
        raise UpstreamError(f"Secrets Manager failed on {arn}: {code}") from error
    except BotoCoreError as error:
        raise UpstreamError(f"Secrets Manager cannot be reached for {arn}: {type(error).__name__}") from error

"""The outputs of a deployed stack, from CloudFormation.

This module is imported only if a stack is named, because it needs boto3, which is optional for a reader.
"""

from typing import TYPE_CHECKING

import boto3
import botocore.session
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, ProfileNotFound

from fiblake.errors import ConfigurationError, EntitlementError, NotFoundError, UpstreamError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

REFUSED = {"AccessDenied", "AccessDeniedException", "ExpiredToken", "InvalidClientTokenId", "SignatureDoesNotMatch"}


def connect(
    profile: str | None = None, region: str | None = None, endpoint_url: str | None = None
) -> "CloudFormationClient":
    """Open CloudFormation; options that are None come from the environment. Raises ConfigurationError."""
    try:
        session = boto3.Session(profile_name=profile, region_name=region)
        return session.client("cloudformation", endpoint_url=endpoint_url)
    except (ProfileNotFound, NoRegionError) as error:
        raise ConfigurationError(
            f"{str(error).rstrip('.')}: name another with --profile and --region (in Python: profile=, region=)"
        ) from error
    except (BotoCoreError, ValueError) as error:
        raise _unusable(error) from error


def check_profile(name: str) -> None:
    """Raise ConfigurationError, with the existing profiles, if AWS's configuration files have no such profile."""
    try:
        profiles = botocore.session.Session().available_profiles
    except BotoCoreError as error:
        raise _unusable(error) from error
    if name not in profiles:
        hint = f"there are {', '.join(profiles)}" if profiles else "there are none"
        raise ConfigurationError(f"--profile {name!r} is not in AWS's configuration files: {hint}")


def outputs_of(client: "CloudFormationClient", stack: str) -> dict[str, str]:
    """Return the outputs of the stack called `stack`.

    Raises NotFoundError if there is no such stack, EntitlementError if the credentials are missing or refused,
    UpstreamError if CloudFormation fails.
    """
    try:
        stacks = client.describe_stacks(StackName=stack)["Stacks"]
    except NoCredentialsError as error:
        raise EntitlementError(
            "no AWS credentials are found: set AWS_* variables or name a --profile (in Python: profile=)"
        ) from error
    except ClientError as error:
        raise _translated(error, stack) from error
    except BotoCoreError as error:
        raise UpstreamError(f"CloudFormation cannot describe stack {stack}: {error}") from error
    return {output["OutputKey"]: output["OutputValue"] for output in stacks[0].get("Outputs", [])}


def _unusable(error: Exception) -> ConfigurationError:
    reason = str(error).rstrip(".")
    return ConfigurationError(
        f"AWS's settings cannot be used ({reason}): look at the AWS_* variables and AWS's configuration files"
    )


def _translated(error: ClientError, stack: str) -> NotFoundError | EntitlementError | UpstreamError:
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    if "does not exist" in message:
        return NotFoundError(
            f"there is no stack {stack} in this account and region: name one with --stack (in Python: stack=)"
        )
    if code in REFUSED:
        return EntitlementError(f"the credentials may not read stack {stack}: {code} {message}".strip())
    return UpstreamError(f"CloudFormation fails on stack {stack}: {code} {message}".strip())

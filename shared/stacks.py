"""How a deployed stack's functions are set."""

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from fiblake.errors import EntitlementError, UpstreamError
from fiblake.stacks import REFUSED


def variables_of(function: str) -> dict[str, str]:
    """Return the environment variables of a deployed function, by its name; raises as `outputs_of`."""
    try:
        found = boto3.client("lambda").get_function_configuration(FunctionName=function)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in REFUSED:
            raise EntitlementError(f"the credentials may not look at function {function}: {code}") from error
        raise UpstreamError(f"Lambda does not say how function {function} is set: {code}") from error
    except BotoCoreError as error:
        raise UpstreamError(f"Lambda cannot be asked for function {function}: {error}") from error
    return found.get("Environment", {}).get("Variables", {})

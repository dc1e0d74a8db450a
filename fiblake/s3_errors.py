"""Retry temporary refusals of S3, and explain the others.

obstore itself retries 5xx, 429 and broken connections, and raises every other answer, with S3's own code in the error's
text. A 4xx without a fault of the request (S3 timed out, a token expired, KMS limited the rate) is retried here after
a pause, as in AWS's own SDKs. Every other refusal keeps S3's code and message in the reason.
"""

import html
import random
import re
import time
from collections.abc import Callable
from typing import Final, TypeVar

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from fiblake.errors import ConfigurationError, FiblakeError, UpstreamError

ResultT = TypeVar("ResultT")

PAUSES: Final = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further attempt, plus a random part, so that many callers do not retry together."""
LONGEST_MESSAGE: Final = 300
_SEND_AGAIN: Final = frozenset(
    {"RequestTimeout", "ExpiredToken", "TokenRefreshRequired", "RequestLimitExceeded", "IncompleteBody", "BadDigest"}
)
_CODE: Final = re.compile(r"<Code>([\w.]{1,80})</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]*)</Message>")
_BARE_400: Final = re.compile(r"400 Bad Request: *(\n|$)")
"""The answer to HEAD has no body, and therefore no code."""


def send(request: Callable[[], ResultT], on_retry: Callable[[str], object]) -> ResultT:
    """Return what `request` returns; send it again, after a pause, if S3's refusal says nothing about the request.

    That is also right for conditional writes: after such a refusal nothing was written. `on_retry` is called with the
    reason before each further attempt.
    """
    for pause in PAUSES:
        try:
            return request()
        except BaseError as error:
            if not _may_pass(error):
                raise
            on_retry(code_of(error) or "400 without a code")
        time.sleep(pause + random.uniform(0, pause))  # noqa: S311 (no secret)
    return request()


def code_of(error: BaseError) -> str:
    """Return the code that S3 answered with, or an empty text if its answer had none."""
    match = _CODE.search(str(error))
    return match[1] if match else ""


def translate(error: BaseError, bucket: str, key: str) -> FiblakeError:
    """Return the error that an object's reader or writer raises; its reason says what to do."""
    code, location = code_of(error), f"s3://{bucket}/{key}"
    match = _MESSAGE.search(str(error))
    message = html.unescape(match[1]).strip()[:LONGEST_MESSAGE] if match else ""
    answer = f"{code} ({message})" if code and message else code
    if code == "NoSuchBucket":
        return ConfigurationError(f"there is no bucket {bucket!r}: set S3_BUCKET right (in Python: bucket=)")
    if code == "InvalidObjectState":
        return ConfigurationError(
            f"S3 does not give out {location}: {answer}: the object is in cold storage; restore it, and take archive "
            "classes out of the bucket's lifecycle rules"
        )
    if code == "RequestTimeTooSkewed":
        return UpstreamError(f"S3 refuses {location}: {answer}: set this machine's clock right")
    if code.startswith("KMS.") or "kms:" in message:
        return UpstreamError(f"S3 cannot use the key of {location}: {answer}: check the KMS key's state and policy")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        reason = f": {answer}" if answer else ""
        return UpstreamError(f"S3 refuses {location}{reason}: check the role's policy and the credentials")
    first_line = str(error).strip().partition("\n")[0]
    return UpstreamError(f"S3 failed on {location}: {answer or f'{type(error).__name__} {first_line}'.strip()}")


def _may_pass(error: BaseError) -> bool:
    code = code_of(error)
    return code in _SEND_AGAIN or "Throttl" in code or (not code and _BARE_400.search(str(error)) is not None)

import time
from collections.abc import Callable
from typing import Any

import obstore
import pytest
from obstore.exceptions import BaseError, GenericError, PermissionDeniedError, PreconditionError

from fiblake.errors import ConfigurationError, ConflictError, FiblakeError, PermanentError, UpstreamError
from fiblake.s3_errors import PAUSES
from shared.objects import ObjectStore
from tests.fakes import BUCKET, MemoryObjectStore

FORBIDDEN = "403 Forbidden"


def answer(code: str, message: str = "what S3 says", status: str = "400 Bad Request") -> str:
    """Return an error's text as obstore writes it: S3's XML is in the middle."""
    return (
        f"Generic S3 error: Error performing PUT http://s3.test/{BUCKET}/key in 1ms - Server returned non-2xx status "
        f'code: {status}: <?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}'
        '</Message><RequestId>R</RequestId></Error>\n\nDebug source:\nGeneric {\n    store: "S3" }'
    )


WITHOUT_BODY = "Generic S3 error: Error performing HEAD http://s3.test/b/k in 1ms - code: 400 Bad Request: \n\nDebug"


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


class Refusing:
    """obstore's functions: each call fails with the next of these errors, until none is left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errors: BaseError) -> None:
        self.errors = list(errors)
        self.calls = 0
        for name in ("get", "head", "put", "list", "list_with_delimiter"):
            monkeypatch.setattr(obstore, name, self._failing(getattr(obstore, name)))

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 (obstore's own)
            self.calls += 1
            if self.errors:
                raise self.errors.pop(0)
            return real(*arguments, **options)

        return call


@pytest.fixture
def store() -> MemoryObjectStore:
    store = MemoryObjectStore()
    store.lay("lake/key", b"data")
    return store


CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "get": lambda store: store.find("lake/key"),
    "head": lambda store: store.versions(["lake/key"]),
    "put": lambda store: store.put("lake/key", b"new"),
    "write": lambda store: store.write_if_unchanged("lake/new", b"new", None),
    "list": lambda store: store.list_objects("lake/"),
    "folders": lambda store: store.folders("lake/"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "text",
    [
        answer("RequestTimeout"), answer("ExpiredToken"), answer("KMS.ThrottlingException"),
        answer("ThrottlingException"), answer("RequestLimitExceeded"), WITHOUT_BODY,
    ],
)  # fmt: skip
def test_a_refusal_that_says_nothing_about_the_request_is_sent_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch, store: MemoryObjectStore, naps: list[float],
    call: Callable[[ObjectStore], object], text: str,
) -> None:  # fmt: skip
    refusing = Refusing(monkeypatch, GenericError(text), GenericError(text))
    call(store)
    assert refusing.calls == 3
    assert [low <= nap <= 2 * low for low, nap in zip(PAUSES, naps, strict=False)] == [True, True]


def test_a_refusal_that_stays_is_an_error_that_keeps_s3s_code(
    monkeypatch: pytest.MonkeyPatch, store: MemoryObjectStore, naps: list[float]
) -> None:
    refusing = Refusing(monkeypatch, *[GenericError(answer("RequestTimeout", "too slow"))] * 99)
    with pytest.raises(UpstreamError, match=rf"^S3 failed on s3://{BUCKET}/lake/key: RequestTimeout \(too slow\)$"):
        store.put("lake/key", b"")
    assert (refusing.calls, len(naps)) == (len(PAUSES) + 1, len(PAUSES))


@pytest.mark.parametrize(
    "error", [PreconditionError(answer("PreconditionFailed")), GenericError(answer("InvalidPart"))]
)
def test_what_would_be_refused_again_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch, store: MemoryObjectStore, naps: list[float], error: BaseError
) -> None:
    refusing = Refusing(monkeypatch, error)
    with pytest.raises((ConflictError, UpstreamError)):
        store.write_if_unchanged("lake/key", b"", "e")
    assert (refusing.calls, naps) == (1, [])


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (
            PermissionDeniedError(answer("InvalidObjectState", "The operation is not valid", FORBIDDEN)),
            ConfigurationError,
            (
                "S3 does not give out {}: InvalidObjectState (The operation is not valid): the object is in cold "
                "storage; restore it, and take archive classes out of the bucket's lifecycle rules"
            ),
        ),
        (
            PermissionDeniedError(answer("RequestTimeTooSkewed", "The difference is too large", FORBIDDEN)),
            UpstreamError,
            "S3 refuses {}: RequestTimeTooSkewed (The difference is too large): set this machine's clock right",
        ),
        (
            GenericError(answer("KMS.DisabledException", "arn:aws:kms:1:key/2 is disabled")),
            UpstreamError,
            (
                "S3 cannot use the key of {}: KMS.DisabledException (arn:aws:kms:1:key/2 is disabled): check the KMS "
                "key's state and policy"
            ),
        ),
        (
            PermissionDeniedError(answer("AccessDenied", "role &quot;x&quot; may not kms:Decrypt", FORBIDDEN)),
            UpstreamError,
            (
                'S3 cannot use the key of {}: AccessDenied (role "x" may not kms:Decrypt): check the KMS key\'s state '
                "and policy"
            ),
        ),
        (
            PermissionDeniedError(answer("AccessDenied", "Access Denied", FORBIDDEN)),
            UpstreamError,
            "S3 refuses {}: AccessDenied (Access Denied): check the role's policy and the credentials",
        ),
        (
            GenericError(answer("NoSuchBucket", "none", "404 Not Found")),
            ConfigurationError,
            f"there is no bucket '{BUCKET}': set S3_BUCKET right (in Python: bucket=)",
        ),
    ],
)
def test_each_refusal_keeps_s3s_code_and_says_what_to_do(  # noqa: PLR0917
    monkeypatch: pytest.MonkeyPatch, store: MemoryObjectStore, naps: list[float], error: BaseError,
    kind: type[FiblakeError], reason: str,
) -> None:  # fmt: skip
    Refusing(monkeypatch, error)
    with pytest.raises(kind) as raised:
        store.find("lake/key")
    assert str(raised.value) == reason.format(f"s3://{BUCKET}/lake/key")
    assert naps == []


def test_a_wrong_bucket_is_an_error_and_not_the_absence_of_every_object(
    monkeypatch: pytest.MonkeyPatch, store: MemoryObjectStore
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise FileNotFoundError(answer("NoSuchBucket", "none", "404 Not Found"))

    monkeypatch.setattr(obstore, "get", fails)
    with pytest.raises(ConfigurationError, match=f"there is no bucket '{BUCKET}'"):
        store.find("lake/key")
    assert issubclass(ConfigurationError, PermanentError)


def test_a_message_without_end_is_cut(monkeypatch: pytest.MonkeyPatch, store: MemoryObjectStore) -> None:
    Refusing(monkeypatch, PermissionDeniedError(answer("AccessDenied", "x" * 100_000, FORBIDDEN)))
    with pytest.raises(UpstreamError) as raised:
        store.find("lake/key")
    assert len(str(raised.value)) < 500

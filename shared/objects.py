"""Read and write objects in S3: the one place that talks to it.

Reads, writes and listings use obstore (a fifth of botocore's CPU time, conditional PUT by ETag); deletions use boto's
DeleteObjects, which takes an ETag for each object (S3 User Guide, "Conditional deletes"). Keys are whole keys in the
bucket, ETags are as S3 gives them, instants are UTC.
"""

import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import boto3
import obstore
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from fiblake.errors import ConflictError, FiblakeError, UpstreamError
from fiblake.objects import CONCURRENCY, ObjectInfo, ObjectReader, StoredObject, s3_backend
from fiblake.s3_errors import translate
from shared.telemetry import logger

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Backend

__all__ = ["CONCURRENCY", "ObjectInfo", "ObjectStore", "StoredObject", "backoff_delays"]

DELETES_PER_REQUEST: Final = 1_000
ATTEMPTS_AT_UPDATE: Final = 40
FIRST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 1.0
_MAKING_CLIENT: Final = threading.Lock()
"""boto makes one client at a time: its session is not safe for threads."""


class BotoClient(Protocol):
    """The part of boto's S3 client that this module uses."""

    def delete_objects(self, *, Bucket: str, Delete: Any) -> Any:  # noqa: ANN401, N803 (boto's own shape)
        """S3 API, DeleteObjects."""

    def get_paginator(self, operation_name: Literal["list_objects_v2"], /) -> Any:  # noqa: ANN401
        """S3 API, ListObjectsV2, page by page."""


class ObjectStore(ObjectReader):
    """One bucket, to read and to write.

    Every method raises UpstreamError if S3 fails or refuses the credentials (a new role's policy takes effect late, so
    a refusal is retried, too), and ConfigurationError if there is no such bucket, or the object is in cold
    storage. A write whose outcome is unknown is an UpstreamError too: it is safe to repeat, because our writes are
    conditional or idempotent.
    """

    def __init__(self, backend: "Backend", bucket: str, boto: BotoClient | None = None) -> None:
        """Use `boto` for deletions and odd listings; None: the environment's client, made when it is needed.

        Making it takes a function longer than everything else at its start, and few need it.
        """
        super().__init__(backend, bucket)
        self._given_boto = boto

    @cached_property
    def _boto(self) -> BotoClient:
        with _MAKING_CLIENT:
            return self._given_boto or boto3.client("s3")

    @classmethod
    def connect(cls, bucket: str) -> "ObjectStore":
        """Open `bucket` with the credentials, region and endpoint that the AWS environment variables name."""
        return cls(s3_backend(bucket), bucket)

    @classmethod
    def connect_to(cls, bucket: str, endpoint_url: str, access_key_id: str, secret_access_key: str) -> "ObjectStore":
        """Open a bucket of another S3 service, with credentials of its own; the environment's are not used."""
        keys = {"access_key_id": access_key_id, "secret_access_key": secret_access_key}
        backend = s3_backend(
            bucket, endpoint=endpoint_url, region="us-east-1", virtual_hosted_style_request=False, **keys
        )
        boto = boto3.client(
            "s3", endpoint_url=endpoint_url, region_name="us-east-1",
            aws_access_key_id=access_key_id, aws_secret_access_key=secret_access_key,
        )  # fmt: skip
        return cls(backend, bucket, boto)

    def keys(self, prefix: str) -> Iterator[str]:
        """List the keys below `prefix` (which ends in a slash), in their order; memory holds one page of them."""
        try:
            for page in self._boto.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                yield from (entry["Key"] for entry in page.get("Contents", []))
        except (ClientError, BotoCoreError) as error:
            raise UpstreamError(f"S3 does not list s3://{self.bucket}/{prefix}: {error}") from error

    def put(self, key: str, data: bytes) -> str:
        """Write an object unconditionally; return its ETag."""
        return self._write(key, data, "overwrite")

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> dict[str, FiblakeError]:
        """Write many objects at once; return the errors of those that were not written, by key."""
        pairs = list(objects)
        outcomes = self._in_parallel(self._put_one, pairs)
        return {key: error for (key, _), error in zip(pairs, outcomes, strict=True) if error}

    def write_if_unchanged(self, key: str, data: bytes, etag: str | None) -> str:
        """Write only if the object is still version `etag` (None: is still absent); return the new ETag.

        Raises ConflictError if it is not (S3 answers 412, or 409 when two conditional writes meet).
        """
        return self._write(key, data, "create" if etag is None else {"e_tag": etag})

    def update(self, key: str, change: Callable[[bytes | None], bytes | None], *, absent: bool = False) -> bool:
        """Apply `change` to an object's bytes (None: no object), and start again if another writer was first.

        `absent`: there was no object when the caller looked, so it is not read at first. `change` returns the new
        bytes, or None to leave the object unchanged. Returns whether the object was written.
        Raises ConflictError after 40 attempts.
        """
        return self.update_stored(key, lambda stored: change(stored.data if stored else None), absent=absent)

    def update_stored(
        self, key: str, change: Callable[[StoredObject | None], bytes | None], *, absent: bool = False
    ) -> bool:
        """Do the same as `update` (errors, too), with a change that also gets the instant of the object's put."""
        data: bytes | None = None
        for attempt, pause in enumerate(backoff_delays(ATTEMPTS_AT_UPDATE)):
            stored = None if absent and attempt == 0 else self.find(key)
            if data is not None and stored and stored.data == data:
                return True  # our own write, whose answer was lost
            data = change(stored)
            if data is None:
                return False
            try:
                self.write_if_unchanged(key, data, stored.etag if stored else None)
            except ConflictError:
                time.sleep(pause)
            else:
                return True
        raise ConflictError(f"s3://{self.bucket}/{key} was rewritten by others {ATTEMPTS_AT_UPDATE} times in a row")

    def update_many(
        self, changes: Mapping[str, Callable[[StoredObject | None], bytes | None]], absent: Collection[str] = ()
    ) -> dict[str, FiblakeError]:
        """Update many objects at once, by key (see `update_stored`); return the errors of those that were not, by key.

        `absent` are the keys that had no object when the caller looked.
        """
        updates = [(key, change, key in absent) for key, change in changes.items()]
        outcomes = self._in_parallel(self._update_one, updates)
        return {key: error for key, error in zip(changes, outcomes, strict=True) if error}

    def delete_versions(self, versions: Sequence[tuple[str, str]]) -> list[str]:
        """Delete each (key, ETag) that is still that version, 1,000 at most; return the keys that were deleted.

        A key that has another version now, that is absent, or on which S3 fails, is not in the answer.
        """
        objects = [{"Key": key, "ETag": etag} for key, etag in versions]
        try:
            answer = self._boto.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": False})
        except (ClientError, BotoCoreError) as error:
            raise UpstreamError(f"S3 does not delete in s3://{self.bucket}: {error}") from error
        for fault in answer.get("Errors", []):
            logger.warning("not deleted", extra={"key": fault["Key"], "reason": fault["Code"]})
        return [entry["Key"] for entry in answer.get("Deleted", [])]

    def _put_one(self, pair: tuple[str, bytes]) -> FiblakeError | None:
        try:
            self.put(*pair)
        except FiblakeError as error:
            return error
        return None

    def _list_markers(self, prefix: str, _listing: list[ObjectInfo]) -> list[ObjectInfo]:
        return self._list_odd_keys(prefix)

    def _list_odd_folders(self, prefix: str) -> list[str]:
        pages = self._boto_pages(prefix, Delimiter="/")
        return sorted(entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", []))

    def _list_odd_keys(self, prefix: str) -> list[ObjectInfo]:
        contents = [entry for page in self._boto_pages(prefix) for entry in page.get("Contents", [])]
        return [ObjectInfo(e["Key"], e["ETag"], e["Size"], e["LastModified"]) for e in contents]

    def _log_retry(self, reason: str) -> None:
        logger.warning("S3 refused for now", extra={"reason": reason})

    def _update_one(
        self, update: tuple[str, Callable[[StoredObject | None], bytes | None], bool]
    ) -> FiblakeError | None:
        key, change, absent = update
        try:
            self.update_stored(key, change, absent=absent)
        except FiblakeError as error:
            return error
        return None

    def _boto_pages(self, prefix: str, **options: str) -> list[Any]:
        try:
            paginator = self._boto.get_paginator("list_objects_v2")
            return list(paginator.paginate(Bucket=self.bucket, Prefix=prefix, **options))
        except (ClientError, BotoCoreError) as error:
            raise UpstreamError(f"S3 does not list s3://{self.bucket}/{prefix}: {error}") from error

    def _write(self, key: str, data: bytes, mode: Any) -> str:  # noqa: ANN401 (obstore's PutMode exists for checkers only)
        try:
            result = self._send(lambda: obstore.put(self._backend, key, data, mode=mode, use_multipart=False))
        except (PreconditionError, AlreadyExistsError) as error:
            raise ConflictError(f"s3://{self.bucket}/{key} was written by another client first") from error
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error) or mode == "overwrite":
                raise self._no_bucket() from error
            # S3 answers If-Match on a missing key with 404: the version is gone, which is a conflict to us.
            raise ConflictError(f"s3://{self.bucket}/{key} was deleted by another client") from error
        except BaseError as error:
            raise translate(error, self.bucket, key) from error
        return result["e_tag"] or ""


def backoff_delays(attempts: int) -> Iterable[float]:
    """Return the seconds to wait after each of `attempts` conflicts: growing, and random to separate two writers."""
    for attempt in range(attempts):
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt)
        yield random.uniform(0, longest)  # noqa: S311 (no secret)

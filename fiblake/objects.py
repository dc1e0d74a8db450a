"""Read objects of the lake from S3 with obstore, which needs a fifth of botocore's CPU time for a request.

Keys are whole keys in the bucket, ETags are as S3 gives them, instants are UTC. Services, which also write, use
`shared.objects`.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, InvalidPathError, PreconditionError
from obstore.store import S3Store

from fiblake.decoding import TooLargeError, limit, market_limit, oversize
from fiblake.errors import ConfigurationError, ConflictError
from fiblake.lake import holds_all_symbols
from fiblake.s3_errors import code_of, send, translate

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig, RetryConfig
    from obstore.store import ObjectStore as Backend

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

CONCURRENCY: Final = 32
RETRIES: "Final[RetryConfig]" = {"max_retries": 6, "retry_timeout": timedelta(seconds=90)}
_THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")
_NO_SUCH_BYTES: Final = "InvalidRange"
"""S3's answer to a request for the last bytes of an empty object."""
_logger: Final = logging.getLogger("fiblake")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One line of a listing."""

    key: str
    etag: str
    size: int
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's bytes and the version they are of."""

    key: str
    etag: str
    last_modified: datetime
    content: bytes | TooLargeError

    @property
    def data(self) -> bytes:
        """The bytes; raises TooLargeError if they are more than may be read (then they were not)."""
        if isinstance(self.content, TooLargeError):
            raise self.content
        return self.content


class ObjectReader(ABC):
    """One bucket, read only.

    Every method raises UpstreamError if S3 fails or refuses the credentials, and ConfigurationError if there is no such
    bucket, or the object is in cold storage.
    """

    def __init__(self, backend: "Backend", bucket: str) -> None:
        self.bucket = bucket
        self._backend = backend
        self._pool = ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="objects")

    def find(self, key: str) -> StoredObject | None:
        """Read an object, or return None if there is none."""
        try:
            return self._read(key)
        except FileNotFoundError as error:
            # S3 answers 404 for a missing bucket, too. Without this check every object would seem to be absent.
            if "NoSuchBucket" in str(error):
                raise self._no_bucket() from error
            return None
        except BaseError as error:
            raise translate(error, self.bucket, key) from error

    def get_version(self, key: str, etag: str) -> StoredObject:
        """Read exactly the version `etag`; raise ConflictError if the object is another one now, or gone."""
        try:
            return self._read(key, if_match=etag)
        except (PreconditionError, FileNotFoundError) as error:
            raise ConflictError(f"s3://{self.bucket}/{key} is no longer version {etag}") from error
        except BaseError as error:
            raise translate(error, self.bucket, key) from error

    def get_many(self, keys: Sequence[str]) -> list[StoredObject | None]:
        """Read many objects at once, in the order of `keys`; None where there is no object."""
        return self._in_parallel(self.find, keys)

    def get_groups(self, groups: Sequence[Sequence[str]]) -> Iterator[list[StoredObject | None]]:
        """Read groups of objects, as `get_many`; the next group is requested while the caller processes one."""
        if len(groups) == 1:  # there is no next group, and a thread for nothing is waste
            yield self.get_many(groups[0])
            return
        with ThreadPoolExecutor(1) as pool:
            coming = [pool.submit(self.get_many, keys) for keys in groups[:1]]
            for _, following in zip_longest(groups, groups[1:]):
                objects = coming.pop().result()
                if following is not None:
                    coming.append(pool.submit(self.get_many, following))
                yield objects

    def tails(self, keys: Sequence[str], size: int) -> list[StoredObject | None]:
        """Read the last `size` bytes of many objects at once, in the order of `keys`; None where there is no object."""
        return self._in_parallel(lambda key: self._tail(key, size), keys)

    def versions(self, keys: Sequence[str]) -> list[str | None]:
        """Return the ETags of many objects at once, in the order of `keys`; None where there is no object."""
        return self._in_parallel(self._version, keys)

    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        """List all objects below `prefix` (which ends in a slash), in the order of their keys."""
        try:
            entries = self._send(lambda: [entry for page in obstore.list(self._backend, prefix) for entry in page])
        except InvalidPathError:
            # If the folder has one key with an empty or a dot segment, which anyone can put, obstore lists nothing.
            return self._list_odd_keys(prefix)
        except BaseError as error:
            raise translate(error, self.bucket, prefix) from error
        listing = [ObjectInfo(e["path"], e["e_tag"] or "", e["size"], e["last_modified"]) for e in entries]
        if any(info.size == 0 for info in listing):
            # It may be a folder marker: obstore drops the slash at the end of its key, so no object has the listed key.
            return self._list_markers(prefix, listing)
        return sorted(listing, key=lambda info: info.key)

    def folders(self, prefix: str) -> list[str]:
        """List the folders right below `prefix`, as keys with their closing slash."""
        try:
            result = self._send(lambda: obstore.list_with_delimiter(self._backend, prefix))
        except InvalidPathError:
            return self._list_odd_folders(prefix)
        except BaseError as error:
            raise translate(error, self.bucket, prefix) from error
        return sorted(f"{folder}/" for folder in result["common_prefixes"])

    @abstractmethod
    def _list_markers(self, prefix: str, listing: list[ObjectInfo]) -> list[ObjectInfo]:
        """List the objects below `prefix`; in obstore's `listing` the keys of folder markers may lack their slash."""

    @abstractmethod
    def _list_odd_keys(self, prefix: str) -> list[ObjectInfo]:
        """List the objects below `prefix` if a key with an empty or a dot segment makes obstore list nothing."""

    @abstractmethod
    def _list_odd_folders(self, prefix: str) -> list[str]:
        """List the folders below `prefix` if obstore lists nothing, for the same reason."""

    def _no_bucket(self) -> ConfigurationError:
        return ConfigurationError(f"there is no bucket {self.bucket!r}: set S3_BUCKET right (in Python: bucket=)")

    def _send(self, request: Callable[[], ResultT]) -> ResultT:
        return send(request, self._log_retry)

    def _log_retry(self, reason: str) -> None:
        _logger.warning("S3 refused for now: %s", reason)

    def _version(self, key: str) -> str | None:
        try:
            return self._send(lambda: obstore.head(self._backend, key))["e_tag"]
        except FileNotFoundError:
            return None
        except BaseError as error:
            raise translate(error, self.bucket, key) from error

    def _tail(self, key: str, size: int) -> StoredObject | None:
        try:
            return self._send(
                lambda: _stored(key, obstore.get(self._backend, key, options={"range": {"suffix": size}}))
            )
        except FileNotFoundError:
            return None
        except BaseError as error:
            if code_of(error) == _NO_SUCH_BYTES:
                return self.find(key)
            raise translate(error, self.bucket, key) from error

    def _read(self, key: str, if_match: str | None = None) -> StoredObject:
        options: GetOptions | None = {"if_match": if_match} if if_match else None
        return self._send(lambda: _stored(key, obstore.get(self._backend, key, options=options)))

    def _in_parallel(self, work: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
        if len(items) < 2:  # noqa: PLR2004 (a pool for one item is waste)
            return [work(item) for item in items]
        return list(self._pool.map(work, items))


def s3_backend(bucket: str, **options: Any) -> S3Store:  # noqa: ANN401 (obstore's own options)
    """Open a bucket with the credentials, region and endpoint of AWS's environment variables.

    `options` (obstore's: endpoint, region, access_key_id, credential_provider, ...) count more than the environment.
    """
    variables = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    endpoint = options.pop("endpoint", None) or variables
    if endpoint:
        options["endpoint"] = endpoint
    if "AWS_PROFILE" in os.environ and not {"access_key_id", "credential_provider"} & options.keys():
        # obstore reads no profile: boto finds its credentials, single sign-on included.
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415 (only who uses a profile needs boto)

        options["credential_provider"] = Boto3CredentialProvider()
    # AWS needs the bucket in the host name; its certificate allows no dot there. Another S3 may have no such host.
    options.setdefault("virtual_hosted_style_request", endpoint is None and "." not in bucket)
    client_options: ClientConfig = {
        "allow_http": bool(endpoint), "timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=5),
    }  # fmt: skip
    host = urlsplit(endpoint).hostname if endpoint else None
    if endpoint and host in _THIS_MACHINE:
        # A proxy of the environment does not reach this machine. An excluded proxy replaces that of the environment.
        client_options |= {"proxy_url": endpoint, "proxy_excludes": ",".join(_THIS_MACHINE)}
    return S3Store(bucket, client_options=client_options, retry_config=RETRIES, **options)


def _stored(key: str, result: "GetResult") -> StoredObject:
    meta = result.meta
    version = (key, meta["e_tag"] or "", meta["last_modified"].astimezone(UTC))
    first, end = result.range
    allowed = market_limit() if holds_all_symbols(key) else limit()
    fault = oversize(key, end - first, allowed)  # by the answer's headers, before a byte is read
    return StoredObject(*version, fault or bytes(result.bytes()))

"""Opens a lake: `fiblake.open` finds the bucket and the credentials."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from fiblake.decoding import decoding, read_json
from fiblake.errors import ConfigurationError, ContractError, EntitlementError, NotFoundError
from fiblake.lake import BRONZE_PREFIX, Bronze
from fiblake.objects import ObjectInfo, ObjectReader, s3_backend
from fiblake.reader.faults import check_type
from fiblake.reader.lake import Lake

DEFAULT_STACK: Final = "dev-fiblake"
"""The stack's name in samconfig.toml."""
LOCAL_FOLDER: Final = "FIBLAKE_LOCAL_FOLDER"
_LOCAL_STATE: Final = ".local/stack.json"
_LOCAL_KEYS: Final = {"access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}
"""The credentials that the embedded stack's S3 accepts."""
_CREDENTIALS: Final = (
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
"""If one of these variables is set, obstore finds credentials without boto."""


class BucketReader(ObjectReader):
    """A bucket that is read with obstore, without boto."""

    def _list_markers(self, _prefix: str, listing: list[ObjectInfo]) -> list[ObjectInfo]:
        return sorted(listing, key=lambda info: info.key)  # no file of the lake is empty, so such a key is never read

    def _list_odd_keys(self, prefix: str) -> list[ObjectInfo]:
        raise self._odd_key(prefix)

    def _list_odd_folders(self, prefix: str) -> list[str]:
        raise self._odd_key(prefix)

    def _odd_key(self, prefix: str) -> ContractError:
        return ContractError(
            f"s3://{self.bucket}/{prefix} cannot be listed: a key below it has an empty or a dot segment, as in a//b "
            "or a/./b: delete that object"
        )


def open_lake(
    *, stack: str | None = None, bucket: str | None = None, local: bool = False, endpoint_url: str | None = None,
    region: str | None = None, profile: str | None = None, prefix: str = BRONZE_PREFIX, cache: str | Path | None = None,
) -> Lake:  # fmt: skip
    """Open a lake to read it.

    Name one of these: `bucket`; the deployed `stack` (boto3 asks CloudFormation for its bucket); or `local=True`, the
    stack of `fiblake local up`. Without any, the stack is FIBLAKE_STACK, else dev-fiblake. `prefix` is the folder of
    the lake in the bucket. Credentials come from AWS's environment variables, from `profile` or AWS's configuration
    files if boto3 is installed, or from the machine's role. `cache` is the folder for copies of month files (default:
    the user's cache folder).

    Raises ConfigurationError, EntitlementError or NotFoundError if there is no such lake. Opening reads no file.
    """
    texts = {
        "stack": stack, "bucket": bucket, "endpoint_url": endpoint_url, "region": region, "profile": profile,
    }  # fmt: skip
    for name, text in texts.items():
        check_type(name, text, str, type(None), example=f"{name}='...', or leave it out", error=ConfigurationError)
    check_type("prefix", prefix, str, example=f"prefix={BRONZE_PREFIX!r}, or leave it out", error=ConfigurationError)
    check_type("cache", cache, str, os.PathLike, type(None), example="the path of a folder", error=ConfigurationError)
    check_type("local", local, bool, example="True or False", error=ConfigurationError)
    if sum((stack is not None, bucket is not None, local)) > 1:
        raise ConfigurationError("name one of stack=, bucket= and local=True, not several")
    for name, value in (("stack", stack), ("bucket", bucket), ("cache", cache), ("prefix", prefix.strip("/"))):
        if value is not None and not str(value).strip():
            raise ConfigurationError(f"{name}={value!r} is empty: name one, or leave {name}= out")
    if bucket is not None and "/" in bucket:
        raise ConfigurationError(f"bucket={bucket!r} is no bucket's name: leave out s3:// and what follows the name")
    if endpoint_url is not None and not is_url(endpoint_url):
        raise ConfigurationError(f"endpoint_url={endpoint_url!r} is no URL such as http://localhost:4566")
    if local:
        endpoint_url, bucket = _local_stack(_local_state())
        options: dict[str, Any] = {"endpoint": endpoint_url, **_LOCAL_KEYS}
    else:
        stack = stack or os.environ.get("FIBLAKE_STACK") or DEFAULT_STACK
        bucket = bucket or _bucket_of(stack, profile, region, endpoint_url)
        options = {"endpoint": endpoint_url, **({"region": region} if region else {}), **_credentials(profile)}
    store = BucketReader(s3_backend(bucket, **options), bucket)
    return Lake(store, Bronze(prefix.strip("/")), _cache_folder(cache) if cache is not None else None)


def _cache_folder(cache: str | Path) -> Path:
    """Return the folder of the option `cache`: `~` is the user's home."""
    try:
        return Path(cache).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"cache={str(cache)!r} cannot be used: {error}; name the folder in full") from error


def is_url(text: str) -> bool:
    """Return whether a text is the URL of a service."""
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _bucket_of(stack: str, profile: str | None, region: str | None, endpoint_url: str | None) -> str:
    """Return the bucket of a deployed stack."""
    try:
        stacks = import_module("fiblake.stacks")
    except ImportError as error:
        raise ConfigurationError(
            f"the bucket of stack {stack} is found by boto3, which is not installed: pip install 'fiblake[aws]', or "
            "name the bucket with bucket="
        ) from error
    outputs: dict[str, str] = stacks.outputs_of(stacks.connect(profile, region, endpoint_url), stack)
    try:
        return outputs["BucketName"]
    except KeyError:
        raise NotFoundError(f"stack {stack} has no output BucketName: is it fiblake's?") from None


def _credentials(profile: str | None) -> dict[str, Any]:
    """Return obstore's options for credentials; none: obstore finds them itself."""
    if profile is None and "AWS_PROFILE" not in os.environ and any(os.environ.get(name) for name in _CREDENTIALS):
        return {}
    try:
        boto3, provider = import_module("boto3"), import_module("obstore.auth.boto3").Boto3CredentialProvider
    except ImportError as error:
        if profile is None:
            return {}
        raise ConfigurationError(
            f"the credentials of profile {profile!r} are found by boto3, which is not installed: pip install "
            "'fiblake[aws]', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    exceptions = import_module("botocore.exceptions")
    try:
        session = boto3.Session(profile_name=profile)
        if session.get_credentials() is None:
            raise EntitlementError(
                "no AWS credentials are found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile="
            )
        return {"credential_provider": provider(session)}
    except exceptions.BotoCoreError as error:
        raise ConfigurationError(f"profile={profile!r} cannot be used: {error}") from error


def _local_state() -> Path:
    """Return the file with a local stack's addresses: in FIBLAKE_LOCAL_FOLDER, or in the present checkout."""
    if folder := os.environ.get(LOCAL_FOLDER):
        return Path(folder).with_suffix(".json")
    here, package = Path.cwd(), Path(__file__).resolve().parents[2]
    places = [folder / _LOCAL_STATE for folder in (here, *here.parents, package)]
    return next((place for place in places if place.exists()), places[0])


def _local_stack(state: Path) -> tuple[str, str]:
    """Return the endpoint and the bucket of the running local stack."""
    if not (state.exists() and _is_held(state.with_suffix(".lock"))):
        raise NotFoundError(
            f"no local stack is up: start one with `fiblake local up`, here or in the folder that {LOCAL_FOLDER} names"
        )
    with decoding(f"{state} cannot be read", "start the stack again: `fiblake local down`, `fiblake local up`"):
        facts = read_json(state.read_bytes(), "it")
        return str(facts["endpoint_url"]), str(facts["outputs"]["BucketName"])


def _is_held(lock: Path) -> bool:
    """Return whether the stack's supervisor runs: it holds the lock until it ends, however it ends."""
    fcntl = import_module("fcntl")  # a local stack needs Unix; a lake on AWS does not
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False

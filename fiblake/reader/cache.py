"""A reader's copies of the lake's files: in the user's cache folder, one copy for each version (ETag) of an object.

The bytes come from our own object reader. DuckDB's extension for S3 would be downloaded at run time. So DuckDB uses the
same credentials and endpoint as everything else, and needs no other network connection.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Final, TypeVar

from fiblake.errors import ConfigurationError, ContractError

if TYPE_CHECKING:
    from fiblake.objects import ObjectReader, StoredObject

ResultT = TypeVar("ResultT")

AT_ONCE: Final = 64


def folder() -> Path:
    """Return the user's cache folder for fiblake."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fiblake"


def copies(
    store: "ObjectReader", versions: Mapping[str, str], advance: Callable[[int], None], root: Path | None = None,
    accept: "Callable[[StoredObject], bool]" = lambda _stored: True,
) -> dict[str, Path]:  # fmt: skip
    """Return a local file for each object (key → ETag), in the order of the keys; fetch those without a copy.

    If an object was rewritten meanwhile, its new version is fetched. Objects that were deleted are left out, and so are
    objects that `accept` refuses: it checks files for readers without a size limit. Copies of older versions of these
    objects are deleted.
    """
    places = {key: _place(root or folder(), store.bucket, key, etag) for key, etag in sorted(versions.items())}
    missing = [key for key, place in places.items() if not place.exists()]
    advance(len(places) - len(missing))
    for start in range(0, len(missing), AT_ONCE):
        part = missing[start : start + AT_ONCE]
        fetched = fetch(store, part, root, accept)
        for key in part:
            del places[key]
        places |= fetched
        advance(len(part))
    return {key: places[key] for key in sorted(places)}


def fetch(
    store: "ObjectReader", keys: Sequence[str], root: Path | None = None,
    accept: "Callable[[StoredObject], bool]" = lambda _stored: True,
) -> dict[str, Path]:  # fmt: skip
    """Read the present versions of objects and return their copies, without objects that are deleted or refused."""
    places = {}
    for key, stored in zip(keys, store.get_many(keys), strict=True):
        if stored is not None and accept(stored):
            places[key] = _place(root or folder(), store.bucket, key, stored.etag)
            _keep(places[key], stored.data)
    return places


def read_copy(
    store: "ObjectReader", key: str, place: Path, decode: Callable[[bytes], ResultT], root: Path | None = None
) -> ResultT | None:
    """Return the result of `decode` for a copy; None if neither the copy nor the object exists any more.

    Another reader may have replaced the copy by a newer version, or the disk may have damaged it. So a copy that cannot
    be read or decoded is fetched again. An error is raised only if the lake's own bytes cannot be decoded.
    """
    try:
        return decode(place.read_bytes())
    except (OSError, ContractError):
        stored = store.find(key)
    if stored is None:
        return None
    _keep(_place(root or folder(), store.bucket, key, stored.etag), stored.data)
    return decode(stored.data)


def _place(root: Path, bucket: str, key: str, etag: str) -> Path:
    return root / bucket / key / f"{''.join(c for c in etag if c.isalnum() or c == '-')}.parquet"


def _keep(place: Path, data: bytes) -> None:
    """Write a copy atomically, and delete the copies of other versions."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=place.parent, prefix=".", delete=False) as draft:
            draft.write(data)
        Path(draft.name).rename(place)
    except OSError as error:
        fault = f"{error.strerror or error}: {place.parent}"
        raise ConfigurationError(f"copies of the lake cannot be kept ({fault}): set XDG_CACHE_HOME") from error
    for other in place.parent.glob("*.parquet"):
        if other != place:
            other.unlink(missing_ok=True)
